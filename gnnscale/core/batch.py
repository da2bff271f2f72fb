"""What a sampler hands to a model, and what a model hands to the losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gnnscale.core.hop import Hop, first
from gnnscale.core.ops import full
from gnnscale.core.sparse import SparseRows, dense


@dataclass(frozen=True)
class Batch:
    """One training or inference step's input.

    x: [n_src, F] features, or [n_src, R, F] when propagated beforehand.
    hops: one per layer; () if nothing is left to propagate.
    nodes: [n_src] global node ids.
    rows: [n_seed] positions of the seeds, valid at every level (destinations come first).
    ids: [n_seed] what is predicted: node ids, or graph ids at graph level; teachers are indexed so.
    y: [n_seed] int64 or [n_seed, C] float32.
    labeled: [n_seed] bool: rows with a training label; the others serve distillation.
    weight: [n_seed] absolute loss weights, whose weighted SUM is the loss; None: mean over labeled.
    segment: [n_src] owner graph or root, for pooled readout.
    readout: where seeds are whole graphs (rows are then their first nodes), the reduction that
    makes one row of their nodes' rows: mean, sum or max; "" where seeds are nodes.
    extra: named inputs (training labels, hop codes). views: further views of the same seeds.
    key: (seed, epoch, step), from which every random draw of the step derives.
    """

    x: Tensor
    hops: tuple[Hop, ...]
    nodes: Tensor
    rows: Tensor
    ids: Tensor
    y: Tensor
    labeled: Tensor
    weight: Tensor | None = None
    segment: Tensor | None = None
    readout: str = ""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    views: tuple["Batch", ...] = ()
    key: tuple[int, int, int] = (0, 0, 0)

    @property
    def inputs(self) -> Tensor | SparseRows:
        """What a model encodes: x, beside labels [n_src, C] where ``extra`` has some."""
        if "labels" not in self.extra:
            return self.x
        return torch.cat([dense(self.x), self.extra["labels"]], 1)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; a hop listed many times is moved once."""
        moved: dict[int, Hop] = {}
        for hop in self.hops:
            moved.setdefault(id(hop), hop.to(device))
        names = ("x", "nodes", "rows", "ids", "y", "labeled", "weight", "segment")
        parts = {n: getattr(self, n) for n in names}
        return replace(
            self,
            hops=tuple(moved[id(hop)] for hop in self.hops),
            extra={name: value.to(device) for name, value in self.extra.items()},
            views=tuple(view.to(device) for view in self.views),
            **{n: v.to(device, non_blocking=True) for n, v in parts.items() if v is not None},
        )

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies without waiting."""
        names = ("x", "nodes", "rows", "ids", "y", "labeled", "weight", "segment")
        parts = {n: getattr(self, n) for n in names}
        locked: dict[int, Hop] = {}
        for hop in self.hops:
            locked.setdefault(id(hop), hop.pinned())
        return replace(
            self,
            hops=tuple(locked[id(hop)] for hop in self.hops),
            extra={name: value.pin_memory() for name, value in self.extra.items()},
            views=tuple(view.pinned() for view in self.views),
            **{n: v.pin_memory() for n, v in parts.items() if v is not None},
        )

    def mean(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Mean of per-seed ``values`` over ``chosen`` seeds, corrected for the sampler's bias.

        With sampler weights w: sum_chosen w v / sum_chosen w (a self-normalised estimate, for terms
        whose population the sampler does not know). 0 if none is chosen. [n_seed] -> scalar.
        """
        w = chosen.to(values.dtype)
        if self.weight is not None:
            w = w * self.weight
        return (values * w).sum() / w.sum().clamp(min=torch.finfo(values.dtype).tiny)


@dataclass(frozen=True)
class Output:
    """What a model computes for a batch.

    logits: [n_seed, C]. levels: the rows of each hidden level, levels[-1] being what the classifier
    reads; none where the model is not ``tapped``. supervised: [n_seed] bool, rows the model leaves
    to the loss (label reuse), or None. aux: further tensors (residuals, iteration counts). pooled:
    of whole graphs, [n_seed, D] one row for levels[-1], else None.
    """

    logits: Tensor
    levels: tuple[Tensor, ...] = ()
    rows: Tensor | None = None
    supervised: Tensor | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    pooled: Tensor | None = None

    def hidden(self, level: int) -> Tensor:
        """Seed rows of a hidden level, gathered only when asked for: [n_seed, D].

        Of whole graphs there is one such level, the last: what the classifier reads.
        Raises: ValueError for another one of them.
        """
        if self.pooled is None:
            return full(self.levels[level][self.rows])
        if level not in (-1, len(self.levels) - 1):
            raise ValueError(f"hidden level {level}: rows of whole graphs exist at level -1 only")
        return full(self.pooled)


class Memo:
    """What layers of one forward pass may share: the batch, and values kept by name (JK).

    first: what the first layer reads, an encoder's output, before any layer's dropout; its first
    rows are those of the destinations at hand, in layer-wise inference, too. then: the rate of the
    dropout that the next layer starts with and that a layer may do along with its own end, in the
    same pass; ``dropped`` says that it has.
    """

    def __init__(self, batch: Batch, first: Tensor | None = None):
        self.batch, self.first, self.then, self.dropped = batch, first, 0.0, False
        self.kept: dict[str, Tensor] = {}

    def start(self, n: int) -> Tensor:
        """The first level of the ``n`` destinations, [n, D]: initial residuals read it."""
        assert self.first is not None
        return first(full(self.first), n)

    def segment(self, n: int) -> tuple[Tensor, int]:
        """The graph of each of ``n`` rows, and how many there are; one without a segment."""
        batch = self.batch
        if batch.segment is None:
            return torch.zeros(n, dtype=torch.int64, device=batch.rows.device), 1
        return batch.segment, len(batch.rows)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The value kept under ``name``, made on first use."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]
