import pytest
import torch

from gnnscale.architecture._towers import Towers
from gnnscale.architecture.mpnn import MPNN, MPNNConv
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.traits import Trait
from gnnscale.graph.norm import whole_hop

PLAIN, MEAN = Need(1), Need(1, "row")
AGGR = {"sum": lambda m: m.sum(0), "mean": lambda m: m.mean(0), "max": lambda m: m.amax(0)}


@pytest.fixture
def h():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def made(*arguments, **more):
    torch.manual_seed(0)
    return MPNNConv(*arguments, **more).double()


def by_edges(conv, h, adj, edge=None):
    """The definition: a message per edge, tower by tower."""
    t, width = conv.towers, conv.message.own.weight.shape[1]
    cut = (lambda k: slice(None)) if conv.message.own.whole else (
        lambda k: slice(k * width, (k + 1) * width))  # fmt: skip
    size, rows = conv.update.weight.shape[2], []
    for i in range(adj.n_dst):
        parts = []
        for k in range(t):
            at = slice(k * size, (k + 1) * size)
            x_i, w_own, w_other = (
                h[i, cut(k)],
                conv.message.own.weight[k],
                conv.message.other.weight[k],
            )
            z = h.new_zeros(size)
            span = range(int(adj.indptr[i]), int(adj.indptr[i + 1]))
            if len(span):
                m = torch.stack([
                    x_i @ w_own + conv.message.own.bias[at] + h[adj.indices[e], cut(k)] @ w_other
                    + (0 if edge is None else conv.message.edge(edge[e : e + 1])[0, at])
                    for e in span
                ])  # fmt: skip
                z = AGGR[conv.aggr](m)
            parts.append(
                z @ conv.update.weight[k] + conv.update.bias[at] + x_i @ conv.own.weight[k]
            )
        rows.append(conv.mix(torch.cat(parts)))
    return torch.stack(rows)


@pytest.mark.parametrize("aggr", AGGR)
@pytest.mark.parametrize(("towers", "divide"), [(1, True), (4, True), (2, False)])
def test_layer_equals_a_message_per_edge(six, layer, h, aggr, towers, divide):
    conv = made(8, 12, aggr, towers, divide)
    got = layer(conv, MEAN if aggr == "mean" else PLAIN, h)
    torch.testing.assert_close(got, by_edges(conv, h, six), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggr", AGGR)
@pytest.mark.parametrize("shape", [
    Shape(8, 3, edge_features=3), Shape(8, 3, edge_categories=(4, 2)),
], ids=["numbers", "codes"])  # fmt: skip
def test_layer_with_edge_features(six, h, aggr, shape):
    conv = made(8, 12, aggr, 4, True, shape)
    draw = torch.Generator().manual_seed(1)
    if shape.edge_features:
        edge = torch.randn(six.n_edges, 3, generator=draw, dtype=torch.float64)
    else:
        edge = torch.stack([torch.arange(six.n_edges) % n for n in (4, 2)], 1)
    got = conv(Hop(six, edge=edge), h, None)
    torch.testing.assert_close(got, by_edges(conv, h, six, edge), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggr", AGGR)
def test_layer_gradient(check_gradient, h, aggr):
    check_gradient(made(8, 4, aggr, 2), MEAN if aggr == "mean" else PLAIN, h)


def test_towers_are_linear_maps_side_by_side(h):
    torch.manual_seed(0)
    for whole, size in ((False, 2), (True, 8)):
        made = Towers(4, size, 3, whole).double()
        parts = [h] * 4 if whole else h.split(2, 1)
        want = [x @ w + b for x, w, b in zip(parts, made.weight, made.bias.split(3), strict=True)]
        torch.testing.assert_close(made(h), torch.cat(want, 1))
    assert Towers(4, 16, 3, fan=100).weight.abs().max() <= 0.1


@pytest.mark.parametrize("aggr", ["sum", "max"])
def test_what_backward_keeps_does_not_grow_with_the_edges(aggr):
    kept = []
    for degree in (5, 50):
        src = torch.arange(200).repeat_interleave(degree)
        dst = (src + 1 + torch.arange(degree).repeat(200)) % 200
        hop = whole_hop(Adjacency.from_edges(src, dst, 200), PLAIN)
        conv, sizes = MPNNConv(16, 16, aggr), []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            conv(hop, torch.randn(200, 16, requires_grad=True), None).sum().backward()
        kept.append(sizes)
    assert kept[0] == kept[1]


@pytest.mark.parametrize("options", [
    {}, {"aggr": "mean"}, {"aggr": "max", "divide": False, "towers": 2},
    {"stem": False, "divide": False, "depth": 2, "norm": "none"},
])  # fmt: skip
def test_model(check_model, options):
    check_model(lambda shape: MPNN(shape, hidden=8, **options))


def test_counts_by_the_formula_of_the_baseline(parameters):
    """Width 116, 3 layers on ogbn-arxiv: 4 towers of 29, each a message and an update map."""
    arxiv = MPNN(Shape(128, 40), hidden=116, depth=3)
    tower = 2 * (58 * 29 + 29)
    layer = 4 * tower + (116 * 116 + 116) + 2 * 116
    assert parameters(arxiv) == (128 * 116 + 116) + 3 * layer + (116 * 40 + 40)


def test_linear_but_for_the_maximum():
    assert Trait.LINEAR in MPNN.declare()[0]
    assert Trait.LINEAR in MPNN.declare(aggr="mean")[0]
    assert Trait.LINEAR not in MPNN.declare(aggr="max")[0]


def test_refusals():
    with pytest.raises(UsageError, match=r"architecture\.hidden=10: .*architecture\.towers=4; ch"):
        MPNN(Shape(8, 3), hidden=10)
    with pytest.raises(UsageError, match=r"architecture\.towers=4: .* 7 columns.*divide=false"):
        MPNN(Shape(7, 3), hidden=8, stem=False)
    last = MPNN(Shape(8, 3), hidden=8, stem=False, depth=2).layers[-1].conv
    assert (last.towers, last.mix.out_features) == (1, 3)
