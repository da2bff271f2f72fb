from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from compositions import silenced, toy, train

from gnnscale.architecture.plp import PLP
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.sampler.label_reuse import LabelReuse


@pytest.fixture
def made(sixty):
    """made(**options): (model in float64 and evaluation mode, the batch of the whole graph)."""

    def make(data=sixty, **options):
        torch.manual_seed(0)
        sampler = LabelReuse(rate=1.0, iterations=0)
        model = PLP(sampler.shape(data), hidden=6, depth=3, **options).double().eval()
        silenced(model)
        sampler.prepare(data, model.need, Key(0, "prepare"))
        return model, sampler.sample(torch.arange(60), Key(0, "sample"))

    return make


def walk(data, dense):
    """(D^-1 (A + I), clamped rows, f at first)."""
    a = dense(data.graph) + torch.eye(60, dtype=torch.float64)
    given = data.mask("train")
    labels = F.one_hot(data.y, 4).double()
    return a / a.sum(1, keepdim=True), given, torch.where(given.unsqueeze(1), labels, 0.25), labels


@pytest.mark.parametrize("attention", ["features", "nodes"])
def test_without_perceptron_and_attention_it_is_clamped_label_propagation(
    made, sixty, dense, attention
):
    model, batch = made(attention=attention)
    with torch.no_grad():
        model.layers[0].gate.own.fill_(1e3)
        for p in model.layers[0].score.parameters():
            p.zero_()
    matrix, given, f, labels = walk(sixty, dense)
    for _ in range(3):
        f = torch.where(given.unsqueeze(1), labels, matrix @ f)
    torch.testing.assert_close(model(batch).logits, f, rtol=0, atol=1e-12)


def test_without_propagation_rows_do_not_depend_on_the_graph(made, sixty):
    model, batch = made()
    with torch.no_grad():
        model.layers[0].gate.own.fill_(-1e3)
    out = model(batch).logits
    free = ~sixty.mask("train")
    torch.testing.assert_close(out[free], model.layers[0].perceptron(sixty.x).relu()[free])


@pytest.mark.parametrize("of", ["features", "nodes"])
def test_scores_start_as_in_the_authors_code_and_gates_at_half(of):
    torch.manual_seed(0)
    shape = Shape(4004, 4, nodes=4000)  # the classes are among the features
    step = PLP(shape, attention=of, gate=of).layers[0]
    score = step.score.own if of == "nodes" else step.score.map.weight
    assert score.numel() == 4000
    want = (2 * 2 / 4001) ** 0.5  # Xavier's for 4000 and 1, times sqrt(2)
    assert score.std().item() == pytest.approx(want, rel=0.05)
    assert not any(p.any() for p in step.gate.parameters())


@pytest.mark.parametrize("attention", ["features", "nodes"])
@pytest.mark.parametrize("gate", ["features", "nodes"])
def test_dense_reference(made, sixty, dense, attention, gate):
    model, batch = made(attention=attention, gate=gate)
    step = model.layers[0]
    with torch.no_grad():
        for part in (step.score, step.gate):
            for p in part.parameters():
                p.normal_()
    _, given, f, labels = walk(sixty, dense)
    there = dense(sixty.graph) + torch.eye(60, dtype=torch.float64) > 0
    e = step.score.own if attention == "nodes" else sixty.x @ step.score.map.weight.T
    a = step.gate.own if gate == "nodes" else sixty.x @ step.gate.map.weight.T + step.gate.map.bias
    w = torch.where(there, e.T, -torch.inf).softmax(1)
    for _ in range(3):
        f = a.sigmoid() * (w @ f) + (-a).sigmoid() * step.perceptron(sixty.x)
        f = torch.where(given.unsqueeze(1), labels, f.relu())
    torch.testing.assert_close(model(batch).logits, f)


def test_given_rows_are_their_labels_exactly_also_in_training(made, sixty):
    model, batch = made(dropout=0.8)
    out = model.train()(batch)
    rows = sixty.splits["train"]
    assert torch.equal(out.logits[rows], F.one_hot(sixty.y, 4).double()[rows])
    assert len(out.levels) == 4


def test_labels_come_from_the_training_split_only(made, sixty):
    model, batch = made()
    hidden = torch.where(sixty.mask("train"), sixty.y, (sixty.y + 1) % 4)
    _, other = made(sixty.with_(y=hidden))
    assert torch.equal(model(batch).logits, model(other).logits)


def test_sparse_features_are_the_same(made, sixty):
    rows = sixty.x * (sixty.x > 1)
    dense_model, batch = made(sixty.with_(x=rows), dropout=0.0)
    sparse_model, other = made(sixty.with_(x=SparseRows.from_dense(rows)), dropout=0.0)
    torch.testing.assert_close(dense_model(batch).logits, sparse_model(other).logits)


@pytest.mark.parametrize(
    ("attention", "gate", "extra"),
    [("features", "nodes", 7 + 60), ("nodes", "nodes", 60 + 60), ("features", "features", 7 + 8)],
)
def test_parameters(made, attention, gate, extra):
    model, _ = made(attention=attention, gate=gate)
    assert sum(p.numel() for p in model.parameters()) == 7 * 6 + 6 + 6 * 4 + 4 + extra
    assert not any(p.any() for p in model.layers[0].gate.parameters()), "sigmoid(a) is 1/2"


def test_nodes_that_come_later_need_maps(made, sixty):
    later = replace(sixty, inductive=True)
    with pytest.raises(UsageError, match=r"architecture.attention=features architecture.gate=fea"):
        made(later)
    made(later, gate="features")


def test_without_labels_as_input_it_is_refused():
    with pytest.raises(CompositionError, match="gives none as input; change to sampler=labels"):
        toy(architecture="plp", sampler="cluster")


def test_cpf_from_end_to_end(tmp_path):
    teacher = {"run": None, "architecture": "gcn", "overrides": ["trainer.epochs=30"]}
    checked = toy(
        {"teacher": teacher, "trainer": {"epochs": 30}, "architecture": {"depth": 3}},
        architecture="plp", sampler="labels", distillation=["cpf"], recipe="distill",
    )  # fmt: skip
    (record,) = train(checked, tmp_path)
    assert record.metric["train"] == 1.0
    assert record.metric["valid"] > 0.5
