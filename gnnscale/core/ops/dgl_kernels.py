"""DGL's own kernels: on the CPU always, on CUDA where the user has DGL's CUDA build."""

import torch
from torch import Tensor

from gnnscale.core.host import dgl
from gnnscale.core.ops import torch_kernels
from gnnscale.core.ops.adjacency import Adjacency

try:
    dgl.graph(([], []), num_nodes=1, device="cuda")
    DEVICES: tuple[str, ...] = ("cpu", "cuda")
except Exception:  # no CUDA device, or DGL's CPU build: either way these kernels stay on the CPU
    DEVICES = ("cpu",)


def total(adj: Adjacency, x: Tensor) -> Tensor:
    """Sum of source rows per destination. [n_src, D] -> [n_dst, D]."""
    return dgl.ops.copy_u_sum(adj.dgl, x.detach().contiguous())


def weighted_total(adj: Adjacency, x: Tensor, w: Tensor) -> Tensor:
    """Edge-weighted sum per head. x [n_src, H, D], w [E, H] -> [n_dst, H, D]."""
    return dgl.ops.u_mul_e_sum(adj.dgl, x.detach().contiguous(), w.detach().unsqueeze(-1))


def dot(adj: Adjacency, y: Tensor, x: Tensor) -> Tensor:
    """Inner product of the two ends of each edge. y [n_dst, H, D], x [n_src, H, D] -> [E, H]."""
    return dgl.ops.u_dot_v(adj.dgl, x.detach().contiguous(), y.detach().contiguous()).squeeze(-1)


def extreme(adj: Adjacency, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Largest (sign 1) or smallest (-1) source value, 0 if there is none, and its edge."""
    gspmm = dgl._sparse_ops._gspmm  # the public functions do not return the argument
    reducer = "max" if sign > 0 else "min"
    out, (arg, _) = gspmm(adj.dgl._graph, "copy_lhs", reducer, x.detach().contiguous(), None)
    empty = (adj.in_degree == 0).unsqueeze(1)
    return out.masked_fill(empty, 0), arg.long().masked_fill(empty, -1)


def extreme_back(adj: Adjacency, g: Tensor, arg: Tensor) -> Tensor:
    """Gradient of ``extreme``; ``arg`` holds source nodes here. -> [n_src, D]."""
    out = g.new_zeros(adj.n_src, g.shape[1])
    return out.scatter_add_(0, arg.clamp(min=0), g.masked_fill(arg < 0, 0))


def softmax(adj: Adjacency, e: Tensor) -> Tensor:
    """Softmax over the in-edges of each destination, per head. [E, H] -> [E, H]."""
    return dgl.ops.edge_softmax(adj.dgl, e.detach().contiguous())


def softmax_back(adj: Adjacency, s: Tensor, g: Tensor) -> Tensor:
    """Gradient of ``softmax`` from its result. s [E, H], g [E, H] -> [E, H]."""
    inner = dgl.ops.copy_e_sum(adj.dgl, s * g)
    return s * (g - torch.index_select(inner, 0, adj.dst))


additive, additive_back = torch_kernels.additive, torch_kernels.additive_back
"""DGL's own would hold a value per edge and column."""
