"""Cascaded distillation: a binary model in three stages, each taught by the one before.

Bahri, Bahl & Zafeiriou, CVPR 2021, arXiv:2012.15823, sec. 3.4, and the authors' code.
"""

import copy
from dataclasses import replace
from typing import Any, cast

import torch

from gnnscale.core.errors import UsageError
from gnnscale.core.random import Key
from gnnscale.core.teacher import Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Positive
from gnnscale.stage._base import Stage
from gnnscale.stage._parts import Relay, join
from gnnscale.stage.fit import Fit
from gnnscale.stage.teacher import keep, kept, tabulate
from gnnscale.train import checkpoint
from gnnscale.train.loop import Run
from gnnscale.train.meter import Meter

STAGES = (("real", "tanh"), ("real", "sign"), ("binary", "sign"))
"""Weights and inputs of each stage."""


class Cascade(Stage):
    """Train three times, from real weights to signs; the model of the last stage is the run's.

    | stage | weights | inputs | teacher | starts from |
    |---|---|---|---|---|
    | 1 | real | tanh | the run's | drawn weights |
    | 2 | real | signs | stage 1 | stage 1 |
    | 3 | signs | signs | stage 2 | stage 2 |

    Every stage has the same objective (recipe and distillation say which) and trains for
    trainer.epochs with an optimizer and a schedule of its own; its selected weights go on. Weight
    decay would pull latent weights towards the threshold of their sign, so that stage 3 has none.

    Departs from the authors' code for GraphSAGE, in whose first stage inputs are not passed through
    tanh at all, though for point clouds they are.

    Args:
        lr: factors of optimizer.lr, one per stage.

    Raises: UsageError for another number of factors, and for a quantizer that is set to less than
    signs of both, which is what the last stage makes.
    """

    needs = (traits(Trait.STAGED, Trait.TEACHER),)

    def __init__(self, lr: list[Positive] | None = None):
        self.lr = [1.0] * len(STAGES) if lr is None else lr
        if len(self.lr) != len(STAGES):
            raise UsageError(
                f"recipe.stages: lr={self.lr}: there are {len(STAGES)} stages; give a factor for "
                "each, e.g. lr: [1.0, 0.25, 1.0]"
            )

    def __call__(self, run: Run) -> None:
        """Train every stage of ``run`` in turn, those that a checkpoint finished excepted."""
        self.check(run)
        run.listen()
        if not checkpoint.exists(run.checkpoint_path):
            self.train(run)
            return
        run.restore(run.folder)
        run.meter.load(checkpoint.load(run.checkpoint_path)["meter"])

    def check(self, run: Run) -> None:
        """The last stage is what the quantizer says."""
        asked = run.quantizer.weights, run.quantizer.inputs
        if asked != STAGES[-1]:
            weights, inputs = asked
            raise UsageError(
                f"quantization.weights={weights}, quantization.inputs={inputs}: recipe=cascade "
                "ends with signs of both; leave them out, or type recipe=distill"
            )

    def train(self, run: Run) -> None:
        """All stages; the run becomes the last of them."""
        done: list[tuple[Run, int]] = []
        for k in range(len(STAGES)):
            before = done[-1][0] if done else None
            first = sum(part.epoch for part, _ in done)
            part = self.part(run, k, before)
            part.listeners = Relay(run.listeners, "stage", k, first)
            Fit()(part)
            run.meter.load(part.meter.state())
            done.append((part, first))
        for name in ("model", "objective", "optimizer", "scheduler", "trainer"):
            setattr(run, name, getattr(part, name))
        join(run, done, "stage")

    def part(self, run: Run, k: int, before: Run | None) -> Run:
        """The run of stage ``k``, with the weights and the words of the one before."""
        weights, inputs = STAGES[k]
        last = k == len(STAGES) - 1
        folder = run.folder / f"stage-{k}"
        folder.mkdir(parents=True, exist_ok=True)
        Key(run.seed, "init").seed_torch()
        model = cast(Any, run.make_model)()
        run.quantizer.relax(model, weights, inputs)

        def optimizer(groups: list[dict]) -> torch.optim.Optimizer:
            own = run.config["optimizer"]
            said = {"lr": self.lr[k] * own["lr"]}
            if last and "weight_decay" in own:
                said["weight_decay"] = 0.0
            return run.make_optimizer([{**group, **said} for group in groups])

        made = replace(
            run, folder=folder, model=model, objective=copy.deepcopy(run.objective), notes=[],
            kept={}, meter=Meter(run.device), make_optimizer=optimizer, epoch=0, finished=False,
            trainer=replace(run.trainer, l2=0.0) if last else run.trainer,
        )  # fmt: skip
        made.train_data, made.train_ids, made.valid_data = (
            run.train_data, run.train_ids, run.valid_data,
        )  # fmt: skip
        if before is not None:
            model.load_state_dict(before.model.state_dict())
            with made.meter.phase("prepare"):
                made.teacher = self.said(before, made)
        return made

    def said(self, before: Run, part: Run) -> Teacher:
        """What the stage before says, tabulated once."""
        taps = sorted({tap for term in part.objective.each for tap in term.taps})
        folder = part.folder / "teacher"
        if kept(folder, taps) is None:
            keep(folder, tabulate(before, part.train_data, taps, part.device))
        return cast(Teacher, kept(folder, taps))
