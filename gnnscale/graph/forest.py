"""Walk forests: trees of random walks that share their prefixes, compiled.

Markowitz et al., ICLR 2021 (GTTF), Algorithm 1. T_0 are the seeds; every node of T_(k-1) gets f_k
successors, drawn with replacement from its in-neighbours, so T_k holds n f_1 ... f_k nodes, the
children of a node side by side. A walk stays at a node without in-neighbours.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.induce import scratch
from gnnscale.graph.walk import below, draw, unit

UNIFORM, NODE2VEC, NO_REVISIT = 0, 1, 2
TRIES = 32
"""Rejected proposals after which a biased successor is drawn from the tabulated distribution."""


@compiled(parallel=True)
def _order(indptr, indices, columns, places):
    for i in numba.prange(len(indptr) - 1):
        first, last = indptr[i], indptr[i + 1]
        order = np.argsort(indices[first:last], kind="mergesort")
        for k in range(last - first):
            columns[first + k] = indices[first + order[k]]
            places[first + k] = first + order[k]


@compiled()
def _find(indptr, columns, i, j):
    """The first place of ``j`` in row i of ascending columns, or that of the next larger one."""
    low, high = indptr[i], indptr[i + 1]
    while low < high:
        middle = (low + high) // 2
        if columns[middle] < j:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def _has(indptr, columns, i, j):
    at = _find(indptr, columns, i, j)
    return at < indptr[i + 1] and columns[at] == j


@compiled(parallel=True)
def _reverse(indptr, columns, places, out):
    """The n-th edge from j to i is the reverse of the n-th from i to j; -1 where there is none."""
    for i in numba.prange(len(indptr) - 1):
        for at in range(indptr[i], indptr[i + 1]):
            j = columns[at]
            back = _find(indptr, columns, j, i) + at - _find(indptr, columns, i, j)
            found = back < indptr[j + 1] and columns[back] == i
            out[places[at]] = places[back] if found else -1


@compiled()
def _weight(indptr, columns, path, x, bias, p, q):
    """Unnormalised weight of the step from the end of ``path`` to ``x``.

    node2vec (Grover & Leskovec, KDD 2016, sec. 3.2.2), t being the last node but one: 1/p for t,
    1 for a neighbour of t, 1/q else. No revisit: 0 for a node of the path, 1 else.
    """
    if bias == NO_REVISIT:
        for v in path:
            if x == v:
                return 0.0
        return 1.0
    if x == path[-2]:
        return 1 / p
    return 1.0 if _has(indptr, columns, path[-2], x) else 1 / q


@compiled()
def _biased(indptr, columns, path, bias, p, q, stream):
    """The place of a successor of the end of ``path``, which has one: by rejection, and after
    ``TRIES`` rejections from the tabulated distribution, which leaves the distribution as it is.
    """
    first, d = indptr[path[-1]], indptr[path[-1] + 1] - indptr[path[-1]]
    top = max(1.0, 1 / p, 1 / q) if bias == NODE2VEC else 1.0
    for k in range(TRIES):
        at = first + below(stream, 2 * k, d)
        weight = _weight(indptr, columns, path, columns[at], bias, p, q)
        if unit(stream, 2 * k + 1) * top < weight:
            return at
    sums = np.empty(d)
    total = 0.0
    for k in range(d):
        total += _weight(indptr, columns, path, columns[first + k], bias, p, q)
        sums[k] = total
    if total == 0:  # every neighbour was visited
        return first + below(stream, 2 * TRIES, d)
    k = np.searchsorted(sums, unit(stream, 2 * TRIES) * total, side="right")
    return first + min(k, d - 1)


@compiled()
def _forest(indptr, columns, places, seeds, fanouts, bias, p, q, word):
    """(nodes, edges) of all levels, one behind the other; the edge of a root or a stay is -1."""
    starts = np.zeros(len(fanouts) + 2, np.int64)  # where each level starts
    starts[1] = n = len(seeds)
    for k in range(len(fanouts)):
        n *= fanouts[k]
        starts[k + 2] = starts[k + 1] + n
    nodes, edges = np.empty(starts[-1], np.int32), np.full(starts[-1], -1, np.int64)
    path = np.empty(len(fanouts) + 1, np.int32)
    per_tree = 1
    for b in range(len(seeds)):
        nodes[b] = seeds[b]
    for k in range(len(fanouts)):
        per_tree *= fanouts[k]
        for i in range(starts[k + 2] - starts[k + 1]):
            mother = i // fanouts[k]
            v, child = nodes[starts[k] + mother], starts[k + 1] + i
            d = indptr[v + 1] - indptr[v]
            if d == 0:
                nodes[child] = v
                continue
            stream = draw(draw(word, seeds[i // per_tree]), k)
            if bias == UNIFORM or (bias == NODE2VEC and k == 0):
                at = indptr[v] + below(stream, i % per_tree, d)
            else:
                for back in range(k, -1, -1):
                    path[back] = nodes[starts[back] + mother]
                    mother //= fanouts[back - 1] if back else 1
                own = draw(stream, i % per_tree)
                at = _biased(indptr, columns, path[: k + 1], bias, p, q, own)
            nodes[child], edges[child] = columns[at], places[at]
    return nodes, edges


class Forests:
    """A graph from which forests are drawn.

    Args:
        adj: square. bias: UNIFORM, NODE2VEC (from the second step on) or NO_REVISIT. p, q: of
            node2vec.
    """

    def __init__(self, adj: Adjacency, bias: int = UNIFORM, p: float = 1.0, q: float = 1.0):
        self.adj, self.bias, self.p, self.q = adj, bias, p, q
        self.indptr = adj.indptr.numpy()
        self.columns, self.places = np.empty(adj.n_edges, np.int32), np.empty(adj.n_edges, np.int64)
        _order(self.indptr, adj.indices.numpy(), self.columns, self.places)

    def draw(self, seeds: Tensor, fanouts: list[int], word: np.uint64) -> tuple[Tensor, Tensor]:
        """The nodes of T_0, T_1, ..., one level behind the other, and each one's edge.

        The edge is the position in ``adj`` of child -> parent, -1 for roots and for walks that
        stay. The draws of a seed depend on ``word``, the seed and the place in its tree alone.

        Shapes: seeds [n] -> nodes int32, edges int64, both [n (1 + f_1 + f_1 f_2 + ...)].
        """
        nodes, edges = _forest(
            self.indptr, self.columns, self.places, seeds.numpy(), np.asarray(fanouts, np.int64),
            self.bias, self.p, self.q, word,
        )  # fmt: skip
        return torch.from_numpy(nodes), torch.from_numpy(edges)

    def reverse(self) -> Tensor:
        """Where the reverse of each edge stands, -1 if it has none. [E] int64."""
        out = np.empty(self.adj.n_edges, np.int64)
        _reverse(self.indptr, self.columns, self.places, out)
        return torch.from_numpy(out)


@compiled()
def _distinct(values):
    """Ascending, each once; ``values`` is sorted in place."""
    values.sort()
    n = 0
    for v in values:
        if n == 0 or values[n - 1] != v:
            values[n] = v
            n += 1
    return values[:n].copy()


@compiled()
def _touched(indptr, indices, nodes, edges, reverse, local):
    """(nodes, indptr, indices, edges) of the sampled graph; ``local`` [N] is -1 before and after.

    Positions in compressed rows ascend with the target, so sorted edges stand in row order.
    """
    kept = np.empty(2 * len(edges), np.int64)
    n = 0
    for e in edges:
        if e >= 0:
            kept[n] = e
            n += 1
            if reverse[e] >= 0:
                kept[n] = reverse[e]
                n += 1
    kept = _distinct(kept[:n])
    nodes = _distinct(nodes.copy())
    for i in range(len(nodes)):
        local[nodes[i]] = i
    starts = np.zeros(len(nodes) + 1, np.int64)
    columns = np.empty(len(kept), np.int32)
    at = 0
    for i in range(len(nodes)):
        while at < len(kept) and kept[at] < indptr[nodes[i] + 1]:
            columns[at] = local[indices[kept[at]]]
            at += 1
        starts[i + 1] = at
    for i in range(len(nodes)):
        local[nodes[i]] = -1
    return nodes, starts, columns, kept


def touched(
    adj: Adjacency, nodes: Tensor, edges: Tensor, reverse: Tensor
) -> tuple[Tensor, Adjacency]:
    """The graph of a forest: its distinct nodes, ascending, its distinct edges and their reverses.

    ``edges`` of the adjacency are positions in ``adj``. Shapes: as ``Forests`` gives them.
    """
    ids, starts, columns, kept = (
        torch.from_numpy(a)
        for a in _touched(
            adj.indptr.numpy(), adj.indices.numpy(), nodes.numpy(), edges.numpy(),
            reverse.numpy(), scratch(adj.n_src),
        )
    )  # fmt: skip
    return ids.long(), Adjacency(starts, columns, len(ids), kept)


@compiled()
def _tree(starts, fanouts, edges, loop):
    indptr = np.zeros(starts[-2] + 1, np.int64)
    columns = np.empty(len(edges) - starts[1] + loop * starts[-2], np.int32)
    kept = np.empty(len(columns), np.int64)
    at = 0
    for k in range(len(fanouts)):
        for i in range(starts[k], starts[k + 1]):
            first = starts[k + 1] + (i - starts[k]) * fanouts[k]
            for child in range(first, first + fanouts[k]):
                if edges[child] >= 0:
                    columns[at], kept[at] = child, edges[child]
                    at += 1
            if loop:
                columns[at], kept[at] = i, -1
                at += 1
            indptr[i + 1] = at
    return indptr, columns[:at].copy(), kept[:at].copy()


def tree(edges: Tensor, seeds: int, fanouts: list[int], loop: bool) -> tuple[Tensor, Adjacency]:
    """Where each level starts, and the edges child -> parent of the whole forest by its own places.

    Destinations are all levels but the last; a stay has no edge. With ``loop``, every destination
    has a loop, last in its row. ``edges`` of the adjacency are positions in the graph, -1 for the
    loops. Shapes: edges as ``Forests`` gives them -> starts [levels + 1].
    """
    sizes = torch.tensor([0, seeds, *fanouts])
    starts = torch.cat([sizes[:1], sizes[1:].cumprod(0).cumsum(0)])
    arrays = _tree(starts.numpy(), np.asarray(fanouts, np.int64), edges.numpy(), int(loop))
    indptr, columns, kept = (torch.from_numpy(a) for a in arrays)
    return starts, Adjacency(indptr, columns, len(edges), kept)
