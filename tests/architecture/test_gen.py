from dataclasses import replace

import pytest
import torch
from torch import nn

from gnnscale.architecture.gen import GEN, LEAST, GENConv, asks
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.site import Dense
from gnnscale.graph.norm import whole_hop

AGGREGATORS = ("max", "softmax", "power", "mean", "add")


def by_hand(aggr: str, messages: torch.Tensor, scale: float) -> torch.Tensor:
    """The aggregate of the messages of one destination, [k, D] -> [D]."""
    if not len(messages):
        return torch.zeros(messages.shape[1], dtype=messages.dtype)
    if aggr == "softmax":
        return (torch.softmax(scale * messages, 0) * messages).sum(0)
    if aggr == "power":
        return messages.pow(scale).mean(0).pow(1 / scale)
    return {"max": messages.amax(0), "mean": messages.mean(0), "add": messages.sum(0)}[aggr]


def random_conv(aggr: str, edge: int = 0) -> GENConv:
    torch.manual_seed(1)
    mapped = Dense(edge, 5, rows="edges") if edge else None
    conv = GENConv(5, 4, aggr, 1.5, learn=True, norm="layer", edge=mapped).double()
    for p in conv.parameters():
        if p.dim():
            nn.init.normal_(p, std=0.5)
    return conv


@pytest.mark.parametrize("edge", [0, 3])
@pytest.mark.parametrize("aggr", AGGREGATORS)
def test_layer_by_the_formula_row_by_row(aggr, edge, six, features):
    conv = random_conv(aggr, edge)
    hop = whole_hop(six, asks(aggr, 1), torch.float64)
    given = torch.randn(six.n_edges, edge, dtype=torch.float64) if edge else None
    hop = replace(hop, edge=given)
    want = []
    for i in range(6):
        rows = range(int(six.indptr[i]), int(six.indptr[i + 1]))
        each = [
            features[six.indices[e]] + (conv.edge(given[e]) if edge else 0) for e in rows
        ]  # fmt: skip
        m = torch.stack(each).relu() + LEAST if each else features[:0]
        want.append(conv.mlp(features[i] + by_hand(aggr, m, 1.5)))
    got = conv(hop, features, Memo(None))
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggr", AGGREGATORS)
def test_layer_gradient(aggr, check_gradient, features):
    conv = GENConv(5, 4, aggr, 1.0, learn=False, norm="layer").double()
    check_gradient(conv, asks(aggr, 1), features)


@pytest.mark.parametrize("edge", [0, 3])
@pytest.mark.parametrize("aggr", AGGREGATORS)
def test_gradients_of_scale_edges_and_input(aggr, edge, six, features):
    conv = random_conv(aggr, edge)
    hop = whole_hop(six, asks(aggr, 1), torch.float64)
    given = torch.randn(six.n_edges, edge, dtype=torch.float64).requires_grad_() if edge else None

    def run(h, *rest):
        here = replace(hop, edge=rest[0]) if edge else hop
        return conv(here, h, Memo(None))

    inputs = (features.clone().requires_grad_(), *([given] if edge else []))
    assert torch.autograd.gradcheck(run, inputs)
    run(*inputs).square().sum().backward()
    learns = isinstance(conv.scale, nn.Parameter)
    assert learns == (aggr in ("softmax", "power"))
    if not learns:
        return
    grad, step = conv.scale.grad.item(), 1e-6
    with torch.no_grad():
        ends = []
        for way in (1, -1):
            conv.scale += way * step
            ends.append(run(*inputs).square().sum().item())
            conv.scale -= way * step
    assert grad == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_limits_of_the_aggregators(six, features):
    """t -> 0 and p = 1 are the mean, t -> inf and p -> inf the maximum."""

    def aggregate(aggr, scale):
        conv = GENConv(5, 4, aggr, scale).double()
        return conv.of_nodes(whole_hop(six, asks(aggr, 1), torch.float64), features)

    mean, largest = aggregate("mean", 1.0), aggregate("max", 1.0)
    torch.testing.assert_close(aggregate("softmax", 0.0), mean)
    torch.testing.assert_close(aggregate("power", 1.0), mean)
    torch.testing.assert_close(aggregate("softmax", 1e4), largest)
    # of k messages: at least k^(-1/p) of the largest
    high = aggregate("power", 40.0)
    assert (high <= largest + 1e-6).all()
    assert (high >= 0.9 * largest - 1e-6).all()


def test_softmax_of_large_messages_is_finite():
    adj = Adjacency.from_edges(torch.tensor([0, 1]), torch.tensor([2, 2]), 3)
    conv = GENConv(1, 1, "softmax")
    got = conv.of_nodes(whole_hop(adj, Need(1)), torch.tensor([[1e4], [1.0], [0.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.0], [0.0], [1e4]]))


@pytest.mark.parametrize("edge", [0, 1])
def test_high_powers_of_large_messages_are_finite(edge):
    adj = Adjacency.from_edges(torch.tensor([0, 1]), torch.tensor([2, 2]), 3)
    conv = GENConv(1, 1, "power", 20.0, learn=True, edge=Dense(1, 1) if edge else None)
    h = torch.tensor([[1e4], [1.0], [0.0]], requires_grad=True)
    hop = replace(whole_hop(adj, Need(1)), edge=torch.zeros(2, 1))
    got = conv.of_edges(hop, h) if edge else conv.of_nodes(hop, h)
    assert got[2].item() == pytest.approx(1e4 * 0.5 ** (1 / 20), rel=1e-3)
    got.sum().backward()
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(conv.scale.grad)


def test_count(parameters):
    # encoder, then per layer Linear(64, 128), LayerNorm(128), Linear(128, 64), LayerNorm(64); head
    layer = 64 * 128 + 128 + 256 + 128 * 64 + 64 + 128
    stem = 100 * 64 + 64 + 64 * 47 + 47
    assert parameters(GEN(Shape(100, 47), depth=3)) == stem + 3 * layer
    assert parameters(GEN(Shape(100, 47), depth=3, learn=True)) == stem + 3 * (layer + 1)
    assert parameters(GEN(Shape(100, 47), depth=3, learn=True, aggr="max")) == stem + 3 * layer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggr": "power", "learn": True, "depth": 2, "stem": False, "residual": False},
        {"aggr": "mean", "norm": "batch", "mlp_norm": "batch"},
        {"aggr": "max", "norm": "none", "mlp_norm": "none"},
        {"aggr": "add"},
    ],
)
def test_model(check_model, options):
    check_model(lambda shape: GEN(shape, hidden=8, **options))


def test_linear_only_for_sums_and_means():
    assert {a for a in AGGREGATORS if "linear" in GEN.declare(aggr=a)[0]} == {"mean", "add"}
