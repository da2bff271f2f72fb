"""Approximate personalised PageRank by local push: compiled, its cost independent of N.

Andersen, Chung & Lang, FOCS 2006, sec. 3, as PPRGo uses it (Bojchevski et al., KDD 2020,
arXiv:2007.01570, Algorithm 1) and, in its lazy form, shaDow-GNN (Zeng et al., NeurIPS 2021,
arXiv:2201.07858).

Departs from them: all nodes above the threshold push at once, round by round, what they held when
the round began; which waits first is left open by the algorithm, and the bound does not depend on
it. So scores don't depend on the order of nodes or neighbours, but for their last bits, and there
is no bad order: on a stack, as PPRGo's code has it, the work grows as 1 / eps (measured, 60 nodes,
alpha = 0.25: at eps = 1e-8 two thousand times that of a queue). Edges with weights are walked by
weight, so that what is found is the PageRank of the same D^-1 A that the symmetric and column norms
and power iteration use (their push counts edges, their norms sum weights); everything is float64,
PPRGo's is float32.
"""

from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import degrees as strengths

BLOCK = 1 << 22
"""Scores held at a time before they are packed."""
SLOTS = 1024
"""Room for that many touched nodes at first; it doubles as needed."""
TINY = np.finfo(np.float64).tiny


@compiled()
def _longer(array, size):
    more = np.empty(size, array.dtype)
    for i in range(len(array)):  # a slice would compile numpy's messages, seconds
        more[i] = array[i]
    return more


@compiled()
def _one(
    indptr, indices, weight, degree, s, alpha, eps, kept, stay, local,
    nodes, p, state, now, then, held,
):  # fmt: skip
    """One source: the number of nodes touched, and the last six arrays, grown if need be.

    Slot i stands for the node nodes[i] with its score p[i] and, side by side in state[i], its
    residual and the residual at which it pushes. ``local`` [N] int32 tells a node's slot and is all
    -1 before; ``now`` and ``then`` are the slots of a round and of the next, ``held`` what the
    former push.
    """
    nodes[0], p[0], now[0], local[s] = s, 0.0, 0, 0
    state[0, 0], state[0, 1] = 1.0, max(eps * degree[s], TINY)
    spread = 1 - alpha - kept
    touched = n_now = 1
    while n_now:
        for i in range(n_now):
            at = now[i]
            held[i], state[at, 0] = state[at, 0], 0.0
            if degree[nodes[at]] > 0:
                p[at] += alpha * held[i]
            else:  # a walk that can't go on
                p[at] += held[i] if stay else alpha * held[i] / (1 - kept)
        n_then = 0
        for i in range(n_now):
            at = now[i]
            u = nodes[at]
            if degree[u] <= 0:
                continue
            room = touched + indptr[u + 1] - indptr[u]
            if room > len(nodes):
                size = max(room, 2 * len(nodes))
                nodes, p, held = _longer(nodes, size), _longer(p, size), _longer(held, size)
                more = np.empty((size, 2))
                for j in range(len(state)):
                    more[j, 0], more[j, 1] = state[j, 0], state[j, 1]
                state = more
                now, then = _longer(now, size), _longer(then, size)
            if kept > 0:
                before = state[at, 0]
                state[at, 0] = before + kept * held[i]
                if before < state[at, 1] <= state[at, 0]:
                    then[n_then] = at
                    n_then += 1
            share = spread * held[i]
            part = share / degree[u]
            for e in range(indptr[u], indptr[u + 1]):
                if len(weight):
                    part = share * weight[e] / degree[u]
                    if part == 0:
                        continue
                v = indices[e]
                to = local[v]
                if to < 0:
                    to = local[v] = touched
                    nodes[to], p[to] = v, 0.0
                    state[to, 0], state[to, 1] = 0.0, max(eps * degree[v], TINY)
                    touched += 1
                before = state[to, 0]
                after = state[to, 0] = before + part
                if before < state[to, 1] <= after:  # residuals only rise within a round
                    then[n_then] = to
                    n_then += 1
        now, then = then, now
        n_now = n_then
    return touched, nodes, p, state, now, then, held


@compiled()
def _worse(score, node, than, other):
    """Whether a score comes behind another: a lower one, or an equal one of a higher node."""
    return score < than or (score == than and node > other)


@compiled()
def _sink(out, score, size, v, a):
    """Put a score where it belongs in a heap of ``size``, worst at the root, whose root left."""
    at = 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and _worse(score[below + 1], out[below + 1], score[below], out[below]):
            below += 1
        if not _worse(score[below], out[below], a, v):
            break
        out[at], score[at] = out[below], score[below]
        at = below
    out[at], score[at] = v, a


@compiled()
def _best(nodes, p, out, score):
    """How many of the largest positive scores, falling, ties by node, ``out`` [k] has now."""
    k, found = len(out), 0
    for i in range(len(nodes)):
        v, a = nodes[i], p[i]
        if a > 0 and found < k:
            at, found = found, found + 1
            while at > 0:
                above = (at - 1) // 2
                if not _worse(a, v, score[above], out[above]):
                    break
                out[at], score[at] = out[above], score[above]
                at = above
            out[at], score[at] = v, a
        elif a > 0 and k > 0 and _worse(score[0], out[0], a, v):
            _sink(out, score, k, v, a)
    for last in range(found - 1, 0, -1):
        v, a = out[last], score[last]
        out[last], score[last] = out[0], score[0]
        _sink(out, score, last, v, a)
    return found


@compiled()
def _some(
    indptr, indices, weight, degree, sources, alpha, eps, kept, stay, part, parts, out, score, facts
):  # fmt: skip
    """Every ``parts``-th source from ``part`` on."""
    local = np.full(len(degree), -1, np.int32)
    nodes, p, held = np.empty(SLOTS, np.int32), np.empty(SLOTS), np.empty(SLOTS)
    state = np.empty((SLOTS, 2))
    now, then = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.int32)
    for i in range(part, len(sources), parts):
        touched, nodes, p, state, now, then, held = _one(
            indptr, indices, weight, degree, sources[i], alpha, eps, kept, stay, local,
            nodes, p, state, now, then, held,
        )  # fmt: skip
        for j in range(touched):
            local[nodes[j]] = -1
        facts[i, 1], facts[i, 2] = p[:touched].sum(), state[:touched, 0].sum()
        facts[i, 0] = _best(nodes[:touched], p[:touched], out[i], score[i])


@compiled(parallel=True)
def _all(
    indptr, indices, weight, degree, sources, alpha, eps, kept, stay, parts, out, score, facts
):  # fmt: skip
    """Fills the rows of ``out`` and ``score`` [n, k], and (scores, sum p, sum r) in ``facts``.

    Row i is source i's, whichever of the ``parts`` computes it.
    """
    for part in numba.prange(parts):
        _some(
            indptr, indices, weight, degree, sources, alpha, eps, kept, stay, part, parts,
            out, score, facts,
        )  # fmt: skip


class Ranks(NamedTuple):
    """The scores of some sources in compressed rows, the largest first, equal ones by node id.

    indptr [n + 1] int64, nodes [nnz] int32, scores [nnz] float64; total [n]: sum of all p, also of
    those beyond the top k; left [n]: sum of r, what was not pushed. total + left = 1 unless a walk
    ends at a node without neighbours.
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
    lazy: float = 0.0,
    stay: bool = False,
    weight: Tensor | None = None,
) -> Ranks:
    """The ``top_k`` largest entries of p ~ row s of alpha (I - (1 - alpha) D^-1 A)^-1, per source.

    p = 0, r_s = 1; while a node u has r_u >= eps d_u: p_u += alpha r_u, r_v += (1 - alpha) r_u
    a_uv / d_u for every neighbour v, r_u = 0. Always, with pi the exact row, pi_s = p + sum_u r_u
    pi_u; so p <= pi, and pi_t - p_t <= eps d_t where the graph is undirected. The walk follows a
    node's in-edges, as messages come, and d are the row sums. (PPRGo's residuals are alpha r.)

    Lazy: this share of what goes on stays at u. That is the plain PageRank with alpha' = alpha /
    (1 - lazy (1 - alpha)), under the same bound; shaDow-GNN's half gives 2 alpha / (1 + alpha).

    Memory, besides the result: per thread 4 N bytes and 44 for each node that a source reaches.

    Args:
        adj: square. sources: [n] node ids. alpha: probability of return (teleport), 0 < alpha <= 1.
        eps: > 0. top_k: >= 1, capped at N; not renormalised. lazy: 0 <= lazy < 1.
        stay: a walk that comes to a node without neighbours stays there for good; otherwise it ends
            when it would go on, as D^-1 A has it (p_s = alpha' if s has none).
        weight: [E], not negative; None: ones.

    Raises: UsageError for values out of these ranges.
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha={alpha}: the probability of return; valid: 0 < alpha <= 1")
    if not 0 < eps < float("inf"):
        raise UsageError(f"eps={eps}: residuals below eps * degree are left; valid: eps > 0")
    if top_k < 1:
        raise UsageError(f"top_k={top_k}: how many scores are kept; valid: 1 or more")
    if not 0 <= lazy < 1:
        raise UsageError(f"lazy={lazy}: the share that stays; valid: 0 <= lazy < 1")
    degree, weights = degrees(adj, weight).numpy(), np.empty(0)
    if weight is not None:
        weights = weight.double().numpy()
    k = min(top_k, adj.n_dst)
    packed, ids = [], sources.long().numpy()
    step = max(1, BLOCK // max(k, 1))
    for at in range(0, len(ids), step):
        some = ids[at : at + step]
        out = np.empty((len(some), k), np.int32)
        score, facts = np.empty((len(some), k)), np.empty((len(some), 3))
        _all(
            adj.indptr.numpy(), adj.indices.numpy(), weights, degree, some, alpha, eps,
            lazy * (1 - alpha), stay, min(numba.get_num_threads(), len(some)), out, score, facts,
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
    if weight is not None and len(weight) and weight.min() < 0:
        raise UsageError(
            f"edge weight {weight.min():g}: PageRank walks in proportion to weights, so they must "
            "not be negative; choose a sampler without it, e.g. sampler=neighbor"
        )
    return strengths(adj.dst, weight, adj.n_dst, adj.in_degree).double()


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
