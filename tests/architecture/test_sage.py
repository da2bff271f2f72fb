import pytest
import torch
from torch import nn

from gnnscale.architecture.sage import SAGE, SAGEConv
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.traits import Trait

NEEDS = {
    "mean": Need(1, "row", "none"),
    "max": Need(1, "none", "none"),
    "gcn": Need(1, "row", "diag"),
}
IN_DGL = {"mean": "mean", "max": "pool", "gcn": "gcn"}


class Left(nn.Module):
    """A quantizer that leaves values alone."""

    def forward(self, value, hop=None):
        return value


def test_published_counts(parameters):
    assert parameters(SAGE(Shape(128, 40), hidden=256, depth=3, norm="batch")) == 218_664
    assert parameters(SAGE(Shape(100, 47), hidden=256, depth=3)) == 206_895


def test_counts_of_the_other_aggregators(parameters):
    # gcn: one map per layer; max: one more of d_in x d_in
    assert parameters(SAGE(Shape(5, 3), hidden=8, aggr="gcn")) == 5 * 8 + 8 + 8 * 3 + 3
    mean = 2 * 5 * 8 + 8 + 2 * 8 * 3 + 3
    assert parameters(SAGE(Shape(5, 3), hidden=8, aggr="mean")) == mean
    assert parameters(SAGE(Shape(5, 3), hidden=8, aggr="max")) == mean + 5 * 5 + 5 + 8 * 8 + 8


@pytest.mark.parametrize("aggr", NEEDS)
@pytest.mark.parametrize("d_out", [2, 5, 9])
def test_layer_equals_sageconv(six_dgl, layer, features, aggr, d_out):
    torch.manual_seed(0)
    conv = SAGEConv(5, d_out, aggr).double()
    oracle = dgl.nn.SAGEConv(5, d_out, IN_DGL[aggr]).double()
    copy = {"fc_neigh.weight": conv.neighbor.weight}
    if aggr == "gcn":
        copy["bias"] = conv.neighbor.bias
    else:
        copy |= {"fc_self.weight": conv.self.weight, "fc_self.bias": conv.neighbor.bias}
    if aggr == "max":
        copy |= {"fc_pool.weight": conv.pool.weight, "fc_pool.bias": conv.pool.bias}
    oracle.load_state_dict(copy)
    got = layer(conv, NEEDS[aggr], features)
    torch.testing.assert_close(got, oracle(six_dgl, features), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("aggr", NEEDS)
@pytest.mark.parametrize("d_out", [2, 9])
def test_layer_gradient(check_gradient, features, aggr, d_out):
    check_gradient(SAGEConv(5, d_out, aggr).double(), NEEDS[aggr], features)


@pytest.mark.parametrize("aggr", NEEDS)
def test_a_node_alone_keeps_its_own_part(layer, features, aggr):
    conv = SAGEConv(5, 9, aggr).double()
    nn.init.normal_(conv.neighbor.bias)
    got = layer(conv, NEEDS[aggr], features)[5]
    own = conv.neighbor if aggr == "gcn" else conv.self
    torch.testing.assert_close(got, features[5] @ own.weight.T + conv.neighbor.bias)


def test_one_product_for_both_maps_is_the_sum_of_two(layer, features):
    conv = SAGEConv(5, 2, "mean").double()
    nn.init.normal_(conv.neighbor.bias)
    together = layer(conv, NEEDS["mean"], features)
    conv.self.q_input.quantizer = Left()  # a site of its own: its rows may be others
    torch.testing.assert_close(layer(conv, NEEDS["mean"], features), together)


@pytest.mark.parametrize("aggr", NEEDS)
@pytest.mark.parametrize("options", [{}, {"depth": 3, "norm": "batch", "stem": True}])
def test_model(check_model, aggr, options):
    check_model(lambda shape: SAGE(shape, hidden=9, aggr=aggr, **options))


@pytest.mark.parametrize("aggr", NEEDS)
def test_needs(aggr):
    assert SAGE(Shape(5, 3), depth=1, aggr=aggr).need == NEEDS[aggr]
    gives, needs = SAGE.declare(aggr=aggr)
    assert (Trait.LINEAR in gives) == (aggr != "max")
    assert needs == ({Trait.HOPS},)
