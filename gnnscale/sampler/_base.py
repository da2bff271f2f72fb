"""What every sampler is: a source of batches that owns all state that crosses batches."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Component


class Sampler(Component):
    """Turns a graph into training batches.

    The loop calls ``prepare`` once, ``plan`` once per epoch, ``sample`` and ``bind`` once per step
    and ``commit`` after the optimizer's step. ``sample`` is pure, runs on the CPU and may run in
    another thread; whatever draws it makes derive from its key.
    """

    inference: Literal["exact", "own"] = "exact"
    """``exact``: any inference of the whole graph is right; ``own``: predictions are made from
    ``batches``, whatever ``inference`` was chosen."""
    histories: bool = False
    """Whether ``refresh`` is to be offered exact levels before training and at every evaluation."""
    labels: ClassVar[bool] = False
    """Whether batches carry labels as input (``Batch.inputs``), which a whole model reads first."""
    operators: int = 0
    """R where ``Batch.x`` is a stack [n, R, F] of propagated features, 0 where it is [n, F]."""

    folder: Path | None = None
    """Where files of this seed may be kept; set by the run, None outside of one."""

    def shape(self, data: GraphData) -> Shape:
        """The input sizes that the model's constructor needs."""
        return self.widen(data.shape)

    def widen(self, shape: Shape) -> Shape:
        """The sizes of the batches of a graph of these sizes; they carry no edge features, unless
        a sampler says so.
        """
        return replace(shape, operators=self.operators, edge_features=0, edge_categories=())

    def check(self, need: Need) -> None:
        """Refuse a model's need before any data is loaded. Raises UsageError."""

    def refine(self, need: Need) -> Need:
        """The model's need as every hop is to meet it, in training and inference alike.

        The identity unless the sampler changes the operator itself.
        """
        return need

    def view(self, data: GraphData) -> GraphData:
        """The graph as the model reads it, wherever it reads one: in training and inference alike.

        The identity unless features are worked on beforehand. Called with the whole graph, the
        training graph or a new one; the same object must come back for the same one.
        """
        return data

    def facts(self) -> list[str]:
        """What ``prepare`` found out, a line each, for the notes of the record."""
        return []

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Do once what all epochs share (partition, normalisation counts); billed as preparation.

        ``data`` is what training may see: the training graph, in its own node numbering.
        """
        raise NotImplementedError

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Index tensors, one per step of the epoch ``key.epoch``; seeds are node ids [n]."""
        raise NotImplementedError

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The batch of one step."""
        raise NotImplementedError

    def bind(self, batch: Batch, device: torch.device, write: bool) -> Batch:
        """Move a batch to the device and attach histories (written only if ``write``)."""
        return batch.to(device)

    def primed(self, batch: Batch, model: nn.Module) -> Batch:
        """The batch that the model is to see, where that depends on the model (label reuse).

        Called in front of every pass of training and of the sampler's own inference, in the mode
        and precision of that pass.
        """
        return batch

    def commit(self) -> None:
        """Called after the optimizer's step."""

    def refresh(self, level: int, ids: Tensor, h: Tensor) -> None:
        """Exact rows of what hop ``level`` reads, before ``Hop.lift``, offered by inference.

        Shapes: ids [n] nodes of the training graph, h [n, D] on any device, without gradient.
        """

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """Batches whose logits, one below the other, are the predictions of ``rows`` of ``data``.

        Only for ``inference = "own"``. ``data`` is any graph: the whole one, the training graph, or
        a new one; nothing of ``prepare`` may be taken for granted but the options.
        """
        raise NotImplementedError

    def state(self) -> Mapping[str, Any]:
        """What a checkpoint must carry so that training goes on exactly."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` gave."""


def seed_batches(seeds: Tensor, size: int, key: Key) -> list[Tensor]:
    """A random order of the seeds in pieces of at most ``size``; every seed once per epoch."""
    order = torch.randperm(len(seeds), generator=key.torch())
    return list(seeds[order].split(size))
