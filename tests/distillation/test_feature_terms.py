"""What holds of every loss on matched rows, in whole runs."""

import pytest
import torch
from compositions import CATALOG, quiet_metrics, toy, train

from gnnscale.train import checkpoint

TEACHER = {"run": None, "architecture": "gat", "overrides": ["trainer.epochs=2"]}
TERMS = ["fitnet", "attention", "lsp", "gsp", "gcrd"]


def student(terms, weight=None, **changes):
    checked = toy(
        {"teacher": TEACHER, "trainer": {"epochs": 3}, **changes},
        architecture="gcn", distillation=terms, recipe="distill" if terms else "supervised",
    )  # fmt: skip
    for bound in checked.parts.get("distillation", []):
        if weight is not None:
            bound.arguments["weight"] = weight
    return checked


@pytest.mark.parametrize("term", TERMS)
def test_weight_zero_is_plain_training_bit_for_bit(term, tmp_path):
    found = []
    for name, checked in (("plain", student([])), ("term", student([term], weight=0.0))):
        train(checked, tmp_path / name)
        found.append(checkpoint.load(tmp_path / name / "seed-0/checkpoint.pt")["model"])
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


@pytest.mark.parametrize("term", TERMS)
def test_the_term_moves_the_student(term, tmp_path):
    found = []
    for weight in (0.0, 1e4):
        train(student([term], weight), tmp_path / str(weight))
        found.append(checkpoint.load(tmp_path / str(weight) / "seed-0/checkpoint.pt")["model"])
    assert any(not torch.equal(found[0][n], found[1][n]) for n in found[0])


def test_several_at_once_with_heads_and_draws_go_on_as_if_never_stopped(tmp_path):
    terms = ["logit", *TERMS, "self"]

    def checked(epochs):
        return student(terms, trainer={"epochs": epochs}, hardware={"threads": 1})

    train(checked(4), tmp_path / "whole")
    half = checked(4)
    half.parts["trainer"][0].arguments["time_budget_s"] = 1e-9  # one epoch
    train(half, tmp_path / "parts")
    (tmp_path / "parts/seed-0/record.json").unlink()
    state = checkpoint.load(tmp_path / "parts/seed-0/checkpoint.pt")
    assert state["epoch"] == 1
    state.pop("version")
    checkpoint.save(tmp_path / "parts/seed-0/checkpoint.pt", {**state, "finished": False})
    train(checked(4), tmp_path / "parts")
    a, b = (checkpoint.load(tmp_path / n / "seed-0/checkpoint.pt") for n in ("whole", "parts"))
    for part in ("model", "objective"):
        assert a[part], "there is something to compare"
        assert all(torch.equal(a[part][n], b[part][n]) for n in a[part])
    assert quiet_metrics(tmp_path / "whole/seed-0") == quiet_metrics(tmp_path / "parts/seed-0")


def test_every_term_with_a_teacher_names_its_levels():
    for name, option in CATALOG.options("distillation").items():
        if name in TERMS:
            assert {"weight", "level", "teacher_level", "nodes"} <= set(option.parameters)
