"""Plain torch on CSR tensors: any device, and the oracle for the others."""

import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.ops.adjacency import Adjacency

DEVICES = ("cpu", "cuda")

with warnings.catch_warnings():  # torch warns once, at the first CSR tensor, that they are in beta
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1))


def _product(adj: Adjacency, values: Tensor, x: Tensor) -> Tensor:
    """CSR matrix times dense matrix. values [E], x [n_src, D] -> [n_dst, D]."""
    indptr = adj.indptr.to(adj.indices.dtype)  # torch wants both index tensors alike
    matrix = torch.sparse_csr_tensor(
        indptr, adj.indices, values, size=(adj.n_dst, adj.n_src), check_invariants=False
    )
    return matrix @ x


def total(adj: Adjacency, x: Tensor) -> Tensor:
    """Sum of source rows per destination. [n_src, D] -> [n_dst, D]."""
    return _product(adj, x.new_ones(adj.n_edges), x.detach())


def weighted_total(adj: Adjacency, x: Tensor, w: Tensor) -> Tensor:
    """Edge-weighted sum per head. x [n_src, H, D], w [E, H] -> [n_dst, H, D]."""
    heads = [
        _product(adj, w[:, h].detach().contiguous(), x[:, h].detach().contiguous())
        for h in range(x.shape[1])
    ]
    return torch.stack(heads, 1)


def dot(adj: Adjacency, y: Tensor, x: Tensor) -> Tensor:
    """Inner product of the two ends of each edge. y [n_dst, H, D], x [n_src, H, D] -> [E, H]."""
    return (y.index_select(0, adj.dst) * x.index_select(0, adj.indices)).sum(-1)


def extreme(adj: Adjacency, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Largest (sign 1) or smallest (-1) source value, 0 if there is none, and its edge."""
    rows = adj.dst.long().unsqueeze(1).expand(-1, x.shape[1])
    values = x.index_select(0, adj.indices)  # [E, D]
    out = x.new_zeros(adj.n_dst, x.shape[1])
    out.scatter_reduce_(0, rows, values, "amax" if sign > 0 else "amin", include_self=False)
    ids = torch.arange(adj.n_edges, device=x.device).unsqueeze(1).expand(-1, x.shape[1])
    ids = ids.masked_fill(values != out.index_select(0, adj.dst), adj.n_edges)
    arg = torch.full(out.shape, -1, dtype=torch.int64, device=x.device)
    return out, arg.scatter_reduce_(0, rows, ids, "amin", include_self=False)


def extreme_back(adj: Adjacency, g: Tensor, arg: Tensor) -> Tensor:
    """Gradient of ``extreme``. g [n_dst, D], arg [n_dst, D] edges -> [n_src, D]."""
    out = g.new_zeros(adj.n_src, g.shape[1])
    if adj.n_edges == 0:
        return out
    source = adj.indices.long()[arg.clamp(min=0)]
    return out.scatter_add_(0, source, g.masked_fill(arg < 0, 0))


def softmax(adj: Adjacency, e: Tensor) -> Tensor:
    """Softmax over the in-edges of each destination, per head. [E, H] -> [E, H]."""
    rows = adj.dst.long().unsqueeze(1).expand(-1, e.shape[1])
    top = e.new_zeros(adj.n_dst, e.shape[1])
    top.scatter_reduce_(0, rows, e.detach(), "amax", include_self=False)
    s = (e.detach() - top.index_select(0, adj.dst)).exp()
    sums = e.new_zeros(adj.n_dst, e.shape[1]).scatter_add_(0, rows, s)
    return s / sums.index_select(0, adj.dst)


def softmax_back(adj: Adjacency, s: Tensor, g: Tensor) -> Tensor:
    """Gradient of ``softmax`` from its result. s [E, H], g [E, H] -> [E, H]."""
    rows = adj.dst.long().unsqueeze(1).expand(-1, s.shape[1])
    inner = s.new_zeros(adj.n_dst, s.shape[1]).scatter_add_(0, rows, s * g)
    return s * (g - inner.index_select(0, adj.dst))


CHUNK = 1 << 18
"""Edges whose columns are there at a time."""


def additive(adj: Adjacency, x: Tensor, y: Tensor, a: Tensor, slope: float) -> Tensor:
    """sum_d a_d leaky(x_j + y_i)_d of each edge. x, y [n, H, D], a [H, D] -> [E, H]."""
    out = x.new_empty(adj.n_edges, x.shape[1])
    for part, j, i in _chunks(adj):
        out[part] = (F.leaky_relu(x[j] + y[i], slope) * a).sum(-1)
    return out


def additive_back(
    adj: Adjacency, x: Tensor, y: Tensor, a: Tensor, slope: float, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``additive`` in x, y and a, from g [E, H]."""
    gx, gy, ga = (t.new_zeros(t.shape) for t in (x, y, a))
    for part, j, i in _chunks(adj):
        s, r = x[j] + y[i], g[part].unsqueeze(-1)
        ga += (r * F.leaky_relu(s, slope)).sum(0)
        gs = r * a
        gs = torch.where(s > 0, gs, slope * gs)
        gx.index_add_(0, j, gs)
        gy.index_add_(0, i, gs)
    return gx, gy, ga


def _chunks(adj: Adjacency) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(edges, their sources, their destinations), some edges at a time."""
    for start in range(0, adj.n_edges, CHUNK):
        part = slice(start, start + CHUNK)
        yield part, adj.indices[part], adj.dst[part]
