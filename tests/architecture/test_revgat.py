import copy

import pytest
import torch
from torch import nn

from gnnscale.architecture._coupling import Coupling, Pass
from gnnscale.architecture.revgat import RevGAT, SourceGATConv, Thin, Thinned
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch

LOOPS = Need(1, loops="edges")
ARXIV = Shape(128 + 40, 40)
"""Features beside the one-hot training labels that are reused."""
MEMO = Memo(None)


@pytest.mark.parametrize(("size", "published"), [(256, 2_098_256), (356, 3_879_056)])
def test_published_counts(size, published, parameters):
    """Li et al., ICML 2021: 2.10M and 3.88M on ogbn-arxiv, five layers of three heads."""
    with torch.device("meta"):
        model = RevGAT(ARXIV, hidden=3 * size, heads=3)
    assert parameters(model) == published


@pytest.mark.parametrize(
    "options", [{}, {"groups": 4, "heads": 1, "norm": "layer", "depth": 3}, {"act": "elu"}]
)
def test_model(check_model, options):
    check_model(lambda shape: RevGAT(shape, hidden=8, **options))


# -- the convolution -------------------------------------------------------------------------------


def by_hand(conv, h, edges, kept=None):
    """The formula, edge by edge; ``edges`` (j, i) with loops, ``kept`` which of them stay."""
    n = len(h)
    kept = [True] * len(edges) if kept is None else kept
    out_degree, in_degree = [0] * n, [0] * n
    for j, i in edges:
        out_degree[j] += 1
        in_degree[i] += 1
    size = conv.weight.shape[1] // conv.heads
    result = torch.zeros(n, conv.heads, size, dtype=h.dtype)
    for k in range(conv.heads):
        w = conv.weight[:, k * size : (k + 1) * size]
        z = [h[j] @ w / out_degree[j] ** 0.5 for j in range(n)]
        for i in range(n):
            near = [j for (j, to), stays in zip(edges, kept, strict=True) if to == i and stays]
            score = [torch.exp(nn.functional.leaky_relu(conv.left[k] @ z[j], 0.2)) for j in near]
            for j, s in zip(near, score, strict=True):
                result[i, k] += s / sum(score) * z[j] * in_degree[i] ** 0.5
    result = result + (h @ conv.residual.weight.T).view(n, conv.heads, size)
    result = result.flatten(1) if conv.concat else result.mean(1)
    return result if conv.bias is None else result + conv.bias


def with_loops(six):
    return [
        (int(j), i)
        for i in range(6)
        for j in [*six.indices[six.indptr[i] : six.indptr[i + 1]], i]
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 2, "concat": False, "bias": True}])
def test_convolution_by_hand(options, six, features):
    torch.manual_seed(0)
    conv = SourceGATConv(5, 4, **options).double()
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    got = conv(whole_hop(six, LOOPS, torch.float64), features, MEMO)
    torch.testing.assert_close(got, by_hand(conv, features, with_loops(six)))


def test_dropped_edges_leave_the_softmax_and_degrees_stay(six, features):
    torch.manual_seed(0)
    conv = SourceGATConv(5, 4, 2).double()
    hop = whole_hop(six, LOOPS, torch.float64)
    kept = torch.rand(hop.graph.n_edges) > 0.4
    kept[hop.graph.dst == 5] = False  # and one node loses all it has
    got = conv(Thinned(**hop.parts(), kept=kept), features, MEMO)
    want = by_hand(conv, features, with_loops(six), kept.tolist())
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got[5], features[5] @ conv.residual.weight.T)


def test_targets_have_no_part_in_attention(features):
    """Two nodes with the same neighbours attend alike, whatever they are themselves."""
    graph = Adjacency.from_edges(torch.tensor([0, 1, 0, 1]), torch.tensor([2, 2, 3, 3]), 4)
    torch.manual_seed(0)
    conv = SourceGATConv(5, 4, 2).double()
    hop = whole_hop(graph, Need(1), torch.float64)
    nn.init.zeros_(conv.residual.weight)
    out = conv(hop, features[:4], MEMO)
    torch.testing.assert_close(out[2], out[3], rtol=0, atol=0)
    assert not torch.equal(out[2], out[0])


def test_numerical_gradients(check_gradient, features):
    check_gradient(SourceGATConv(5, 4, 2, bias=True).double(), LOOPS, features)


# -- reversible ------------------------------------------------------------------------------------


def made(sixty, **options):
    torch.manual_seed(0)
    rates = {"dropout": 0.3, "edge_dropout": 0.4, "attention_dropout": 0.2, "input_dropout": 0.1}
    model = RevGAT(sixty.shape, **{"hidden": 8, "depth": 6, **rates, **options}).double()
    return model, whole_batch(sixty, model.need)


@pytest.mark.parametrize("options", [{}, {"groups": 4, "norm": "layer"}])
def test_gradients_are_those_of_kept_activations(options, sixty):
    """Of every parameter, with a shared mask, dropped edges and attention dropout."""
    model, batch = made(sixty, **options)
    plain = copy.deepcopy(model)
    plain.layers[1].steps.keep = True
    found = []
    for each in (model, plain):
        torch.manual_seed(1)
        logits = each(batch).logits
        logits.square().sum().backward()
        found.append((logits, [p.grad for p in each.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.abs().max() > 0
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


def test_statistics_move_once_per_step(sixty):
    model, batch = made(sixty)
    model(batch).logits.sum().backward()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 2 * 4 + 1
    assert all(m.num_batches_tracked == 1 for m in norms)


@pytest.mark.parametrize("training", [True, False])
def test_inverse_of_forward_is_the_input(training, sixty):
    model, batch = made(sixty)
    coupling = model.train(training).layers[1].steps
    assert isinstance(coupling, Coupling)
    x = torch.randn(60, 8, dtype=torch.float64)
    with torch.no_grad():
        run = Pass(coupling, batch.hops[1], x, MEMO)
        y = run.forward(x, None)
        torch.testing.assert_close(run.inverse(y), x, rtol=0, atol=1e-11)
    assert (y - x).abs().max() > 0.1


def test_edges_are_drawn_per_layer_and_shared_by_groups_and_directions(sixty):
    model, batch = made(sixty)
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    for layer, each in enumerate(model.layers[1].steps.units):
        for i, f in enumerate(each):
            f.conv.register_forward_pre_hook(
                lambda _, given, at=(layer, i): seen.setdefault(at, []).append(given[0].kept)
            )
    model(batch).logits.sum().backward()
    assert {len(masks) for masks in seen.values()} == {2}  # once forward, once backward
    for layer in range(4):
        first = seen[layer, 0][0]
        assert all(torch.equal(m, first) for i in (0, 1) for m in seen[layer, i])
    assert not torch.equal(seen[0, 0][0], seen[1, 0][0])
    seen.clear()
    model.eval()
    hops = []
    model.layers[0].conv.register_forward_pre_hook(lambda _, given: hops.append(given[0]))
    for each in model.layers[1].steps.units:
        each[0].conv._forward_pre_hooks.clear()
        each[1].conv._forward_pre_hooks.clear()
    model(batch)
    assert not isinstance(hops[0], Thinned)


def test_each_edge_is_dropped_at_its_rate(sixty):
    hop, thin = whole_hop(sixty.graph, LOOPS), Thin(0.3)
    torch.manual_seed(0)
    kept = torch.stack([thin(hop).kept for _ in range(2000)]).double().mean(0)
    assert (kept - 0.7).abs().max() < 5 * (0.21 / 2000) ** 0.5
    assert thin.eval()(hop) is hop


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2}, r"architecture\.depth=2: two layers are plain .*depth=3"),
        ({"groups": 1}, r"architecture\.groups=1: .*no inverse; type architecture\.groups=2"),
        ({"hidden": 10}, r"architecture\.hidden=10: must be divisible by .*groups \* heads=4"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UsageError, match=message):
        RevGAT(Shape(5, 3), **options)


def test_codes_are_refused():
    with pytest.raises(UsageError, match=r"not codes; choose .*architecture=reversible"):
        RevGAT(Shape(2, 3, categories=(4, 5)))
