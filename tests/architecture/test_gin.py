import pytest
import torch
from torch import nn

from gnnscale.architecture.gin import GIN, GINConv
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl

NEED = Need(1)


def test_count_by_the_formula(parameters):
    # per layer: eps, Linear, Linear, and two numbers per channel of each norm
    inner = (5 * 8 + 8) + 2 * 8 + (8 * 8 + 8) + 1
    last = (8 * 8 + 8) + 2 * 8 + (8 * 3 + 3) + 1
    model = GIN(Shape(5, 3), hidden=8, depth=2)
    assert parameters(model) == inner + 2 * 8 + last
    bare = GIN(Shape(5, 3), hidden=8, depth=2, norm="none", mlp_norm="none")
    assert parameters(bare) == inner + last - 2 * 2 * 8


WIDTHS = pytest.mark.parametrize("width", [9, 3])  # the MLP's first map behind the sum, ahead


@WIDTHS
@pytest.mark.parametrize("eps", [0.0, 0.7])
def test_layer_equals_ginconv(six_dgl, layer, features, eps, width):
    torch.manual_seed(0)
    conv = GINConv(5, 4, width, "batch", True).double().eval()
    assert conv.takes_sparse == (width == 3)
    nn.init.constant_(conv.eps, eps)
    nn.init.uniform_(conv.mlp[1].running_mean)
    oracle = dgl.nn.GINConv(conv.mlp, "sum", init_eps=eps).double()
    oracle.eps = oracle.eps.new_tensor([eps])  # DGL makes it in float32
    want = oracle(six_dgl, features)
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


@WIDTHS
def test_layer_by_the_formula(layer, features, six, dense, width):
    conv = GINConv(5, 4, width, "none", True).double()
    nn.init.constant_(conv.eps, 0.3)
    first, last = conv.mlp[0], conv.mlp[3]
    z = 1.3 * features + dense(six) @ features
    want = (z @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(layer(conv, NEED, features), want, rtol=1e-10, atol=1e-10)


def test_sum_tells_multisets_apart_that_mean_does_not(layer, features):
    # all nodes alike: degrees 3, 1, 4 must give three different outputs
    torch.manual_seed(0)
    conv = GINConv(5, 4, 9, "none", True).double()
    out = layer(conv, NEED, torch.ones_like(features))
    torch.testing.assert_close(out[1], out[3])
    gaps = [(out[i] - out[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 1e-3


@WIDTHS
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_layer_gradient(check_gradient, features, norm, width):
    check_gradient(GINConv(5, 4, width, norm, True).double(), NEED, features)


@pytest.mark.parametrize("site", ["q_message", "q_aggregate", "mlp.0.q_input"])
def test_a_quantizer_between_sum_and_map_keeps_their_order(layer, features, site):
    conv = GINConv(5, 4, 3, "none", True).double()
    before = layer(conv, NEED, features)
    conv.get_submodule(site).quantizer = Left()
    assert not conv.takes_sparse
    torch.testing.assert_close(layer(conv, NEED, features), before, rtol=1e-10, atol=1e-10)


class Left(nn.Module):
    """A quantizer that leaves values alone."""

    def forward(self, value, hop=None):
        return value


def test_eps_can_be_fixed():
    fixed = GIN(Shape(5, 3), train_eps=False).layers[0].conv.eps
    learnt = GIN(Shape(5, 3), train_eps=True).layers[0].conv.eps
    assert not fixed.requires_grad
    assert learnt.requires_grad
    assert fixed.item() == learnt.item() == 0.0


@pytest.mark.parametrize(
    "options", [{}, {"norm": "none", "mlp_norm": "none"}, {"stem": True, "residual": True}]
)
def test_model(check_model, options):
    check_model(lambda shape: GIN(shape, hidden=8, **options))
