"""Compiled CPU kernels: one row per task, local accumulators, so results never depend on threads.

Rows are asked for ahead of their use: most of the time goes to waiting for memory, and weights add
a quarter at most (measured: 5, 23 and 23 % at 256, 128 and 64 columns). DGL's edge-weighted CPU
kernel is 5 to 8 times slower than its unweighted one. Rows may be kept in bfloat16: they are
widened as they come, sums are float32.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch, widened

DEVICES = ("cpu",)


@compiled(parallel=True)
def _operator(indptr, indices, x, src, dst, weight, diag, out):
    """Entries dst_i weight_e src_j, and diag_i beside them; a factor that is not there is empty."""
    last, width = len(indices) - 1, x.shape[1]
    wide, scaled, weighted = width * x.itemsize, len(src) > 0, len(weight) > 0
    for i in numba.prange(len(indptr) - 1):
        zero, one = out.dtype.type(0), out.dtype.type(1)
        row = out[i]
        for d in range(width):
            row[d] = zero
        for e in range(indptr[i], indptr[i + 1]):
            j, far = indices[e], indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(x, far, byte)
            a = one
            if scaled:
                a *= src[j]
            if weighted:
                a *= weight[e]
            given = x[j]
            for d in range(width):
                row[d] += a * widened(given[d])
        a = dst[i] if len(dst) else one
        if i < len(diag):
            given, own = x[i], diag[i]
            for d in range(width):
                row[d] = a * row[d] + own * widened(given[d])
        else:
            for d in range(width):
                row[d] *= a


@compiled(parallel=True)
def _weighted_sum(indptr, indices, x, w, out):
    heads, width, last = x.shape[1], x.shape[2], len(indices) - 1
    wide = heads * width * x.itemsize
    for i in numba.prange(len(indptr) - 1):
        zero = out.dtype.type(0)
        row = out[i]
        row[:] = zero
        for e in range(indptr[i], indptr[i + 1]):
            far = indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(x, far, byte)
            given = x[indices[e]]
            for h in range(heads):
                a = w[e, h]
                for d in range(width):
                    row[h, d] += a * widened(given[h, d])


@compiled(parallel=True, fastmath={"reassoc"})
def _dot(indptr, indices, y, x, out):
    last, wide = len(indices) - 1, x.shape[1] * x.shape[2] * x.itemsize
    for i in numba.prange(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j, far = indices[e], indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(x, far, byte)
            for h in range(x.shape[1]):
                a = out.dtype.type(0)
                for d in range(x.shape[2]):
                    a += y[i, h, d] * widened(x[j, h, d])
                out[e, h] = a


@compiled(parallel=True)
def _largest(indptr, indices, x, sign, out, arg):
    for i in numba.prange(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for d in range(x.shape[1]):
                if arg[i, d] < 0 or sign * x[j, d] > sign * out[i, d]:
                    out[i, d] = x[j, d]
                    arg[i, d] = e


@compiled(parallel=True)
def _largest_back(indptr, indices, edges, g, arg, out):
    for j in numba.prange(len(indptr) - 1):
        for k in range(indptr[j], indptr[j + 1]):
            i = indices[k]
            for d in range(g.shape[1]):
                if arg[i, d] == edges[k]:
                    out[j, d] += g[i, d]


@compiled(parallel=True)
def _softmax(indptr, e, out):
    for i in numba.prange(len(indptr) - 1):
        for h in range(e.shape[1]):
            top = e.dtype.type(-np.inf)
            for k in range(indptr[i], indptr[i + 1]):
                top = max(top, e[k, h])
            total = e.dtype.type(0)
            for k in range(indptr[i], indptr[i + 1]):
                out[k, h] = np.exp(e[k, h] - top)
                total += out[k, h]
            for k in range(indptr[i], indptr[i + 1]):
                out[k, h] /= total


@compiled(parallel=True)
def _softmax_back(indptr, s, g, out):
    for i in numba.prange(len(indptr) - 1):
        for h in range(s.shape[1]):
            inner = s.dtype.type(0)
            for k in range(indptr[i], indptr[i + 1]):
                inner += s[k, h] * g[k, h]
            for k in range(indptr[i], indptr[i + 1]):
                out[k, h] = s[k, h] * (g[k, h] - inner)


@compiled(parallel=True, fastmath={"reassoc"})
def _additive(indptr, indices, x, y, a, slope, out):
    for i in numba.prange(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for h in range(x.shape[1]):
                total = x.dtype.type(0)
                for d in range(x.shape[2]):
                    s = x[j, h, d] + y[i, h, d]
                    total += a[h, d] * (s if s > 0 else slope * s)
                out[e, h] = total


@compiled(parallel=True)
def _additive_back_dst(indptr, indices, x, y, a, slope, g, gy, ga):
    """Rows in as many runs as ``ga`` has, so that its sum does not depend on threads."""
    n, runs = len(indptr) - 1, len(ga)
    for run in numba.prange(runs):
        for i in range(run * n // runs, (run + 1) * n // runs):
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                for h in range(x.shape[1]):
                    r = g[e, h]
                    for d in range(x.shape[2]):
                        s = x[j, h, d] + y[i, h, d]
                        k = x.dtype.type(1) if s > 0 else slope
                        gy[i, h, d] += r * k * a[h, d]
                        ga[run, h, d] += r * k * s


@compiled(parallel=True)
def _additive_back_src(indptr, indices, edges, x, y, a, slope, g, gx):
    for j in numba.prange(len(indptr) - 1):
        for k in range(indptr[j], indptr[j + 1]):
            i = indices[k]
            for h in range(x.shape[1]):
                r = g[edges[k], h]
                for d in range(x.shape[2]):
                    s = x[j, h, d] + y[i, h, d]
                    gx[j, h, d] += r * a[h, d] * (x.dtype.type(1) if s > 0 else slope)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def stored(x: Tensor) -> np.ndarray:
    """Rows as they are kept: bfloat16, which numpy lacks, as its bits."""
    x = x.detach().contiguous()
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _empty(x: Tensor, *shape: int) -> Tensor:
    """For sums of these rows: float32 for bfloat16."""
    return pool.empty(*shape, dtype=torch.float32 if x.dtype == torch.bfloat16 else x.dtype)


def _rows(adj: Adjacency) -> tuple[np.ndarray, np.ndarray]:
    return adj.indptr.numpy(), adj.indices.numpy()


def operator(
    adj: Adjacency,
    x: Tensor,
    src: Tensor | None = None,
    dst: Tensor | None = None,
    weight: Tensor | None = None,
    diag: Tensor | None = None,
) -> Tensor:
    """dst_i sum_e weight_e src_j x_j + diag_i x_i, in one pass. [n_src, D] -> [n_dst, D]."""
    out = _empty(x, adj.n_dst, x.shape[1])
    none = np.empty(0, out.numpy().dtype)
    given = (none if f is None else _array(f.to(out.dtype)) for f in (src, dst, weight, diag))
    _operator(*_rows(adj), stored(x), *given, out.numpy())
    return out


total = operator
"""Sum of source rows per destination. [n_src, D] -> [n_dst, D]."""


def weighted_total(adj: Adjacency, x: Tensor, w: Tensor) -> Tensor:
    """Edge-weighted sum per head. x [n_src, H, D], w [E, H] -> [n_dst, H, D]."""
    out = _empty(x, adj.n_dst, *x.shape[1:])
    _weighted_sum(*_rows(adj), stored(x), _array(w), out.numpy())
    return out


def dot(adj: Adjacency, y: Tensor, x: Tensor) -> Tensor:
    """Inner product of the two ends of each edge. y [n_dst, H, D], x [n_src, H, D] -> [E, H]."""
    out = _empty(x, adj.n_edges, x.shape[1])
    _dot(*_rows(adj), _array(y), stored(x), out.numpy())
    return out


def extreme(adj: Adjacency, x: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """Largest (sign 1) or smallest (-1) source value, 0 if there is none, and its edge.

    x [n_src, D] -> values [n_dst, D], edges [n_dst, D] int64 (-1 for an empty row). Of equal
    values the first edge wins.
    """
    out = x.new_zeros(adj.n_dst, x.shape[1])
    arg = torch.full(out.shape, -1, dtype=torch.int64)
    _largest(*_rows(adj), _array(x), sign, out.numpy(), arg.numpy())
    return out, arg


def extreme_back(adj: Adjacency, g: Tensor, arg: Tensor) -> Tensor:
    """Gradient of ``extreme``. g [n_dst, D], arg [n_dst, D] -> [n_src, D]."""
    back = adj.T
    assert back.edges is not None
    out = g.new_zeros(adj.n_src, g.shape[1])
    _largest_back(*_rows(back), back.edges.numpy(), _array(g), arg.numpy(), out.numpy())
    return out


def softmax(adj: Adjacency, e: Tensor) -> Tensor:
    """Softmax over the in-edges of each destination, per head. [E, H] -> [E, H]."""
    out = torch.empty_like(e, memory_format=torch.contiguous_format)
    _softmax(adj.indptr.numpy(), _array(e), out.numpy())
    return out


def softmax_back(adj: Adjacency, s: Tensor, g: Tensor) -> Tensor:
    """Gradient of ``softmax`` from its result. s [E, H], g [E, H] -> [E, H]."""
    out = torch.empty_like(s)
    _softmax_back(adj.indptr.numpy(), _array(s), _array(g), out.numpy())
    return out


RUNS = 64
"""Partial sums over rows of what is summed over all of them."""


def additive(adj: Adjacency, x: Tensor, y: Tensor, a: Tensor, slope: float) -> Tensor:
    """sum_d a_d leaky(x_j + y_i)_d of each edge. x, y [n, H, D], a [H, D] -> [E, H]."""
    out = x.new_empty(adj.n_edges, x.shape[1])
    ends = _array(x), _array(y), _array(a)
    _additive(*_rows(adj), *ends, ends[0].dtype.type(slope), out.numpy())
    return out


def additive_back(
    adj: Adjacency, x: Tensor, y: Tensor, a: Tensor, slope: float, g: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``additive`` in x, y and a, from g [E, H]."""
    back = adj.T
    assert back.edges is not None
    gx, gy = (t.new_zeros(t.shape) for t in (x, y))
    ga = a.new_zeros(RUNS, *a.shape)
    ends = _array(x), _array(y), _array(a)
    given = (*ends, ends[0].dtype.type(slope), _array(g))
    _additive_back_dst(*_rows(adj), *given, gy.numpy(), ga.numpy())
    _additive_back_src(*_rows(back), back.edges.numpy(), *given, gx.numpy())
    return gx, gy, ga.sum(0)
