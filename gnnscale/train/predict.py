"""Exact inference over a whole graph, at once or one layer at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Memo
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop
from gnnscale.core.sparse import cat
from gnnscale.core.traits import Component, Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.block import cut
from gnnscale.graph.whole import whole_batch


class Inference(Component):
    """Logits of chosen nodes, every neighbour used, no dropout, no sampling."""

    def __init__(self) -> None:
        self._whole: tuple[GraphData, tuple, Batch] | None = None
        self.scope: Callable[[], AbstractContextManager] = nullcontext
        """The precision to compute in; the run's hardware sets it."""

    def whole(self, model: nn.Module, data: GraphData, device: torch.device) -> Batch:
        """The whole graph as a batch, kept until another graph, need or device is asked for."""
        need: Any = model.need
        kept = self._whole
        if kept is None or kept[0] is not data or kept[1] != (need, device):
            kept = self._whole = (data, (need, device), whole_batch(data, need).to(device))
        return kept[2]

    def __call__(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Shapes: rows [n] node ids -> logits [n, C] on ``device``."""
        training = model.training
        model.eval()
        try:
            with (
                torch.no_grad(),
                self.scope(),
            ):  # inference_mode would spoil what the graph caches for training
                return self.logits(model, data, rows.to(device), device)
        finally:
            model.train(training)

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """The computation itself."""
        raise NotImplementedError


class Full(Inference):
    """One forward pass over the whole graph: fastest, all activations of a layer in memory."""

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """One pass, logits of ``rows`` only."""
        whole = self.whole(model, data, device)
        seeds = replace(whole, rows=rows, ids=rows, y=whole.y[rows], labeled=whole.labeled[rows])
        return model(seeds).logits


class Layerwise(Inference):
    """Layer by layer in chunks of nodes: memory of one level plus one chunk, same result.

    Args:
        chunk: nodes computed at a time.
    """

    needs = (traits(Trait.LAYERS),)

    def __init__(self, chunk: Count = 65536):
        super().__init__()
        self.chunk = chunk

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Each level of all nodes from the one below."""
        whole = self.whole(model, data, torch.device("cpu"))
        encode, head = cast(Any, model).encode, cast(Any, model).head
        h = cat([encode(x.to(device))[-1].cpu() for x in whole.x.split(self.chunk)])
        memo = Memo(whole)
        for layer, hop in zip(model.layers, whole.hops, strict=True):  # type: ignore[arg-type]
            pieces = [
                layer(piece.to(device), h[src].to(device), memo).cpu()
                for piece, src in self.pieces(hop)
            ]
            h = torch.cat(pieces)
        return torch.cat([head(h[r.cpu()].to(device)) for r in rows.split(self.chunk)])

    def pieces(self, hop: Hop):
        """A square hop cut into blocks of ``chunk`` destinations, with each block's sources."""
        nodes = torch.arange(hop.graph.n_dst)
        for dst in nodes.split(self.chunk):
            yield cut(hop, dst)
