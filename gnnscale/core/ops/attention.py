"""Additive attention in three passes over rows: scores, softmax, dropout and sum, and back again.

Velickovic et al., ICLR 2018, arXiv:1710.10903, eqs. 3 and 4. Forwards every neighbour's row is
fetched once, backwards once by destination and once by source. What is kept has an entry per edge
and head, nothing has one per edge and column, and no mask of dropped entries is stored: it is that
of ``dropout``.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.dropout import drawn, halves, hashed, words
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch, widened
from gnnscale.core.ops.native_kernels import stored

RUNS = 64
"""Partial sums over rows of what is summed over all of them, so that it is no matter of threads."""


@compiled(parallel=True, fastmath={"reassoc"})
def _scores(z, a, out):
    for j in numba.prange(len(out)):
        for h in range(z.shape[1]):
            s = out.dtype.type(0)
            for d in range(z.shape[2]):
                s += a[h, d] * widened(z[j, h, d])
            out[j, h] = s


@compiled(parallel=True)
def _forward(indptr, indices, z, left, right, slope, key, dropped, scale, alpha, out):
    heads, width, last = z.shape[1], z.shape[2], len(indices) - 1
    wide = heads * width * z.itemsize
    for i in numba.prange(len(indptr) - 1):
        zero = out.dtype.type(0)
        begin, end = indptr[i], indptr[i + 1]
        row = out[i]
        row[:] = zero
        for h in range(heads):
            top = out.dtype.type(-np.inf)
            for e in range(begin, end):
                s = left[indices[e], h] + right[i, h]
                s = s if s > zero else slope * s
                alpha[e, h] = s
                top = max(top, s)
            total = zero
            for e in range(begin, end):
                alpha[e, h] = np.exp(alpha[e, h] - top)
                total += alpha[e, h]
            for e in range(begin, end):
                alpha[e, h] /= total
        for e in range(begin, end):
            far = indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(z, far, byte)
            given = z[indices[e]]
            low, high = halves(key, e)
            for h in range(heads):
                a = alpha[e, h]
                if dropped > 0:
                    a = a * scale if hashed(low, high, h) >= dropped else zero
                for d in range(width):
                    row[h, d] += a * widened(given[h, d])


@compiled(parallel=True, fastmath={"reassoc"})
def _back_dst(indptr, indices, z, g, left, right, slope, key, dropped, scale, alpha, de, gright):
    """Gradients of the scores, [E, H], and of ``right``."""
    heads, width, last = z.shape[1], z.shape[2], len(indices) - 1
    wide = heads * width * z.itemsize
    for i in numba.prange(len(indptr) - 1):
        zero = g.dtype.type(0)
        begin, end = indptr[i], indptr[i + 1]
        for e in range(begin, end):
            far = indices[min(e + AHEAD, last)]
            for byte in range(0, wide, LINE):
                fetch(z, far, byte)
            given = z[indices[e]]
            low, high = halves(key, e)
            for h in range(heads):
                a = zero
                if hashed(low, high, h) >= dropped:
                    for d in range(width):
                        a += g[i, h, d] * widened(given[h, d])
                de[e, h] = a * scale
        for h in range(heads):
            inner, total = zero, zero
            for e in range(begin, end):
                inner += alpha[e, h] * de[e, h]
            for e in range(begin, end):
                by = alpha[e, h] * (de[e, h] - inner)
                by = by if left[indices[e], h] + right[i, h] > zero else slope * by
                de[e, h] = by
                total += by
            gright[i, h] = total


@compiled(parallel=True)
def _back_src(
    indptr, indices, edges, g, a_left, a_right, key, dropped, scale, alpha, de, gleft, gright, gz
):
    """Gradients of ``left`` and of the rows, what reaches them through both scores included."""
    heads, width, last = g.shape[1], g.shape[2], len(indices) - 1
    wide = heads * width * g.itemsize
    for j in numba.prange(len(indptr) - 1):
        zero = g.dtype.type(0)
        mine = gz[j]
        mine[:] = zero
        for h in range(heads):
            gleft[j, h] = zero
        for k in range(indptr[j], indptr[j + 1]):
            ahead = min(k + AHEAD, last)
            for byte in range(0, wide, LINE):
                fetch(g, indices[ahead], byte)
            fetch(alpha, edges[ahead], 0)
            fetch(de, edges[ahead], 0)
            e, given = edges[k], g[indices[k]]
            low, high = halves(key, e)
            for h in range(heads):
                gleft[j, h] += de[e, h]
                a = alpha[e, h]
                if dropped > 0:
                    a = a * scale if hashed(low, high, h) >= dropped else zero
                for d in range(width):
                    mine[h, d] += a * given[h, d]
        for h in range(heads):
            a = gleft[j, h]
            for d in range(width):
                mine[h, d] += a * a_left[h, d]
            if j < len(gright):
                b = gright[j, h]
                for d in range(width):
                    mine[h, d] += b * a_right[h, d]


@compiled(parallel=True)
def _back_scores(z, g, out):
    """Gradient of ``_scores`` in a, from g [n, H], in runs of rows. -> [runs, H, D]."""
    n, runs = len(g), len(out)
    for run in numba.prange(runs):
        for j in range(run * n // runs, (run + 1) * n // runs):
            for h in range(z.shape[1]):
                a = g[j, h]
                for d in range(z.shape[2]):
                    out[run, h, d] += a * widened(z[j, h, d])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adj, z, source, target, slope, p):
        kind = torch.float32 if z.dtype == torch.bfloat16 else z.dtype
        heads, n = z.shape[1], adj.n_dst
        left, right = z.new_empty(len(z), heads, dtype=kind), z.new_empty(n, heads, dtype=kind)
        alpha = pool.empty(adj.n_edges, heads, dtype=kind)
        out = pool.empty(n, *z.shape[1:], dtype=kind)
        rows, number = stored(z), out.numpy().dtype.type
        _scores(rows, stored(source.to(kind)), left.numpy())
        _scores(rows, stored(target.to(kind)), right.numpy())
        ctx.words = number(slope), *words(out, drawn(p), p)
        _forward(
            adj.indptr.numpy(), adj.indices.numpy(), rows, left.numpy(), right.numpy(), *ctx.words,
            alpha.numpy(), out.numpy(),
        )  # fmt: skip
        ctx.adj = adj
        ctx.save_for_backward(z, source, target, left, right, alpha)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        z, source, target, left, right, alpha = ctx.saved_tensors
        adj, back, rows, given = ctx.adj, ctx.adj.T, stored(z), stored(g)
        de, gleft, gright = map(pool.like, (alpha, left, right))
        _back_dst(
            adj.indptr.numpy(), adj.indices.numpy(), rows, given, left.numpy(), right.numpy(),
            *ctx.words, alpha.numpy(), de.numpy(), gright.numpy(),
        )  # fmt: skip
        gz = pool.empty(*z.shape, dtype=left.dtype)
        _back_src(
            back.indptr.numpy(), back.indices.numpy(), back.edges.numpy(), given,
            stored(source.to(gz.dtype)), stored(target.to(gz.dtype)), *ctx.words[1:],
            alpha.numpy(), de.numpy(), gleft.numpy(), gright.numpy(), gz.numpy(),
        )  # fmt: skip
        found = []
        for vector, by in ((source, gleft), (target, gright)):
            partial = gz.new_zeros(RUNS, *vector.shape)
            _back_scores(rows, by.numpy(), partial.numpy())
            found.append(partial.sum(0))
        return None, gz, *found, None, None


def attention(
    adj: Adjacency, z: Tensor, source: Tensor, target: Tensor, slope: float, p: float
) -> Tensor:
    """sum_j drop(softmax_j LeakyReLU(source_h . z_jh + target_h . z_ih)) z_jh, on the CPU.

    The softmax runs over the in-edges of i; a share of ``p`` of its values is dropped and the
    others are divided by 1 - p. 0 without in-edges. bfloat16 rows give float32.

    Shapes: z [n_src, H, D], source, target [H, D] -> [n_dst, H, D].
    """
    return _Attention.apply(adj, z, source, target, slope, p)
