"""Sparse rows times a dense matrix, and dropout of their entries in the same pass.

A product over the edges of a graph reads rows anywhere in a table larger than the caches. Here the
table is a weight, which lies in the second cache, so what counts is work per entry: dropped entries
take no part, a row's sum stays in registers, and the weight's gradient is added up row by row of
the sparse matrix, which needs no transpose and gathers no values anew (a new transpose per batch
under a sampler). One thread, 7,487 x 745 with 5 % and 35 % of entries, dropout 0.5, 64 columns,
forwards and backwards: 7 and 21 ms; as a weighted sum over edges, where dropped entries are zeros,
14 and 80 (docs/benchmarks/speed.md).
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.dropout import CHUNK, halves, hashed, words
from gnnscale.core.ops.lanes import folder, spreader

TASKS = 64
"""Pieces of the rows in the forward pass."""
PARTS = 4
"""Sums of the weight's gradient that are made side by side, at most: as many whatever the number of
threads, so that results do not depend on it."""
WIDE, MIDDLE, NARROW, FEW = 64, 32, 8, 4
"""Columns that registers hold at once."""

fold_wide, fold_middle, fold_narrow, fold_few = (
    folder(("scaled",), n) for n in (WIDE, MIDDLE, NARROW, FEW)
)
spread_wide, spread_middle, spread_narrow, spread_few = (
    spreader(("scaled",), n) for n in (WIDE, MIDDLE, NARROW, FEW)
)


@numba.njit(inline="always")
def _kept(indices, values, first, end, key, dropped, scale, flags, columns, factors):
    """Columns and values of the entries first <= e < end that are kept; how many they are.

    The mask is that of ``dropout`` on the vector of all values. It is made before anything is
    moved: hashes take eight entries at once, what follows takes one.
    """
    if dropped == 0:
        columns[: end - first] = indices[first:end]
        factors[: end - first] = values[first:end]
        return end - first
    e = first
    while e < end:
        chunk = e // CHUNK
        low, high = halves(key, chunk)
        start = chunk * CHUNK
        stop = min(end, start + CHUNK)
        for k in range(stop - e):
            flags[e - first + k] = hashed(low, high, np.uint32(e - start + k)) >= dropped
        e = stop
    n = 0
    for k in range(end - first):  # without a branch: whether an entry is kept can't be foreseen
        columns[n], factors[n] = indices[first + k], values[first + k] * scale
        n += flags[k]
    return n


@numba.njit(inline="always")
def _longest(indptr):
    most = 0
    for i in range(len(indptr) - 1):
        most = max(most, indptr[i + 1] - indptr[i])
    return most


@compiled(parallel=True)
def _forward(indptr, indices, values, key, dropped, scale, w, out):
    rows, width, most = len(indptr) - 1, w.shape[1], _longest(indptr)
    size = (rows + TASKS - 1) // TASKS
    for task in numba.prange(TASKS):
        columns, factors = np.empty(most + 1, np.int32), np.empty(most + 1, values.dtype)
        flags, none = np.empty(most, np.uint8), np.empty(0, np.int32)
        for i in range(task * size, min(rows, (task + 1) * size)):
            n = _kept(
                indices, values, indptr[i], indptr[i + 1], key, dropped, scale, flags, columns,
                factors,
            )  # fmt: skip
            row = out[i : i + 1]
            row[:] = 0
            d = 0
            while d + WIDE <= width:
                fold_wide(columns, 0, n, w, d, factors, row, none, none)
                d += WIDE
            if d + MIDDLE <= width:
                fold_middle(columns, 0, n, w, d, factors, row, none, none)
                d += MIDDLE
            while d + NARROW <= width:
                fold_narrow(columns, 0, n, w, d, factors, row, none, none)
                d += NARROW
            if d + FEW <= width:
                fold_few(columns, 0, n, w, d, factors, row, none, none)
                d += FEW
            for c in range(d, width):
                s = row[0, c]
                for k in range(n):
                    s += factors[k] * w[columns[k], c]
                row[0, c] = s


@compiled(parallel=True)
def _backward(indptr, indices, values, key, dropped, scale, g, parts):
    rows, width, most = len(indptr) - 1, g.shape[1], _longest(indptr)
    size = (rows + len(parts) - 1) // len(parts)
    for part in numba.prange(len(parts)):
        columns, factors = np.empty(most + 1, np.int32), np.empty(most + 1, values.dtype)
        flags, gw, none = np.empty(most, np.uint8), parts[part], np.empty(0, np.int32)
        gw[:] = 0
        for i in range(part * size, min(rows, (part + 1) * size)):
            n = _kept(
                indices, values, indptr[i], indptr[i + 1], key, dropped, scale, flags, columns,
                factors,
            )  # fmt: skip
            given = g[i : i + 1]
            d = 0
            while d + WIDE <= width:
                spread_wide(columns, 0, n, gw, d, d + WIDE, factors, given, gw, none, none)
                d += WIDE
            if d + MIDDLE <= width:
                spread_middle(columns, 0, n, gw, d, d + MIDDLE, factors, given, gw, none, none)
                d += MIDDLE
            while d + NARROW <= width:
                spread_narrow(columns, 0, n, gw, d, d + NARROW, factors, given, gw, none, none)
                d += NARROW
            if d + FEW <= width:
                spread_few(columns, 0, n, gw, d, d + FEW, factors, given, gw, none, none)
                d += FEW
            for c in range(d, width):
                one = given[0, c]
                for k in range(n):
                    gw[columns[k], c] += factors[k] * one


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pattern, values, w, key, p):
        ctx.pattern, ctx.key, ctx.p, ctx.height = pattern, key, p, len(w)
        ctx.save_for_backward(values)
        out = pool.empty(pattern.n_dst, w.shape[1], dtype=w.dtype)
        table = w.detach().contiguous().numpy()
        _forward(*_entries(pattern, values, key, p), table, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (values,) = ctx.saved_tensors
        parts = max(1, min(PARTS, len(values) // (2 * max(ctx.height, 1))))
        made = torch.empty(parts, ctx.height, g.shape[1], dtype=g.dtype)
        given = g.detach().contiguous().numpy()
        _backward(*_entries(ctx.pattern, values, ctx.key, ctx.p), given, made.numpy())
        return None, None, made[0] if parts == 1 else made.sum(0), None, None


def _entries(pattern: Adjacency, values: Tensor, key: int, p: float) -> tuple:
    entries = (pattern.indptr, pattern.indices, values.detach())
    return *(t.contiguous().numpy() for t in entries), *words(values, key, p)


def fits(pattern: Adjacency, values: Tensor, w: Tensor) -> bool:
    """Whether ``sparse_product`` takes these: on the CPU, one type, no gradient in the values."""
    return (
        values.device.type == "cpu" and pattern.indices.dtype == torch.int32
        and isinstance(w, Tensor) and w.dtype == values.dtype and w.dtype in pool.KINDS
        and not values.requires_grad and not torch.is_autocast_enabled("cpu")
    )  # fmt: skip


def sparse_product(pattern: Adjacency, values: Tensor, w: Tensor, key: int, p: float) -> Tensor:
    """sum_j m_ij v_ij w_j / (1 - p), m the mask that ``dropout`` draws by this key for ``values``.

    Shapes: pattern of [n, F], values [nnz], w [F, D] -> [n, D]. The gradient is w's alone.
    """
    return _SparseProduct.apply(pattern, values, w, key, p)
