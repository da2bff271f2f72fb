"""Layer-neighbour sampling (LABOR): neighbour sampling's variance with fewer distinct nodes.

Balin & Catalyurek, NeurIPS 2023, arXiv:2210.13339.

Departs from it: the equation for c_s is solved exactly by sorting each row, not by iteration. Edge
weights scale what is kept and don't alter which edges are.
"""

from typing import Literal

import numpy as np
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.values import Count
from gnnscale.graph.drawn import relabel
from gnnscale.graph.induce import scratch
from gnnscale.graph.walk import unit
from gnnscale.sampler._layered import Estimate, Layered

CONVERGED = 1e-4
"""LABOR-* ends when the expected number of distinct nodes falls by less than this share."""
MOST_ROUNDS = 50


@compiled()
def solve(pi, k):
    """The c of one row with (1 / d^2) sum_t 1 / min(1, c pi_t) = 1 / k, for d = len(pi) > k.

    With the j largest pi clamped: j + S / c = d^2 / k, S the sum of 1 / pi over the others. The
    left side of the first equation is the variance of Poisson sampling, the right side that of k
    neighbours drawn uniformly (sec. 3), up to a common constant.
    """
    d = len(pi)
    order = np.sort(pi)[::-1]
    rest = np.sum(1.0 / order)
    for j in range(d):
        c = rest / (d * d / k - j)
        if c * order[j] <= 1.0:
            return c
        rest -= 1.0 / order[j]
    return 1.0 / order[d - 1]  # not reached but by rounding: everything is clamped


@compiled()
def importances(indptr, indices, targets, k, rounds, local):
    """(pi by edge of the targets' rows, c by target) after ``rounds`` of sec. 3's iteration.

    pi_t <- pi_t max over the targets s of t of c_s, from pi = 1; each round lowers the expected
    number of distinct nodes, sum_t min(1, pi_t max_s c_s). Negative ``rounds``: until it settles.
    Rows of at most k edges are taken whole: their c is inf.
    """
    n, total = len(targets), 0
    for i in range(n):
        total += indptr[targets[i] + 1] - indptr[targets[i]]
    column = np.empty(total, np.int32)
    found, at = 0, 0
    seen = np.empty(min(total, len(local)), np.int64)
    for i in range(n):
        for e in range(indptr[targets[i]], indptr[targets[i] + 1]):
            j = indices[e]
            if local[j] < 0:
                local[j] = found
                seen[found] = j
                found += 1
            column[at] = local[j]
            at += 1
    for t in range(found):
        local[seen[t]] = -1
    pi, c = np.ones(found), np.empty(n)
    largest = np.empty(found)
    last = np.inf
    for round in range(MOST_ROUNDS + 1 if rounds < 0 else rounds + 1):
        largest[:] = 0
        at = 0
        for i in range(n):
            d = indptr[targets[i] + 1] - indptr[targets[i]]
            row = column[at : at + d]
            at += d
            c[i] = np.inf
            if d > k:
                c[i] = k / d if round == 0 else solve(pi[row], k)
            for t in row:
                largest[t] = max(largest[t], c[i])
        expected = 0.0
        for t in range(found):
            expected += min(1.0, pi[t] * largest[t])
        if round == rounds or (rounds < 0 and last - expected <= CONVERGED * expected):
            break
        last = expected
        for t in range(found):  # whole rows take t whatever pi is; it stays finite
            pi[t] = min(1.0, pi[t] * largest[t])
    return pi[column], c


@compiled()
def _block(indptr, indices, targets, k, rounds, hajek, loop, word, local):
    """A block as in ``graph.drawn``; its scale is per edge if ``rounds`` or ``loop``, else per row.

    An edge t -> s is kept if r_t < min(1, c_s pi_t), r_t being one number per source and layer.
    """
    n, most = len(targets), 0
    for i in range(n):
        most += indptr[targets[i] + 1] - indptr[targets[i]] + loop
    pi, c = np.empty(0), np.empty(0)
    if rounds != 0:
        pi, c = importances(indptr, indices, targets, k, rounds, local)
    per_edge = rounds != 0 or loop
    starts = np.zeros(n + 1, np.int64)
    edges = np.empty(most, np.int64)
    scale = np.ones(most if per_edge else n)
    at, seen = 0, 0
    for i in range(n):
        first = indptr[targets[i]]
        d = indptr[targets[i] + 1] - first
        begin, inverse = at, 0.0
        if d <= k:
            for e in range(first, first + d):
                edges[at] = e
                at += 1
        elif rounds == 0:
            p = k / d
            for e in range(first, first + d):
                if unit(word, indices[e]) < p:
                    edges[at] = e
                    at += 1
            value = d / k if not hajek else d / max(at - begin, 1)
            if per_edge:
                scale[begin:at] = value
            else:
                scale[i] = value
        else:
            for e in range(first, first + d):
                p = min(1.0, c[i] * pi[seen + e - first])
                if unit(word, indices[e]) < p:
                    edges[at], scale[at] = e, 1.0 / p
                    inverse += 1.0 / p
                    at += 1
            if hajek and at > begin:
                scale[begin:at] *= d / inverse
        seen += d
        if loop:
            edges[at], scale[at] = -1, 1.0
            at += 1
        starts[i + 1] = at
    edges = edges[:at].copy()
    columns, sources = relabel(indices, targets, starts, edges, local)
    return starts, columns, edges, sources, scale[:at].copy() if per_edge else scale


class Labor(Layered):
    """One uniform number r_t per node and layer decides for all its edges at once.

    Edge t -> s of a row with d_s > k edges is kept if r_t < p_ts = min(1, c_s pi_t), rows of at
    most k edges are kept whole. LABOR-0 has pi = 1 and c_s = k / d_s, so that a row keeps k edges
    in expectation, as in neighbour sampling, but all targets agree on which sources they like.
    LABOR-i moves pi towards sources that many targets share for i rounds, with c_s such that the
    variance of every row stays that of k drawn neighbours; LABOR-* goes on until the
    expected number of distinct sources settles.

    "sum", "add" and "mean" are estimated over the kept edges:
        horvitz_thompson: sum_t w_st m_t / p_ts: unbiased
        hajek: d_s sum_t (w_st m_t / p_ts) / sum_t (1 / p_ts): what the authors train with; less
            variance, biased by O(1 / k)
    A row that keeps nothing gives 0. Attention and the other set aggregators are plain.

    Args:
        fanouts: k per layer, from the input to the seeds, or one number; -1: all.
        batch_size: seeds per step.
        importance: i of LABOR-i; -1: LABOR-*.
        estimator: hajek or horvitz_thompson.
        layer_dependency: the same r_t in every layer; fewer distinct nodes still, but the layers'
            errors are no longer independent.

    Raises: as ``Layered``; UsageError for an importance below -1.
    """

    purpose = "labor"

    def __init__(
        self,
        fanouts: list[int] | int = 10,
        batch_size: Count = 1024,
        importance: int = 0,
        estimator: Literal["hajek", "horvitz_thompson"] = "hajek",
        layer_dependency: bool = False,
    ):
        super().__init__(fanouts, batch_size)
        self.importance, self.hajek = importance, estimator == "hajek"
        self.layer_dependency = layer_dependency
        if importance < -1:
            raise UsageError(
                f"sampler.importance={importance}: not a number of rounds; choose 0 (LABOR-0) or "
                "more, or -1 until it settles (LABOR-*), e.g. sampler.importance=0"
            )

    def stream(self, word: np.uint64, layer: int) -> np.uint64:
        """The stream of r_t: one per layer, or one per step."""
        return word if self.layer_dependency else super().stream(word, layer)

    def hop(self, layer: int, targets: Tensor, word: np.uint64) -> tuple[Hop, Tensor]:
        """Sources that several targets agree on."""
        adj, fanout = self.data.graph, self.per_layer[layer]
        if fanout < 0:
            return self.assemble(targets, self.everything(targets), Estimate)
        block = _block(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), fanout, self.importance,
            self.hajek, self.loop, word, scratch(adj.n_src),
        )  # fmt: skip
        scaled = "edges" if self.loop or self.importance else "rows"
        return self.assemble(targets, block, Estimate, scaled)
