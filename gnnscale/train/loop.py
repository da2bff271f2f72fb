"""The one training loop, and the run that it trains."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.errors import TrainingError, UsageError
from gnnscale.core.hardware import Hardware
from gnnscale.core.random import Key
from gnnscale.core.teacher import Teacher
from gnnscale.graph.whole import training_graph
from gnnscale.train import checkpoint, curve, decay
from gnnscale.train.listeners import Listeners
from gnnscale.train.meter import Meter
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Full, Inference
from gnnscale.train.prefetch import ahead
from gnnscale.train.progress import Patience, Progress
from gnnscale.train.trainer import Trainer

log = logging.getLogger("gnnscale")


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved what it had."""


@dataclass
class Run:
    """One seed of one composition: everything a stage may touch.

    ``data`` is the whole graph, ``train_data`` what training may see (its nodes numbered by
    ``train_ids``), ``valid_data`` what selection may see. ``make_optimizer(parameter groups)`` and
    ``make_scheduler(optimizer)`` come from the composition, as do ``make_model()``, a further model
    with weights of its own (drawn from torch's generator), ``quantizer``, what fills its sites, and
    ``make_teacher(data)``, the finished run of the teacher's composition on that data. ``kept``
    holds plain values that a stage found out and that a finished run taken up again needs; they are
    in the checkpoint. Under ``model`` are the arguments of ``make_model`` for the model whose
    weights are kept, where a stage has chosen it; under ``found``, numbers for the record.
    """

    folder: Path
    seed: int
    config: Mapping[str, Any]
    choices: Mapping[str, Any]
    data: GraphData
    sampler: Any
    model: nn.Module
    objective: Objective
    trainer: Trainer
    inference: Inference
    hardware: Hardware
    meter: Meter
    make_optimizer: Callable[[list[dict]], torch.optim.Optimizer]
    make_scheduler: Callable[[torch.optim.Optimizer], Any]
    make_teacher: Callable[[GraphData], "Run"] | None = None
    make_model: Callable[..., nn.Module] | None = None
    quantizer: Any = None
    listeners: Listeners = field(default_factory=lambda: Listeners(()))
    teacher: Teacher | None = None
    notes: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.device = self.hardware.device
        self.read(self.data)
        self.patience = Patience(
            self.trainer.patience, self.trainer.min_delta, self.trainer.monitor
        )
        self.cadence = checkpoint.Cadence(self.trainer.checkpoint_every)
        self.best: dict[str, Tensor] | None = None
        self.losses: list[Tensor] = []
        self.measures: list[dict[str, float]] = []
        self.extra: dict[str, float] = {}
        self.last_loss = math.nan

    # -- set-up ---------------------------------------------------------------------------------

    def read(self, data: GraphData) -> None:
        """Train, select and predict on this graph from now on."""
        self.data = data
        self.train_data, self.train_ids = training_graph(data)
        self.valid_data = self.train_data if "unseen" in data.splits else data

    def prepare(self) -> None:
        """Let the sampler do what all epochs share."""
        self.sampler.folder = self.folder
        self.sampler.prepare(self.train_data, self.model.need, Key(self.seed, "prepare"))
        self.notes.extend(self.sampler.facts())

    def start(self) -> None:
        """Make ready to train, from a checkpoint if there is one."""
        seeds = self.train_data.splits["train"]
        if self.objective.wants_unlabeled and self.train_data.offsets is None:
            seeds = torch.arange(self.train_data.items)  # of graphs, training sees its own alone
        self.seeds = seeds
        if self.assemble():
            log.info("seed %d: goes on after epoch %d", self.seed, self.epoch)
        elif self.sampler.histories:
            self.refresh()
        self.listen()

    def assemble(self) -> bool:
        """Attach terms, make the optimizer, take up a checkpoint; whether there was one."""
        Key(self.seed, "terms").seed_torch()  # projection heads
        cast(Any, self.model).tapped = any(term.levels for term in self.objective.each)
        widths = self.widths() if any(term.measures for term in self.objective.each) else ()
        for term in self.objective.each:
            if term.measures:
                term.size(widths)
            if term.nodes == "all" and not (self.data.offsets is None and self.data.seen.all()):
                raise UsageError(
                    "nodes=all: training may not see every node of inductive data, nor every "
                    "graph; type nodes=observed"
                )
            term.attach(self.model, self.train_data, self.teacher)
        self.model.to(self.device)
        self.objective.to(self.device)
        own = (self.config.get("optimizer") or {}).get("weight_decay")
        self.optimizer = self.make_optimizer(
            decay.groups(self.model, self.objective, self.trainer.decay, own, self.trainer.decay_of)
        )
        self.scheduler = self.make_scheduler(self.optimizer)
        if not checkpoint.exists(self.checkpoint_path):
            curve.drop(self.folder, self.epoch)  # epochs that never got a checkpoint
            return False
        self.load(checkpoint.take(self.checkpoint_path))
        return True

    def widths(self) -> tuple[int, ...]:
        """The width of each hidden level of the model, learned from one batch."""
        index = self.sampler.plan(self.seeds, Key(self.seed, "plan"))[0]
        batch = self.sampler.sample(index, Key(self.seed, "sample"))
        batch = self.sampler.bind(batch, torch.device("cpu"), write=False)
        self.model.eval()
        with torch.no_grad():
            out = self.model(batch)
        return tuple(level.shape[-1] for level in out.levels)

    def listen(self) -> None:
        """Tell the loggers that this seed starts or goes on."""
        self.listeners.open(self.folder, self.config, self.seed, self.epoch)

    @property
    def checkpoint_path(self) -> Path:
        """Where this seed's checkpoint is."""
        return self.folder / "checkpoint.pt"

    @property
    def trained(self) -> list[nn.Parameter]:
        """Every parameter that the optimizer has."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    # -- one epoch ------------------------------------------------------------------------------

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches, on the device."""
        plan = self.sampler.plan(self.seeds, Key(self.seed, "plan", epoch))

        def sample(task: tuple[int, Tensor]) -> Batch:
            step, index = task
            with self.meter.remedies("sample"):
                batch = self.sampler.sample(index, Key(self.seed, "sample", epoch, step))
                return batch.pinned() if self.hardware.pin else batch

        for batch in ahead(sample, enumerate(plan), self.hardware.workers, self.meter.add):
            with self.meter.step("transfer"):
                batch = self.sampler.bind(batch, self.device, write=True)
            yield batch

    def step(self, batch: Batch) -> None:
        """One optimizer step; the closure is evaluated as often as the optimizer asks."""
        key = Key(self.seed, "dropout", *batch.key[1:])

        def closure() -> Tensor:
            key.seed_torch()
            self.optimizer.zero_grad(set_to_none=True)
            with self.meter.step("forward"):
                with self.hardware.scope():
                    output = self.model(self.sampler.primed(batch, self.model))
                loss = self.objective(output, batch)
                if self.trainer.l2:
                    loss = loss + decay.penalty(self.model, self.trained, self.trainer)
            with self.meter.step("backward"):
                loss.backward()
            if self.trainer.clip is not None:
                nn.utils.clip_grad_norm_(self.trained, self.trainer.clip)
            return loss

        with self.meter.step("step"):
            loss = self.optimizer.step(closure)  # type: ignore[arg-type]
        self.losses.append(torch.as_tensor(loss).detach())
        self.measures.append(dict(cast(Any, self.model).measured()))
        self.sampler.commit()

    def mean_loss(self) -> float:
        """Mean loss of the epoch's steps. Raises TrainingError at the first that is not finite."""
        losses = torch.stack(self.losses)
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = int(bad[0])
            raise TrainingError(
                f"the loss is {losses[step].item()} at epoch {self.epoch}, step {step}. Likely "
                "causes: a learning rate that is too high (try optimizer.lr="
                f"{self.optimizer.param_groups[0]['lr'] / 10:g}), gradients without a bound (try "
                "trainer.clip=1), features that are not finite or not normalised. The checkpoint "
                "of the last good epoch is kept."
            )
        return losses.mean().item()

    def mean_measures(self) -> dict[str, float]:
        """What the model measured of itself, by name: the mean over the epoch's steps."""
        found, self.measures = self.measures, []
        names = dict.fromkeys(name for each in found for name in each)
        return {name: fmean(each[name] for each in found if name in each) for name in names}

    def validate(self) -> tuple[float, float]:
        """(score, mean loss) of the validation split by exact inference."""
        data = self.valid_data
        rows = data.splits["valid"]
        start = self.meter.now()
        histories = self.sampler.histories
        # the pass over the training graph that refreshes histories is also the one that validates
        shared = histories and self.train_data is data and self.inference.observable
        with self.meter.step("validate"):
            observe = self.sampler.refresh if shared else None
            logits = self.inference.observed(self.model, data, rows, self.device, observe)
            y = data.y[rows].to(self.device)
            score = data.task.score(logits, y)
            loss = math.nan
            if self.trainer.monitor != "score":
                loss = data.task.losses(logits.float(), y).mean().item()
        if histories and not shared:
            self.refresh()
        self.meter.evaluations.append(self.meter.now() - start)
        return score, loss

    def refresh(self) -> None:
        """Show the sampler the exact levels of the training graph under the present weights."""
        exact = self.inference if self.inference.observable else Full()
        exact.scope, exact.view = self.inference.scope, self.inference.view
        nobody = torch.empty(0, dtype=torch.int64)
        with self.meter.step("refresh"):
            exact.observed(self.model, self.train_data, nobody, self.device, self.sampler.refresh)

    def close_epoch(self, train_s: float) -> bool:
        """Log, schedule, select, checkpoint; True if training is over."""
        last = self.epoch + 1 == self.trainer.epochs
        metrics: dict[str, Any] = {"epoch": self.epoch, "loss": self.mean_loss()}
        self.last_loss = metrics["loss"]
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        self.extra = self.mean_measures()
        metrics.update(self.extra)
        self.losses = []
        self.meter.epochs.append(train_s)
        stop = False
        if last or (self.epoch + 1) % self.trainer.evaluate_every == 0:
            score, loss = self.validate()
            metrics["valid"] = score
            if self.trainer.monitor != "score":
                metrics["valid_loss"] = loss
            signed = self.data.task.sign * score
            better, stop = self.patience.hear(signed, self.epoch, loss)
            if self.trainer.selection == "best" and better:
                self.best = {k: v.clone() for k, v in self.model.state_dict().items()}
            if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(signed)
        plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if self.scheduler is not None and not plateau:
            self.scheduler.step()
        budget = self.trainer.time_budget_s
        stop = stop or last or (budget is not None and sum(self.meter.epochs) >= budget)
        self.finished = stop
        self.epoch += 1
        curve.append(self.folder, {**metrics, "train_s": round(train_s, 6)})
        if stop or self.cadence.due(self.epoch):
            self.save()
        self.listeners.log(metrics)
        return stop

    # -- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the rest of training depends on."""
        return {
            "epoch": self.epoch,
            "finished": self.finished,
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "sampler": dict(self.sampler.state()),
            "patience": self.patience.state(),
            "best": self.best,
            "meter": self.meter.state(),
            "kept": self.kept,
            "extra": self.extra,
        }

    def save(self) -> None:
        """Write the checkpoint."""
        with self.cadence.writing():
            checkpoint.save(self.checkpoint_path, self.state(), last=self.finished)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; metrics of later epochs are dropped."""
        self.epoch, self.finished = state["epoch"], state["finished"]
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load(state["sampler"])
        self.patience.load(state["patience"])
        self.best = state["best"]
        self.kept = dict(state.get("kept", {}))
        self.extra = dict(state.get("extra", {}))
        self.meter.load(state["meter"])
        curve.drop(self.folder, self.epoch)  # they are trained again

    def select(self) -> None:
        """Put the selected weights into the model."""
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def restore(self, folder: Path) -> None:
        """Put the selected weights of a finished seed's folder into the model; nothing else."""
        state = checkpoint.load(folder / "checkpoint.pt")
        chosen = state.get("kept", {}).get("model")
        if chosen is not None:
            assert self.make_model is not None  # compose gives it
            self.model = self.make_model(**chosen)
        try:
            self.model.load_state_dict(state["model"] if state["best"] is None else state["best"])
        except RuntimeError as error:
            raise UsageError(
                f"{folder}: its weights are of other sizes than this composition's on "
                f"{self.data.name}; an architecture with parameters of each node (plp with "
                f"gate=nodes) predicts on the graph that it was trained on only ({error})"
            ) from error
        self.model.to(self.device)
        self.kept = dict(state.get("kept", {}))
        self.extra = dict(state.get("extra", {}))
        self.epoch = state["epoch"]
        self.patience.load(state["patience"])


def fit(run: Run, progress: Progress) -> None:
    """Train until the last epoch, patience or the time budget ends it."""
    if run.finished or run.epoch >= run.trainer.epochs:
        return
    over = False
    with progress:
        while not over:
            start = run.meter.now()
            run.model.train()
            for batch in run.batches(run.epoch):
                run.step(batch)
            over = run.close_epoch(run.meter.now() - start)
            progress.show(run)
            if progress.asked_to_stop and not over:
                run.save()
                raise Interrupted(f"stopped after epoch {run.epoch - 1}")
