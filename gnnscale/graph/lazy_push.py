"""Approximate personalised PageRank by lazy push, compiled and parallel over the sources.

Andersen, Chung & Lang, FOCS 2006, sec. 3, with the thresholds of shaDow-GNN (Zeng et al., NeurIPS
2021, arXiv:2201.07858). The walk goes along in-edges, as messages come. With teleport a, while a
node u has r_u > eps d_u:
    p_u += a r_u,   r_v += (1 - a) w_uv r_u / (2 d_u) for its neighbours v,   r_u <- (1 - a) r_u / 2
The fixed point is the PageRank of the plain walk with teleport 2a / (1 + a), and on undirected
graphs 0 <= pi_v - p_v <= eps d_v for every v.

Departs from them: all nodes above the threshold push at once, round by round, what they held when
the round began. The bound and the cost are the same, and scores don't depend on the order of nodes
or neighbours, but for their last bits. A walk stays at a node without neighbours.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import degrees


@numba.njit(cache=True, nogil=True)
def _one(indptr, indices, weight, strength, source, a, eps, p, r, waits, lists, held):
    """Scores of one source in ``p``; how many nodes were reached, which stand in lists[0].

    p, r [N] are zero and waits [N] false before; r and waits are so after. ``lists`` [3, N] and
    ``held`` [N] are scratch.
    """
    reached, now, then = lists[0], lists[1], lists[2]
    reached[0] = now[0] = source
    r[source] = 1.0
    n_reached = n_now = 1
    while n_now:
        for i in range(n_now):
            u = now[i]
            waits[u] = False
            held[i] = r[u]
            r[u] = 0.0
            p[u] += a * held[i] if strength[u] > 0 else held[i]
        n_then = 0
        for i in range(n_now):
            u = now[i]
            if strength[u] <= 0:
                continue
            half = 0.5 * (1 - a) * held[i]
            stays = indptr[u] - 1  # stands for the half that stays at u
            for e in range(stays, indptr[u + 1]):
                if e == stays:
                    v, part = np.int64(u), half
                elif len(weight):
                    v, part = np.int64(indices[e]), half * weight[e] / strength[u]
                else:
                    v, part = np.int64(indices[e]), half / strength[u]
                if part == 0:
                    continue
                if r[v] == 0 and p[v] == 0:
                    reached[n_reached] = v
                    n_reached += 1
                r[v] += part
                if not waits[v] and r[v] > eps * strength[v]:
                    waits[v] = True
                    then[n_then] = v
                    n_then += 1
        now, then = then, now
        n_now = n_then
    for i in range(n_reached):
        r[reached[i]] = 0.0
    return n_reached


@numba.njit(cache=True, nogil=True)
def _best(p, reached, nodes, scores):
    """The largest positive scores, falling, ties by node; ``nodes`` [k] ends in -1 if fewer."""
    k, found = len(nodes), 0
    ids = np.sort(reached)
    for v in ids:
        if p[v] > 0:
            ids[found] = v
            found += 1
    ids = ids[:found]
    s = p[ids]
    if found > k:
        least = np.partition(s, found - k)[found - k]
        spare, kept = k - (s > least).sum(), 0
        for i in range(found):
            ties = s[i] == least
            if s[i] > least or (ties and spare > 0):
                spare -= ties
                ids[kept], s[kept] = ids[i], s[i]
                kept += 1
        ids, s, found = ids[:k], s[:k], k
    order = np.argsort(-s, kind="mergesort")
    for i in range(k):
        nodes[i] = ids[order[i]] if i < found else -1
        scores[i] = s[order[i]] if i < found else 0.0


@numba.njit(parallel=True, cache=True, nogil=True)
def _many(indptr, indices, weight, strength, sources, a, eps, parts, nodes, scores):
    """Row i is source i, whichever of the ``parts`` computes it."""
    n = len(strength)
    for part in numba.prange(parts):
        p, r, held = np.zeros(n), np.zeros(n), np.empty(n)
        waits, lists = np.zeros(n, np.bool_), np.empty((3, n), np.int32)
        for i in range(part, len(sources), parts):
            reached = lists[0][
                : _one(
                    indptr, indices, weight, strength, sources[i], a, eps, p, r, waits, lists, held
                )
            ]
            _best(p, reached, nodes[i], scores[i])
            for v in reached:
                p[v] = 0.0


def lazy_push(
    adj: Adjacency,
    sources: Tensor,
    alpha: float,
    eps: float,
    top_k: int | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``top_k`` best nodes of every source, and their scores.

    Memory, besides the result: 37 N bytes per thread.

    Args:
        adj: square. sources: [n]. alpha: a, of the lazy walk. eps: of the threshold, > 0.
        weight: [E], >= 0; degrees are then sums of weights. None: ones.

    Returns: nodes [n, k] int32, falling by score, equal scores by node, -1 behind the last; scores
        [n, k] float64, 0 there. k is the smaller of top_k and N.
    """
    k = adj.n_dst if top_k is None else min(top_k, adj.n_dst)
    nodes, scores = np.empty((len(sources), k), np.int32), np.empty((len(sources), k))
    strength = degrees(adj.dst, weight, adj.n_dst, adj.in_degree).double()
    _many(
        adj.indptr.numpy(), adj.indices.numpy(),
        np.empty(0) if weight is None else weight.double().numpy(), strength.numpy(),
        sources.numpy(), alpha, eps, max(min(numba.get_num_threads(), len(sources)), 1),
        nodes, scores,
    )  # fmt: skip
    return torch.from_numpy(nodes), torch.from_numpy(scores)
