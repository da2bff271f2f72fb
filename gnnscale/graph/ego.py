"""Subgraphs around roots: which nodes they hold, and how far from the root, compiled.

A set of subgraphs is (starts [n + 1], members [sum of sizes]): subgraph b holds the distinct nodes
members[starts[b] : starts[b + 1]], its root first. A node may be in any number of them.
"""

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.induce import grown, scratch
from gnnscale.graph.push import Ranks
from gnnscale.graph.walk import below, draw

FARTHEST = 5
"""The largest distance that has a code of its own."""


@compiled()
def _khop(indptr, indices, roots, depth, budget, word, local):
    """Sets of nodes; ``local`` [N] int32 is all -1 before and after."""
    starts = np.zeros(len(roots) + 1, np.int64)
    members = np.empty(64 * len(roots) + 1, np.int32)
    n = 0
    for b in range(len(roots)):
        members = grown(members, n + 1)
        members[n] = roots[b]
        local[roots[b]] = 0
        low, n = n, n + 1
        for hop in range(depth):
            stream, high = draw(draw(word, roots[b]), hop), n
            for i in range(low, high):
                v = members[i]
                first, d = indptr[v], indptr[v + 1] - indptr[v]
                own = draw(stream, v)
                every = budget < 0 or d <= budget
                count = d if every else budget
                members = grown(members, n + count)
                for e in range(count):
                    j = indices[first + (e if every else below(own, e, d))]
                    if local[j] < 0:
                        local[j] = 0
                        members[n] = j
                        n += 1
            low = high
        starts[b + 1] = n
        for i in range(starts[b], n):
            local[members[i]] = -1
    return starts, members[:n].copy()


def khop(
    adj: Adjacency, roots: Tensor, depth: int, budget: int, word: np.uint64
) -> tuple[Tensor, Tensor]:
    """Nodes reached from each root in ``depth`` steps along in-edges.

    A node of more than ``budget`` neighbours is left by ``budget`` draws with replacement, any
    other by all of them; -1: by all. Each node is left once, at its first distance. The draws of a
    root depend on ``word``, the root, the step and the node alone.

    Shapes: roots [n] -> starts [n + 1] int64, members int32.
    """
    starts, members = _khop(
        adj.indptr.numpy(), adj.indices.numpy(), roots.numpy(), depth, budget, word,
        scratch(adj.n_src),
    )  # fmt: skip
    return torch.from_numpy(starts), torch.from_numpy(members)


@compiled()
def _choose(roots, indptr, nodes, scores, k, threshold):
    starts = np.zeros(len(roots) + 1, np.int64)
    members = np.empty(len(nodes) + len(roots), np.int32)
    at = 0
    for b in range(len(roots)):
        first, last = indptr[b], indptr[b + 1]
        least = threshold * scores[first + 1] if last - first > 1 else 0.0
        members[at] = roots[b]
        at += 1
        for i in range(first, last):
            room = at - starts[b] < k and scores[i] >= least
            if room and nodes[i] != roots[b]:
                members[at] = nodes[i]
                at += 1
        starts[b + 1] = at
    return starts, members[:at].copy()


def best(roots: Tensor, ranks: Ranks, k: int, threshold: float) -> tuple[Tensor, Tensor]:
    """The root and the nodes scored at least ``threshold`` times the second highest score.

    At most k nodes in all; the root is one of them whatever its score.

    Shapes: roots [n]; a row of ``ranks`` for each of them.
    """
    rows = (a.numpy() for a in ranks[:3])
    arrays = _choose(roots.numpy(), *rows, k, threshold)
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


@compiled()
def _some(starts, members, rows):
    found = np.zeros(len(rows) + 1, np.int64)
    for i in range(len(rows)):
        found[i + 1] = found[i] + starts[rows[i] + 1] - starts[rows[i]]
    out = np.empty(found[-1], np.int32)
    for i in range(len(rows)):
        out[found[i] : found[i + 1]] = members[starts[rows[i]] : starts[rows[i] + 1]]
    return found, out


def some(starts: Tensor, members: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The subgraphs ``rows`` [n] of a set."""
    arrays = _some(starts.numpy(), members.numpy(), rows.numpy())
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


@compiled()
def _distances(indptr, indices, starts, codes, queue):
    for b in range(len(starts) - 1):
        if starts[b] == starts[b + 1]:
            continue
        codes[starts[b]] = 1
        queue[0] = starts[b]
        at, end = 0, 1
        while at < end:
            v = queue[at]
            at += 1
            if codes[v] > FARTHEST:
                break
            for e in range(indptr[v], indptr[v + 1]):
                if codes[indices[e]] == 0:
                    codes[indices[e]] = codes[v] + 1
                    queue[end] = indices[e]
                    end += 1


def distances(blocks: Adjacency, starts: Tensor) -> Tensor:
    """1 + distance of each node to its root along the block's edges; 0 beyond ``FARTHEST`` steps.

    Shapes: [sum of sizes] int64.
    """
    codes = np.zeros(blocks.n_dst, np.int64)
    _distances(
        blocks.indptr.numpy(), blocks.indices.numpy(), starts.numpy(), codes,
        np.empty(blocks.n_dst, np.int64),
    )  # fmt: skip
    return torch.from_numpy(codes)
