from dataclasses import replace

import pytest
import torch
from torch import nn

from gnnscale.architecture.gin import GINConv
from gnnscale.architecture.gine import GINE, GINEConv
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.dataset.ogbg import ATOMS, BONDS
from gnnscale.graph.norm import whole_hop

MOLECULES = Shape(9, 1, level="graph", categories=ATOMS, edge_categories=BONDS)


@pytest.fixture
def edged(six):
    """The six-node graph's hop with two numbers per edge."""
    draw = torch.Generator().manual_seed(5)
    edge = torch.randn(six.n_edges, 2, generator=draw, dtype=torch.float64)
    return replace(whole_hop(six, Need(1), torch.float64), edge=edge)


def test_published_count(parameters):
    """OGB's GIN on ogbg-molhiv, without and with a virtual node."""
    assert parameters(GINE(MOLECULES, hidden=300, depth=5)) == 1_885_206
    assert parameters(GINE(MOLECULES, hidden=300, depth=5, virtual_node=True)) == 3_336_306


def test_layer_equals_gineconv(six_dgl, edged, features):
    torch.manual_seed(0)
    conv = GINEConv(5, 4, Shape(5, 4, edge_features=2), 9, "none", True).double()
    nn.init.constant_(conv.eps, 0.7)
    oracle = dgl.nn.GINEConv(conv.mlp, init_eps=0.7).double()
    oracle.eps = oracle.eps.new_tensor([0.7])  # DGL makes it in float32
    want = oracle(six_dgl, features, conv.edge(edged.edge))
    torch.testing.assert_close(conv(edged, features, None), want, rtol=1e-10, atol=1e-10)


def test_without_edge_features_and_signs_it_is_gin(layer, features):
    torch.manual_seed(0)
    conv = GINEConv(5, 4, Shape(5, 4), 9, "none", True).double()
    plain = GINConv(5, 4, 9, "none", True).double()
    plain.load_state_dict(conv.state_dict())
    torch.testing.assert_close(layer(conv, Need(1), features.abs()),
                               layer(plain, Need(1), features.abs()))  # fmt: skip


def test_layer_gradient(check_gradient, features):
    check_gradient(GINEConv(5, 4, Shape(5, 4), 6, "none", True).double(), Need(1), features)


def test_model(check_model):
    check_model(lambda shape: GINE(shape, hidden=8))
