"""Several aggregators of the same rows in one pass over the edges, forwards and backwards.

Tailor, Opolka, Lio & Lane, ICLR 2022, arXiv:2104.01481, sec. 4.4 (aggregator fusion): a row is
fetched once for all of them, and no tensor has an entry per edge and column. Departs from it: there
is a backward pass as well, also in one pass; maxima and minima remember whose they were ([N, D]
int32), variances are derived from the sums.
"""

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch, folder
from gnnscale.core.ops.watch import tell

BLOCK = 32
"""Rows that share scratch memory."""
LANES = 16
"""Columns that registers hold at once, and that a task takes at least: no two share a line."""
add, add_squares, add_scaled, keep_largest, keep_least = (
    folder(kind, LANES) for kind in ("sum", "squares", "scaled", "max", "min")
)


class Factors(NamedTuple):
    """An operator's entry of edge j -> i, dst_i * weight_ij * src_j, and diag_i; None: 1, no diag.

    Shapes: src [n_src], dst [n_dst], weight [E], diag [n_dst].
    """

    src: Tensor | None = None
    dst: Tensor | None = None
    weight: Tensor | None = None
    diag: Tensor | None = None


class Places(NamedTuple):
    """Which column block holds what, -1 where it is not there.

    sum .. std: of the results. own_mean, own_var: of what is kept for the backward pass because it
    is no result.
    """

    sum: int
    add: int
    mean: int
    max: int
    min: int
    var: int
    std: int
    own_mean: int = -1
    own_var: int = -1


@compiled(parallel=True)
def _forward(indptr, indices, x, src, dst, weight, diag, eps, at, out, kept, high, low):
    n, width = len(indptr) - 1, x.shape[1]
    weighted, scaled, argued = len(weight) > 0, len(src) > 0, len(high) + len(low) > 0
    mixes = at.sum >= 0 and (weighted or scaled)
    squares = at.var >= 0 or at.std >= 0
    sums = at.add >= 0 or at.mean >= 0 or squares or (at.sum >= 0 and not mixes)
    last, wide, even = len(indices) - 1, width * x.itemsize, width // LANES * LANES
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        zero, one = x.dtype.type(0), x.dtype.type(1)
        first, past = block * BLOCK, min(n, block * BLOCK + BLOCK)
        most = 0
        for i in range(first, past):
            most = max(most, indptr[i + 1] - indptr[i])
        scratch, scale = np.empty((4, width), x.dtype), np.empty(most, x.dtype)
        spare = np.empty(width, np.int32)
        total, square, mixed, means = scratch[0], scratch[1], scratch[2], scratch[3]
        for i in range(first, past):
            begin, end = indptr[i], indptr[i + 1]
            scratch[:3] = zero
            for e in range(begin, end):
                far = indices[min(e + AHEAD, last)]
                for byte in range(0, wide, LINE):
                    fetch(x, far, byte)
                if mixes:
                    f = one
                    if weighted:
                        f *= weight[e]
                    if scaled:
                        f *= src[indices[e]]
                    scale[e - begin] = f
            for d in range(0, even, LANES):  # a destination's rows are in the cache by now
                if sums:
                    add(indices, begin, end, x, d, scale, total, spare)
                if squares:
                    add_squares(indices, begin, end, x, d, scale, square, spare)
                if mixes:
                    add_scaled(indices, begin, end, x, d, scale, mixed, spare)
                if at.max >= 0 and begin < end:
                    whose = high[i] if argued else spare
                    keep_largest(indices, begin, end, x, d, scale, out[i, at.max], whose)
                if at.min >= 0 and begin < end:
                    whose = low[i] if argued else spare
                    keep_least(indices, begin, end, x, d, scale, out[i, at.min], whose)
            for d in range(even, width):
                for e in range(begin, end):
                    j = indices[e]
                    value = x[j, d]
                    total[d] += value
                    square[d] += value * value
                    if mixes:
                        mixed[d] += scale[e - begin] * value
                    if at.max >= 0 and (e == begin or value > out[i, at.max, d]):
                        out[i, at.max, d] = value
                        if argued:
                            high[i, d] = j
                    if at.min >= 0 and (e == begin or value < out[i, at.min, d]):
                        out[i, at.min, d] = value
                        if argued:
                            low[i, d] = j
            count = x.dtype.type(max(end - begin, 1))
            if at.sum >= 0:
                a = one
                if len(dst):
                    a = dst[i]
                for d in range(width):
                    out[i, at.sum, d] = a * (mixed[d] if mixes else total[d])
                if len(diag):
                    for d in range(width):
                        out[i, at.sum, d] += diag[i] * x[i, d]
            if at.add >= 0:
                out[i, at.add] = total
            if at.mean >= 0 or squares:
                for d in range(width):
                    means[d] = total[d] / count
                if at.mean >= 0:
                    out[i, at.mean] = means
                if at.own_mean >= 0:
                    kept[i, at.own_mean] = means
            if squares:
                for d in range(width):
                    square[d] = square[d] / count - means[d] * means[d]
                if at.var >= 0:
                    out[i, at.var] = square
                if at.own_var >= 0:
                    kept[i, at.own_var] = square
                if at.std >= 0:
                    for d in range(width):
                        v = zero if square[d] < zero else square[d]
                        out[i, at.std, d] = np.sqrt(v + eps)
            if begin == end:
                if at.max >= 0:
                    out[i, at.max] = zero
                    if argued:
                        high[i] = -1
                if at.min >= 0:
                    out[i, at.min] = zero
                    if argued:
                        low[i] = -1


@compiled(parallel=True)
def _backward(indptr, indices, x, g, out, kept, src, dst, weight, diag, at, high, low, parts, gx):
    """What every destination sends to all of its sources: x_j gets, for every edge.

        plain_i + slope_i x_j + (weight_ij src_j) operator_i,

    and what an extreme got goes to the source it came from, whose row is at hand then. Columns are
    tasks, so that no two write to one place, and all orders are those of the edges.
    """
    n, width = len(indptr) - 1, gx.shape[1]
    weighted, scaled = len(weight) > 0, len(src) > 0
    mixes, squares = at.sum >= 0 and (weighted or scaled), at.var >= 0 or at.std >= 0
    plain = at.add >= 0 or at.mean >= 0 or squares or (at.sum >= 0 and not mixes)
    last, share = len(indices) - 1, (width + parts - 1) // parts
    share = (share + LANES - 1) // LANES * LANES
    for part in numba.prange(parts):
        zero, one = gx.dtype.type(0), gx.dtype.type(1)
        half, two = gx.dtype.type(0.5), gx.dtype.type(2)
        begin_d = min(width, part * share)
        own = min(width, begin_d + share) - begin_d
        scratch = np.empty((3, share), gx.dtype)
        same, slope, operator = scratch[0], scratch[1], scratch[2]
        for j in range(len(gx)):
            mine = gx[j, begin_d:]
            for d in range(own):
                mine[d] = zero
        for i in range(n):
            begin, end = indptr[i], indptr[i + 1]
            count = gx.dtype.type(max(end - begin, 1))
            a = one
            if len(dst):
                a = dst[i]
            scratch[:] = zero
            if at.sum >= 0:
                given = g[i, at.sum, begin_d:]
                if mixes:
                    for d in range(own):
                        operator[d] = a * given[d]
                else:
                    for d in range(own):
                        same[d] = a * given[d]
                if len(diag):
                    mine, f = gx[i, begin_d:], diag[i]
                    for d in range(own):
                        mine[d] += f * given[d]
            if at.add >= 0:
                given = g[i, at.add, begin_d:]
                for d in range(own):
                    same[d] += given[d]
            if at.mean >= 0:
                given = g[i, at.mean, begin_d:]
                for d in range(own):
                    same[d] += given[d] / count
            if squares:
                if at.var >= 0:
                    given = g[i, at.var, begin_d:]
                    for d in range(own):
                        slope[d] = given[d]
                if at.std >= 0:
                    var = kept[i, at.own_var] if at.own_var >= 0 else out[i, at.var]
                    for d in range(own):
                        by = g[i, at.std, begin_d + d] * (half / out[i, at.std, begin_d + d])
                        slope[d] += by if var[begin_d + d] > zero else zero
                mean = kept[i, at.own_mean] if at.own_mean >= 0 else out[i, at.mean]
                for d in range(own):
                    slope[d] *= two / count
                    same[d] -= slope[d] * mean[begin_d + d]
            for e in range(begin, end):
                j, far = indices[e], indices[min(e + AHEAD, last)]
                for byte in range(begin_d * gx.itemsize, (begin_d + own) * gx.itemsize, LINE):
                    fetch(gx, far, byte)
                mine = gx[j, begin_d:]
                if squares:
                    row = x[j, begin_d:]
                    for d in range(own):
                        mine[d] += same[d] + slope[d] * row[d]
                if mixes:
                    f = one
                    if weighted:
                        f *= weight[e]
                    if scaled:
                        f *= src[j]
                    if plain and not squares:
                        for d in range(own):
                            mine[d] += same[d] + f * operator[d]
                    else:
                        for d in range(own):
                            mine[d] += f * operator[d]
                elif plain and not squares:
                    for d in range(own):
                        mine[d] += same[d]
            if begin < end and len(high):
                whose, given = high[i], g[i, at.max]
                for d in range(begin_d, begin_d + own):
                    gx[whose[d], d] += given[d]
            if begin < end and len(low):
                whose, given = low[i], g[i, at.min]
                for d in range(begin_d, begin_d + own):
                    gx[whose[d], d] += given[d]


def _array(t: Tensor | None, like: np.ndarray) -> np.ndarray:
    if t is None:
        return np.empty(0, like.dtype)
    return t.detach().to(torch.from_numpy(like).dtype).contiguous().numpy()


def _arguments(adj: Adjacency, there: bool, argued: bool, width: int) -> Tensor:
    return torch.empty((adj.n_dst if there and argued else 0, width), dtype=torch.int32)


def _tasks(width: int) -> int:
    """Among how many tasks so many columns are shared."""
    return max(1, min(numba.get_num_threads(), width // LANES))


class _Several(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, x, names, factors, eps):
        x = x.detach().contiguous()
        argued, width = ctx.needs_input_grad[1], x.shape[1]
        at = Places(*(names.index(n) if n in names else -1 for n in Places._fields[:7]))
        squares = at.var >= 0 or at.std >= 0
        own_mean = argued and squares and at.mean < 0
        own_var = argued and at.std >= 0 and at.var < 0
        at = at._replace(own_mean=own_mean - 1, own_var=own_mean + own_var - 1 if own_var else -1)
        out = pool.empty(adj.n_dst, len(names), width, dtype=x.dtype)
        kept = pool.empty(adj.n_dst, own_mean + own_var, width, dtype=x.dtype)
        high = _arguments(adj, at.max >= 0, argued, width)
        low = _arguments(adj, at.min >= 0, argued, width)
        rows = x.numpy()
        _forward(
            adj.indptr.numpy(), adj.indices.numpy(), rows,
            *(_array(f, rows) for f in factors), rows.dtype.type(eps), at,
            out.numpy(), kept.numpy(), high.numpy(), low.numpy(),
        )  # fmt: skip
        ctx.adj, ctx.factors, ctx.at = adj, factors, at
        results = out if squares and (at.std >= 0 or not own_mean) else None
        ctx.save_for_backward(x if squares else None, results, kept if squares else None, high, low)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        adj, factors, at = ctx.adj, ctx.factors, ctx.at
        x, out, kept, high, low = ctx.saved_tensors
        given, width = g.contiguous().numpy(), g.shape[2]
        none = [np.empty((1,) * k, given.dtype) for k in (2, 3, 3)]
        gx = pool.empty(adj.n_src, width, dtype=g.dtype)
        _backward(
            adj.indptr.numpy(), adj.indices.numpy(), none[0] if x is None else x.numpy(), given,
            none[1] if out is None else out.numpy(), none[2] if kept is None else kept.numpy(),
            *(_array(f, given) for f in factors), at, high.numpy(), low.numpy(),
            _tasks(width), gx.numpy(),
        )  # fmt: skip
        return None, gx, None, None, None


def several(
    adj: Adjacency, x: Tensor, names: tuple[str, ...], factors: Factors, eps: float
) -> Tensor:
    """Every aggregator of ``names`` at once, side by side, on the CPU.

    Of sum (the operator's), add, mean, max, min, var = mean(x^2) - mean(x)^2 and
    std = sqrt(max(var, 0) + eps); on the empty set 0, std the root of eps. The gradient of an
    extreme goes to one source. ``factors`` have no gradients.

    Shapes: x [n_src, D] float32 or float64 -> [n_dst, len(names), D].
    """
    weighted = factors.weight is not None
    mixes = weighted or factors.src is not None
    squares = bool({"var", "std"} & set(names))
    if squares or {"add", "mean"} & set(names) or ("sum" in names and not mixes):
        tell("total", adj, x.shape[1])
    if squares:
        tell("total", adj, x.shape[1])
    if "sum" in names and mixes:
        tell("total", adj, x.shape[1], weighted)
    for _ in {"max", "min"} & set(names):
        tell("extreme", adj, x.shape[1])
    return _Several.apply(adj, x, names, factors, eps)
