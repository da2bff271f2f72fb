"""Compiled loops of integer inference: sums, products and extremes of 8-bit codes, and the one pass
that does everything between two sites.
"""

import numba
import numpy as np

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.codes import fma, rectified
from gnnscale.core.ops.lanes import AHEAD, LINE, adder, fetch

SCALE, SHIFT, TIMES, OVER, RELU, OWN, ADD, JOIN = range(8)
"""Steps: v * column, v + column, v * row, v / row, max(v, 0), v + own row r, v + extra, v + (own +
column); own: values of other codes."""

_add_16, _add_32, _add_64 = adder(16), adder(32), adder(64)
_times_16, _times_32, _times_64 = adder(16, True), adder(32, True), adder(64, True)


@compiled(parallel=True)
def finish(
    block, start, scale, zero, kinds, columns, rows, own, own_scale, own_zero, extra,
    encodes, inverse, z, first, last, offset, out,
):  # fmt: skip
    """(block - zero) scale, then the steps, then its code less ``offset``, or its value."""
    n, width = len(block), out.shape[1]  # a block may be wider
    chunks = (n + 63) // 64
    for chunk in numba.prange(chunks):
        v = np.empty(width, np.float32)
        for i in range(chunk * 64, min(n, chunk * 64 + 64)):
            given, put, at = block[i], out[start + i], start + i
            for c in range(width):
                v[c] = (np.float32(given[c]) - zero[c]) * scale[c]
            for s in range(len(kinds)):
                kind = kinds[s]
                if kind == SCALE:
                    column = columns[s]
                    for c in range(width):
                        v[c] *= column[c]
                elif kind == SHIFT:
                    column = columns[s]
                    for c in range(width):
                        v[c] += column[c]
                elif kind == TIMES:
                    r = rows[s, at]
                    for c in range(width):
                        v[c] *= r
                elif kind == OVER:
                    r = rows[s, at]
                    for c in range(width):
                        v[c] /= r
                elif kind == RELU:
                    for c in range(width):
                        v[c] = rectified(v[c])
                elif kind == OWN:
                    r, mine = rows[s, at], own[at]
                    for c in range(width):
                        v[c] = fma((np.float32(mine[c]) - own_zero) * own_scale, r, v[c])
                elif kind == JOIN:
                    column, mine = columns[s], own[at]
                    for c in range(width):
                        v[c] += (np.float32(mine[c]) - own_zero) * own_scale + column[c]
                else:
                    more = extra[at]
                    for c in range(width):
                        v[c] += more[c]
            if encodes:
                for c in range(width):
                    code = min(max(np.rint(fma(v[c], inverse, z)), first), last)
                    put[c] = np.int32(code - offset)
            else:
                for c in range(width):
                    put[c] = v[c]


@compiled(parallel=True)
def sums(indptr, indices, q, zero, start, out):
    """out_i = sum over in-edges j -> start + i of (q_j - zero), exactly; a multiple of 16 wide."""
    n, width = out.shape
    chunks = (n + 63) // 64
    for chunk in numba.prange(chunks):
        part, none = np.empty(64, np.int16), np.empty(0, np.int16)
        for i in range(chunk * 64, min(n, chunk * 64 + 64)):
            put, e, end = out[i], indptr[start + i], indptr[start + i + 1]
            put[:] = -zero * (end - e)
            while e < end:
                stop = min(e + 256, end)  # as many codes of 8 bits fit 16, half of 32
                column = 0
                while column < width:
                    left = width - column
                    if left >= 64:
                        lanes = 64
                        _add_64(indices, e, stop, q, column, none, part)
                    elif left >= 32:
                        lanes = 32
                        _add_32(indices, e, stop, q, column, none, part)
                    else:
                        lanes = 16
                        _add_16(indices, e, stop, q, column, none, part)
                    for c in range(lanes):
                        put[column + c] += part[c]
                    column += lanes
                e = stop


@compiled(parallel=True)
def weighted(indptr, indices, q, zero, scale, weight, out):
    """out_i = scale * sum over in-edges of weight_e (q_j - zero); one weight per edge and head."""
    n, heads, width = out.shape
    last, wide = len(indices) - 1, heads * width
    for i in numba.prange(n):
        put = out[i]
        for e in range(indptr[i], indptr[i + 1]):
            far, row = indices[min(e + AHEAD, last)], q[indices[e]]
            for byte in range(0, wide, LINE):
                fetch(q, far, byte)
            for h in range(heads):
                w = weight[e, h]
                for c in range(width):
                    put[h, c] += w * (np.float32(row[h, c]) - zero)
        for h in range(heads):
            for c in range(width):
                put[h, c] *= scale


@compiled(parallel=True)
def extremes(indptr, indices, q, sign, empty, out):
    """The largest (sign 1) or smallest code over the in-edges; ``empty`` where there are none."""
    n, width = out.shape
    chunks = (n + 63) // 64
    for chunk in numba.prange(chunks):
        for i in range(chunk * 64, min(n, chunk * 64 + 64)):
            put, begin, end = out[i], indptr[i], indptr[i + 1]
            if begin == end:
                put[:] = empty
                continue
            put[:] = q[indices[begin]]
            for e in range(begin + 1, end):
                row = q[indices[e]]
                if sign > 0:
                    for c in range(width):
                        put[c] = max(put[c], row[c])
                else:
                    for c in range(width):
                        put[c] = min(put[c], row[c])


@compiled(parallel=True)
def sparse_product(indptr, indices, values, w, start, out):
    """out_i = sum over entries of row start + i of value_e w[column_e]; a multiple of 16 wide."""
    n, width = out.shape
    chunks = (n + 15) // 16
    for chunk in numba.prange(chunks):
        for i in range(chunk * 16, min(n, chunk * 16 + 16)):
            e, end, column = indptr[start + i], indptr[start + i + 1], 0
            while column < width:
                put, left = out[i, column:], width - column
                if left >= 64:
                    _times_64(indices, e, end, w, column, values, put)
                    column += 64
                elif left >= 32:
                    _times_32(indices, e, end, w, column, values, put)
                    column += 32
                else:
                    _times_16(indices, e, end, w, column, values, put)
                    column += 16


@compiled(parallel=True)
def look_up(q, table, out):
    """out_ic = table[q_ic, c]. q [n, D] uint8, table [256, D]."""
    n, width = q.shape
    chunks = (n + 63) // 64
    for chunk in numba.prange(chunks):
        for i in range(chunk * 64, min(n, chunk * 64 + 64)):
            given, put = q[i], out[i]
            for c in range(width):
                put[c] = table[given[c], c]
