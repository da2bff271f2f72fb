"""Exact inference for few nodes: only what lies within L hops of them is computed."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.block import cut
from gnnscale.graph.walk import take
from gnnscale.train.predict import Inference


class Query(Inference):
    """Blocks of all in-edges under the asked nodes, with the operator factors of the whole graph.

    The logits are those of a pass over the whole graph; the cost is that of the L-hop neighbourhood
    of ``chunk`` nodes at a time, where inference=layerwise computes every node.

    Args:
        chunk: asked nodes computed together.
    """

    needs = (traits(Trait.LAYERS),)

    def __init__(self, chunk: Count = 1024):
        super().__init__()
        self.chunk = chunk

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Chunk by chunk; nodes asked for twice are computed once per chunk."""
        whole = self.whole(model, data, torch.device("cpu"))
        found = []
        for asked in rows.cpu().split(self.chunk):
            hops, nodes = self.blocks(whole, asked)
            found.append(model(self.gather(whole, hops, nodes, asked).to(device)).logits)
        return torch.cat(found)

    def blocks(self, whole: Batch, asked: Tensor) -> tuple[tuple[Hop, ...], Tensor]:
        """One hop per layer, the input's first, and the nodes whose features the first one reads.

        Shapes: asked [n] node ids, duplicates allowed.
        """
        nodes, hops = torch.unique(asked), []
        for hop in reversed(whole.hops):
            part, nodes = cut(hop, nodes)
            hops.append(part)
        return tuple(reversed(hops)), nodes

    def gather(self, whole: Batch, hops: tuple[Hop, ...], nodes: Tensor, asked: Tensor) -> Batch:
        """The batch whose logits are those of ``asked``, in that order."""
        rows = torch.unique(asked, return_inverse=True)[1]  # destinations ascend at every level
        return replace(
            whole, x=take(whole.x, nodes), hops=hops, nodes=nodes, rows=rows, ids=asked,
            y=whole.y[asked], labeled=whole.labeled[asked],
        )  # fmt: skip
