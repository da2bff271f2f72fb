"""Search for the options of layers and the widths of codes by gradients, before training.

A stand-in of our own for LPGNAS (Zhao et al., Learned Low Precision Graph Neural Networks,
EuroMLSys 2021, arXiv:2009.09232), of which there is no public code and whose tables of options,
noise schedule and penalty were not at hand.
"""

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.choice import Choice, MixedLayer, choices
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.record import write_json
from gnnscale.core.site import sites
from gnnscale.core.traits import Trait, Traits, traits
from gnnscale.core.values import Count, NonNegative, Positive, Share, Whole
from gnnscale.stage._base import Stage
from gnnscale.stage._bill import Bill, Cost, layers, place, within
from gnnscale.train import checkpoint
from gnnscale.train.listeners import Listeners
from gnnscale.train.loop import Run, fit
from gnnscale.train.meter import Meter
from gnnscale.train.objective import Objective
from gnnscale.train.progress import Progress

log = logging.getLogger("gnnscale")

HELD = "search"
"""The split that decides, cut off the validation split."""


class Search(Stage):
    """Trains a model in which everything that is open is mixed, decides, and starts afresh.

    Open are the widths of sites (quantization=mixed) and, of every layer, the architecture's
    options in ``space``: a layer is then the sum of one layer for each combination of values, each
    with weights and sites of its own, under gates. With logits theta of all options and gates g,
    drawn anew for every step (``Choice``), at a temperature that falls from ``tau_start`` to
    ``tau_end`` in equal ratios over the epochs:

    - weights step on the supervised loss of the sampler's batches, as in training, theta frozen;
    - behind each such step, after ``warmup`` epochs, theta takes a step of Adam on the loss of the
      split ``search`` under the run's inference (exact, in evaluation mode), weights frozen, plus
      gamma log cost(g), to first order. cost: see ``Bill``.

    Then the option of the largest theta is taken everywhere, and the model that this gives is made
    from the run's seed and handed on, untrained, to the next stage. The search's terms of
    distillation are none; its weights are thrown away.

    The split ``search`` is a share of the validation nodes (graphs), chosen by the seed. Selection
    and early stopping of the training that follows see the others only, and the record's ``valid``
    is the score of these. So it is where a list of options is one long, and nothing is searched.

    The result is in the seed's folder, ``search.json``, and in the record: ``extra.buffer_bytes``
    of activations (``model_bytes`` has the weights) and ``moved_bytes`` of a pass, with the mean
    widths of weights and activations, and in the notes what was chosen.

    Args:
        space: options of the architecture by name, with their values: {act: [relu, elu]}.
        cost: ``size``, bits of weights and activations that are kept; ``latency``, bits that a pass
            moves. gamma: weight of its logarithm.
        per_block: the mean over blocks of their costs relative to each one's dearest option, so
            that small blocks count as large ones do; else the sum of bits.
        epochs: of the search. warmup: of them, with theta frozen. lr: theta's.
        share: of the validation split that decides. items: how many of it a step of theta reads, a
            new draw each; None: all.
        tau_start, tau_end: temperatures.

    Raises: UsageError for a space whose options do not fit the composition, differ in what steps
        they need, or act elsewhere than in the layers; for a validation split of one.
    """

    gives = traits(Trait.SEARCH)
    needs = (traits(Trait.OPTIONS),)
    lasting = True

    def __init__(
        self,
        space: dict[str, list[Any]] | None = None,
        cost: Cost = "size",
        gamma: NonNegative = 0.1,
        per_block: bool = True,
        epochs: Count = 200,
        warmup: Whole = 20,
        lr: Positive = 0.05,
        share: Share = 0.5,
        items: Count | None = None,
        tau_start: Positive = 1.0,
        tau_end: Positive = 0.1,
    ):
        self.space, self.cost, self.gamma, self.per_block = space or {}, cost, gamma, per_block
        self.epochs, self.warmup, self.lr = epochs, warmup, lr
        self.share, self.items = share, items
        self.tau_start, self.tau_end = tau_start, tau_end
        for name, values in self.space.items():
            if not values:
                raise UsageError(f"space.{name}=[]: has no values; e.g. space={{act: [relu, elu]}}")

    @classmethod
    def declare(cls, **parameters: object) -> tuple[Traits, tuple[Traits, ...]]:
        """A space is something to choose from, too."""
        own = {Trait.OPTIONS} if parameters.get("space") else set()
        return cls.gives | own, cls.needs

    def __call__(self, run: Run) -> None:
        """Search, or take what was found before, and give ``run`` its model."""
        restored = "model" in run.kept
        if not restored or run.kept["searched"] == run.data.name:
            run.read(divided(run.data, self.share, run.seed))
        if not restored:
            path = run.folder / "search.json"
            if not path.exists():
                with run.meter.phase("prepare"), run.meter.step("search"):
                    write_json(path, self.found(run))
            found = json.loads(path.read_text())
            run.kept |= {"searched": run.data.name, **{k: found[k] for k in ("model", "found")}}
            run.model = self.settled(run, found["model"])
            checkpoint.discard(run.folder / HELD / "checkpoint.pt")
        said = run.kept["model"]
        for name in ("layers", "bits"):
            if said[name] is not None:
                run.notes.append(f"search, {name}: {json.dumps(said[name])}")

    def settled(self, run: Run, model: Mapping[str, Any]) -> nn.Module:
        """The chosen model, as the run's own is made."""
        assert run.make_model is not None  # compose gives it
        Key(run.seed, "init").seed_torch()
        return run.make_model(**model)

    # -- the search ------------------------------------------------------------------------------

    def found(self, run: Run) -> dict[str, Any]:
        """What ``search.json`` holds."""
        values = [
            dict(zip(self.space, each, strict=True)) for each in product(*self.space.values())
        ]
        mixed = self.mixed(run, values)
        open_ = list(choices(mixed))
        if open_:
            self.train(run, mixed)
        model = {"layers": chosen_layers(mixed, values), "bits": chosen_bits(mixed)}
        bill = Bill(run, self.settled(run, model), run.data)
        buffer, moved = (
            [bill.bits(kind, cost).item() / 8 for kind in ("weight", "activation")]
            for cost in ("size", "latency")
        )
        return {
            "model": model,
            "found": {
                "buffer_bytes": buffer[1],
                "moved_bytes": sum(moved),
                "weight_bits": bill.width("weight"),
                "activation_bits": bill.width("activation"),
            },
            "probabilities": {c.name: c.told for c in open_},
        }

    def mixed(self, run: Run, values: list[dict[str, Any]]) -> nn.Module:
        """The model in which everything is open."""
        assert run.make_model is not None
        Key(run.seed, "search").seed_torch()
        models = [run.make_model(layers=[changes]) for changes in values]
        first = cast(Any, models[0])
        if len(models) == 1:
            return first
        if run.sampler.histories:
            raise UsageError(
                f"space: sampler={run.choices.get('sampler')} keeps what one layer makes of its "
                "rows for the next batch, and layers that are mixed make several things of them; "
                "leave space empty, or choose another sampler, e.g. sampler=neighbor"
            )
        if not len(first.layers):
            raise UsageError(
                f"space: architecture={run.choices.get('architecture')} has no message-passing "
                "layers to choose; leave space empty, or choose one that has"
            )
        for changes, other in zip(values[1:], models[1:], strict=True):
            self.compare(run, first, other, changes)
        made: dict[tuple, MixedLayer] = {}  # a layer that is listed twice stays one
        for i, options in enumerate(zip(*(cast(Any, m).layers for m in models), strict=True)):
            key = tuple(map(id, options))
            if key not in made:
                made[key] = MixedLayer(Choice(f"layers.{i}", [told(v) for v in values]), options)
            first.layers[i] = made[key]
        first.measured = dict  # what a model measures of its layers, a mixture of them has not
        return first

    def compare(self, run: Run, first: Any, other: Any, changes: Mapping[str, Any]) -> None:
        """Raise UsageError unless two models differ in nothing but their layers."""
        what = None
        if other.need != first.need or len(other.layers) != len(first.layers):
            what = f"needs other steps ({other.need}) than the first option ({first.need})"
        else:
            outside = {n: p for n, p in first.state_dict().items() if not n.startswith("layers.")}
            sizes = {n: p.shape for n, p in other.state_dict().items() if n[:7] != "layers."}
            if sizes != {n: p.shape for n, p in outside.items()}:
                what = "alters the encoder or the head"
            else:
                other.load_state_dict(outside, strict=False)
                swapped = copy.copy(first)
                swapped._modules = {**first._modules, "layers": other.layers}
                rows = run.valid_data.splits["valid"][:64]
                a, b = (
                    run.inference(m.to(run.device), run.valid_data, rows, run.device)
                    for m in (other, swapped)
                )
                if not torch.equal(a, b):
                    what = "acts elsewhere than in the layers"
        if what is not None:
            raise UsageError(
                f"space: architecture.{told(changes)} {what}; options that can be searched alter "
                "layers alone and keep their steps and widths, e.g. space={act: [relu, elu]}"
            )

    def train(self, run: Run, mixed: nn.Module) -> None:
        """Weights and theta, from the search's own checkpoint if there is one."""
        own = {f.name: getattr(run, f.name) for f in fields(Run)}
        own |= {
            "folder": run.folder / HELD, "model": mixed, "meter": Meter(run.device), "notes": [],
            "objective": Objective(run.data.task, {}, run.trainer.log_eps), "teacher": None,
            "listeners": Listeners(()), "kept": {}, "epoch": 0, "finished": False,
            "trainer": replace(
                run.trainer, epochs=self.epochs, patience=None, time_budget_s=None,
                selection="last", evaluate_every=self.epochs,
            ),
        }  # fmt: skip
        part = Searching(**own)
        part.train_data, part.train_ids, part.valid_data = (
            run.train_data, run.train_ids, run.valid_data
        )  # fmt: skip
        part.how, part.bill = self, Bill(run, mixed, run.data)
        part.folder.mkdir(parents=True, exist_ok=True)
        with run.meter.step("prepare"):
            part.prepare()
        part.start()
        log.info("seed %d: %d choices to make, %d epochs", run.seed, len(part.open), self.epochs)
        fit(part, Progress(self.epochs, f"seed {run.seed} search"))

    def tau(self, epoch: int) -> float:
        """The temperature of an epoch."""
        share = epoch / max(self.epochs - 1, 1)
        return self.tau_start * (self.tau_end / self.tau_start) ** share


class Searching(Run):
    """A run whose every step of weights is followed by one of theta.

    Theta has a checkpoint with the model, of which it is part, and an optimizer of its own.
    """

    how: Search
    bill: Bill

    def assemble(self) -> bool:
        """Also make theta's optimizer."""
        self.open = list(choices(self.model))
        self.theta = [choice.theta for choice in self.open]
        own = set(map(id, self.theta))
        self.weights = [p for p in self.model.parameters() if id(p) not in own and p.requires_grad]
        self.turn = torch.optim.Adam(self.theta, self.how.lr)
        self.only(self.weights)
        return super().assemble()

    def only(self, trained: list[nn.Parameter]) -> None:
        """Let gradients reach the weights or theta, and nothing else."""
        for each in (self.weights, self.theta):
            for p in each:
                p.requires_grad_(each is trained)

    def draw(self, purpose: str, epoch: int, step: int) -> None:
        """New gates for every choice, a function of the step."""
        generator = Key(self.seed, purpose, epoch, step).torch()
        for choice in self.open:
            choice.draw(self.how.tau(epoch), generator)

    def step(self, batch: Batch) -> None:
        """A step of the weights, then one of theta."""
        _, epoch, step = batch.key
        self.draw("gates", epoch, step)
        super().step(batch)
        if epoch < self.how.warmup:
            return
        self.draw("theta", epoch, step)
        with self.meter.step("search"):
            self.only(self.theta)
            self.model.eval()
            self.turn.zero_grad(set_to_none=True)
            self.loss(Key(self.seed, "items", epoch, step)).backward()
            self.turn.step()
            self.model.train()
            self.only(self.weights)

    def loss(self, key: Key) -> Tensor:
        """What theta minimises, a scalar."""
        data, task = self.valid_data, self.data.task
        rows = data.splits[HELD]
        if self.how.items is not None and self.how.items < len(rows):
            rows = some(rows, self.how.items, task.group or 1, key)
        infer = self.inference
        with self.hardware.scope():
            logits = infer.logits(self.model, infer.view(data), rows.to(self.device), self.device)
        y = data.y[rows].to(logits.device)
        loss = task.losses(logits.float(), y).mean()
        if not self.how.gamma:
            return loss
        price = self.bill.price(self.how.cost, self.how.per_block)
        return loss + self.how.gamma * price.to(loss)

    def state(self) -> dict[str, Any]:
        """With theta's optimizer."""
        return {**super().state(), "turn": self.turn.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        super().load(state)
        self.turn.load_state_dict(state["turn"])


# -- what was decided ----------------------------------------------------------------------------


def told(changes: Mapping[str, Any]) -> str:
    """Options as a user types them."""
    return ", ".join(f"{name}={value}" for name, value in changes.items())


def chosen_layers(mixed: nn.Module, values: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The options of each layer; None where none was to be chosen."""
    if len(values) == 1:
        return values if values[0] else None
    return [values[layer.choice.best] for layer in cast(Any, mixed).layers]


def chosen_bits(mixed: nn.Module) -> dict[str, int] | None:
    """The width of every site in the chosen layers; None where nothing fills sites."""
    places, found, filled = dict(layers(mixed)), {}, False
    for name, site in sites(mixed):
        there = within(name, places)
        if site.quantizer is None or (there is not None and there.k != there.choice.best):
            continue
        choice = getattr(site.quantizer, "choice", None)
        filled = filled or choice is not None
        bits = choice.options[choice.best] if choice is not None else site.quantizer.bits
        found[place(name)[0]] = bits
    return found if filled else None


# -- data ----------------------------------------------------------------------------------------


def some(rows: Tensor, n: int, together: int, key: Key) -> Tensor:
    """``n`` of the rows, in their order; rows of a run of ``together`` items stay together."""
    runs, of = torch.unique(rows // together, return_inverse=True)
    order = torch.randperm(len(runs), generator=key.torch())
    return rows[order.argsort()[of] < n // together]


def divided(data: GraphData, share: float, seed: int) -> GraphData:
    """The data with ``share`` of its validation split in a split of its own, ``search``."""
    valid = data.splits["valid"]
    together = data.task.group or 1
    n = round(share * len(valid) / together) * together
    if not 0 < n < len(valid):
        raise UsageError(
            f"share={share}: of {len(valid)} validation items, {n} would decide the search and "
            f"{len(valid) - n} the selection; each needs one, so choose another share, or a "
            "larger dataset"
        )
    decide = some(valid, n, together, Key(seed, "divide"))
    rest = valid[~torch.isin(valid, decide)]
    return data.with_(splits={**data.splits, "valid": rest, HELD: decide})
