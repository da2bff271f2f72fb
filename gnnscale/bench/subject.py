"""What is measured: a finished run's weights or a composition's fresh ones, built and ready."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnnscale import compose, finished
from gnnscale.catalog import Catalog
from gnnscale.compose import Plan
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.core.site import fake
from gnnscale.core.traits import Trait
from gnnscale.lattice import given
from gnnscale.stage.teacher import kept
from gnnscale.train.listeners import Listeners
from gnnscale.train.loop import Run

FRESH = "fresh"


@dataclass
class Origin:
    """Where a subject comes from: a checked plan, and a finished seed's folder if there is one."""

    plan: Plan
    seed: int
    folder: Path | None = None


def originate(
    run: Path | None, typed: Sequence[str], catalog: Catalog, trusted: frozenset[str]
) -> Origin:
    """From ``run=`` (run folder, seed folder or checkpoint) or from overrides alone.

    Raises UsageError if there is no finished seed, or if an override does not go with the run.
    """
    if run is None:
        plan = compose.check(*compose.compose(list(typed), catalog), catalog, trusted)
        return Origin(plan, plan.config["seed"])
    path = run.parent if run.suffix == ".pt" else run
    if run.suffix == ".pt" and not run.is_file():
        raise UsageError(f"run={run}: no such checkpoint; give a run folder, or a checkpoint.pt "
                         "inside one of its seeds")  # fmt: skip
    folder, own = finished.run_root(path)
    if run.suffix == ".pt" and own is None:
        raise UsageError(
            f"run={run}: a checkpoint is measured inside its run folder, whose config.json says "
            "what it is; type run=FOLDER/seed-0/checkpoint.pt"
        )
    seeds = [o for o in typed if o.lstrip("+").startswith("seed=")]
    others = [o for o in typed if o not in seeds]
    plan = finished.take_up(folder, others, catalog, trusted)
    done = finished.finished_seeds(folder)
    text = seeds[-1].partition("=")[2] if seeds else None
    if text is not None and not text.isdecimal():
        raise UsageError(f"seed={text}: not a whole number >= 0; e.g. seed={done[0]}")
    seed = int(text) if text is not None else own if own is not None else done[0]
    if seed not in done:
        valid = ", ".join(f"seed={s}" for s in done)
        raise UsageError(f"seed={seed}: not finished in {folder}; valid: {valid}")
    return Origin(plan, seed, folder / f"seed-{seed}")


@dataclass
class Subject:
    """A built run that may be asked for requests; ``weights`` says where they come from."""

    label: str
    origin: Origin
    run: Run
    weights: str
    build_ms: float
    notes: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """What it was built from."""
        return self.origin.plan

    def layered(self) -> bool:
        """Whether its layers can be applied to blocks of nodes."""
        bound = self.plan.one("architecture")
        assert bound is not None
        return Trait.LAYERS in bound.cls.declare(**bound.arguments)[0]  # type: ignore[attr-defined]

    def trainable(self) -> str | None:
        """Why training can't be timed; None if it can."""
        if Trait.CODES in given(self.plan.members):
            return "an integer model is not trained"
        if self.plan.learns and self.run.teacher is None:
            return (
                "the recipe's teacher has not been trained: train it first, then gnnscale bench "
                "run=FOLDER"
            )
        return None


def label(plan: Plan) -> str:
    """The choices that name a composition."""
    shown = [plan.choices.get(g) for g in ("dataset", "sampler", "architecture")]
    return "-".join(str(name) for name in shown if name)


def build(origin: Origin, scratch: Path, name: str | None = None) -> Subject:
    """Load data and weights. Nothing is written outside ``scratch``, and no logger hears of it."""
    plan, where = origin.plan, origin.folder
    start = time.perf_counter()
    shape = None
    if where is not None:
        about = Record.load(where / "record.json").data
        shape = Shape(about["features"], about["classes"])
    run = compose.build(plan, origin.seed, scratch, shape=shape)
    run.listeners = Listeners(())
    if where is None:
        run.model.to(run.device)
    else:
        compose.take_up(plan, run, where)
        taps = [tap for term in run.objective.each for tap in term.taps]
        run.teacher = kept(where / "teacher", taps)
    took = 1e3 * (time.perf_counter() - start)
    subject = Subject(name or label(plan), origin, run, str(where or FRESH), took)
    if where is None:
        subject.notes.append("weights are fresh, not trained: times are those of the architecture")
    return subject


def refuse_fake(subject: Subject) -> None:
    """Raise UsageError for a model whose speed is not its own."""
    if fake(subject.run.model):
        option = subject.plan.choices.get("quantization")
        raise UsageError(
            f"quantization={option}: fake quantization runs float kernels, so its latency would "
            "be no integer model's; convert the run (gnnscale convert run=FOLDER), measure the "
            "float composition with quantization=none, or only count parameters, bytes and "
            "multiply-accumulates with bench.workloads=[]"
        )


def facts(subject: Subject) -> dict[str, Any]:
    """The measurement's ``data``."""
    data = subject.run.data
    return {
        "name": data.name, "level": data.task.level, "items": data.items,
        "nodes": data.nodes, "edges": data.graph.n_edges,
        "features": data.shape.features, "classes": data.task.classes, "kind": data.task.kind,
    }  # fmt: skip
