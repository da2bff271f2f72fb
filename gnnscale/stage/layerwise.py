"""Train one layer at a time (L2-GCN): each layer's input is computed once and stays as it is.

You, Chen, Wang & Shen, CVPR 2020, arXiv:2003.13606, sec. 3.

Departs from it:
- Any uniform list of layers is trained so, not only the paper's network (architecture=lgcn). A
  layer that propagates without parameters (``propagate`` and ``transform``, as lgcn's) is
  propagated once and trained as a perceptron on rows, which is the paper's method; any other is
  trained on one-hop batches.
- The sampler decides which rows a step sees (the paper: random batches, sampler=neighbor), and a
  batch that is smaller than the others is kept.
- Every layer keeps the weights that trainer.selection says (the authors keep the last epoch's) and
  has an optimizer of its own.
"""

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.site import Dense
from gnnscale.core.sparse import dense
from gnnscale.core.traits import Trait, traits
from gnnscale.graph.norm import whole_hop
from gnnscale.stage._base import Stage
from gnnscale.stage._parts import Relay, join
from gnnscale.stage.fit import Fit
from gnnscale.train.loop import Run
from gnnscale.train.meter import Meter
from gnnscale.train.progress import Patience


class Transform(nn.Module):
    """The part of a layer that follows its propagation, as an encoder."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> Tensor:
        """Shapes: [n, d_in] -> [n, d_out]."""
        return cast(Any, self.layer).transform(z)


class Layerwise(Stage):
    """For each layer: its input from the frozen layers below, then ``fit`` on that layer alone.

    Layer l and a classifier minimise the objective on F_(l-1); then F_l is computed for all nodes
    and nothing below is touched again. On inductive data training reads levels of the training
    graph, validation those of the whole graph.

    Args:
        classifier: ``fresh``: one per layer, the last layer's stays (the paper); ``shared``: the
            model's head serves all layers (the authors' code for single-label data).

    Raises: UsageError if the model has no layers, if they read more than the level below, or if it
    has no head to share.
    """

    needs = (traits(Trait.LAYERS),)
    apart = True

    def __init__(self, classifier: Literal["fresh", "shared"] = "fresh"):
        self.classifier = classifier

    def __call__(self, run: Run) -> None:
        """Train every layer of ``run`` in turn."""
        self.check(run)
        if not run.assemble() or not run.finished:
            run.listen()
            self.train(run, Fit())
        run.listen()
        run.select()

    def check(self, run: Run) -> None:
        """Refuse models that can't be trained so."""
        model = cast(Any, run.model)
        name = run.choices.get("architecture")
        if not len(model.layers):
            raise UsageError(
                f"architecture={name}: has no message-passing layers to train one at a time; type "
                "recipe=supervised, or choose one that has, e.g. architecture=lgcn"
            )
        if not model.apart:
            raise UsageError(
                f"architecture={name}: its layers read the first level beside the one below, so "
                "none can be trained by itself; type recipe=supervised, or choose one whose layers "
                "do not, e.g. architecture=lgcn"
            )
        if self.classifier == "shared" and isinstance(model.head, nn.Identity):
            raise UsageError(
                f"classifier=shared: the last layer of architecture={name} is its classifier, so "
                "there is none to share; type architecture.stem=true or recipe=layerwise with "
                "classifier: fresh"
            )

    def train(self, run: Run, fit: Fit) -> float:
        """All layers, bottom up; the last loss. Layers that a checkpoint finished are read."""
        model, done, epochs = cast(Any, run.model), [], 0
        x, train_x = run.data.x, run.train_data.x
        for i in range(len(model.layers)):
            part = self.layer(run, i, x, train_x)
            part.listeners = Relay(run.listeners, "layer", i, epochs)
            part.patience = self.patience(run, part, i)
            fit(part)
            x, train_x = self.output(part)
            run.meter.load(part.meter.state())
            done.append((part, epochs))
            epochs += part.epoch
        join(run, done, "layer")
        return done[-1][0].last_loss

    def patience(self, run: Run, part: Run, level: int) -> Patience:
        """What ends a layer before ``trainer.epochs``."""
        return part.patience

    def layer(self, run: Run, i: int, x: Any, train_x: Any) -> Run:
        """The run of layer ``i`` on its inputs: [N, D] for all nodes and for the training graph."""
        model = cast(Any, run.model)
        last = i == len(model.layers) - 1
        layer, shared = model.layers[i], last or self.classifier == "shared"
        meter = Meter(run.device)
        data = run.data.with_(x=x)
        train = data if run.train_data is run.data else run.train_data.with_(x=train_x)
        part = model.level(i, nn.Identity())
        if hasattr(layer, "propagate") and isinstance(part.encoder, nn.Identity):
            with meter.phase("prepare"):
                need = part.need
                once = self.propagated(layer, data, need, run.device)
                train = once if train is data else self.propagated(layer, train, need, run.device)
                data = once
            part.encoder, part.layers = Transform(layer), nn.ModuleList()
            part.need = replace(need, depth=0)
        if shared:
            part.head = model.head
        else:
            part.head = self.auxiliary(run, part, data, i)
        made = replace(
            run, folder=run.folder / f"layer-{i}", model=part, data=data, meter=meter, epoch=0,
            finished=False,
        )  # fmt: skip
        made.train_data, made.train_ids = train, run.train_ids
        made.folder.mkdir(parents=True, exist_ok=True)
        return made

    def auxiliary(self, run: Run, part: nn.Module, data: GraphData, i: int) -> nn.Module:
        """A classifier for a layer that is not the last, with a bias if the model has any."""
        one = torch.zeros(1, dtype=torch.int64)
        width = run.inference(part.to(run.device), data, one, run.device).shape[1]
        bias = any(name.endswith("bias") for name, _ in run.model.named_parameters())
        Key(run.seed, "classifier", i).seed_torch()
        return Dense(width, run.data.task.classes, bias=bias, rows="dst").to(data.x.dtype)

    def propagated(self, layer: Any, data: GraphData, need: Any, device: torch.device) -> GraphData:
        """The data with the layer's propagated input as features."""
        hop = whole_hop(data.graph, need, data.x.dtype, data.weight).to(device)
        with torch.no_grad():
            return data.with_(x=layer.propagate(hop, dense(data.x).to(device)).cpu())

    def output(self, part: Run) -> tuple[Tensor, Tensor]:
        """The trained layer's output for all nodes, and for those of the training graph."""
        model = cast(Any, part.model)

        def level(data: GraphData) -> Tensor:
            everyone = torch.arange(data.nodes)
            return part.inference(model, data, everyone, part.device).cpu()

        head, model.head = model.head, nn.Identity()
        with part.meter.phase("prepare"):
            x = level(part.data)
            train_x = x if part.train_data is part.data else level(part.train_data)
        model.head = head
        return x, train_x
