"""Random draws on a graph and their counts, compiled: walks, weighted nodes, edges, frontiers.

Every draw is a hash (splitmix64; Steele, Lea and Flood, OOPSLA 2014) of a stream and a counter.
Subgraph k draws from stream k of a key word, so it is the same whichever thread draws it, and
whatever was drawn before. ``walk``, ``pick``, ``pairs`` and ``frontier`` fill one subgraph;
the same names with ``_pool`` fill row b of ``out`` with subgraph first + b, in parallel.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch

STEP = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
UNIT = 2.0**-53
CLIP = 1e4
UNSEEN = 0.1
"""What replaces a node's count of zero (the GraphSAINT authors' value, like ``CLIP``)."""
FAR = 16
"""Single entries between one's being asked for and its being needed."""


@compiled()
def _copy(rows, at, out):
    """out[i] = rows[at[i]], bytes."""
    last, wide = len(at) - 1, rows.shape[1]
    for i in range(len(at)):
        j, far = at[i], at[min(i + AHEAD, last)]
        if j < 0 or j >= len(rows):
            raise IndexError("no such row")
        for byte in range(0, wide, LINE):
            fetch(rows, far, byte)
        mine, given = out[i], rows[j]
        for byte in range(wide):
            mine[byte] = given[byte]


def take(table: Tensor, at: Tensor) -> Tensor:
    """Rows ``at``, none of them negative, of a CPU tensor or of sparse rows, on one thread.

    Faster than torch's indexing, which starts its thread pool: beside a training step that holds
    all cores, each such start waits for a time slice of the scheduler (8 ms measured).
    """
    if not isinstance(table, Tensor):  # sparse rows have their own compiled selection
        return table[at]
    if table.ndim < 2 or not table.is_contiguous() or not table.numel():
        return torch.from_numpy(table.numpy()[at.numpy()])
    out = table.new_empty(len(at), *table.shape[1:])
    if len(at):
        rows, mine = (t.view(len(t), -1).view(torch.uint8).numpy() for t in (table, out))
        _copy(rows, at.numpy(), mine)
    return out


@compiled()
def draw(stream, i):
    """The i-th 64-bit word of a stream (i >= 0); also stream i of a key word."""
    z = stream + (np.uint64(i) + np.uint64(1)) * STEP
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@compiled()
def unit(stream, i):
    """The i-th draw of a stream as a number in [0, 1), of 53 bits."""
    return np.float64(draw(stream, i) >> np.uint64(11)) * UNIT


@compiled()
def below(stream, i, n):
    """The i-th draw of a stream as a whole number in [0, n); unequal by less than n / 2^53."""
    return np.int64(unit(stream, i) * n)


@compiled()
def walk(indptr, indices, roots, length, stream, out):
    """``roots`` uniform nodes, then ``length`` uniform steps; a node without in-edges stays put.

    out [roots * (length + 1)]. Walks advance side by side, so that their cache misses overlap.
    """
    n = len(indptr) - 1
    for i in range(roots):
        out[i] = below(stream, i, n)
        fetch(indptr, out[i], 0)
    for i in range(roots, roots * (length + 1)):
        v = out[i - roots]
        d = indptr[v + 1] - indptr[v]
        out[i] = indices[indptr[v] + below(stream, i, d)] if d > 0 else v
        fetch(indptr, out[i], 0)


@compiled(parallel=True)
def walk_pool(indptr, indices, roots, length, word, first, out):
    """Row b of ``out`` is the walk of subgraph first + b."""
    for b in numba.prange(len(out)):
        walk(indptr, indices, roots, length, draw(word, first + b), out[b])


@compiled()
def alias(weight):
    """Tables for drawing i with probability weight_i / sum in constant time (Vose 1991)."""
    n = len(weight)
    keep = weight * (n / weight.sum())
    other = np.arange(n).astype(np.int32)
    small, large = np.empty(n, np.int32), np.empty(n, np.int32)
    n_small = n_large = 0
    for i in range(n):
        if keep[i] < 1:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        i, j = small[n_small], large[n_large - 1]
        other[i] = j
        keep[j] -= 1 - keep[i]
        if keep[j] < 1:
            n_large -= 1
            small[n_small] = j
            n_small += 1
    for i in range(n_small):  # rounding error leaves these at almost 1
        keep[small[i]] = 1
    return keep, other


@compiled()
def pick(keep, other, stream, out):
    """Draws with replacement from the distribution that ``alias`` tabulated; out [draws]."""
    for i in range(len(out)):
        u = unit(stream, i) * len(keep)
        j = np.int64(u)
        out[i] = j if u - j < keep[j] else other[j]


@compiled(parallel=True)
def pick_pool(keep, other, word, first, out):
    """Row b of ``out`` is the draw of subgraph first + b."""
    for b in numba.prange(len(out)):
        pick(keep, other, draw(word, first + b), out[b])


@compiled()
def pairs(indptr, indices, rows, stream, out):
    """Both ends of drawn edges: a uniform target among ``rows``, then a uniform in-edge of it.

    out [2 * edges]; ``rows`` are the nodes with in-edges.
    """
    for i in range(0, len(out), 2):
        v = rows[below(stream, i, len(rows))]
        out[i] = v
        out[i + 1] = indices[indptr[v] + below(stream, i + 1, indptr[v + 1] - indptr[v])]


@compiled(parallel=True)
def pairs_pool(indptr, indices, rows, word, first, out):
    """Row b of ``out`` is the draw of subgraph first + b."""
    for b in numba.prange(len(out)):
        pairs(indptr, indices, rows, draw(word, first + b), out[b])


@compiled()
def frontier(indptr, indices, size, clip, stream, out):
    """A frontier of uniform nodes; at each step one, chosen by degree, moves to a neighbour.

    out [budget]: the ``size`` first nodes, then every node moved to. The degrees, at most ``clip``
    each, stand in a Fenwick tree, so that a step costs O(log size).
    """
    n = len(indptr) - 1
    tree = np.zeros(size + 1, np.int64)
    front = np.empty(size, np.int64)
    total = 0
    top = 1
    while 2 * top <= size:
        top *= 2
    for i in range(size):
        v = below(stream, i, n)
        front[i] = out[i] = v
        d = min(indptr[v + 1] - indptr[v], clip)
        total += d
        tree[i + 1] += d
        up = i + 1 + ((i + 1) & -(i + 1))
        if up <= size:
            tree[up] += tree[i + 1]
    for i in range(size, len(out)):
        if total == 0:  # nobody can move
            out[i] = out[0]
            continue
        rest = below(stream, 2 * i, total)
        at, half = 0, top
        while half:
            if at + half <= size and tree[at + half] <= rest:
                at += half
                rest -= tree[at]
            half //= 2
        v = front[at]
        old = indptr[v + 1] - indptr[v]
        v = indices[indptr[v] + below(stream, 2 * i + 1, old)]
        front[at] = out[i] = v
        change = min(indptr[v + 1] - indptr[v], clip) - min(old, clip)
        total += change
        at += 1
        while at <= size:
            tree[at] += change
            at += at & -at


@compiled(parallel=True)
def frontier_pool(indptr, indices, size, clip, word, first, out):
    """Row b of ``out`` is the draw of subgraph first + b."""
    for b in numba.prange(len(out)):
        frontier(indptr, indices, size, clip, draw(word, first + b), out[b])


@compiled()
def mark(out, marks, total, limit):
    """Set bit b of marks[v] for every v in row b, until more than ``limit`` nodes are marked.

    ``total`` counts distinct nodes per row. Returns (rows marked, new total).
    """
    for b in range(len(out)):
        if total > limit:
            return b, total
        bit = np.uint64(1) << np.uint64(b)
        for i in range(out.shape[1]):
            old = marks[out[b, i]]
            total += np.int64((old & bit) == np.uint64(0))
            marks[out[b, i]] = old | bit
    return len(out), total


@compiled()
def _ones(z):
    """Number of set bits of a 64-bit word."""
    z = z - ((z >> np.uint64(1)) & np.uint64(0x5555555555555555))
    z = (z & np.uint64(0x3333333333333333)) + ((z >> np.uint64(2)) & np.uint64(0x3333333333333333))
    z = (z + (z >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int32((z * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(parallel=True)
def count(indptr, indices, marks, nodes, edges):
    """Add to ``nodes`` [N] and ``edges`` [E] in how many marked subgraphs each of them lies.

    An edge lies in the subgraphs that hold both its ends: one ``and`` and one bit count for up to
    64 subgraphs. An empty ``edges`` leaves them out.
    """
    for i in numba.prange(len(nodes)):
        mine = marks[i]
        if mine == np.uint64(0):
            continue
        nodes[i] += _ones(mine)
        if len(edges):
            for e in range(indptr[i], indptr[i + 1]):
                edges[e] += _ones(mine & marks[indices[e]])


@compiled()
def correction(indptr, edges, c_v, c_e, out):
    """1 / alpha = clip(c_v / max(c_e, 1), ``UNSEEN``, ``CLIP``) per edge; c_v of the target.

    ``indptr`` and c_v [n] are a subgraph's, ``edges`` the place of its edges in c_e, out [E].
    """
    last = len(edges) - 1
    for i in range(len(c_v)):
        for e in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            fetch(c_e, edges[min(np.int64(e) + FAR, last)], 0)
            held = c_e[np.uint64(edges[e])]
            out[e] = min(max(c_v[i] / max(held, 1), UNSEEN), CLIP)
