"""Exact inference over a whole graph, at once or one layer at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Memo, Output
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop
from gnnscale.core.sparse import cat
from gnnscale.core.traits import Component, Trait, traits
from gnnscale.core.values import Count
from gnnscale.graph.block import cut
from gnnscale.graph.whole import whole_batch

Observer = Callable[[int, Tensor, Tensor], None]
"""Called with (level, node ids [n], rows [n, D] that hop ``level`` reads)."""
Listener = Callable[[Batch, Output], None]
"""Called with every batch of an inference and what the model says of it."""


class Inference(Component):
    """Logits of chosen nodes, every neighbour used, no dropout, no sampling."""

    observable: ClassVar[bool] = False
    """Whether it passes every node through every level, so that an observer can see them."""

    def __init__(self) -> None:
        self._whole: tuple[GraphData, tuple, Batch] | None = None
        self.scope: Callable[[], AbstractContextManager] = nullcontext
        """The precision to compute in; the run's hardware sets it."""
        self.view: Callable[[GraphData], GraphData] = lambda data: data
        """The graph as the sampler lets the model read it."""
        self.observe: Observer | None = None
        """Who is shown the levels of the present call; set by ``observed``."""
        self.listener: Listener | None = None
        """Who hears what the model puts out in the present call; set by ``heard``."""

    def whole(self, model: nn.Module, data: GraphData, device: torch.device) -> Batch:
        """The whole graph as a batch, kept until another graph, need or device is asked for."""
        need: Any = model.need
        kept = self._whole
        if kept is None or kept[0] is not data or kept[1] != (need, device):
            kept = self._whole = (data, (need, device), whole_batch(data, need).to(device))
        return kept[2]

    def ready(self, model: nn.Module, data: GraphData, device: torch.device) -> None:
        """Do what all calls on this graph share."""
        self.whole(model, data, device)

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
                return self.logits(model, self.view(data), rows.to(device), device)
        finally:
            model.train(training)

    def observed(
        self,
        model: nn.Module,
        data: GraphData,
        rows: Tensor,
        device: torch.device,
        observe: Observer | None,
    ) -> Tensor:
        """The same call, with every level of every node shown to ``observe``."""
        assert self.observable or observe is None
        self.observe = observe
        try:
            return self(model, data, rows, device)
        finally:
            self.observe = None

    def heard(
        self,
        model: nn.Module,
        data: GraphData,
        rows: Tensor,
        device: torch.device,
        listener: Listener,
    ) -> Tensor:
        """The same call, with every batch and what the model says of it told to ``listener``."""
        part = cast(Any, model)
        self.listener, tapped, part.tapped = listener, part.tapped, True
        try:
            return self(model, data, rows, device)
        finally:
            self.listener, part.tapped = None, tapped

    def tell(self, batch: Batch, output: Output) -> Tensor:
        """Let the listener hear, if there is one; the logits."""
        if self.listener is not None:
            self.listener(batch, output)
        return output.logits

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """The computation itself."""
        raise NotImplementedError


@dataclass(frozen=True)
class Watched(Hop):
    """A hop that shows what it is about to read."""

    watch: Callable[[Tensor], None] | None = None

    drops = False

    def lift(self, h: Tensor) -> Tensor:
        """``h`` itself."""
        if self.watch is not None:
            self.watch(h)
        return h


class Full(Inference):
    """One forward pass over the whole graph: fastest, all activations of a layer in memory."""

    observable = True

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """One pass, logits of ``rows`` only."""
        whole = self.whole(model, data, device)
        seeds = replace(whole, rows=rows, ids=rows, y=whole.y[rows], labeled=whole.labeled[rows])
        if self.observe is not None:
            seeds = replace(
                seeds, hops=tuple(map(self._watched, range(len(seeds.hops)), seeds.hops))
            )
        return self.tell(seeds, model(seeds))

    def _watched(self, level: int, hop: Hop) -> Hop:
        observe, parts = self.observe, {f.name: getattr(hop, f.name) for f in fields(Hop)}
        assert observe is not None
        everyone = torch.arange(hop.graph.n_src)
        return Watched(**parts, watch=lambda h: observe(level, everyone, h))


class Layerwise(Inference):
    """Layer by layer in chunks of nodes: memory of one level plus one chunk, same result.

    Args:
        chunk: nodes computed at a time.
    """

    needs = (traits(Trait.LAYERS),)
    observable = True

    def __init__(self, chunk: Count = 65536):
        super().__init__()
        self.chunk = chunk

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Each level of all nodes from the one below."""
        whole = self.whole(model, data, torch.device("cpu"))
        encode, head = cast(Any, model).encode, cast(Any, model).head
        told = self.listener is not None  # then all levels are kept, else the one below
        kept = slice(None) if told else slice(-1, None)
        chunks = [encode(x.to(device))[kept] for x in whole.x.split(self.chunk)]
        levels = [cat([x.cpu() for x in level]) for level in zip(*chunks, strict=True)]
        h, levels = levels[-1], levels if told else []
        memo, first = Memo(whole), None if cast(Any, model).apart else h
        steps = zip(model.layers, whole.hops, strict=True)  # type: ignore[arg-type]
        for level, (layer, hop) in enumerate(steps):
            if self.observe is not None:
                self.observe(level, torch.arange(len(h)), h)
            pieces = []
            for piece, src in self.pieces(hop):
                if first is not None:
                    memo.first = first[src[: piece.graph.n_dst]].to(device)
                pieces.append(layer(piece.to(device), h[src].to(device), memo).cpu())
            h = torch.cat(pieces)
            levels += [h] if told else []
        logits = torch.cat([head(h[r.cpu()].to(device)) for r in rows.split(self.chunk)])
        here = rows.cpu()
        below = levels[:-1] if isinstance(head, nn.Identity) else levels
        seeds = replace(whole, rows=here, ids=here, y=whole.y[here], labeled=whole.labeled[here])
        return self.tell(seeds, Output(logits, tuple(below), here))

    def pieces(self, hop: Hop):
        """A square hop cut into blocks of ``chunk`` destinations, with each block's sources."""
        nodes = torch.arange(hop.graph.n_dst)
        for dst in nodes.split(self.chunk):
            yield cut(hop, dst)


class Own(Inference):
    """Predictions from the sampler's own extraction: what was trained on is what is predicted by.

    Full-graph inference would be another function (shaDow's isolated subgraphs, PPRGo's PageRank
    rows) or has no hops to run on (features propagated beforehand).

    Args:
        sampler: gives ``batches(data, need, rows)``.
    """

    def __init__(self, sampler: Any):
        super().__init__()
        self.sampler = sampler

    def ready(self, model: nn.Module, data: GraphData, device: torch.device) -> None:
        """Nothing: every call extracts what it needs."""

    def logits(
        self, model: nn.Module, data: GraphData, rows: Tensor, device: torch.device
    ) -> Tensor:
        """Batch by batch."""
        need: Any = model.need
        each = (b.to(device) for b in self.sampler.batches(data, need, rows.cpu()))
        primed = (self.sampler.primed(batch, model) for batch in each)
        return torch.cat([self.tell(batch, model(batch)) for batch in primed])
