import pytest
import torch
from torch import nn

from gnnscale.architecture.gcn import GCN
from gnnscale.core.data import Shape
from gnnscale.train.decay import decayed, groups, penalty
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
