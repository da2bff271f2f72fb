import math

import pytest
import torch
from torch import nn

from gnnscale.architecture.mpnn import MPNNConv
from gnnscale.architecture.pna import PNA, PNAConv
from gnnscale.core.data import GraphData, Shape, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import STD_EPS, Hop, Need
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop

NEED, DELTA = Need(1), 0.75  # a float32, as the buffer is
NAMES = ("mean", "max", "min", "std")
SCALERS = ("identity", "amplification", "attenuation")
ATOMS = (119, 4, 12, 12, 10, 6, 6, 2, 2)
OF = {
    "mean": lambda m: m.mean(0), "max": lambda m: m.amax(0), "min": lambda m: m.amin(0),
    "add": lambda m: m.sum(0), "var": lambda m: m.var(0, correction=0),
    "std": lambda m: (m.var(0, correction=0) + STD_EPS).sqrt(),
}  # fmt: skip


@pytest.fixture
def h():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def made(*arguments, **more):
    torch.manual_seed(0)
    return PNAConv(*arguments, **more).double()


def scales(d):
    log = math.log(d + 1)
    return {"identity": 1.0, "amplification": log / DELTA, "attenuation": DELTA / log if d else 0.0}


def by_edges(conv, h, adj, edge=None):
    """The definition: every block of every tower of every node."""
    t, rows = conv.towers, []
    width, size = len(conv.update.weight[0]) // len(conv.aggregators), len(conv.bias) // t
    for i in range(adj.n_dst):
        span = range(int(adj.indptr[i]), int(adj.indptr[i + 1]))
        parts = []
        for k in range(t):
            whole = conv.message is not None and conv.message.own.whole
            cut = slice(None) if whole else slice(k * width, (k + 1) * width)
            y = conv.bias[k * size : (k + 1) * size]
            if conv.own is not None:
                y = y + h[i, cut] @ conv.own.weight[k]
            messages = []
            for e in span:
                m = h[adj.indices[e], cut]
                if conv.message is not None:
                    at = slice(k * width, (k + 1) * width)
                    m = h[i, cut] @ conv.message.own.weight[k] + m @ conv.message.other.weight[k]
                    m = m + conv.message.own.bias[at]
                    if edge is not None:
                        m = m + conv.message.edge(edge[e : e + 1])[0, at]
                messages.append(m)
            if messages:
                z = torch.cat([OF[name](torch.stack(messages)) for name in conv.aggregators])
                blocks = conv.update.weight[k].split(size, 1)
                for name, block in zip(conv.scalers, blocks, strict=True):
                    y = y + scales(len(span))[name] * (z @ block)
            parts.append(y)
        y = torch.cat(parts)
        rows.append(y if conv.mix is None else nn.functional.leaky_relu(conv.mix(y)))
    return torch.stack(rows)


@pytest.mark.parametrize("names", [NAMES, ("add", "var"), ("std",)])
@pytest.mark.parametrize("scalers", [SCALERS, ("attenuation",), ("amplification", "identity")])
@pytest.mark.parametrize(("towers", "divide", "simple"), [
    (1, True, False), (4, True, False), (2, False, False), (1, True, True),
])  # fmt: skip
def test_layer_by_its_definition(six, layer, h, names, scalers, towers, divide, simple):
    conv = made(8, 12, names, scalers, DELTA, towers, divide, simple)
    want = by_edges(conv, h, six)
    torch.testing.assert_close(layer(conv, NEED, h), want, rtol=1e-10, atol=1e-10)


def test_layer_with_edge_features(six, h):
    conv = made(8, 12, NAMES, SCALERS, DELTA, 4, shape=Shape(8, 3, edge_features=3))
    edge = torch.randn(six.n_edges, 3, generator=torch.Generator().manual_seed(1)).double()
    got = conv(Hop(six, edge=edge), h, None)
    torch.testing.assert_close(got, by_edges(conv, h, six, edge), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("towers", [1, 4])
def test_layer_equals_pnaconv(six, six_dgl, layer, h, towers):
    """DGL's: a tower times N^-1/2, batch norm, here made the identity; std has no epsilon."""
    names, size, width = ("mean", "max", "min"), 12 // towers, 8 // towers
    conv = made(8, 12, names, SCALERS, DELTA, towers)
    oracle = dgl.nn.PNAConv(
        8, 12, list(names), list(SCALERS), DELTA, num_towers=towers, residual=False
    )
    oracle = oracle.double().eval()
    with torch.no_grad():
        for k, tower in enumerate(oracle.towers):
            at = slice(k * width, (k + 1) * width)
            # DGL puts the source first
            both = torch.cat([conv.message.other.weight[k], conv.message.own.weight[k]])
            tower.M.weight.copy_(both.T)
            tower.M.bias.copy_(conv.message.own.bias[at])
            blocks = [conv.own.weight[k], *conv.update.weight[k].split(size, 1)]
            tower.U.weight.copy_(torch.cat(blocks).T * 6**0.5)
            tower.U.bias.copy_(conv.bias[k * size : (k + 1) * size] * 6**0.5)
            tower.batchnorm.running_var.fill_(1 - tower.batchnorm.eps)
        oracle.mixing_layer[0].weight.copy_(conv.mix.weight)
        oracle.mixing_layer[0].bias.copy_(conv.mix.bias)
    want = oracle(six_dgl, h)
    torch.testing.assert_close(layer(conv, NEED, h), want, rtol=1e-9, atol=1e-9)


def test_mean_alone_is_a_message_passing_network(layer, h):
    conv = made(8, 8, ("mean",), ("identity",), DELTA, 4)
    other = MPNNConv(8, 8, "mean", 4).double()
    other.message, other.own, other.mix = conv.message, conv.own, conv.mix
    other.update.weight, other.update.bias = conv.update.weight, conv.bias
    want = nn.functional.leaky_relu(layer(other, Need(1, "row"), h))
    torch.testing.assert_close(layer(conv, NEED, h), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("towers", "simple"), [(2, False), (1, True)])
@pytest.mark.parametrize("names", [NAMES, ("add", "var")])
def test_layer_gradient(check_gradient, h, names, towers, simple):
    check_gradient(made(8, 4, names, SCALERS, DELTA, towers, simple=simple), NEED, h)


def test_degrees_are_those_of_the_whole_graph(six, h):
    """In a sample of its edges a node is scaled as it is in the whole graph."""
    conv = made(8, 4, ("mean",), ("amplification",), DELTA, simple=True)
    full = whole_hop(six, NEED, torch.float64)
    one = Adjacency(torch.tensor([0, 1, 1, 1, 1, 1, 1]), six.indices[:1], 6)
    got = conv(Hop(one, degree=full.degree), h, None)[0]
    want = math.log(3 + 1) / DELTA * h[six.indices[0]] @ conv.update.weight[0] + conv.bias
    torch.testing.assert_close(got, want)


def test_delta_is_that_of_training_nodes(sixty):
    model = PNA(sixty.shape, hidden=8)
    want = sixty.graph.in_degree.double().add(1).log().mean()
    assert [block.conv.delta.item() for block in model.layers] == [pytest.approx(want.item())] * 4
    bare = GraphData(
        "bare", Adjacency.from_edges(*torch.empty(2, 0, dtype=torch.int64), 3), torch.ones(3, 2),
        torch.zeros(3, dtype=torch.int64), {"train": torch.arange(3)}, Task(),
    )  # fmt: skip
    assert PNA(bare.shape, hidden=8).layers[0].conv.delta == 1.0  # no edges to be measured


# -- the network -----------------------------------------------------------------------------------


def test_published_count_on_molhiv(parameters):
    shape = Shape(9, 1, level="graph", categories=ATOMS)
    model = PNA(shape, hidden=80, depth=4, simple=True, head_widths=[40, 20])
    assert parameters(model) == 326_081


def test_count_of_a_layer_by_the_formula(parameters):
    t, d, d_out, a, s = 4, 2, 3, 4, 3
    want = t * ((2 * d * d + d) + ((a * s + 1) * d * d_out + d_out)) + (12 * 12 + 12)
    assert parameters(PNAConv(8, 12, NAMES, SCALERS, DELTA, 4)) == want
    assert parameters(PNAConv(8, 12, NAMES, SCALERS, DELTA, simple=True)) == 12 * 8 * 12 + 12


@pytest.mark.parametrize("options", [
    {}, {"simple": True}, {"divide": False, "towers": 2}, {"aggregators": ["mean", "add"]},
    {"stem": False, "divide": False, "depth": 2, "norm": "none", "residual": False},
])  # fmt: skip
def test_model(check_model, options):
    check_model(lambda shape: PNA(shape, hidden=8, **options))


def test_refusals():
    with pytest.raises(UsageError, match=r"architecture\.scalers=\[\]: give at least one"):
        PNA(Shape(8, 3), scalers=[])
    with pytest.raises(UsageError, match=r"architecture\.aggregators=\['max', 'max'\]: .*twice"):
        PNA(Shape(8, 3), aggregators=["max", "max"])
    with pytest.raises(UsageError, match=r"architecture\.edges=true: the simple layer"):
        PNA(Shape(8, 3), simple=True, edges=True)
    with pytest.raises(UsageError, match=r"architecture\.hidden=10: .*architecture\.towers=4; ch"):
        PNA(Shape(8, 3), hidden=10)
    PNA(Shape(8, 3), hidden=10, simple=True)
