"""L2-GCN: layer-wise training in which a learned controller says when a layer has had enough.

You, Chen, Wang & Shen, CVPR 2020, arXiv:2003.13606, sec. 3.3 and Algorithm 2.

Departs from the authors' code: the policy gradient uses the log-probability of the action that was
executed. Theirs overrides the sampled actions by preset patterns in the first 50 rounds and still
back-propagates through the samples, so that with 50 rounds in all no learnt action is ever tried.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.values import Count, NonNegative, Positive, Whole
from gnnscale.graph.induce import induce
from gnnscale.stage._controller import Controller, Decisions, Episode
from gnnscale.stage.fit import Fit
from gnnscale.stage.layerwise import Layerwise
from gnnscale.train import checkpoint
from gnnscale.train.listeners import Listeners
from gnnscale.train.loop import Run, Trainer
from gnnscale.train.meter import Meter
from gnnscale.train.progress import Patience, Progress, Shown

log = logging.getLogger("gnnscale")

BASELINE, DECAY = 0.3, 0.9
"""Start and rate of the moving average that costs are compared with (the authors' code)."""


class Silent(Progress):
    """Progress that is not told: an episode is one of many."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, run: Shown) -> None:
        """Nothing."""


class QuietFit(Fit):
    """``Fit`` without a word."""

    def progress(self, run: Run) -> Progress:
        """None."""
        return Silent(run.trainer.epochs, "")


class Controlled(Layerwise):
    """Train the controller on small random subgraphs, then the model under it.

    An episode trains fresh weights, layer by layer, on a random induced subgraph of the training
    graph; every ``decision_step`` epochs an action is drawn from the controller. Its cost is the
    final loss + time_ratio * epochs, and REINFORCE descends
    sum_t log p(a_t) (cost - b), b <- 0.9 b + 0.1 cost.
    On the whole graph a layer is left when its stop probability reaches the last episode's mean and
    more than ``min_epochs`` are over, or after ``max_epochs``.

    Args:
        classifier: see ``Layerwise``. rounds: episodes. nodes: of each subgraph.
        decision_step: epochs between decisions; a multiple of trainer.evaluate_every.
        decisions: most decisions of an episode; a layer is left when they are used up.
        time_ratio: cost of an epoch. lr: of the controller's Adam.
        min_epochs, max_epochs: bounds on the epochs of a layer.

    Raises: UsageError if decision_step is no multiple of trainer.evaluate_every.
    """

    def __init__(
        self,
        classifier: Literal["fresh", "shared"] = "fresh",
        rounds: Count = 50,
        nodes: Count = 1024,
        decision_step: Count = 10,
        decisions: Count = 20,
        time_ratio: NonNegative = 1e-4,
        lr: Positive = 0.05,
        min_epochs: Whole = 35,
        max_epochs: Count = 95,
    ):
        super().__init__(classifier)
        self.rounds, self.nodes, self.decision_step = rounds, nodes, decision_step
        self.decisions, self.time_ratio, self.lr = decisions, time_ratio, lr
        self.min_epochs, self.max_epochs = min_epochs, max_epochs

    def check(self, run: Run) -> None:
        """Decisions fall on evaluations."""
        super().check(run)
        every = run.trainer.evaluate_every
        if self.decision_step % every:
            raise UsageError(
                f"trainer.evaluate_every={every}: the controller decides every "
                f"{self.decision_step} epochs, at evaluations; choose a divisor of that, e.g. "
                f"trainer.evaluate_every={self.decision_step}"
            )

    def __call__(self, run: Run) -> None:
        """Train the controller, unless an earlier process did, then every layer."""
        self.check(run)
        layers = len(cast(Any, run.model).layers)
        self.controller, self.deployed = Controller(layers, self.decisions), Episode()
        path = run.folder / "controller.pt"
        if not path.exists():
            with run.meter.phase("prepare"):
                threshold = self.learn(run)
            kept = {"weights": self.controller.state_dict(), "threshold": threshold}
            checkpoint.save(path, kept)
        kept = checkpoint.load(path)
        self.controller.load_state_dict(kept["weights"])
        self.threshold = kept["threshold"]
        self.rule = self.learnt
        trainer = run.trainer
        run.trainer = replace(trainer, epochs=self.max_epochs)
        super().__call__(run)
        run.trainer = trainer

    def patience(self, run: Run, part: Run, level: int) -> Patience:
        """The controller's decisions for one layer."""
        return Decisions(
            part.patience, self.controller, self.deployed, part, level, self.decision_step,
            self.rule,
        )  # fmt: skip

    def learnt(self, said: torch.Tensor, epochs: int) -> bool:
        """The rule on the whole graph."""
        return float(said[1].detach().exp()) >= self.threshold and epochs > self.min_epochs

    # -- learning ---------------------------------------------------------------------------------

    def learn(self, run: Run) -> float:
        """Train the controller; the mean stop probability of the last episode."""
        Key(run.seed, "controller").seed_torch()
        self.controller = Controller(self.controller.layers, self.decisions)
        optimizer = torch.optim.Adam(self.controller.parameters(), lr=self.lr)
        baseline, costs = BASELINE, []
        for k in range(self.rounds):
            cost, episode = self.episode(run, Key(run.seed, "episode", k))
            baseline = DECAY * baseline + (1 - DECAY) * cost
            costs.append(cost)
            if episode.log_probabilities:
                loss = torch.stack(episode.log_probabilities).sum() * (cost - baseline)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        stops = episode.stop_probabilities
        log.info(
            "seed %d: controller after %d episodes: cost %.4f (first %.4f), stop probability %.3f",
            run.seed, self.rounds, costs[-1], costs[0], sum(stops) / max(len(stops), 1),
        )  # fmt: skip
        return sum(stops) / len(stops) if stops else 1.0

    def episode(self, run: Run, key: Key) -> tuple[float, Episode]:
        """(cost, what was decided) of one layer-wise training of fresh weights on a subgraph."""
        assert run.make_model is not None  # compose gives it
        draw, small = key.torch(), self.subgraph(run, key)
        self.deployed = Episode()
        self.rule = lambda said, epochs: torch.rand((), generator=draw) < said[1].detach().exp()
        key.at("init", key.epoch).seed_torch()
        with tempfile.TemporaryDirectory() as folder:
            trial = replace(
                run, folder=Path(folder), data=small, model=run.make_model(), notes=[],
                meter=Meter(run.device), listeners=Listeners(()), epoch=0, finished=False,
                trainer=Trainer(
                    epochs=self.max_epochs, evaluate_every=self.decision_step,
                    checkpoint_every=self.max_epochs, selection="last", clip=run.trainer.clip,
                    decay=run.trainer.decay, decay_of=run.trainer.decay_of,
                ),
            )  # fmt: skip
            trial.assemble()
            loss = self.train(trial, QuietFit())
        episode, self.deployed = self.deployed, Episode()
        return loss + self.time_ratio * trial.epoch, episode

    def subgraph(self, run: Run, key: Key) -> GraphData:
        """Random nodes of the training graph with the edges among them; labelled ones train."""
        data = run.train_data
        order = torch.randperm(data.nodes, generator=key.at("nodes", key.epoch).torch())
        ids = order[: self.nodes].sort().values
        graph, labeled = induce(data.graph, ids), data.mask("train")[ids].nonzero().squeeze(1)
        return data.with_(
            graph=graph,
            weight=None if data.weight is None else data.weight[graph.edges],
            names=None,
            x=data.x[ids],
            y=data.y[ids],
            inductive=False,
            splits={"train": labeled, "valid": labeled, "test": labeled[:0]},
        )
