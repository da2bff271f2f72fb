"""GTTF: a forest of random walks under the seeds, and what is accumulated from it.

Markowitz et al., ICLR 2021, arXiv:2102.04350, Algorithm 1 (``graph.forest``).

Departs from the authors' code: a node without in-neighbours keeps its walk and adds no edge (there
it walks to node 0); a reverse edge is added where the graph has it; self-loops are those that the
model asks for (there: added unless node 0 has one); the accumulators for skip-gram learners have no
place here.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive
from gnnscale.graph import forest
from gnnscale.graph.norm import entries, factors, whole_hop
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler, seed_batches

BIASES = {
    "uniform": forest.UNIFORM,
    "node2vec": forest.NODE2VEC,
    "no_revisit": forest.NO_REVISIT,
}
MOST = 2**28
"""Nodes of a forest, at most."""


class GTTF(Sampler):
    """Walk forests with fan-outs f_1, f_2, ... from the seeds outwards.

    Accumulators:
    - ``sampled_adjacency``: the distinct edges of the forest and their reverses as one graph on
      the nodes touched, normalised by its own degrees, for any full-batch model. Consistent, not
      unbiased: exact as the fan-outs grow, with one level per layer, or one more where an operator
      needs the degrees of both ends ("sym").
    - ``forest_mean``: one step per level; a node reads its f children, an operator entry times
      d / f each, so that "row" is the mean of the children. Every walk ends as a row of T^k says,
      T = D^-1 A, so under the uniform bias linear models are unbiased. Set aggregators (mean, max)
      see the children as they are, attention too.

    Args:
        fanouts: successors per node, from the seeds outwards, or one number for every layer.
        batch_size: seeds per step.
        accumulator: sampled_adjacency or forest_mean.
        bias: of the successors: uniform; node2vec, by p and q; no_revisit, which avoids the nodes
            on the way from the seed as long as others are there. Edge weights don't alter draws.
        p, q: node2vec's return and in-out parameters.

    Raises: UsageError if the forest of one batch is too large; in ``check`` if ``forest_mean`` does
        not have one fan-out per layer.
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.NODE),)

    @classmethod
    def declare(cls, **parameters: object):
        """Without ``square`` for the forest mean."""
        mean = parameters.get("accumulator") == "forest_mean"
        return (cls.gives - {Trait.SQUARE} if mean else cls.gives), cls.needs

    def __init__(
        self,
        fanouts: list[Count] | Count = 5,
        batch_size: Count = 512,
        accumulator: Literal["sampled_adjacency", "forest_mean"] = "sampled_adjacency",
        bias: Literal["uniform", "node2vec", "no_revisit"] = "uniform",
        p: Positive = 1.0,
        q: Positive = 1.0,
    ):
        self.fanouts, self.batch_size, self.accumulator = fanouts, batch_size, accumulator
        self.bias, self.p, self.q = BIASES[bias], p, q

    def levels(self, need: Need) -> list[int]:
        """f_1, f_2, ..."""
        return [self.fanouts] * need.depth if isinstance(self.fanouts, int) else list(self.fanouts)

    def size(self, levels: list[int]) -> int:
        """Nodes of a forest."""
        return self.batch_size * sum(math.prod(levels[:k]) for k in range(len(levels) + 1))

    def check(self, need: Need) -> None:
        """A forest that fits in memory, of one level per layer where layers are levels."""
        levels = self.levels(need)
        said = str(self.fanouts).replace(" ", "")
        size = self.size(levels)
        if size > MOST:
            fits = max((f for f in range(1, max(levels)) if self.size([f] * len(levels)) <= MOST),
                       default=None)  # fmt: skip
            better = f"sampler.fanouts={fits}" if fits else "a smaller sampler.batch_size"
            raise UsageError(
                f"sampler.fanouts={said}: with sampler.batch_size={self.batch_size} a forest of "
                f"{len(levels)} levels has {size} nodes; at most {MOST} are possible; change to "
                f"{better}"
            )
        if self.accumulator == "forest_mean" and need.depth not in (0, len(levels)):
            better = (levels + [(levels or [5])[-1]] * need.depth)[: need.depth]
            raise UsageError(
                f"sampler.fanouts={said}: the model has {need.depth} message-passing layers, and "
                "forest_mean reads one level in each; give one fan-out per layer, e.g. "
                f"sampler.fanouts={str(better).replace(' ', '')}"
            )

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Order the rows, and find every edge's reverse or the operator's factors."""
        self.check(need)
        self.data, self.need, self.labeled = data, need, data.mask("train")
        self.per_level = self.levels(need) if need.depth else []
        self.forests = forest.Forests(data.graph, self.bias, self.p, self.q)
        if self.accumulator == "sampled_adjacency":
            self.reverse = self.forests.reverse()
        else:
            self.factors = factors(data.graph, need, data.x.dtype, data.weight)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The forest under the seeds ``index``, accumulated."""
        word = np.uint64(key.at("gttf", key.epoch, key.step).word)
        seeds, data = index.long(), self.data
        nodes, edges = self.forests.draw(seeds, self.per_level, word)
        if self.accumulator == "sampled_adjacency":
            nodes, hops = self._graph(nodes, edges)
            rows = torch.from_numpy(np.searchsorted(nodes.numpy(), seeds.numpy()))
        else:
            nodes = nodes.long()
            hops, rows = self._means(nodes, edges, len(seeds)), torch.arange(len(seeds))
        return Batch(
            x=take(data.x, nodes), hops=hops, nodes=nodes, rows=rows, ids=index,
            y=take(data.y, index), labeled=take(self.labeled, index),
            key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def _graph(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, tuple[Hop, ...]]:
        """The sampled graph, the same hop for every layer."""
        data = self.data
        nodes, graph = forest.touched(data.graph, nodes, edges, self.reverse)
        if not self.need.depth:
            return nodes, ()
        weight = None if data.weight is None else take(data.weight, graph.edges)
        hop = whole_hop(graph, self.need, data.x.dtype, weight)
        return nodes, (replace(hop, degree=take(data.graph.in_degree, nodes)),) * self.need.depth

    def _means(self, nodes: Tensor, edges: Tensor, seeds: int) -> tuple[Hop, ...]:
        """One hop per level: from levels 0 to k + 1 to levels 0 to k, the deepest first."""
        if not self.per_level:
            return ()
        data, loop, dtype = self.data, self.need.loops == "edges", self.data.x.dtype
        starts, tree = forest.tree(edges, seeds, self.per_level, loop)
        upper, degree = nodes[: tree.n_dst], take(data.graph.in_degree, nodes)
        fanout = torch.tensor(self.per_level).repeat_interleave(starts.diff()[:-1])
        scale = (degree[: tree.n_dst].double() / fanout).to(dtype)
        src, dst, diag = self.factors
        src = None if src is None else take(src, nodes)
        dst, diag = (None if f is None else take(f, upper) for f in (dst, diag))
        weight = entries(tree, data.weight, dtype)
        if not loop:
            dst = scale if dst is None else dst * scale
        else:  # per edge: the loop is always there
            each = torch.where(tree.edges >= 0, take(scale, tree.dst), 1.0)
            weight = each if weight is None else weight * each
        hops = []
        for k in reversed(range(len(self.per_level))):
            rows, sources = int(starts[k + 1]), int(starts[k + 2])
            end = int(tree.indptr[rows])
            part = Adjacency(
                tree.indptr[: rows + 1], tree.indices[:end], sources, tree.edges[:end]
            )  # fmt: skip
            hops.append(Hop(
                part, src=None if src is None else src[:sources],
                dst=None if dst is None else dst[:rows],
                weight=None if weight is None else weight[:end],
                diag=None if diag is None else diag[:rows], degree=degree[:sources],
            ))  # fmt: skip
        return tuple(hops)
