"""A degree-corrected stochastic block model with a power-law tail, of any size, made in seconds.

Karrer & Newman, Stochastic blockmodels and community structure in networks, Phys. Rev. E 83,
016107 (2011), arXiv:1008.3926. Departs from it: the numbers of edges within and between classes
are fixed (Poisson there), and multi-edges and loops are replaced by further draws.
"""

from typing import Annotated

import numba
import numpy as np
import torch
from pydantic import Field

from gnnscale.core.compiled import compiled
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.values import Count, NonNegative, Positive, Share, Whole
from gnnscale.dataset._base import Dataset
from gnnscale.graph.simple import simple

Tail = Annotated[float, Field(gt=2)]
"""Exponent of a degree law whose mean is finite."""

ROUNDS, CLOSE = 6, 0.002
"""Draws are repeated with more edges until what is left after cleaning is this close."""

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
M1, M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@compiled()
def _hash(word, counter):
    """Output ``counter`` of splitmix64 started at ``word`` (Steele et al., OOPSLA 2014)."""
    z = word + (np.uint64(counter) + np.uint64(1)) * GOLDEN
    z = (z ^ (z >> S30)) * M1
    z = (z ^ (z >> S27)) * M2
    return z ^ (z >> S31)


@compiled()
def _uniform(word, counter):
    """Draw a number in [0, 1)."""
    return np.float64(_hash(word, counter) >> S11) * 2.0**-53


@compiled(parallel=True)
def _weights(word, power, out):
    """Pareto weights u^-power, u uniform in (1/N, 1]: truncated where one node would lie beyond."""
    least = 1.0 / len(out)
    for i in numba.prange(len(out)):
        out[i] = (1.0 - (1.0 - least) * _uniform(word, i)) ** -power


@compiled()
def _alias(weight, starts, keep, other):
    """One alias table per class (Vose, IEEE TSE 1991): slot i stands for itself or ``other[i]``."""
    for c in range(len(starts) - 1):
        a, b = starts[c], starts[c + 1]
        scale = (b - a) / weight[a:b].sum()
        stack = np.empty(b - a, np.int32)  # slots below 1 grow from the left, others from the right
        low, high = 0, b - a
        for i in range(a, b):
            keep[i], other[i] = weight[i] * scale, i
            if keep[i] < 1:
                stack[low] = i
                low += 1
            else:
                high -= 1
                stack[high] = i
        while low > 0 and high < b - a:
            low -= 1
            small, large = stack[low], stack[high]
            other[small] = large
            keep[large] -= 1 - keep[small]
            if keep[large] < 1:
                high += 1
                stack[low] = large
                low += 1
        for at in range(low):  # rounding leaves a few that stand for themselves
            keep[stack[at]] = 1.0
        for at in range(high, b - a):
            keep[stack[at]] = 1.0


@compiled()
def _pick(u, start, end, keep, other):
    at = u * (end - start)
    i = min(start + np.int64(at), end - 1)
    return i if at - np.floor(at) < keep[i] else other[i]


@compiled(parallel=True)
def _draw(word, within, share, starts, keep, other, ids, src, dst):
    """Edge k joins two nodes drawn by weight; of one class if ``within``, else of two classes."""
    for k in numba.prange(len(src)):
        edge = _hash(word, k)
        c = np.searchsorted(share, _uniform(edge, 0), side="right")
        d, count = c, 1
        while d == c and not within:
            d = np.searchsorted(share, _uniform(edge, count), side="right")
            count += 1
        i = _pick(_uniform(edge, count), starts[c], starts[c + 1], keep, other)
        j = _pick(_uniform(edge, count + 1), starts[d], starts[d + 1], keep, other)
        src[k], dst[k] = ids[i], ids[j]


@compiled(parallel=True)
def _same(indptr, indices, y):
    """Directed edges that join nodes of one class."""
    count = 0
    for i in numba.prange(len(indptr) - 1):
        here = 0
        for e in range(indptr[i], indptr[i + 1]):
            here += y[indices[e]] == y[i]
        count += here
    return count


@compiled(parallel=True)
def _features(word, mean, y, x):
    """x_i = mean of the class + standard normal noise (Box & Muller 1958)."""
    size = x.shape[1]
    for i in numba.prange(len(x)):
        node = _hash(word, i)
        for f in range(0, size, 2):
            r = np.sqrt(-2 * np.log(1 - _uniform(node, f)))
            angle = 2 * np.pi * _uniform(node, f + 1)
            x[i, f] = mean[y[i], f] + r * np.cos(angle)
            if f + 1 < size:
                x[i, f + 1] = mean[y[i], f + 1] + r * np.sin(angle)


class Synthetic(Dataset):
    """Nodes of weight t_i, edges drawn with probability proportional to t_i t_j.

    P(t > s) = s^-(exponent - 1) for 1 <= s <= N^(1 / (exponent - 1)), so that degrees k follow
    P(k) ~ k^-exponent up to the cutoff. N degree / 2 edges: ``homophily`` of them within a class,
    the others between two. x_i = mu_c + e_i, where e_i has standard normal entries and mu_c is a
    random direction of norm ``snr``. Classes have equal size up to 1; node ids are shuffled.
    The result depends on the seeds alone, not on the number of threads.

    Args:
        nodes: N.
        degree: mean number of neighbours.
        exponent: of the degree law, above 2.
        homophily: share of edges that join nodes of one class.
        classes, features: C and F.
        snr: norm of a class mean in units of the noise's standard deviation per feature.
        train, valid: shares of nodes, drawn uniformly; the rest is for testing.
        graph_seed: seed of graph, classes and features; None: the run's seed.
        split_seed: seed of the split; None: the run's seed.

    Shapes: x [N, F] float32, y [N] int64.
    Raises: UsageError if the numbers contradict each other.
    """

    def __init__(
        self,
        nodes: Count = 20_000,
        degree: Positive = 10.0,
        exponent: Tail = 2.5,
        homophily: Share = 0.8,
        classes: Count = 10,
        features: Count = 64,
        snr: NonNegative = 0.5,
        train: Share = 0.1,
        valid: Share = 0.1,
        graph_seed: Whole | None = 0,
        split_seed: Whole | None = None,
    ):
        self.nodes, self.degree, self.exponent, self.homophily = nodes, degree, exponent, homophily
        self.classes, self.features, self.snr = classes, features, snr
        self.train, self.valid = train, valid
        self.graph_seed, self.split_seed = graph_seed, split_seed
        self._check()

    def _check(self) -> None:
        most = max(self.nodes // 2, 1)
        if self.classes > most:
            raise UsageError(
                f"dataset.classes={self.classes}: {self.nodes} nodes are too few for 2 per class; "
                f"choose 1 to {most}, e.g. dataset.classes={min(most, 10)}"
            )
        if self.classes == 1 and self.homophily < 1:
            raise UsageError(
                f"dataset.homophily={self.homophily}: with one class every edge is within it; "
                "type dataset.homophily=1.0 or dataset.classes=2"
            )
        size = self.nodes / self.classes
        crowd = max(
            self.degree * self.homophily / (size - 1),
            self.degree * (1 - self.homophily) / max(self.nodes - size, 1),
        )
        if crowd > 0.5:
            raise UsageError(
                f"dataset.degree={self.degree}: too dense for a power law, {crowd:.0%} of the "
                "pairs within or between classes would be edges; valid: up to 50 %; type "
                f"dataset.degree={0.5 * self.degree / crowd:.3g} or more dataset.nodes"
            )
        left = self.nodes - sum(self._sizes())
        if min(*self._sizes(), left) < 1:
            raise UsageError(
                f"dataset.train={self.train}: with dataset.valid={self.valid} and {self.nodes} "
                "nodes a split would be empty; choose shares above 0 that sum to less than 1; "
                "type dataset.train=0.1 dataset.valid=0.1"
            )

    def _sizes(self) -> tuple[int, int]:
        return round(self.train * self.nodes), round(self.valid * self.nodes)

    def load(self, seed: int) -> GraphData:
        """Make the graph and its split; ``seed`` stands in where their own seed is None."""
        key = Key(seed if self.graph_seed is None else self.graph_seed, "dataset.synthetic")
        ids = key.at("dataset.synthetic.ids").numpy().permutation(self.nodes).astype(np.int32)
        # [C + 1]: class c owns the slots starts[c] .. starts[c + 1] - 1, slot i is node ids[i]
        starts = np.arange(self.classes + 1, dtype=np.int64) * self.nodes // self.classes
        y = np.empty(self.nodes, np.int64)
        y[ids] = np.repeat(np.arange(self.classes), np.diff(starts))
        graph, facts = self._graph(key, ids, starts, y)
        mean = key.at("dataset.synthetic.means").numpy().normal(size=(self.classes, self.features))
        mean *= self.snr / np.linalg.norm(mean, axis=1, keepdims=True)
        x = np.empty((self.nodes, self.features), np.float32)
        _features(np.uint64(key.at("dataset.synthetic.noise").word), mean, y, x)
        return GraphData(
            name="synthetic",
            graph=graph,
            x=torch.from_numpy(x),
            y=torch.from_numpy(y),
            splits=self._splits(seed),
            task=Task("node", "single", self.classes),
            facts=facts,
        )

    def _splits(self, seed: int) -> dict[str, torch.Tensor]:
        key = Key(seed if self.split_seed is None else self.split_seed, "dataset.synthetic.split")
        order = key.numpy().permutation(self.nodes)
        parts = np.split(order, np.cumsum(self._sizes()))
        return {
            name: torch.from_numpy(np.sort(part))
            for name, part in zip(("train", "valid", "test"), parts, strict=True)
        }

    def _graph(self, key: Key, ids, starts, y) -> tuple[Adjacency, dict[str, object]]:
        """Draw, clean, compare with what was asked, and draw more where too few are left.

        Draw k is a function of k, so that a further round only appends to the one before.
        """
        weight = np.empty(self.nodes)
        _weights(
            np.uint64(key.at("dataset.synthetic.weights").word), 1 / (self.exponent - 1), weight
        )
        keep, other = np.empty(self.nodes), np.empty(self.nodes, np.int32)
        _alias(weight, starts, keep, other)
        share = np.cumsum(np.add.reduceat(weight, starts[:-1]))
        share = share[:-1] / share[-1]  # [C - 1] inner bounds of the classes' shares of the weight
        words = [np.uint64(key.at(f"dataset.synthetic.{n}").word) for n in ("within", "between")]
        pairs = self.nodes * self.degree / 2
        asked = [round(pairs * self.homophily), round(pairs) - round(pairs * self.homophily)]
        draws = list(asked)
        for _ in range(ROUNDS):
            src, dst = np.empty(sum(draws), np.int32), np.empty(sum(draws), np.int32)
            for part, within in ((slice(0, draws[0]), True), (slice(draws[0], None), False)):
                word = words[0 if within else 1]
                _draw(word, within, share, starts, keep, other, ids, src[part], dst[part])
            graph, facts = simple(src, dst, self.nodes)
            del src, dst
            same = int(_same(graph.indptr.numpy(), graph.indices.numpy(), y)) // 2
            got = [same, graph.n_edges // 2 - same]
            if all(g >= a * (1 - CLOSE) for g, a in zip(got, asked, strict=True)):
                break
            draws = [
                d if g >= a * (1 - CLOSE) else int(d * min(a / max(g, 1), 2)) + 1
                for d, a, g in zip(draws, asked, got, strict=True)
            ]
        return graph, {
            **facts,
            "edges": graph.n_edges // 2,
            "degree": graph.n_edges / self.nodes,
            "homophily": 2 * same / max(graph.n_edges, 1),
            "max_degree": int((graph.indptr[1:] - graph.indptr[:-1]).max()),
        }
