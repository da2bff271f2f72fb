"""shaDow-GNN: every root is computed in a small subgraph of its own.

Zeng et al., NeurIPS 2021, arXiv:2201.07858. The subgraph of a root is induced, isolated from those
of its batch-mates, normalised with its own degrees and the same in training and evaluation; the
model may be deeper than the subgraph is wide.

Departs from the authors' code:
- Where it adds a linear map of the one-hot distance to the features, the one-hot stands beside
  them: ``architecture=shadow_gnn`` adds that map, the first linear map of any other model does the
  same.
- The root is always in its subgraph, also where k higher scores are.
- No sort pooling.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.cache import cached, content
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.random import Key
from gnnscale.core.sparse import beside
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive, Rate, Share
from gnnscale.graph import ego
from gnnscale.graph.induce import isolate
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.push import push
from gnnscale.graph.walk import take
from gnnscale.sampler._base import Sampler, seed_batches

Readout = Literal["center", "mean", "max", "sum"]
CODES = ego.FARTHEST + 2
"""Columns of the hop features: farther or unreachable, then the distances 0 to 5."""
AT_ONCE = 4096
"""Roots whose scores are in memory at the same time."""
LAZY = 0.5
"""Share of a walk that stays where it is."""


class Isolated(Sampler):
    """What both extractors share: one block per root, batches of blocks.

    Args:
        batch_size: roots per step.
        readout: ``center``, the root's row; ``mean``, ``max``, ``sum``: beside it the pooled rows
            of its subgraph, for models with a head.
        hop_features: put the one-hot distance to the root (7 columns) beside the features.
        drop_edge: share of each subgraph's edges left out in training, before normalisation.
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    inference: Literal["exact", "own"] = "own"
    purpose: str = "shadow"
    """Of its draws; two extractors of one ensemble have two."""

    def __init__(self, batch_size: int, readout: Readout, hop_features: bool, drop_edge: float):
        self.batch_size, self.readout = batch_size, readout
        self.hop_features, self.drop_edge = hop_features, drop_edge

    def widen(self, shape: Shape) -> Shape:
        """Hop features are features; a readout other than the centre wants a pool."""
        more = CODES if self.hop_features else 0
        shape = super().widen(shape)
        return replace(
            shape, features=shape.features + more, codes=more, readout=self.readout
        )  # fmt: skip

    def ready(self, data: GraphData) -> None:
        """Do once what all subgraphs of a graph share."""

    def sets(self, data: GraphData, roots: Tensor, word: np.uint64) -> tuple[Tensor, Tensor]:
        """The nodes of each root's subgraph, as in ``graph.ego``; compiled, on one thread."""
        raise NotImplementedError

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Extract what does not change from epoch to epoch."""
        self.data, self.need, self.labeled = data, need, data.mask("train")
        self.ready(data)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The subgraphs of the roots ``index``."""
        return self._batch(self.data, self.need, self.labeled, index, key, self.drop_edge)

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """The subgraphs of ``rows``, on as many threads as compiled kernels may use.

        Draws are the same at every call, so that a model has one prediction per node.
        """
        self.ready(data)
        labeled, key = data.mask("train"), Key(0, "shadow evaluation")

        def make(roots: Tensor) -> Batch:
            return self._batch(data, need, labeled, roots, key, 0.0)

        pieces, threads = rows.split(self.batch_size), numba.get_num_threads()
        if threads == 1:
            yield from map(make, pieces)
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="shadow") as pool:
            for at in range(0, len(pieces), threads):
                yield from pool.map(make, pieces[at : at + threads])

    def _batch(
        self, data: GraphData, need: Need, labeled: Tensor, roots: Tensor, key: Key, drop: float
    ) -> Batch:
        word = np.uint64(key.at(self.purpose, key.epoch, key.step).word)
        starts, members = self.sets(data, roots, word)
        blocks = isolate(
            data.graph, starts, members, drop,
            key.at(f"{self.purpose} edges", key.epoch, key.step).word,
        )  # fmt: skip
        nodes, owner = members.long(), torch.arange(len(roots)).repeat_interleave(starts.diff())
        x = take(data.x, nodes)
        if self.hop_features:
            x = beside(x, ego.distances(blocks, starts), CODES)
        weight = None if data.weight is None else take(data.weight, blocks.edges)
        hops: tuple[Hop, ...] = ()
        if need.depth:
            hop = replace(
                whole_hop(blocks, need, data.x.dtype, weight),
                degree=take(data.graph.in_degree, nodes), segment=owner,
            )  # fmt: skip
            hops = (hop,) * need.depth
        return Batch(
            x=x, hops=hops, nodes=nodes, rows=starts[:-1].clone(), ids=roots,
            y=take(data.y, roots), labeled=take(labeled, roots), segment=owner,
            key=(key.seed, key.epoch, key.step),
        )  # fmt: skip


class Shadow(Isolated):
    """The nodes of highest personalised PageRank around each root (``graph.push``).

    Deterministic, so extracted once per graph and kept in the cache of processed data. Weighted
    edges are walked by weight.

    Args:
        k: nodes per subgraph, at most.
        threshold: nodes scored below this share of the second highest score are left out.
        damping: of the lazy walk, whose teleport is 1 - damping; the PageRank is that of the plain
            walk with teleport 2 (1 - damping) / (2 - damping).
        eps: a score is short of the true one by at most eps times the node's degree.
        batch_size, readout, hop_features, drop_edge: see ``Isolated``.

    Raises: UsageError for a graph with a negative edge weight.
    """

    def __init__(
        self,
        k: Count = 200,
        threshold: Share = 0.01,
        damping: Rate = 0.85,
        eps: Positive = 1e-5,
        batch_size: Count = 64,
        readout: Readout = "center",
        hop_features: bool = False,
        drop_edge: Rate = 0.0,
    ):
        super().__init__(batch_size, readout, hop_features, drop_edge)
        self.k, self.threshold, self.damping, self.eps = k, threshold, damping, eps
        self.tables: list[tuple[GraphData, Tensor, Tensor]] = []

    def ready(self, data: GraphData) -> None:
        """Take up the lists of a graph; those of two graphs are kept."""
        if any(known.graph is data.graph and known.weight is data.weight
               for known, _, _ in self.tables):  # fmt: skip
            return
        if data.weight is not None and (data.weight < 0).any():
            raise UsageError(
                "sampler=shadow: a walk can't follow the negative edge weights of this graph; "
                "choose sampler=shadow_khop"
            )
        graph, weight = data.graph, data.weight
        arrays = [graph.indptr, graph.indices, *([] if weight is None else [weight])]
        key = {
            "what": "shadow", "graph": content(*(a.numpy() for a in arrays)), "k": self.k,
            "threshold": self.threshold, "damping": self.damping, "eps": self.eps,
        }  # fmt: skip
        found = cached("shadow", key, lambda: self._extract(data), ("members",))
        lists = (torch.from_numpy(found["starts"]), torch.from_numpy(found["members"]))
        self.tables = [(data, *lists), *self.tables[:1]]

    def _extract(self, data: GraphData) -> dict[str, np.ndarray]:
        """The lists of every node, in parallel."""
        sizes, members = [torch.zeros(1, dtype=torch.int64)], [torch.empty(0, dtype=torch.int32)]
        for roots in torch.arange(data.nodes).split(AT_ONCE):
            ranks = push(
                data.graph, roots, 1 - self.damping, self.eps, self.k, LAZY, True, data.weight
            )
            starts, found = ego.best(roots, ranks, self.k, self.threshold)
            sizes.append(starts.diff())
            members.append(found)
        starts = torch.cat(sizes).cumsum(0)
        return {"starts": starts.numpy(), "members": torch.cat(members).numpy()}

    def sets(self, data: GraphData, roots: Tensor, word: np.uint64) -> tuple[Tensor, Tensor]:
        """The kept lists."""
        found = next(t for t in self.tables if t[0].graph is data.graph)
        return ego.some(found[1], found[2], roots)


class ShadowKhop(Isolated):
    """The nodes within a few hops of each root, high degrees cut by drawing.

    A node of more than ``budget`` neighbours is left by ``budget`` draws with replacement. Training
    draws anew at every step, evaluation the same at every call.

    Args:
        depth: hops.
        budget: neighbours per node, or -1 for all.
        batch_size, readout, hop_features, drop_edge: see ``Isolated``.

    Raises: UsageError for a budget that is 0 or below -1.
    """

    def __init__(
        self,
        depth: Count = 2,
        budget: int = 20,
        batch_size: Count = 64,
        readout: Readout = "center",
        hop_features: bool = False,
        drop_edge: Rate = 0.0,
    ):
        super().__init__(batch_size, readout, hop_features, drop_edge)
        self.depth, self.budget = depth, budget
        if budget == 0 or budget < -1:
            raise UsageError(
                f"sampler.budget={budget}: no number of neighbours; choose 1 or more, or -1 for "
                "all, e.g. sampler.budget=20"
            )

    def sets(self, data: GraphData, roots: Tensor, word: np.uint64) -> tuple[Tensor, Tensor]:
        """Drawn for this step."""
        return ego.khop(data.graph, roots, self.depth, self.budget, word)
