"""Several aggregators of the same rows in one pass over the edges, forwards and backwards.

Tailor, Opolka, Lio & Lane, ICLR 2022, arXiv:2104.01481, sec. 4.4 (aggregator fusion): a row is
fetched once for all of them, and no tensor has an entry per edge and column. Departs from it: there
is a backward pass as well, also in one pass; maxima and minima remember the edge they came by
([N, D] int32), variances are derived from the sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import mixing, pool
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.lanes import AHEAD, KINDS, SENT, asker, blender, folder, spreader
from gnnscale.core.ops.watch import tell

BLOCK = 32
"""Rows that share scratch memory."""
CHUNK = 32
"""Edges whose rows are gone over at once: all rows of some nodes would fill the second cache."""
SOON = 16
"""Edges beyond these whose rows are asked for meanwhile, some columns of all of them at a time:
what is asked for all at once is waited for."""
LANES = 16
"""Columns that registers hold at once, and that a task takes at least."""
MANY = 64
"""The same where little else has to be held."""
FEW = 8
"""The same of the columns that are left, if there are as many."""
SCALED, SUM, MAX, MIN, SQUARES = map(KINDS.index, ("scaled", "sum", "max", "min", "squares"))
"""Rows of a destination's scratch memory."""
SCALED_SENT, PLAIN_SENT, SLOPED_SENT, MAX_SENT, MIN_SENT = map(
    SENT.index, ("scaled", "plain", "sloped", "max", "min")
)
"""Rows of what a destination sends."""
OWN, ROOT = len(SENT), len(SENT) + 1
"""And two more: what goes to its own row, and the gradient of the standard deviation."""


def _folds(lanes: int) -> Callable[..., Any]:
    """All that is wanted of some rows, added to their destination's scratch memory.

    What EGC-M and PNA take together is folded together: a row is loaded once, and no sum waits for
    its own last step alone.
    """
    scaled, add, largest, least, squared = (folder((kind,), lanes) for kind in KINDS)
    first_three = folder(("scaled", "sum", "max"), lanes)
    all_but_first = folder(("sum", "max", "min", "squares"), lanes)

    @register_jitable(inline="always")
    def fold(indices, begin, end, x, d, scale, scratch, high, low, wanted):
        mixes, sums, tops, lows, squares = wanted
        if mixes and sums and tops and not (lows or squares):
            first_three(indices, begin, end, x, d, scale, scratch, high, low)
        elif sums and tops and lows and squares and not mixes:
            all_but_first(indices, begin, end, x, d, scale, scratch, high, low)
        else:
            if mixes:
                scaled(indices, begin, end, x, d, scale, scratch, high, low)
            if sums:
                add(indices, begin, end, x, d, scale, scratch, high, low)
            if tops:
                largest(indices, begin, end, x, d, scale, scratch, high, low)
            if lows:
                least(indices, begin, end, x, d, scale, scratch, high, low)
            if squares:
                squared(indices, begin, end, x, d, scale, scratch, high, low)

    return fold


def _spreads(lanes: int) -> Callable[..., Any]:
    """All that a destination sends some rows, added to them, of ``_folds``' kinds together."""
    scaled, plain, sloped, largest, least = (spreader((kind,), lanes, AHEAD) for kind in SENT)
    first_three = spreader(("scaled", "plain", "max"), lanes, AHEAD)
    all_but_first = spreader(("plain", "sloped", "max", "min"), lanes, AHEAD)

    @register_jitable(inline="always")
    def spread(indices, begin, end, gx, d, past, scale, sent, x, high, low, wanted):
        mixes, sums, tops, lows, squares = wanted
        if mixes and sums and tops and not (lows or squares):
            first_three(indices, begin, end, gx, d, past, scale, sent, gx, high, low)
        elif sums and tops and lows and squares and not mixes:
            all_but_first(indices, begin, end, gx, d, past, scale, sent, x, high, low)
        else:
            if mixes:
                scaled(indices, begin, end, gx, d, past, scale, sent, gx, high, low)
            if sums:
                plain(indices, begin, end, gx, d, past, scale, sent, gx, high, low)
            if squares:
                sloped(indices, begin, end, gx, d, past, scale, sent, x, high, low)
            if tops:
                largest(indices, begin, end, gx, d, past, scale, sent, gx, high, low)
            if lows:
                least(indices, begin, end, gx, d, past, scale, sent, gx, high, low)

    return spread


fold_lanes, fold_few = _folds(LANES), _folds(FEW)
spread_few = _spreads(FEW)
blend_many, blend_lanes, blend_few = blender(MANY), blender(LANES), blender(FEW)
mix_many, mix_few = blender(MANY, onto=True), blender(FEW, onto=True)
ask_lanes, ask_few = asker(LANES), asker(FEW)


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


@register_jitable
def _mix(w, bases, bias, heads, mixed):
    """bias + w bases. Shapes: w [H, K], bases [K, L], bias, mixed [H, L]."""
    d, long = 0, mixed.shape[1]
    for h in heads:
        for c in range(long):
            mixed[h, c] = bias[h, c]
    while d + MANY <= long:
        mix_many(heads, w, bases, d, mixed, d)
        d += MANY
    while d + FEW <= long:
        mix_few(heads, w, bases, d, mixed, d)
        d += FEW
    for h in heads:
        for c in range(d, long):
            for k in range(len(bases)):
                mixed[h, c] += w[h, k] * bases[k, c]


@compiled(parallel=True)
def _forward(
    indptr, indices, x, src, dst, weight, diag, eps, at, out, kept, high, low, mix, bias, blended
):
    """The results, and what ``mix`` and ``bias`` make of each row of them while it is at hand.

    Without rows, ``out`` only says how many aggregators there are, and no result is kept.
    """
    n, width = len(indptr) - 1, x.shape[1]
    weighted, scaled, argued = len(weight) > 0, len(src) > 0, len(high) + len(low) > 0
    mixes = at.sum >= 0 and (weighted or scaled)
    squares = at.var >= 0 or at.std >= 0
    sums = at.add >= 0 or at.mean >= 0 or squares or (at.sum >= 0 and not mixes)
    tops, lows = at.max >= 0, at.min >= 0
    wanted = (mixes, sums, tops, lows, squares)
    even = width // LANES * LANES
    most = (width - even) // FEW * FEW + even
    mixing, long, many = len(mix) > 0, blended.shape[2], out.shape[1]
    for block in numba.prange((n + BLOCK - 1) // BLOCK):
        zero, one = x.dtype.type(0), x.dtype.type(1)
        first, past = block * BLOCK, min(n, block * BLOCK + BLOCK)
        scratch, scale = np.empty((5, width), x.dtype), np.empty(CHUNK, x.dtype)
        means, spare = np.empty(width, x.dtype), np.empty((2, width), np.int32)
        mixed, total, square = scratch[SCALED], scratch[SUM], scratch[SQUARES]
        highest, lowest = scratch[MAX], scratch[MIN]
        unkept = np.empty((many, width), x.dtype)
        asked, last, heads = indptr[first], indptr[past], np.arange(mix.shape[1])
        for i in range(first, past):
            begin, end = indptr[i], indptr[i + 1]
            mine_high = high[i] if argued and tops else spare[0]
            mine_low = low[i] if argued and lows else spare[1]
            mixed[:] = zero
            total[:] = zero
            if squares or most < width:
                square[:] = zero
            if tops or most < width:
                highest[:] = x[indices[begin]] if begin < end else total
                mine_high[:] = np.int32(begin if begin < end else -1)
            if lows or most < width:
                lowest[:] = x[indices[begin]] if begin < end else total
                mine_low[:] = np.int32(begin if begin < end else -1)
            for start in range(begin, end, CHUNK):
                stop = min(end, start + CHUNK)
                if mixes:
                    for e in range(start, stop):
                        f = one
                        if weighted:
                            f *= weight[e]
                        if scaled:
                            f *= src[indices[e]]
                        scale[e - start] = f
                target = min(last, stop + SOON)
                for d in range(0, even, LANES):
                    ask_lanes(indices, asked, target, x, d)
                    fold_lanes(
                        indices, start, stop, x, d, scale, scratch, mine_high, mine_low, wanted
                    )
                for d in range(even, most, FEW):
                    ask_few(indices, asked, target, x, d)
                    fold_few(
                        indices, start, stop, x, d, scale, scratch, mine_high, mine_low, wanted
                    )
                for d in range(most, width):
                    for e in range(start, stop):
                        j = indices[e]
                        value = x[j, d]
                        total[d] += value
                        square[d] += value * value
                        if mixes:
                            mixed[d] += scale[e - start] * value
                        if value > scratch[MAX, d]:
                            scratch[MAX, d], mine_high[d] = value, np.int32(e)
                        if value < scratch[MIN, d]:
                            scratch[MIN, d], mine_low[d] = value, np.int32(e)
                asked = max(asked, target)
            count = x.dtype.type(max(end - begin, 1))
            row = out[i] if len(out) else unkept
            if at.sum >= 0:
                a = one
                if len(dst):
                    a = dst[i]
                given, result = mixed if mixes else total, row[at.sum]
                if len(diag):
                    own, self_ = diag[i], x[i]
                    for d in range(width):
                        result[d] = a * given[d] + own * self_[d]
                else:
                    for d in range(width):
                        result[d] = a * given[d]
            if at.add >= 0:
                row[at.add] = total
            if tops:
                row[at.max] = scratch[MAX]
            if lows:
                row[at.min] = scratch[MIN]
            if at.mean >= 0 or squares:
                for d in range(width):
                    means[d] = total[d] / count
                if at.mean >= 0:
                    row[at.mean] = means
                if at.own_mean >= 0:
                    kept[i, at.own_mean] = means
            if squares:
                for d in range(width):
                    square[d] = square[d] / count - means[d] * means[d]
                if at.var >= 0:
                    row[at.var] = square
                if at.own_var >= 0:
                    kept[i, at.own_var] = square
                if at.std >= 0:
                    for d in range(width):
                        v = zero if square[d] < zero else square[d]
                        row[at.std, d] = np.sqrt(v + eps)
            if mixing:
                _mix(mix[i], row.reshape(mix.shape[2], long), bias, heads, blended[i])


@register_jitable
def _weight(mix, mixed, i, h, name, bases, k):
    """What row h of a destination's gradient has in that of aggregator ``name``, basis k."""
    return mix[i, h, name * bases + k] if mixed else mix.dtype.type(h == name)


@compiled(parallel=True)
def _backward(
    indptr, indices, x, g, mix, out, kept, src, dst, weight, diag, at, high, low, parts, gx
):
    """What every destination sends to all of its sources: x_j gets, for every edge e from j to i.

        plain_i + slope_i x_j + (weight_e src_j) operator_i, and what an extreme got that is e's.

    Columns are tasks, so that no two write to one place, and all orders are those of the edges. The
    gradient of the results is ``g``, or with ``mix``, mixing weights, mix_i^T g_i. In either case
    all that i sends is made of the rows of g_i by a small matrix, ``by``.
    """
    n, width, mixed = len(indptr) - 1, gx.shape[1], len(mix) > 0
    many, long = g.shape[1], g.shape[2]  # heads or aggregators, columns of a basis or all
    bases = width // long
    weighted, scaled = len(weight) > 0, len(src) > 0
    mixes, squares = at.sum >= 0 and (weighted or scaled), at.var >= 0 or at.std >= 0
    plain = at.add >= 0 or at.mean >= 0 or squares or (at.sum >= 0 and not mixes)
    tops, lows, own = at.max >= 0, at.min >= 0, at.sum >= 0 and len(diag) > 0
    wanted = (mixes, plain, tops, lows, squares)
    given = np.array([mixes, plain, squares, tops, lows, own, at.std >= 0]).nonzero()[0]
    share = (width + parts - 1) // parts
    share = (share + FEW - 1) // FEW * FEW
    for part in numba.prange(parts):
        zero, one = gx.dtype.type(0), gx.dtype.type(1)
        half, two = gx.dtype.type(0.5), gx.dtype.type(2)
        left = min(width, np.int64(part) * share)
        right = min(width, left + share)
        sent, by = np.empty((ROOT + 1, width), gx.dtype), np.zeros((ROOT + 1, many), gx.dtype)
        same, slope, own_row, root = sent[PLAIN_SENT], sent[SLOPED_SENT], sent[OWN], sent[ROOT]
        scale, even = np.empty(CHUNK, gx.dtype), left + (right - left) // FEW * FEW
        gx[:, left:right] = zero
        for i in range(n):
            begin, end = indptr[i], indptr[i + 1]
            whole, each = one, one / gx.dtype.type(max(end - begin, 1))
            if len(dst):
                whole = dst[i]
            rows = g[i]
            for k in range(left // long, (right + long - 1) // long):
                for h in range(many):
                    sums = zero
                    if at.sum >= 0:
                        f = _weight(mix, mixed, i, h, at.sum, bases, k)
                        if own:
                            by[OWN, h] = f * diag[i]
                        if mixes:
                            by[SCALED_SENT, h] = f * whole
                        else:
                            sums += f * whole
                    if at.add >= 0:
                        sums += _weight(mix, mixed, i, h, at.add, bases, k)
                    if at.mean >= 0:
                        sums += _weight(mix, mixed, i, h, at.mean, bases, k) * each
                    by[PLAIN_SENT, h] = sums
                    if at.var >= 0:
                        by[SLOPED_SENT, h] = _weight(mix, mixed, i, h, at.var, bases, k)
                    if at.std >= 0:
                        by[ROOT, h] = _weight(mix, mixed, i, h, at.std, bases, k)
                    if tops:
                        by[MAX_SENT, h] = _weight(mix, mixed, i, h, at.max, bases, k)
                    if lows:
                        by[MIN_SENT, h] = _weight(mix, mixed, i, h, at.min, bases, k)
                d, past = max(left, k * long), min(right, (k + 1) * long)
                while d + MANY <= past:
                    blend_many(given, by, rows, d - k * long, sent, d)
                    d += MANY
                while d + LANES <= past:
                    blend_lanes(given, by, rows, d - k * long, sent, d)
                    d += LANES
                while d + FEW <= past:
                    blend_few(given, by, rows, d - k * long, sent, d)
                    d += FEW
                if d < past and past - FEW >= max(left, k * long):  # some of them once more
                    blend_few(given, by, rows, past - FEW - k * long, sent, past - FEW)
                    d = past
                for c in range(d, past):
                    for r in given:
                        total = zero
                        for h in range(many):
                            total += by[r, h] * rows[h, c - k * long]
                        sent[r, c] = total
            if own:
                for d in range(left, right):
                    gx[i, d] += own_row[d]
            if squares:
                var = kept[i, at.own_var] if at.own_var >= 0 else out[i, at.var]
                mean = kept[i, at.own_mean] if at.own_mean >= 0 else out[i, at.mean]
                for d in range(left, right):
                    s = slope[d]
                    if at.std >= 0 and var[d] > zero:
                        s += root[d] * (half / out[i, at.std, d])
                    slope[d] = s * two * each
                    same[d] -= slope[d] * mean[d]
            high_, low_ = high[i if tops else 0], low[i if lows else 0]
            for start in range(begin, end, CHUNK):
                stop = min(end, start + CHUNK)
                if mixes:
                    for e in range(start, stop):
                        f = one
                        if weighted:
                            f *= weight[e]
                        if scaled:
                            f *= src[indices[e]]
                        scale[e - start] = f
                spread_few(
                    indices, start, stop, gx, left, even, scale, sent, x, high_, low_, wanted
                )
                for c in range(even, right):
                    for e in range(start, stop):
                        j, add = indices[e], zero
                        if plain:
                            add += same[c]
                        if squares:
                            add += slope[c] * x[j, c]
                        if mixes:
                            add += scale[e - start] * sent[SCALED_SENT, c]
                        if tops and high_[c] == np.int32(e):
                            add += sent[MAX_SENT, c]
                        if lows and low_[c] == np.int32(e):
                            add += sent[MIN_SENT, c]
                        gx[j, c] += add


def _array(t: Tensor | None, like: np.ndarray) -> np.ndarray:
    if t is None:
        return np.empty(0, like.dtype)
    return t.detach().to(torch.from_numpy(like).dtype).contiguous().numpy()


def _arguments(adj: Adjacency, there: bool, argued: bool, width: int) -> Tensor:
    return pool.empty(adj.n_dst if there and argued else 0, width, dtype=torch.int32)


def _tasks(width: int) -> int:
    """Among how many tasks so many columns are shared."""
    return max(1, min(numba.get_num_threads(), width // LANES))


class _Several(torch.autograd.Function):
    """With mixing weights w [n_dst, H, A B] and a bias, what ``mixed`` makes of the results."""

    @staticmethod
    def forward(ctx, adj, x, names, factors, eps, w, by):
        x = x.detach().contiguous()
        argued, width = ctx.needs_input_grad[1], x.shape[1]
        at = Places(*(names.index(n) if n in names else -1 for n in Places._fields[:7]))
        squares = at.var >= 0 or at.std >= 0
        own_mean = argued and squares and at.mean < 0
        own_var = argued and at.std >= 0 and at.var < 0
        at = at._replace(own_mean=own_mean - 1, own_var=own_mean + own_var - 1 if own_var else -1)
        lasting = w is None or argued or ctx.needs_input_grad[5]
        out = pool.empty(adj.n_dst if lasting else 0, len(names), width, dtype=x.dtype)
        kept = pool.empty(adj.n_dst, own_mean + own_var, width, dtype=x.dtype)
        high = _arguments(adj, at.max >= 0, argued, width)
        low = _arguments(adj, at.min >= 0, argued, width)
        rows = x.numpy()
        w = w if w is None else w.detach().contiguous()
        length = 0 if w is None else len(names) * width // w.shape[2]
        shape = (0, 0, 0) if w is None else (adj.n_dst, w.shape[1], length)
        mixed = pool.empty(*shape, dtype=x.dtype)
        mix = x.new_empty(shape) if w is None else w
        by = x.new_empty(shape[1:]) if by is None else by.detach().view(shape[1:])
        _forward(
            adj.indptr.numpy(), adj.indices.numpy(), rows,
            *(_array(f, rows) for f in factors), rows.dtype.type(eps), at,
            out.numpy(), kept.numpy(), high.numpy(), low.numpy(),
            mix.numpy(), by.numpy(), mixed.numpy(),
        )  # fmt: skip
        ctx.adj, ctx.factors, ctx.at = adj, factors, at
        needed = w is not None or (squares and (at.std >= 0 or not own_mean))
        ctx.save_for_backward(
            x if squares else None, out if needed else None, kept if squares else None, high, low, w
        )
        return out if w is None else mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, out, kept, high, low, w = ctx.saved_tensors
        gx = gw = by = None
        if ctx.needs_input_grad[1]:
            given = g.contiguous().numpy()
            none = [np.empty((0,) * k, given.dtype) for k in (2, 3, 3, 3)]
            gx = pool.empty(ctx.adj.n_src, g.shape[2] if w is None else out.shape[2], dtype=g.dtype)
            _backward(
                ctx.adj.indptr.numpy(), ctx.adj.indices.numpy(),
                none[0] if x is None else x.numpy(), given, none[3] if w is None else w.numpy(),
                none[1] if out is None else out.numpy(), none[2] if kept is None else kept.numpy(),
                *(_array(f, given) for f in ctx.factors), ctx.at, high.numpy(), low.numpy(),
                _tasks(gx.shape[1]), gx.numpy(),
            )  # fmt: skip
        if ctx.needs_input_grad[5]:
            gw = mixing.weights(w, _bases(w, out), g)
        if ctx.needs_input_grad[6]:
            by = g.sum(0).flatten()
        return None, gx, None, None, None, gw, by


def _bases(w: Tensor, out: Tensor) -> Tensor:
    """Results as rows of their bases, [n_dst, A B, L]."""
    return out.view(len(out), w.shape[2], -1)


def several(
    adj: Adjacency,
    x: Tensor,
    names: tuple[str, ...],
    factors: Factors,
    eps: float,
    mix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Every aggregator of ``names`` at once, side by side, on the CPU.

    Of sum (the operator's), add, mean, max, min, var = mean(x^2) - mean(x)^2 and
    std = sqrt(max(var, 0) + eps); on the empty set 0, std the root of eps. The gradient of an
    extreme goes to one source. ``factors`` have no gradients. With ``mix``, weights w and a bias,
    what ``mixed`` makes of the results: their own gradient, as wide as they are, is never made.

    Shapes: x [n_src, D] float32 or float64 -> [n_dst, A, D]; with w [n_dst, H, A B] and a bias
    [H D / B], both of the kind of x, -> [n_dst, H D / B]. A: len(names).
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
    w, by = mix or (None, None)
    found = _Several.apply(adj, x, names, factors, eps, w, by)
    return found if mix is None else found.flatten(1)
