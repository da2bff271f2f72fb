"""Compositions for tests, made from the option files without Hydra."""

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch import nn

from gnnscale import compose, session
from gnnscale.catalog import Catalog
from gnnscale.core.data import GraphData
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.distillation._base import Term

CATALOG = Catalog.load()
TOY = {  # 60 nodes, two epochs, a checkpoint after each
    "dataset": {"nodes": 60, "degree": 6, "classes": 3, "features": 8, "train": 0.3, "valid": 0.3},
    "trainer": {"epochs": 2, "checkpoint_every": 1},
}

GRAPHS = {"graphs": 30, "nodes_min": 3, "nodes_max": 8, "features": 8, "edge_features": 2}
"""What stands in for it at graph level."""

SMALL = (
    "dataset=synthetic", "dataset.nodes=60", "dataset.degree=6", "dataset.classes=3",
    "dataset.features=8", "dataset.train=0.3", "dataset.valid=0.3", "hardware.threads=1",
)  # fmt: skip
"""The same graph as typed words, on one thread."""


def representative(term: str) -> bool:
    """Whether no distillation before it has its base class, needs and parts: one for its kind."""

    def kind(name: str):
        option = CATALOG.options("distillation")[name]
        module, _, cls = option.target.rpartition(".")
        own = getattr(import_module(module), cls)
        base = own if own.__mro__[1] is Term else own.__mro__[1]
        return base, own.needs, "projection" in option.parameters

    names = [n for n in CATALOG.options("distillation") if n != "none"]
    return kind(term) not in [kind(n) for n in names[: names.index(term)]]


def configuration(changes: dict, **chosen: str) -> tuple[dict, dict]:
    """(configuration, choices) of the chosen options, everything else at its default."""
    choices = dict(CATALOG.defaults, **chosen)
    config = dict(CATALOG.keys)
    for group, option in choices.items():
        names = option if isinstance(option, list) else [option]
        if isinstance(CATALOG.defaults[group], list):
            terms = {n: dict(CATALOG.options(group)[n].content) for n in names if n != "none"}
            config[group] = terms
        elif option is not None:
            config[group] = dict(CATALOG.options(group)[option].content or {})
    for group, values in changes.items():
        if isinstance(values, dict):
            config[group] = {**config.get(group, {}), **values}
        else:
            config[group] = values
    if "${" not in repr(config):  # nothing to fill in
        return deepcopy(config), {g: o for g, o in choices.items() if g != "experiment"}
    plain = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    return plain, {g: o for g, o in choices.items() if g != "experiment"}


_compose, _composed = compose.compose, {}


def composed(overrides, catalog):
    """``compose.compose``, once for the same words: Hydra takes a second, most of a toy run."""
    words = (*overrides, catalog)
    if words not in _composed:
        _composed[words] = _compose(overrides, catalog)
    return deepcopy(_composed[words])


def plan(changes: dict | None = None, **chosen) -> compose.Plan:
    """A checked plan of the chosen options."""
    config, choices = configuration(changes or {}, **chosen)
    with mock.patch.object(compose, "compose", composed):
        return compose.check(config, choices, CATALOG)


def toy(changes: dict | None = None, **chosen) -> compose.Plan:
    """A checked plan on a 60-node graph for two epochs."""
    merged = {group: dict(values) for group, values in TOY.items()}
    for group, values in (changes or {}).items():
        old = merged.get(group)
        merged[group] = {**old, **values} if old and isinstance(values, dict) else values
    chosen.setdefault("dataset", "synthetic")
    if chosen.get("sampler") == "graphs":
        chosen["dataset"] = "synthetic_graphs"
        changes = {**(changes or {}), "dataset": {**GRAPHS, **(changes or {}).get("dataset", {})}}
    if chosen["dataset"] != "synthetic":
        merged["dataset"] = (changes or {}).get("dataset", {})
    checked = plan(merged, **chosen)
    checked.parts["recipe"][-1].arguments["seconds"] = 0.0  # three passes are enough here
    return checked


def train(checked: compose.Plan, folder: Path):
    """Train a plan's seeds into a folder; its records."""
    return session.train(checked, folder, checked.seeds, {"command": "test", "overrides": []})


def quiet_metrics(folder: Path) -> list[dict]:
    """The metrics of a seed without the seconds."""
    import json

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k != "train_s"} for s in lines]


def silenced(model: nn.Module) -> None:
    """Set every dropout rate of a model to zero."""
    for module in model.modules():
        for name in ("drop_in", "drop_out", "attention_dropout", "p"):
            if hasattr(module, name):
                setattr(module, name, 0.0)


def permuted(data: GraphData, order: torch.Tensor) -> GraphData:
    """The same graph with node ``order[k]`` called k."""
    place = order.argsort()
    src, dst = place[data.graph.indices.long()], place[data.graph.dst.long()]
    return data.with_(
        graph=Adjacency.from_edges(src, dst, data.nodes), x=data.x[order], y=data.y[order]
    )
