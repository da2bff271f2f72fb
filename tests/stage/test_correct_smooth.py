import json

import pandas as pd
import pytest
import torch
from compositions import CATALOG, configuration, toy, train
from torch import nn

from gnnscale import compose, finished, session
from gnnscale.core.data import Shape, Task
from gnnscale.core.errors import UsageError
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.graph.outcome import Known, Propagation, Settings
from gnnscale.stage.correct_smooth import (
    CorrectedSmoothed,
    CorrectSmooth,
    as_logits,
    probabilities,
)
from gnnscale.train.predict import Inference

LOAD = Synthetic.load
HOW = Settings("autoscale", 0.9, "AD", None, 0.7, "DAD")
ALPHAS = [0.1, 0.5, 0.9]


def plan(changes=None, **options):
    """Correct & Smooth over a perceptron on the toy graph; options are the stage's."""
    made = toy(changes or {}, recipe="correct_smooth", **{"architecture": "mlp"})
    made.parts["recipe"][1].arguments.update(options)
    made.config["recipe"]["stages"][1].update(options)
    return made


def loaded(monkeypatch, change):
    monkeypatch.setattr(Synthetic, "load", lambda self, seed: change(LOAD(self, seed)))


def predicted(folder, *typed):
    made = finished.predict(folder, typed, None, None, CATALOG, frozenset())
    return pd.read_csv(made)


class Says(Inference):
    """A base that says the same, whatever the model is."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def logits(self, model, data, rows, device):
        return self.said[rows]


def corrected(data, said, how=HOW, validation_labels=False, rows=None):
    inference = CorrectedSmoothed(Says(said), how, Propagation(20), validation_labels)
    rows = torch.arange(data.nodes) if rows is None else rows
    return inference(nn.Identity(), data, rows, torch.device("cpu"))


@pytest.fixture
def said(sixty):
    return torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# -- what is predicted ---------------------------------------------------------------------------


def test_it_is_the_propagation_of_the_models_probabilities(sixty, said):
    z = said.softmax(1)
    scores = Propagation(20)(HOW, sixty, z, Known.of(sixty, sixty.splits["train"], z))
    logits = corrected(sixty, said)
    want = scores / scores.sum(1, keepdim=True)
    torch.testing.assert_close(logits.softmax(1), want, rtol=1e-10, atol=1e-12)
    assert torch.equal(logits.argmax(1), scores.argmax(1))
    rows = torch.tensor([59, 3, 3, 17])
    assert torch.equal(corrected(sixty, said, rows=rows), logits[rows])


def test_rounding_does_not_change_what_is_predicted():
    scores = torch.tensor([[0.2, 0.2 + 1.5e-8], [1e-30, 1.0000001e-30], [0.0, 0.0], [0.0, 1.0]])
    logits = as_logits(scores, Task(classes=2))
    assert torch.isfinite(logits).all()
    assert logits.argmax(1).tolist() == scores.argmax(1).tolist() == [1, 1, 0, 1]


def test_of_several_classes_each_is_predicted_above_one_half(sixty, said):
    several = (sixty.x[:, :4] > 0).float()
    data = sixty.with_(y=several, task=Task("node", "multi", 4))
    how = Settings("fixed", 1.0, "DA", 1.0, 0.0, "DA")
    assert torch.equal(probabilities(said, data.task), said.sigmoid())
    logits = corrected(data, said, how)
    train = data.splits["train"]
    assert torch.equal(logits[train] > 0, several[train] > 0.5)
    nothing = Settings("none", None, None, None, 0.0, "DA")
    rest = ~data.mask("train")
    torch.testing.assert_close(corrected(data, said, nothing)[rest], said[rest])


# -- which labels are seen -----------------------------------------------------------------------


def changed(data, rows):
    return data.with_(y=data.y.clone().index_add(0, rows, torch.ones_like(rows)) % 4)


def test_only_training_labels_are_seen(sixty, said):
    logits = corrected(sixty, said)
    for split in ("valid", "test"):
        other = changed(sixty, sixty.splits[split])
        assert torch.equal(corrected(other, said), logits)
    train = changed(sixty, sixty.splits["train"])
    assert not torch.equal(corrected(train, said)[sixty.splits["test"]],
                           logits[sixty.splits["test"]])  # fmt: skip


def test_validation_labels_never_reach_a_validation_node(sixty, said):
    valid, test = sixty.splits["valid"], sixty.splits["test"]
    plain = corrected(sixty, said)
    logits = corrected(sixty, said, validation_labels=True)
    other = corrected(changed(sixty, valid), said, validation_labels=True)
    assert torch.equal(logits[valid], plain[valid])
    assert torch.equal(other[valid], plain[valid])
    assert not torch.equal(logits[test], plain[test])
    assert not torch.equal(other[test], logits[test])
    assert torch.equal(corrected(changed(sixty, test), said, validation_labels=True), logits)
    z = said.softmax(1)
    both = torch.cat([sixty.splits["train"], valid])
    want = as_logits(Propagation(20)(HOW, sixty, z, Known.of(sixty, both, z)), sixty.task)
    assert torch.equal(logits[test], want[test])


def test_a_graph_without_labels_is_smoothed_alone(sixty, said):
    none = {n: torch.empty(0, dtype=torch.int64) for n in ("train", "valid", "test")}
    data = sixty.with_(splits=none, y=torch.full_like(sixty.y, -1))
    smooth = Settings("none", None, None, None, 0.7, "DAD")
    torch.testing.assert_close(corrected(data, said), corrected(data, said, smooth))


def test_choosing_does_not_see_test_labels(tmp_path, monkeypatch):
    options = {"correct_alpha": ALPHAS, "smooth_alpha": ALPHAS}
    train(plan(**options), tmp_path / "a")
    loaded(monkeypatch, lambda data: data.with_(
        y=torch.where(data.mask("test"), (data.y + 1) % 3, data.y)))  # fmt: skip
    train(plan(**options), tmp_path / "b")
    a, b = (json.loads((tmp_path / f"{n}/seed-0/record.json").read_text()) for n in "ab")
    assert a["notes"] == b["notes"]
    assert a["metric"]["valid"] == b["metric"]["valid"]
    assert a["metric"]["test"] != b["metric"]["test"]


# -- the choice ----------------------------------------------------------------------------------


def test_the_choice_has_the_best_validation_score_of_all(tmp_path):
    options = {"correct": ["autoscale", "fixed", "none"], "correct_alpha": ALPHAS,
               "correct_matrix": ["DAD", "AD"], "scale": [0.5, 4.0], "smooth_alpha": [0.2, 0.8],
               "smooth_matrix": ["DA", "DAD"]}  # fmt: skip
    stage = CorrectSmooth(**options)
    several = stage.combinations()
    assert len(several) == len(set(several)) == (3 * 2 + 3 * 2 * 2 + 1) * 2 * 2
    same = CorrectSmooth("none", smooth_alpha=[0, 0.5], smooth_matrix=["DAD", "DA", "AD"])
    assert len(same.combinations()) == 1 + 3, "a matrix has no part where alpha is 0"
    run = session.execute(plan({"trainer": {"epochs": 30}}, **options), 0, tmp_path)
    base, found = run.inference.base, []
    everyone, valid = torch.arange(60), run.data.splits["valid"]
    for how in several:
        one = CorrectedSmoothed(base, how, Propagation(50), False)
        logits = one(run.model, run.data, everyone, run.device)
        found.append(run.data.task.score(logits[valid], run.data.y[valid]))
    assert max(found) > min(found)
    assert run.inference.how == several[found.index(max(found))]
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["metric"]["valid"] == max(found)
    assert f"correct & smooth: {run.inference.how}" in record["notes"]


def test_lists_without_validation_nodes_are_refused(tmp_path, monkeypatch):
    loaded(monkeypatch, lambda data: data.with_(
        splits={**data.splits, "valid": torch.empty(0, dtype=torch.int64)}))  # fmt: skip
    changes = {"trainer": {"selection": "last"}}
    train(plan(changes), tmp_path / "one")
    with pytest.raises(UsageError, match=r"3 combinations .* no validation nodes; give one value"):
        train(plan(changes, correct_alpha=ALPHAS), tmp_path / "three")


def test_values_out_of_range_are_refused():
    with pytest.raises(UsageError, match=r"correct_alpha=\[\]"):
        CorrectSmooth(correct_alpha=[])
    for key, value in {"correct_alpha": [0.5, 1.5], "smooth_matrix": "ADA", "steps": 0,
                       "scale": -1.0}.items():  # fmt: skip
        config, choices = configuration({}, recipe="correct_smooth", architecture="mlp")
        config["recipe"]["stages"][1][key] = value
        with pytest.raises(UsageError, match=rf"recipe\.stages\[1\]\.{key}="):
            compose.check(config, choices, CATALOG)


# -- a finished run ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"correct_alpha": ALPHAS, "smooth_alpha": ALPHAS}])
@pytest.mark.parametrize(
    "base",
    [
        {"architecture": "mlp"},
        {"architecture": "gcn", "sampler": "neighbor", "inference": "layerwise"},
        {"architecture": "sign", "sampler": "precompute"},
        {"architecture": "gcn", "sampler": "shadow"},
    ],
    ids=lambda b: "-".join(b.values()),
)
def test_it_predicts_and_scores_again_as_it_did(base, options, tmp_path, monkeypatch):
    made = toy({}, recipe="correct_smooth", **base)
    made.parts["recipe"][1].arguments.update(options)
    made.config["recipe"]["stages"][1].update(options)
    (first,) = train(made, tmp_path / "run")
    monkeypatch.setattr(CorrectSmooth, "choose", lambda *a: pytest.fail("chosen again"))
    table = predicted(tmp_path / "run")
    for split in ("train", "valid", "test"):
        rows = table["split"] == split
        y = LOAD(made.parts["dataset"][0].make(), 0).y.numpy()[rows]
        assert (table["prediction"][rows] == y).mean() == pytest.approx(first.metric[split])
    again, _ = finished.rescoring(tmp_path / "run", ["recipe=evaluate"], CATALOG, frozenset())
    (record,) = train(again, tmp_path / "again")
    assert record.metric == first.metric
    assert record.notes[-1].startswith("the score of the training split")


def test_a_run_that_was_cut_between_the_stages_goes_on(tmp_path, monkeypatch):
    options = {"correct_alpha": ALPHAS}
    (want,) = train(plan(**options), tmp_path / "whole")
    real = CorrectSmooth.__call__
    monkeypatch.setattr(CorrectSmooth, "__call__", lambda self, run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(plan(**options), tmp_path / "cut")
    monkeypatch.setattr(CorrectSmooth, "__call__", real)
    (got,) = train(plan(**options), tmp_path / "cut")
    assert got.metric == want.metric
    assert got.notes == want.notes


def test_as_a_teacher_it_teaches_what_it_predicts(tmp_path):
    train(plan(), tmp_path / "teacher")
    teacher = {"architecture": "mlp", "overrides": [], "run": str(tmp_path / "teacher")}
    student = toy({"teacher": teacher}, architecture="mlp", distillation=["logit"],
                  recipe="distill")  # fmt: skip
    run = session.execute(student, 0, tmp_path / "student")
    table = predicted(tmp_path / "teacher")
    assert run.teacher.logits.argmax(1).tolist() == table["prediction"].tolist()


def test_a_teacher_with_validation_labels_is_refused(tmp_path):
    train(plan(validation_labels=True), tmp_path / "teacher")
    teacher = {"architecture": "mlp", "overrides": [], "run": str(tmp_path / "teacher")}
    student = toy({"teacher": teacher}, architecture="mlp", distillation=["logit"],
                  recipe="distill")  # fmt: skip
    with pytest.raises(UsageError, match=r"predicts with validation labels.*: false"):
        train(student, tmp_path / "student")


def test_inductive_data_is_predicted_with_the_whole_graph(tmp_path, monkeypatch):
    loaded(monkeypatch, lambda data: data.with_(inductive=True))
    (record,) = train(plan(), tmp_path)
    assert record.metric["train"] > 0.8  # by their own labels
    assert 0 <= record.metric["test"] <= 1


# -- published settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "sizes", "count"),
    [
        ("cs_plain_arxiv", (128, 40), 5_160),
        ("cs_plain_products", (100, 47), 4_747),
        ("cs_linear_arxiv", (384, 40), 15_400),
        ("cs_linear_products", (228, 47), 10_763),
        ("cs_mlp_arxiv", (384, 40), 175_656),
        ("cs_mlp_products", (228, 47), 96_247),
    ],
)
def test_published_counts(preset, sizes, count, parameters):
    config, choices = compose.compose([f"experiment={preset}"], CATALOG)
    made = compose.check(config, choices, CATALOG)
    raw, classes = (128, 40) if "arxiv" in preset else (100, 47)
    kinds = config["dataset"]["features"]
    widths = {"raw": raw, "diffusion": raw, "spectral": config["dataset"]["dimensions"]}
    assert (sum(widths[kind] for kind in kinds), classes) == sizes
    assert parameters(made.one("architecture").make(Shape(*sizes))) == count
