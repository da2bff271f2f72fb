"""Two training steps on 60 nodes for every fitting pair; options enter by existing.

Of distillation terms of one kind, the first stands for all; ``-m slow`` runs the others.
"""

import json
import math

import pytest
from compositions import CATALOG, representative, toy, train

from gnnscale.core.errors import CompositionError
from gnnscale.core.metrics import scale_of

NOT_HERE = {  # options that need a file or a device that a test machine may lack
    "dataset": {o for o, c in CATALOG.options("dataset").items() if "root" in c.parameters},
    "hardware": {"cuda"},
}


def names(group: str) -> list[str]:
    return [o for o in CATALOG.options(group) if o not in NOT_HERE.get(group, ())]


def chosen(group: str, option: str) -> dict:
    if group == "distillation":
        return {group: [option], "recipe": "distill" if option != "none" else "supervised"}
    return {group: option}


def some(combination: dict, place: int) -> object:
    """Every fifth of a product by default; make test-processes runs the others."""
    rest = pytest.mark.process
    return combination if place % 5 == 0 else pytest.param(combination, marks=rest)


def combinations() -> list:
    """Each option meets every fifth of the other group's by default, a different fifth each."""
    found = [
        some({"sampler": s, "architecture": a}, i + j)
        for i, s in enumerate(names("sampler"))
        for j, a in enumerate(names("architecture"))
    ]
    for group in ("distillation", "quantization"):
        for i, option in enumerate(o for o in names(group) if o != "none"):
            every = group != "distillation" or representative(option)
            for other in ("architecture", "sampler"):
                found += [
                    some(combination, i + j)
                    if every
                    else pytest.param(combination, marks=pytest.mark.slow)
                    for j, combination in enumerate(
                        {**chosen(group, option), other: o} for o in names(other)
                    )
                ]
    for group in CATALOG.groups:
        if group not in ("sampler", "architecture", "experiment", "bench"):
            found += [chosen(group, option) for option in names(group)]
    return found


def label(combination: dict) -> str:
    return ",".join(f"{g}={o[0] if isinstance(o, list) else o}" for g, o in combination.items())


@pytest.mark.parametrize("combination", combinations(), ids=label)
def test_trains_or_is_refused_with_a_reason(combination, tmp_path):
    changes = {"teacher": {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=2"]}}
    try:
        plan = toy(changes, **combination)
    except CompositionError as error:
        said = str(error)
        assert "repairs it" in said or "change" in said or "type gnnscale" in said
        return
    stage = plan.parts["recipe"][0].arguments
    short = ("rounds", "decision_step", "max_epochs", "epochs", "warmup")
    stage.update({k: 1 for k in short if k in stage})
    (record,) = train(plan, tmp_path)
    # two layers in turn, for one epoch each where a controller's limit says so
    assert record.time_s["epochs"] == {"layerwise": 4}.get(combination.get("recipe"), 2)
    most = 1 if scale_of(record.metric["name"]) == 100 else math.inf
    assert 0 <= record.metric["valid"] <= most
    lines = (tmp_path / "seed-0" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == record.time_s["epochs"]
    assert all(math.isfinite(json.loads(s)["loss"]) for s in lines)
