"""From a composed configuration to a checked plan, and from a plan to runs.

Hydra composes; targets are never instantiated by Hydra but bound to their signatures here, and all
problems with a composition come in one message before any data is loaded.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gnnscale import lattice
from gnnscale.binding import GIVEN_LATER, Bound, bind, nodes
from gnnscale.catalog import Catalog
from gnnscale.core.data import TOY, GraphData, Shape
from gnnscale.core.errors import CompositionError, UsageError, closest, unknown
from gnnscale.core.random import Key
from gnnscale.core.traits import Component, Trait
from gnnscale.graph.order import ordered
from gnnscale.lattice import Member
from gnnscale.train.listeners import Listeners
from gnnscale.train.loop import Run
from gnnscale.train.meter import Meter
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Own

SWAPPABLE = ("sampler", "architecture", "distillation", "quantization", "recipe", "inference",
             "hardware", "dataset")  # fmt: skip
REMOVABLE = ("distillation", "quantization")
TEACHER = ("run", "architecture", "overrides")


@dataclass
class Plan:
    """A composition that has been checked; nothing is loaded yet."""

    config: dict[str, Any]
    choices: dict[str, Any]
    parts: dict[str, list[Bound]]
    members: list[Member]
    trusted: frozenset[str] = frozenset()
    teacher: "Plan | None" = None
    notes: list[str] = field(default_factory=list)

    def one(self, group: str) -> Bound | None:
        """The single option of a group, None if it is off."""
        return self.parts[group][0] if self.parts.get(group) else None

    @property
    def learns(self) -> bool:
        """Whether it has a teacher."""
        return Trait.TEACHER in lattice.given(self.members)

    @property
    def seeds(self) -> list[int]:
        """The seeds of this run: seed, seed + 1, ..., seed + seeds - 1."""
        return list(range(self.config["seed"], self.config["seed"] + self.config["seeds"]))


# -- composing ----------------------------------------------------------------------------------


def compose(overrides: Sequence[str], catalog: Catalog) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compose normalised overrides into (plain configuration, chosen option per group)."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    def now() -> tuple[dict[str, Any], dict[str, Any]]:
        config = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
        return plain(config)

    # also inside a Hydra job: its search path was an override of its own composition
    paths = [f"hydra.searchpath=[{search_path(catalog)}]"] if len(catalog.folders) > 1 else []
    overrides = [*paths, *overrides]
    try:
        if GlobalHydra.instance().is_initialized():
            return now()
        with hydra.initialize_config_dir(str(catalog.folders[0]), version_base="1.3"):
            return now()
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(readable(error)) from error


def search_path(catalog: Catalog) -> str:
    """The user's configuration folders, as Hydra writes them."""
    return ",".join(f"'file://{folder}'" for folder in catalog.folders[1:])


def plain(config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Hydra configuration as resolved plain values, and the options chosen."""
    from omegaconf import OmegaConf, open_dict

    chosen = {k: v for k, v in config.hydra.runtime.choices.items() if "/" not in k}
    with open_dict(config):
        hydra_node = config.pop("hydra")
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    with open_dict(config):
        config["hydra"] = hydra_node
    return typing.cast(dict[str, Any], values), chosen


def readable(error: Exception) -> str:
    """One line of what Hydra or OmegaConf has to say."""
    lines = [s.strip() for s in str(error).splitlines() if s.strip()]
    keep = [s for s in lines if not s.startswith(("full_key", "object_type", "reference_type"))]
    return " ".join(keep) or type(error).__name__


# -- checking -----------------------------------------------------------------------------------


def member(group: str, option: str, bounds: Sequence[Bound]) -> Member:
    """What an option states: gives of all its parts, and a way to meet the needs of each."""
    gives: frozenset[Trait] = frozenset()
    needs: tuple[frozenset[Trait], ...] = ()
    for bound in bounds:
        if issubclass(bound.cls, Component):
            its_gives, its_needs = bound.cls.declare(**bound.arguments)
            gives |= its_gives
            if its_needs:
                needs = tuple(dict.fromkeys(a | b for a in needs or (frozenset(),)
                                            for b in its_needs))  # fmt: skip
    return Member(group, option, gives, needs)


@lru_cache(maxsize=2)
def alternatives(catalog: Catalog, trusted: frozenset[str]) -> dict[str, list[Member]]:
    """By group, every option with its default parameters as a member of the algebra."""
    found: dict[str, list[Member]] = {}
    for group in SWAPPABLE:
        for name, option in catalog.options(group).items():
            content = option.content
            bound = [bind(k, group, o, n, trusted) for k, o, n in nodes(group, content, name)]
            if any(problems for _, problems in bound):
                continue
            parts = [b for b, _ in bound if b is not None]
            if parts:
                found.setdefault(group, []).append(member(group, name, parts))
    return found


def check(
    config: dict[str, Any],
    choices: Mapping[str, Any],
    catalog: Catalog,
    trusted: frozenset[str] = frozenset(),
    depth: int = 0,
    taught: bool = True,
) -> Plan:
    """Validate a composition without loading data.

    ``taught``: with its teacher, which nobody asks any more once a student is trained.

    Raises CompositionError with every problem found: unknown keys, missing or wrong values,
    options that do not fit together (with the smallest change that helps), a device that is absent.
    """
    problems = [
        f"{unknown('key', name, [*catalog.keys, *catalog.groups])}"
        for name in config
        if name not in catalog.groups and name not in catalog.keys and name != "user"
    ]
    problems += [
        f"teacher.{name}: {unknown('key', name, TEACHER)}"
        for name in config.get("teacher") or {}
        if name not in TEACHER
    ]
    if "bench" in config:
        problems.append(
            "bench: says how `gnnscale bench` measures and is no part of a run; leave it out, or "
            "type gnnscale bench ..."
        )
    for name in ("seed", "seeds"):
        least = 0 if name == "seed" else 1
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problems.append(f"{name}={value}: not a whole number >= {least}; e.g. {name}={least}")
    parts: dict[str, list[Bound]] = {}
    known = True  # is every chosen class known, so that the algebra can speak?
    for group in catalog.groups:
        option = choices.get(group)
        for key, name, node in nodes(group, config.get(group), str(option)):
            bound, wrong = bind(key, group, name, node, trusted)
            problems += wrong
            if bound is None:
                known = False
            else:  # what an option with wrong values states, it states of its defaults
                parts.setdefault(group, []).append(replace(bound, arguments={}) if wrong else bound)
    members = []
    for group in SWAPPABLE:
        bounds = parts.get(group, [])
        if group == "distillation":
            members += [member(group, b.option, [b]) for b in bounds]
        elif bounds:
            members.append(member(group, bounds[0].option, bounds))
    if known:
        for required in ("dataset", "sampler", "architecture", "recipe", "optimizer", "trainer",
                         "hardware", "inference"):  # fmt: skip
            if required not in parts:
                options = "|".join(catalog.options(required))
                problems.append(f"{required}: nothing is selected; type {required}={options}")
                known = False
    if known and lattice.unmet(members):
        off = [Member(group, "none") for group in REMOVABLE if not parts.get(group)]
        found = lattice.repairs([*members, *off], alternatives(catalog, trusted), REMOVABLE)
        problems.append(lattice.explain(members, found))
    if not problems:
        problems += try_out(parts)
    plan = Plan(config, dict(choices), parts, members, trusted)
    if not problems and depth == 0 and taught and plan.learns:
        try:
            plan.teacher = teacher_plan(plan, catalog, trusted)
        except UsageError as error:
            problems.append(f"teacher: {error}")
    source = (config.get("teacher") or {}).get("run")
    if depth == 0 and source is not None and not plan.learns:
        problems.append(
            f"teacher={source}: recipe={choices.get('recipe')} has no teacher; type recipe=distill "
            "with a distillation, or leave teacher out"
        )
    if problems:
        raise CompositionError("\n".join(problems))
    return plan


def try_out(parts: Mapping[str, Sequence[Bound]]) -> list[str]:
    """Construct everything on toy arguments: constructors refuse what no annotation can say."""
    problems: list[str] = []

    def attempt(bound: Bound, *given: Any) -> Any:
        try:
            return bound.make(*given)
        except UsageError as error:
            problems.append(str(error))
        except (ValueError, TypeError) as error:
            problems.append(f"{bound.group}={bound.option}: {error}")
        return None

    made = {}
    for group, bounds in parts.items():
        if group not in GIVEN_LATER:
            made[group] = [attempt(bound) for bound in bounds]
    sampler = made["sampler"][0]
    chosen: Any = parts["architecture"][0]
    reads = chosen.cls.declare(**chosen.arguments)[1]
    if sampler is not None and sampler.operators and not any(Trait.STACK in n for n in reads):
        problems.append(
            f"architecture={chosen.option}: reads features as they are, and "
            f"sampler={parts['sampler'][0].option} gives propagated ones, [n, R, F]; change to "
            "sampler=full or another that gives hops, or to an architecture that reads 'stack', "
            "e.g. architecture=sgc"
        )
    with torch.device("meta"):
        shape = TOY if sampler is None else sampler.widen(TOY)
        model = attempt(parts["architecture"][0], shape)
    if model is not None and model.labels and sampler is not None and not sampler.labels:
        problems.append(
            f"architecture={parts['architecture'][0].option}: propagates training labels, and "
            f"sampler={parts['sampler'][0].option} gives none as input; change to sampler=labels"
        )
    if (
        sampler is not None
        and sampler.labels
        and any(s is not None and s.apart for s in made["recipe"])
    ):
        problems.append(
            f"sampler={parts['sampler'][0].option}: gives labels as input of a whole model, and "
            "the recipe trains its layers one at a time; type sampler=full, or recipe=supervised"
        )
    if model is not None and shape.readout != "center" and getattr(model, "pool", None) is None:
        problems.append(
            f"sampler.readout={shape.readout}: architecture={parts['architecture'][0].option} has "
            "no head that could read a pooled subgraph; type architecture.stem=true if it takes "
            "that, else sampler.readout=center"
        )
    if model is not None and shape.views and not len(getattr(model, "branches", ())):
        problems.append(
            f"architecture={parts['architecture'][0].option}: reads one view of a node, and "
            f"sampler={parts['sampler'][0].option} gives {1 + shape.views}; change to "
            "architecture=shadow_gnn, or to a sampler of one view, e.g. sampler=shadow"
        )
    if model is not None and sampler is not None:
        try:
            sampler.check(model.need)
        except UsageError as error:
            problems.append(str(error))
    if model is not None and made.get("quantization", [None])[0] is not None:
        try:
            made["quantization"][0].attach(model)
        except UsageError as error:
            problems.append(str(error))
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = attempt(parts["optimizer"][0], [parameter])
    if optimizer is not None and parts.get("scheduler"):
        attempt(parts["scheduler"][0], optimizer)
    return problems


SHARED = ("dataset", "hardware", "seed")
"""What a teacher has from its student."""
PACE = ("trainer.checkpoint_every",)
"""Settings, dotted, of how a run is made that change none of its numbers."""


def teacher_plan(plan: Plan, catalog: Catalog, trusted: frozenset[str]) -> Plan | None:
    """The composition that trains the teacher; None if a finished run is read instead.

    It shares the student's dataset, seed and hardware, so that both see the same split; at graph
    level also the sampler, unless another is named, since those of nodes don't fit.
    """
    wanted = plan.config.get("teacher") or {}
    source = wanted.get("run")
    if source and Path(source).is_dir():
        return None
    experiments = catalog.options("experiment")
    if source and source not in experiments:
        if len(Path(source).parts) > 1:
            raise UsageError(
                f"teacher={source}: no such run folder, seen from {Path.cwd()}; type a path to "
                "one, or a preset's name (gnnscale list experiment)"
            )
        near = closest(str(source), experiments)
        raise UsageError(
            f"teacher={source}: neither a run folder nor a preset{near}; presets: "
            f"{', '.join(experiments)}"
        )
    from gnnscale.overrides import normalise

    typed = normalise(list(wanted.get("overrides") or []), catalog)
    start = [f"experiment={source}"] if source else [f"architecture={wanted['architecture']}"]
    if not source and Trait.GRAPH in lattice.given(plan.members):
        start.append(f"sampler={plan.choices['sampler']}")
    config, choices = compose([*start, *typed], catalog)
    for shared in SHARED:
        config[shared] = plan.config[shared]
        if shared in plan.choices:
            choices[shared] = plan.choices[shared]
    return check(config, choices, catalog, trusted, depth=1)


def skeleton(plan: Plan) -> nn.Module:
    """The model of a plan on toy sizes and without memory, its sites filled: what it is made of."""
    sampler, quantizer, model = map(plan.one, ("sampler", "quantization", "architecture"))
    assert model is not None
    with torch.device("meta"):
        shape = TOY if sampler is None else sampler.make().widen(TOY)
        made = model.make(shape)
    if quantizer is not None:
        quantizer.make().attach(made)
    return made


# -- building -----------------------------------------------------------------------------------


def build(
    plan: Plan,
    seed: int,
    folder: Path,
    make_teacher: Callable[[GraphData], Run] | None = None,
    shape: Shape | None = None,
) -> Run:
    """Load the data and make the run of one seed.

    ``shape``: its classes are those of the model; None: those of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def make(group: str, *given: Any) -> Any:
        bound = plan.one(group)
        return None if bound is None else bound.make(*given)

    hardware = make("hardware")
    hardware.apply()
    meter = Meter(hardware.device)
    with meter.phase("load"):
        data = make("dataset").load(seed)
    if hardware.order != "source":
        with meter.phase("prepare"):
            data = ordered(data, hardware.order)
    sampler = make("sampler")
    quantizer = make("quantization")
    if quantizer is not None:
        quantizer.prepare(data)
    sizes = sampler.shape(data)
    if shape is not None:
        sizes = replace(sizes, classes=shape.classes)

    def make_model(
        layers: Sequence[Mapping[str, Any]] | None = None, bits: Mapping[str, int] | None = None
    ) -> Any:
        model = layered(plan, sizes, layers or [{}])
        model.need = sampler.refine(model.need)
        if quantizer is not None:
            (quantizer if bits is None else quantizer.settled(bits)).attach(model)
        return model

    Key(seed, "init").seed_torch()
    model = make_model()
    inference = make("inference") if sampler.inference == "exact" else Own(sampler)
    inference.scope, inference.view = hardware.scope, sampler.view
    terms = {bound.option: bound.make() for bound in plan.parts.get("distillation", [])}
    trainer = make("trainer")
    return Run(
        folder=folder,
        seed=seed,
        config={**plan.config, "seed": seed, "seeds": 1},
        choices=plan.choices,
        data=data,
        sampler=sampler,
        model=model,
        objective=Objective(data.task, terms, trainer.log_eps),
        trainer=trainer,
        inference=inference,
        hardware=hardware,
        meter=meter,
        make_optimizer=lambda groups: make("optimizer", groups),
        make_scheduler=lambda optimizer: make("scheduler", optimizer),
        make_teacher=make_teacher,
        make_model=make_model,
        quantizer=quantizer,
        listeners=Listeners([bound.make() for bound in plan.parts.get("logger", [])]),
        notes=list(plan.notes),
    )


def layered(plan: Plan, sizes: Shape, layers: Sequence[Mapping[str, Any]]) -> Any:
    """The plan's model, each layer under changes of the architecture's options: {key: value}.

    A single entry stands for all layers. Models are made in the order in which their changes first
    appear, each with its weights; what is not a layer is the first one's.
    """
    made: dict[str, Any] = {}
    names = [repr(sorted(changes.items())) for changes in layers]
    for name, changes in zip(names, layers, strict=True):
        if name not in made:
            made[name] = altered(plan, changes).make(sizes)
    model = made[names[0]]
    if len(made) > 1:
        for i, name in enumerate(names):
            model.layers[i] = made[name].layers[i]
    return model


def altered(plan: Plan, changes: Mapping[str, Any]) -> Bound:
    """The plan's architecture with some options changed. Raises UsageError if that does not fit."""
    bound = plan.one("architecture")
    assert bound is not None
    changed = bound.altered(changes)
    others = [m for m in plan.members if m.group != "architecture"]
    members = [*others, member("architecture", bound.option, [changed])]
    if lattice.unmet(members):
        said = ", ".join(f"architecture.{name}={value}" for name, value in changes.items())
        raise UsageError(f"{said}: {lattice.explain(members, [])}")
    return changed


def stages(plan: Plan) -> list[Any]:
    """The recipe's stages, in order."""
    return [bound.make() for bound in plan.parts["recipe"]]


def take_up(plan: Plan, run: Run, folder: Path) -> None:
    """Make ``run`` what it was when the seed in ``folder`` was finished: its weights, and how it
    predicts.
    """
    run.restore(folder)
    for stage in stages(plan):
        if stage.lasting:
            stage(run)
