"""Approximate personalised PageRank by local push: compiled, its cost independent of N.

Andersen, Chung & Lang, FOCS 2006, as PPRGo uses it (Bojchevski et al., KDD 2020,
arXiv:2007.01570, Algorithm 1) and, in its lazy form, shaDow-GNN (Zeng et al., NeurIPS 2021,
arXiv:2201.07858).

Departs from the authors' code: nodes wait in a queue, not on a stack, which the algorithm leaves
open and the bound does not depend on; a stack's work grows as 1 / eps (measured, 60 nodes, alpha =
0.25: at eps = 1e-4 three times, at 1e-8 two thousand times that of the queue). Edges with weights
are walked by weight, so that what is found is the PageRank of the same D^-1 A that the symmetric
and column norms and power iteration use (their push counts edges, their norms sum weights);
everything is float64, theirs is float32.
"""

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency

BLOCK = 1 << 22
"""Scores held at a time before they are packed."""
SLOTS = 256
"""Room for that many touched nodes at first; it doubles as needed."""


@numba.njit(cache=True, nogil=True)
def _longer(array, size):
    more = np.zeros(size, array.dtype)
    more[: len(array)] = array
    return more


@numba.njit(cache=True, nogil=True)
def _push(indptr, indices, weight, degree, s, alpha, eps, spread, kept, local, out, score):
    """One source: fills the rows ``out`` and ``score``; (number of scores, sum p, sum r / alpha).

    ``local`` [N] int32 is all -1 before and after: the slot of every node that was touched.
    """
    nodes = np.empty(SLOTS, np.int32)
    p, r = np.zeros(SLOTS), np.zeros(SLOTS)
    queued, queue = np.zeros(SLOTS, np.bool_), np.empty(SLOTS, np.int32)
    nodes[0], r[0], queued[0], queue[0], local[s] = s, alpha, True, 0, 0
    touched, first, waiting = 1, 0, 1  # the queue is a ring: everyone is in it at most once
    while waiting:
        at = queue[first]
        first = (first + 1) % len(queue)
        waiting -= 1
        u = nodes[at]
        rho = r[at]
        queued[at], r[at] = False, 0.0
        if degree[u] <= 0:  # nowhere to go: a lazy walk waits there for good
            p[at] += rho / (1 - kept)
            continue
        p[at] += rho
        room = touched + indptr[u + 1] - indptr[u]
        if room > len(nodes):
            size = max(room, 2 * len(nodes))
            nodes, p, r = _longer(nodes, size), _longer(p, size), _longer(r, size)
            queued, queue = _longer(queued, size), _longer(np.roll(queue, -first), size)
            first = 0
        for e in range(indptr[u], indptr[u + 1]):
            v = indices[e]
            to = local[v]
            if to < 0:
                to = local[v] = touched
                nodes[to] = v
                touched += 1
            w = weight[e] if len(weight) else 1.0
            r[to] += spread * rho * w / degree[u]
            if not queued[to] and r[to] > 0 and r[to] >= alpha * eps * degree[v]:
                queued[to] = True
                queue[(first + waiting) % len(queue)] = to
                waiting += 1
        if kept:
            r[at] += kept * rho
            if not queued[at] and r[at] >= alpha * eps * degree[u]:
                queued[at] = True
                queue[(first + waiting) % len(queue)] = at
                waiting += 1
    total, left, found = 0.0, 0.0, 0
    for i in range(touched):
        local[nodes[i]] = -1
        total += p[i]
        left += r[i]
        if p[i] > 0:  # scored nodes to the front
            nodes[found], p[found] = nodes[i], p[i]
            found += 1
    order = np.argsort(nodes[:found])  # equal scores: the smaller node first
    order = order[np.argsort(-p[:found][order], kind="mergesort")]
    count = min(found, len(out))
    for i in range(count):
        out[i], score[i] = nodes[order[i]], p[order[i]]
    return count, total, left / alpha


@numba.njit(parallel=True, cache=True, nogil=True)
def _push_all(
    indptr, indices, weight, degree, sources, alpha, eps, spread, kept, local, out, score, facts
):  # fmt: skip
    """Every source on whichever thread is free; a row depends on its source alone."""
    for i in numba.prange(len(sources)):
        count, total, left = _push(
            indptr, indices, weight, degree, sources[i], alpha, eps, spread, kept,
            local[numba.get_thread_id()], out[i], score[i],
        )  # fmt: skip
        facts[i, 0], facts[i, 1], facts[i, 2] = count, total, left


class Ranks(NamedTuple):
    """The scores of some sources in compressed rows, the largest first, equal ones by node id.

    indptr [n + 1] int64, nodes [nnz] int32, scores [nnz] float64; total [n]: sum of all p, also of
    those beyond the top k; left [n]: sum of r / alpha, what was not pushed. total + left = 1
    unless the walk can reach a node without neighbours.
    """

    indptr: Tensor
    nodes: Tensor
    scores: Tensor
    total: Tensor
    left: Tensor


def push(
    adj: Adjacency,
    sources: Tensor,
    alpha: float,
    eps: float,
    top_k: int,
    lazy: bool = False,
    weight: Tensor | None = None,
) -> Ranks:
    """The ``top_k`` largest entries of p ~ row s of alpha (I - (1 - alpha) D^-1 A)^-1, per source.

    p = 0, r_s = alpha; take u from a queue: p_u += r_u, r_v += (1 - alpha) r_u a_uv / d_u for every
    neighbour v, r_u = 0; v waits its turn if r_v >= alpha eps d_v. Always, with pi the exact row,
    pi_s = p + sum_u (r_u / alpha) pi_u; so p <= pi, and pi_t - p_t <= eps d_t where the graph is
    undirected. The walk follows a node's in-edges, as messages come, and d are the row sums; a node
    without any keeps what reaches it: p_s = alpha if s has none.

    Lazy: a half of what goes on stays at u, r_u = (1 - alpha) r_u / 2 and the neighbours share as
    much. That is the plain PageRank with alpha' = 2 alpha / (1 + alpha), under the same bound.

    Args:
        adj: square. sources: [n] node ids. alpha: probability of return (teleport), 0 < alpha < 1.
        eps: > 0. top_k: >= 1, capped at N; not renormalised. lazy: as shaDow-GNN walks.
        weight: [E], not negative; None: ones.

    Raises: UsageError for values out of these ranges.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha}: the probability of return; valid: 0 < alpha < 1")
    if not 0 < eps < float("inf"):
        raise UsageError(f"eps={eps}: residuals below eps * degree are left; valid: eps > 0")
    if top_k < 1:
        raise UsageError(f"top_k={top_k}: how many scores are kept; valid: 1 or more")
    degree, weights = degrees(adj, weight).numpy(), np.empty(0)
    if weight is not None:
        weights = weight.double().numpy()
    spread, kept = ((1 - alpha) / 2, (1 - alpha) / 2) if lazy else (1 - alpha, 0.0)
    k = min(top_k, adj.n_dst)
    local = np.full((numba.get_num_threads(), adj.n_dst), -1, np.int32)
    packed, ids = [], sources.long().numpy()
    step = max(1, BLOCK // max(k, 1))
    for at in range(0, len(ids), step):
        some = ids[at : at + step]
        out = np.empty((len(some), k), np.int32)
        score, facts = np.empty((len(some), k)), np.empty((len(some), 3))
        _push_all(
            adj.indptr.numpy(), adj.indices.numpy(), weights, degree, some, alpha, eps, spread,
            kept, local, out, score, facts,
        )  # fmt: skip
        full = np.arange(k) < facts[:, :1]
        packed.append((out[full], score[full], facts))
    nodes = np.concatenate([a for a, _, _ in packed] or [np.empty(0, np.int32)])
    scores = np.concatenate([b for _, b, _ in packed] or [np.empty(0)])
    facts = np.concatenate([c for _, _, c in packed] or [np.empty((0, 3))])
    indptr = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(facts[:, 0].astype(np.int64), out=indptr[1:])
    total, left = (np.ascontiguousarray(facts[:, i]) for i in (1, 2))
    return Ranks(*(torch.from_numpy(a) for a in (indptr, nodes, scores, total, left)))


def degrees(adj: Adjacency, weight: Tensor | None = None) -> Tensor:
    """Row sums of the adjacency, [N] float64. Raises UsageError for a weight below 0."""
    if weight is None:
        return adj.in_degree.double()
    if len(weight) and weight.min() < 0:
        raise UsageError(
            f"edge weight {weight.min():g}: PageRank walks in proportion to weights, so they must "
            "not be negative; choose a sampler without it, e.g. sampler=neighbor"
        )
    sums = torch.zeros(adj.n_dst, dtype=torch.float64)
    return sums.index_add_(0, adj.dst.long(), weight.double())


def normalized(
    scores: Tensor, sources: Tensor, targets: Tensor, degree: Tensor, norm: str
) -> Tensor:
    """Scores of the PageRank of another operator than D^-1 A, from those of D^-1 A.

    ``row``: p. ``sym``: sqrt(d_s) p / sqrt(d_t), that of D^-1/2 A D^-1/2. ``col``: d_s p / d_t,
    that of A D^-1 (arXiv:2007.01570, sec. 3). To a node of degree 0 no other node's walk leads.

    Shapes: scores, sources and targets [nnz], degree [N] -> [nnz].
    """
    if norm == "row":
        return scores
    ratio = degree[sources] / degree[targets]  # 0 / 0 of a lone node and itself: 1
    ratio = torch.where(degree[targets] > 0, ratio, (sources == targets).to(ratio.dtype))
    return (scores * (ratio.sqrt() if norm == "sym" else ratio)).to(scores.dtype)
