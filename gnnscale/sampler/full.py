"""Full-batch training: every step sees the whole training graph."""

import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler._base import Sampler


class Full(Sampler):
    """One step per epoch on the whole training graph; the limit that other samplers approach."""

    gives = traits(Trait.HOPS, Trait.SQUARE)
    needs = (traits(Trait.NODE),)

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Build the one batch that every step shares."""
        self.batch = whole_batch(data, need)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """One step, on all seeds."""
        return [seeds]

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The whole graph with ``index`` as seeds."""
        whole = self.batch
        rows = index.to(whole.rows.device)
        return Batch(
            x=whole.x, hops=whole.hops, nodes=whole.nodes, rows=rows, ids=rows,
            y=whole.y[rows], labeled=whole.labeled[rows], key=(key.seed, key.epoch, key.step),
        )  # fmt: skip

    def bind(self, batch: Batch, device: torch.device, write: bool) -> Batch:
        """Move the graph once; later steps find it there."""
        if self.batch.x.device != device:
            self.batch = self.batch.to(device)
            batch = self.sample(batch.rows, Key(batch.key[0], "sample", *batch.key[1:]))
        return batch
