from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from compositions import toy, train
from torch import nn

from gnnscale import compose
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.revgat import RevGAT
from gnnscale.core.batch import Output
from gnnscale.core.data import Task
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.sampler.full import Full
from gnnscale.sampler.label_reuse import LabelReuse
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Own

NEED, KEY = Need(2, "sym", "diag"), Key(0, "sample", 3, 0)
DEVICE = torch.device("cpu")


def made(data, need=NEED, **options):
    sampler = LabelReuse(**options)
    sampler.prepare(data, need, Key(0, "prepare"))
    return sampler


def other_labels(data, split=("valid", "test")):
    """The same data with every label of those splits changed."""
    rows = torch.cat([data.splits[name] for name in split])
    y = data.y.clone()
    y[rows] = (y[rows] + 1) % data.task.classes
    return data.with_(y=y)


def test_columns_are_training_labels_that_are_given(sixty):
    batch = made(sixty).sample(sixty.splits["train"], KEY)
    labels, given = batch.extra["labels"], batch.extra["given"]
    assert labels.shape == (60, 4)
    assert not (given & ~sixty.mask("train")).any()
    assert 0 < given.sum() < 20
    want = F.one_hot(sixty.y, 4).double() * given.unsqueeze(1)
    assert torch.equal(labels, want)
    assert torch.equal(batch.inputs, torch.cat([sixty.x, want], 1))


def test_given_labels_are_not_in_the_loss(sixty):
    """Not a change of them, nor of what is predicted there, moves the loss; the others' do."""
    sampler = made(sixty)
    everyone = torch.arange(60)
    batch, objective = sampler.sample(everyone, KEY), Objective(sixty.task, {})
    given = batch.extra["given"]
    assert torch.equal(batch.labeled, sixty.mask("train") & ~given)
    z = torch.randn(60, 4, dtype=torch.float64, requires_grad=True)
    loss = objective(Output(z), batch)
    loss.backward()
    supervised = sixty.mask("train") & ~given
    assert torch.equal(z.grad.abs().sum(1) > 0, supervised)
    y = torch.where(given, (batch.y + 1) % 4, batch.y)
    assert objective(Output(z), replace(batch, y=y)) == loss
    torch.testing.assert_close(loss, F.cross_entropy(z[supervised], sixty.y[supervised]))


def test_a_supervised_nodes_own_label_does_not_reach_its_prediction(sixty):
    """The label of a node in the loss may be any: the model sees the same."""
    batch = made(sixty).sample(torch.arange(60), KEY)
    y = torch.where(batch.labeled, (sixty.y + 1) % 4, sixty.y)
    other = made(sixty.with_(y=y)).sample(torch.arange(60), KEY)
    assert torch.equal(other.inputs, batch.inputs)
    assert not torch.equal(other.y, batch.y)


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_held_out_labels_reach_neither_training_nor_inference(iterations, sixty):
    torch.manual_seed(0)
    found = []
    for data in (sixty, other_labels(sixty)):
        sampler = made(data, iterations=iterations)
        shape = sampler.shape(data)
        torch.manual_seed(1)
        model = GCN(shape, hidden=8).double()
        batch = sampler.sample(data.splits["train"], KEY)
        loss = Objective(data.task, {})(model(sampler.primed(batch, model)), batch)
        loss.backward()
        said = Own(sampler)(model, data, torch.arange(60), DEVICE)
        found.append([loss, said, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    changed = other_labels(sixty, ("train",))
    assert not torch.equal(
        Own(made(changed))(model, changed, torch.arange(60), DEVICE), found[1][1]
    )


class Echo(nn.Module):
    """Predicts from its inputs alone, and notes them."""

    def __init__(self):
        super().__init__()
        self.need, self.seen = NEED, []

    def forward(self, batch):
        self.seen.append(batch.inputs)
        return Output((batch.inputs @ torch.arange(44.0).double().view(11, 4).sin())[batch.rows])


def test_predictions_fill_what_is_not_given_and_nothing_else(sixty):
    sampler, model = made(sixty, iterations=2), Echo()
    batch = sampler.sample(sixty.splits["train"], KEY)
    given, labels = batch.extra["given"], batch.extra["labels"]
    final = sampler.primed(batch, model)
    assert len(model.seen) == 2
    assert torch.equal(model.seen[0], batch.inputs)
    map_ = torch.arange(44.0).double().view(11, 4).sin()
    for before, after in ((model.seen[0], model.seen[1]), (model.seen[1], final.inputs)):
        assert torch.equal(after[:, :7], sixty.x)
        assert torch.equal(after[given, 7:], labels[given])
        torch.testing.assert_close(after[~given, 7:], (before @ map_).softmax(1)[~given])
    assert torch.equal(final.rows, batch.rows)


def test_inference_gives_all_training_labels(sixty):
    sampler, model = made(sixty), Echo()
    rows = torch.tensor([3, 59, 3])
    logits = Own(sampler)(model, sixty, rows, DEVICE)
    first, second = model.seen
    known = sixty.mask("train")
    assert torch.equal(first[:, 7:], F.one_hot(sixty.y, 4).double() * known.unsqueeze(1))
    assert torch.equal(second[known, 7:], first[known, 7:])
    torch.testing.assert_close(second[~known, 7:].sum(1), torch.ones(40, dtype=torch.float64))
    map_ = torch.arange(44.0).double().view(11, 4).sin()
    torch.testing.assert_close(logits, (second @ map_)[rows])


def test_the_pass_that_predicts_leaves_no_gradient(sixty):
    sampler = made(sixty)
    model = RevGAT(sampler.shape(sixty), hidden=8).double()
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    final = sampler.primed(sampler.sample(sixty.splits["train"], KEY), model)
    assert not final.inputs.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_every_training_label_is_given_at_its_rate(sixty):
    sampler = made(sixty, rate=0.3)
    index, total = sixty.splits["train"], torch.zeros(60)
    for epoch in range(1000):
        total += sampler.sample(index, Key(0, "sample", epoch, 0)).extra["given"]
    share = total[index] / 1000
    assert (share - 0.3).abs().max() < 5 * (0.21 / 1000) ** 0.5
    none = made(sixty, rate=0.0).sample(index, KEY)
    assert none.labeled.all()
    assert not none.extra["labels"].any()


def test_several_labels_per_node(sixty):
    y = torch.randint(0, 2, (60, 4)).float()
    y[:5] = float("nan")
    data = sixty.with_(y=y, task=Task(kind="multi", classes=4))
    sampler, model = made(data), Echo()
    batch = sampler.sample(torch.arange(60), KEY)
    given = batch.extra["given"]
    assert torch.equal(batch.extra["labels"][given], y.nan_to_num(0.0)[given].double())
    final = sampler.primed(batch, model)
    map_ = torch.arange(44.0).double().view(11, 4).sin()
    want = (batch.inputs @ map_).sigmoid()[~given]
    torch.testing.assert_close(final.inputs[~given, 7:], want)


def test_without_labels_it_is_full_batch(sixty):
    """At rate 0, without reuse, the columns are zeros, and a model trains as under sampler=full."""
    torch.manual_seed(0)
    sampler, full = made(sixty, rate=0.0, iterations=0), Full()
    full.prepare(sixty, NEED, Key(0, "prepare"))
    wide = GCN(sampler.shape(sixty), hidden=8, dropout=0.0).double()
    narrow = GCN(full.shape(sixty), hidden=8, dropout=0.0).double()
    weights = {k: v[:7] if k == "layers.0.conv.weight" else v for k, v in wide.state_dict().items()}
    narrow.load_state_dict(weights)
    index = sixty.splits["train"]
    one, other = sampler.sample(index, KEY), full.sample(index, KEY)
    torch.testing.assert_close(wide(sampler.primed(one, wide)).logits, narrow(other).logits)
    assert torch.equal(one.labeled, other.labeled)


@pytest.mark.process
def test_a_run_says_what_its_training_score_is(tmp_path):
    (record,) = train(toy({}, sampler="label_reuse", architecture="gcn"), tmp_path)
    assert any("given their own labels" in note for note in record.notes)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("regression", {}, r"label_reuse: sixty has numbers to predict.* type sampler=full"),
        ("single", {"categories": (3,) * 7}, r"label_reuse: features of sixty are codes"),
    ],
)
def test_refusals(kind, changes, message, sixty):
    data = sixty.with_(task=Task(kind=kind, classes=4), **changes)
    with pytest.raises(UsageError, match=message):
        LabelReuse().shape(data)


@pytest.mark.parametrize("recipe", ["layerwise", "l2gcn"])
def test_training_by_layers_is_refused(recipe):
    with pytest.raises(CompositionError, match=r"sampler=label_reuse: .* type sampler=full"):
        toy({}, sampler="label_reuse", recipe=recipe, architecture="lgcn")


def test_graph_level_is_refused():
    with pytest.raises(compose.CompositionError, match="'node'"):
        toy({}, sampler="label_reuse", dataset="synthetic_graphs")
