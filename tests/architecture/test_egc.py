import pytest
import torch
from torch import nn

from gnnscale.architecture.egc import EGC, EGConv
from gnnscale.core.batch import Memo
from gnnscale.core.data import TOY, Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import STD_EPS, Need
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.traits import Trait
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch

ARXIV = Shape(128, 40)
EGC_S = {"hidden": 184, "heads": 8, "bases": 4, "aggregators": ["symadd"]}
EGC_M = {"hidden": 136, "heads": 4, "bases": 4, "aggregators": ["symadd", "max", "mean"]}


def test_published_counts(parameters):
    assert parameters(EGC(ARXIV, **EGC_S)) == 101_336
    assert parameters(EGC(ARXIV, **EGC_M)) == 99_464


ZINC = Shape(1, 1, level="graph", categories=(28,))
CIFAR = Shape(5, 10, level="graph")
MOLHIV = Shape(9, 1, level="graph", categories=(119, 4, 12, 12, 10, 6, 6, 2, 2))


@pytest.mark.parametrize(
    ("shape", "hidden", "heads", "bases", "names", "count"),
    [
        (ZINC, 168, 8, 4, ["symadd"], 102_861),
        (ZINC, 124, 4, 4, ["add", "std", "max"], 100_385),
        (CIFAR, 168, 8, 4, ["symadd"], 99_552),
        (CIFAR, 128, 4, 4, ["symadd", "std", "max"], 103_466),
        (MOLHIV, 296, 8, 4, ["symadd"], 323_509),
        (MOLHIV, 224, 4, 4, ["add", "mean", "max"], 317_265),
    ],
)
def test_published_counts_at_graph_level(parameters, shape, hidden, heads, bases, names, count):
    model = EGC(
        shape, hidden=hidden, depth=4, heads=heads, bases=bases, aggregators=names,
        head_widths=[hidden // 2, hidden // 4], head_norm="batch",
    )  # fmt: skip
    assert parameters(model) == count


@pytest.mark.parametrize(("heads", "bases", "names"), [(2, 3, 1), (4, 1, 2), (1, 5, 7)])
def test_count_of_a_layer_by_the_formula(parameters, heads, bases, names):
    every = ("symadd", "add", "mean", "max", "min", "var", "std")[:names]
    f, f_out = 5, 8
    want = f * (f_out // heads) * bases + (f + 1) * heads * bases * names + f_out
    assert parameters(EGConv(f, f_out, heads, bases, every)) == want


def test_one_head_and_basis_with_constant_mixing_is_graphconv(six_dgl, layer, features):
    torch.manual_seed(0)
    conv = EGConv(5, 4, 1, 1, ("symadd",)).double()
    nn.init.zeros_(conv.mix.weight)
    nn.init.ones_(conv.mix.bias)
    nn.init.normal_(conv.bias)
    oracle = dgl.nn.GraphConv(5, 4, norm="both").double()
    oracle.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    want = oracle(dgl.add_self_loop(six_dgl), features)
    got = layer(conv, Need(1, "sym", "diag"), features)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def by_loops(conv, names, x, matrix, self_loops):
    """The definition, one node, head, basis and aggregator at a time."""
    n, length, bases, heads = len(x), conv.size, conv.bases, conv.heads
    d_in, d_out = matrix.sum(1) + 1, matrix.sum(0) + 1
    rows = []
    for i in range(n):
        near = [j for j in range(n) if matrix[i, j]]
        here = [*near, i]
        w = conv.mix.weight @ x[i] + conv.mix.bias
        parts = []
        for h in range(heads):
            y = x.new_zeros(length)
            for a, name in enumerate(names):
                for b in range(bases):
                    theta = conv.weight[:, b * length : (b + 1) * length]
                    chosen = here if self_loops == "all" or name == "symadd" else near
                    t = x[chosen] @ theta
                    if name == "symadd":
                        u = sum(t[k] / (d_in[i] * d_out[j]) ** 0.5 for k, j in enumerate(chosen))
                    elif name == "std":
                        variance = t.var(0, correction=0) if chosen else x.new_zeros(length)
                        u = (variance + STD_EPS).sqrt()
                    elif not chosen:
                        u = x.new_zeros(length)
                    else:
                        u = {
                            "add": lambda t: t.sum(0),
                            "mean": lambda t: t.mean(0),
                            "max": lambda t: t.max(0).values,
                            "min": lambda t: t.min(0).values,
                            "var": lambda t: t.var(0, correction=0),
                        }[name](t)
                    y = y + w[(h * len(names) + a) * bases + b] * u
            parts.append(y)
        rows.append(torch.cat(parts) + conv.bias)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "names",
    [("symadd",), ("symadd", "max", "mean"), ("add", "std", "max"), ("mean",),
     ("min", "var", "symadd", "add")],
)  # fmt: skip
@pytest.mark.parametrize("self_loops", ["symadd", "all"])
@pytest.mark.parametrize(("heads", "bases"), [(2, 3), (4, 1)])
def test_layer_equals_a_loop_over_heads(
    layer, features, six, dense, names, self_loops, heads, bases
):
    torch.manual_seed(0)
    conv = EGConv(5, 8, heads, bases, names).double()
    nn.init.normal_(conv.bias)
    # the need that the whole model states is the one that makes the layer right
    need = EGC(Shape(5, 3), hidden=8, heads=2, aggregators=list(names), self_loops=self_loops).need
    want = by_loops(conv, names, features, dense(six), self_loops)
    torch.testing.assert_close(layer(conv, need, features), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("names", "self_loops", "operator", "loops"),
    [
        (["symadd"], "symadd", "sym", "diag"),
        (["symadd", "max"], "all", "sym", "edges"),
        (["add"], "symadd", "none", "none"),
        (["max", "mean"], "all", "none", "edges"),
    ],
)
def test_need(names, self_loops, operator, loops):
    model = EGC(Shape(5, 3), depth=2, aggregators=names, self_loops=self_loops)
    assert model.need == Need(2, operator, loops, stem=True)
    plain = EGC(Shape(5, 3), aggregators=names, self_loops=self_loops, stem=False)
    assert not plain.need.stem


@pytest.mark.parametrize("names", [("symadd",), ("add", "std", "max"), ("symadd", "min", "var")])
def test_layer_gradient(check_gradient, features, names):
    check_gradient(EGConv(5, 4, 2, 3, names).double(), Need(1, "sym", "diag"), features)


@pytest.mark.parametrize("names", [["symadd"], ["symadd", "max", "mean"], ["add", "std", "min"]])
@pytest.mark.parametrize("self_loops", ["symadd", "all"])
def test_model(check_model, names, self_loops):
    check_model(
        lambda shape: EGC(shape, hidden=8, heads=2, aggregators=names, self_loops=self_loops)
    )


def test_model_without_a_stem(check_model):
    check_model(lambda shape: EGC(shape, hidden=8, heads=2, stem=False, residual=False, depth=2))
    last = EGC(Shape(5, 3), hidden=8, heads=2, stem=False, depth=2).layers[-1].conv
    assert (last.heads, last.size) == (1, 3)
    last = EGC(Shape(5, 6), hidden=8, heads=2, out_heads=3, stem=False, depth=2).layers[-1].conv
    assert (last.heads, last.size) == (3, 2)
    assert last.weight.shape == (8, 4 * 2)


def test_network_is_the_papers(sixty):
    torch.manual_seed(0)
    model = EGC(sixty.shape, hidden=8, heads=2, depth=2).double().eval()
    batch = whole_batch(sixty, model.need)
    h = model.encoder(sixty.x)
    for block in model.layers:
        h = h + block.norm(block.conv(batch.hops[0], h, None)).relu()
    torch.testing.assert_close(model(batch).logits, model.head(h))


def test_linear_only_if_every_aggregator_is():
    def linear(*names):
        return Trait.LINEAR in EGC.declare(aggregators=list(names))[0]

    assert linear("symadd")
    assert linear("add", "mean", "symadd")
    for name in ("max", "min", "var", "std"):
        assert not linear("symadd", name)
    assert Trait.LINEAR in EGC.declare()[0]
    assert EGC.declare(aggregators=["max"])[1] == ({Trait.HOPS},)


def test_refusals():
    with pytest.raises(
        UsageError,
        match=r"architecture\.hidden=10: must be divisible by architecture\.heads=4; .*=12",
    ):
        EGC(Shape(5, 3), hidden=10, heads=4)
    with pytest.raises(UsageError, match=r"out_heads=4: must divide the 6 .* 1, 2, 3, 6"):
        EGC(Shape(5, 6), out_heads=4, stem=False)
    EGC(Shape(5, 6), out_heads=4)  # the last layer gives no logits there
    EGC(TOY, out_heads=8, stem=False)  # how many classes there are is not known yet
    for names in (["max", "max"], ["symadd", "add", "symadd"], []):
        with pytest.raises(UsageError, match=r"architecture\.aggregators=\[.*none twice"):
            EGC(Shape(5, 3), aggregators=names)


@pytest.mark.parametrize(
    "aggregators",
    [("symadd",), ("symadd", "mean", "add"), ("symadd", "std", "max"), ("add", "var", "min")],
)
def test_what_backward_keeps_does_not_grow_with_the_edges(aggregators):
    """No [E, *] tensor is kept for the backward pass: the same bytes for E edges and for 8 E."""
    kept = []
    for degree in (8, 64):
        src = torch.arange(400).repeat_interleave(degree)
        dst = (src + 1 + torch.arange(degree).repeat(400)) % 400
        adj = Adjacency.from_edges(src, dst, 400)
        assert adj.n_edges == 400 * degree
        hop = whole_hop(adj, Need(1, "sym", "diag"))
        conv, sizes = EGConv(16, 16, 4, 4, aggregators), []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            conv(hop, torch.randn(400, 16, requires_grad=True), Memo(None)).sum().backward()
        kept.append(sizes)
    assert kept[0] == kept[1]
    assert max(kept[1]) < 4 * 400 * 64
