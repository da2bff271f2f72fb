"""Mini-batches of whole graphs, for tasks whose labels are of graphs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.pieces import pieces
from gnnscale.sampler._base import Sampler, seed_batches


class Graphs(Sampler):
    """Every training graph once per epoch, in random order, ``batch_size`` of them per step.

    The graphs of a batch stand side by side in one graph without edges between them, so layers need
    not know; operators are those of the whole graphs. Predictions are made batch by batch, too.

    Args:
        batch_size: graphs per step. readout: how a graph's row is made of its nodes' rows: their
            mean, sum or max.
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.GRAPH),)
    inference: Literal["exact", "own"] = "own"

    def __init__(self, batch_size: Count = 32, readout: Literal["mean", "sum", "max"] = "mean"):
        self.batch_size, self.readout = batch_size, readout
        self._kept: tuple[GraphData, Need, Hop] | None = None

    def widen(self, shape: Shape) -> Shape:
        """Rows are of graphs; edges keep their features."""
        edges = {"edge_features": shape.edge_features, "edge_categories": shape.edge_categories}
        return replace(super().widen(shape), level="graph", **edges)

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Make the operator of all graphs."""
        self.data, self.need = data, need
        self.labeled = data.mask("train")
        self._hop(data, need)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every graph once."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """Graphs ``index``."""
        batch = self._batch(self.data, self.need, index, self.labeled[index])
        return replace(batch, key=(key.seed, key.epoch, key.step))

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """Graphs ``rows`` in order, as many at a time as a step trains on."""
        for chosen in rows.split(self.batch_size):
            yield self._batch(data, need, chosen, torch.zeros(len(chosen), dtype=torch.bool))

    def _hop(self, data: GraphData, need: Need) -> Hop:
        kept = self._kept
        if kept is None or kept[0] is not data or kept[1] != need:
            hop = whole_hop(data.graph, need, torch.float32 if data.categories else data.x.dtype,
                            data.weight)  # fmt: skip
            if need.loops != "edges":
                hop = replace(hop, edge=data.edge)
            kept = self._kept = (data, need, hop)
        return kept[2]

    def _batch(self, data: GraphData, need: Need, chosen: Tensor, labeled: Tensor) -> Batch:
        assert data.offsets is not None
        found = pieces(self._hop(data, need), data.offsets, chosen)
        return Batch(
            x=data.x[found.nodes], hops=(found.hop,) * need.depth, nodes=found.nodes,
            rows=found.first, ids=chosen, y=data.y[chosen], labeled=labeled,
            segment=found.segment, readout=self.readout,
        )  # fmt: skip
