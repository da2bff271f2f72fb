import pytest
import torch
from compositions import toy
from torch import nn

from gnnscale import compose
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.mlp import MLP
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.train.decay import decayed, groups, parts, penalty
from gnnscale.train.trainer import Trainer


@pytest.fixture
def model():
    return GCN(Shape(features=3, classes=2), hidden=4, depth=3)


@pytest.fixture
def terms():
    return nn.ModuleList([nn.Linear(2, 2, bias=False)])


def ids(parameters):
    return {id(p) for p in parameters}


def test_which_layers_decay(model):
    first, middle, _ = (list(layer.parameters()) for layer in model.layers)
    assert ids(decayed(model, "first")) == ids(first)
    assert ids(decayed(model, "not_last")) == ids(first + middle)


@pytest.mark.parametrize(("which", "layers"), [("first", 1), ("not_last", 2)])
def test_the_other_group_has_no_weight_decay_and_nobody_is_lost(model, terms, which, layers):
    one, other = groups(model, terms, which, 0.1)
    chosen = [p for layer in list(model.layers)[:layers] for p in layer.parameters()]
    assert ids(one["params"]) == ids(chosen)
    assert "weight_decay" not in one  # the optimizer's own
    assert other["weight_decay"] == 0.0
    everyone = ids([*model.parameters(), *terms.parameters()])
    assert ids(one["params"]) | ids(other["params"]) == everyone
    assert len(one["params"]) + len(other["params"]) == len(everyone)


def test_one_group_where_all_decay_or_nothing_can(model, terms):
    model.layers[1].requires_grad_(False)
    for which, weight_decay in (("all", 0.1), ("first", None)):
        (one,) = groups(model, terms, which, weight_decay)
        trained = [p for p in [*model.parameters(), *terms.parameters()] if p.requires_grad]
        assert ids(one["params"]) == ids(trained)


def test_the_penalty_by_hand(model, terms):
    trained = [*model.parameters(), *terms.parameters()]
    with torch.no_grad():
        for p in trained:
            p.fill_(1.0)
    first = 3 * 4 + 4
    model_all = first + 4 * 4 + 4 + 4 * 2 + 2
    for which, size in (("first", first), ("all", model_all + 4)):
        found = penalty(model, trained, Trainer(decay=which, l2=0.5))
        assert found.item() == pytest.approx(0.25 * size)


# -- values per part -------------------------------------------------------------------------------


@pytest.fixture
def stemmed():
    return GCN(Shape(features=3, classes=2), hidden=4, depth=2, stem=True)


def test_parts_are_all_of_a_model(stemmed):
    found = parts(stemmed)
    assert ids(found["encoder"]) == ids(stemmed.encoder.parameters())
    assert ids(found["layers"]) == ids(stemmed.layers.parameters())
    assert ids(found["head"]) == ids(stemmed.head.parameters())
    mlp = MLP(Shape(3, 2), depth=3)
    assert ids(parts(mlp)["encoder"]) == ids(mlp.hidden.parameters())


def test_a_value_of_its_own_for_a_part(stemmed, terms):
    own, layers = groups(stemmed, terms, "all", 0.1, {"layers": 0.7, "encoder": None})
    assert "weight_decay" not in own
    assert layers["weight_decay"] == 0.7
    assert ids(layers["params"]) == ids(stemmed.layers.parameters())
    everyone = [*stemmed.parameters(), *terms.parameters()]
    assert ids(own["params"]) | ids(layers["params"]) == ids(everyone)
    assert len(own["params"]) + len(layers["params"]) == len(everyone)


def test_a_part_overrules_which_layers_decay(stemmed, terms):
    found = groups(stemmed, terms, "first", 0.1, {"layers": 0.7})
    own, other, layers = sorted(found, key=lambda group: group.get("weight_decay", -1.0))
    assert ids(own["params"]) == ids(stemmed.encoder.parameters())
    assert ids(layers["params"]) == ids(stemmed.layers.parameters())
    assert layers["weight_decay"] == 0.7
    assert ids(other["params"]) == ids([*stemmed.head.parameters(), *terms.parameters()])
    assert other["weight_decay"] == 0.0


def test_values_for_an_optimizer_without_decay_are_refused(stemmed, terms):
    with pytest.raises(UsageError, match=r"trainer\.decay_of={layers:0\.7}: .*optimizer=adam"):
        groups(stemmed, terms, "all", None, {"layers": 0.7})
    assert len(groups(stemmed, terms, "all", None, {"layers": None})) == 1


def test_a_run_decays_a_part_and_nothing_else(tmp_path):
    """One step of plain gradient descent: the part moves by its decay beside the gradient."""
    found = []
    for value in (None, 0.5):
        changes = {
            "architecture": {"stem": True, "dropout": 0.0}, "optimizer": {"lr": 0.1},
            "trainer": {"epochs": 1, "decay_of": {"layers": value}, "selection": "last"},
        }  # fmt: skip
        plan = toy(changes, architecture="gcn", optimizer="sgd")
        run = compose.build(plan, 0, tmp_path / str(value))
        before = {k: v.clone() for k, v in run.model.state_dict().items()}
        run.prepare()
        run.start()
        run.model.train()
        for batch in run.batches(0):
            run.step(batch)
        found.append(run.model.state_dict())
    for name, w in found[0].items():
        less = 0.1 * 0.5 * before[name] if name.startswith("layers.") else 0.0
        torch.testing.assert_close(found[1][name], w - less)
