import math

import pytest
import torch
from compositions import toy, train
from torch import nn

from gnnscale.architecture.gcn import GCNConv
from gnnscale.architecture.gcnii import GCNII, GCNIIConv
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.random import Key
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.gas import GAS
from gnnscale.train.predict import Full, Layerwise
from gnnscale.train.query import Query

NEED = Need(1, "sym", "diag")
VARIANTS = ["none", "star", "dense"]


@pytest.fixture
def first():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(12), dtype=torch.float64)


@pytest.fixture
def run(six, first):
    """run(conv, h): one convolution over the six-node graph, with a first level of its own."""

    def apply(conv, h):
        return conv(whole_hop(six, NEED, h.dtype), h, Memo(None, first))

    return apply


def operator(matrix):
    a = matrix + torch.eye(len(matrix), dtype=torch.float64)
    return a.sum(1).rsqrt().unsqueeze(1) * a * a.sum(0).rsqrt()


# -- the layer -------------------------------------------------------------------------------------


def test_without_initial_residual_and_identity_it_is_gcn(run, layer, features):
    conv, gcn = GCNIIConv(5, 0.0, 1.0).double(), GCNConv(5, 5).double()
    gcn.weight = conv.weight
    torch.testing.assert_close(run(conv, features), layer(gcn, NEED, features))


def test_beta_zero_is_a_step_of_personalised_pagerank(run, features, first, six, dense):
    for variant in ("none", "star"):
        conv = GCNIIConv(5, 0.2, 0.0, variant).double()
        want = 0.8 * operator(dense(six)) @ features + 0.2 * first
        torch.testing.assert_close(run(conv, features), want)


def test_alpha_one_does_not_see_the_graph(run, features, first):
    conv = GCNIIConv(5, 1.0, 0.3).double()
    torch.testing.assert_close(run(conv, features), 0.7 * first + 0.3 * first @ conv.weight)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_by_dense_matrices(run, features, first, six, dense, variant):
    conv, s, a, b = GCNIIConv(5, 0.1, 0.4, variant).double(), operator(dense(six)), 0.1, 0.4
    z, w = s @ features, conv.weight
    mixed = (1 - a) * z + a * first
    want = {
        "none": lambda: (1 - b) * mixed + b * mixed @ w,
        "star": lambda: (1 - b) * mixed + b * torch.cat([z, first], 1) @ w,
        # S (H + H W1) + a H0 + H0 W2
        "dense": lambda: s @ (features + features @ w[:5]) + a * first + first @ w[5:],
    }[variant]()
    torch.testing.assert_close(run(conv, features), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["none", "star"])
def test_layer_equals_gcn2conv(run, features, first, six, six_dgl, variant):
    """DGL's star scales the two products by 1 - a and a; ours, as the authors', does not."""
    back = dgl.graph((six_dgl.edges()[1], six_dgl.edges()[0]), num_nodes=6)
    both = dgl.to_simple(dgl.merge([six_dgl, back]))  # DGL knows in-degrees only
    conv = GCNIIConv(5, 0.3, math.log(0.5 / 2 + 1), variant).double()
    oracle = dgl.nn.GCN2Conv(5, 2, 0.3, 0.5, variant == "none", bias=False).double()
    with torch.no_grad():
        oracle.weight1.copy_(conv.weight[:5])
        if variant == "star":
            oracle.weight1.div_(0.7)
            oracle.weight2.copy_(conv.weight[5:] / 0.3)
    want = oracle(dgl.add_self_loop(both), features, first)
    src, dst = both.edges()
    adj = type(six).from_edges(src, dst, 6)
    got = conv(whole_hop(adj, NEED, torch.float64), features, Memo(None, first))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_gradient(six, features, first, variant):
    conv = GCNIIConv(5, 0.1, 0.4, variant).double()
    hop, leaves = whole_hop(six, NEED, torch.float64), (features, first, conv.weight.detach())

    def apply(h, h0, w):
        named = {"weight": w}
        return torch.func.functional_call(conv, named, (hop, h, Memo(None, h0)))

    leaves = tuple(t.clone().requires_grad_() for t in leaves)
    assert torch.autograd.gradcheck(apply, leaves, fast_mode=True)


def test_initial_values_are_the_authors():
    w = GCNIIConv(64, 0.1, 0.4).weight
    assert w.abs().max() <= 1 / 8
    assert w.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert GCNIIConv(64, 0.1, 0.4, "star").weight.shape == (128, 64)
    assert GCNIIConv(64, 0.1, 0.4, "dense").weight.abs().max() <= (6 / 128) ** 0.5


# -- the network -----------------------------------------------------------------------------------


def test_published_count_of_the_network_on_arxiv(parameters):
    arxiv = GCNII(
        Shape(128, 40), hidden=256, depth=16, variant="dense", norm="batch", residual=True
    )
    assert parameters(arxiv) == 2_148_648
    cora = GCNII(Shape(1433, 7), hidden=64, depth=64)
    assert parameters(cora) == (1433 * 64 + 64) + 64 * 64 * 64 + (64 * 7 + 7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_by_the_formula(sixty, variant):
    torch.manual_seed(0)
    more = {"norm": "batch", "residual": True} if variant == "dense" else {}
    model = GCNII(sixty.shape, hidden=8, depth=3, lambda_=0.7, variant=variant, **more)
    model = model.double().eval()
    batch = whole_batch(sixty, model.need)
    first = h = (sixty.x @ model.encoder[1].weight.T + model.encoder[1].bias).relu()
    for number, block in enumerate(model.layers, 1):
        assert block.conv.beta == math.log(0.7 / number + 1)
        z = block.conv(batch.hops[0], h, Memo(None, first))
        h = z.relu() if variant != "dense" else block.norm(z).relu() + h
    want = h @ model.head[1].weight.T + model.head[1].bias
    torch.testing.assert_close(model(batch).logits, want, rtol=1e-12, atol=1e-12)


def test_dropout_stands_before_every_map_and_not_on_the_first_level(sixty):
    model = GCNII(sixty.shape, hidden=32, depth=3, dropout=0.5).double().train()
    zeros, firsts = [], []

    def see(module, given):
        zeros.append(given[1] if len(given) > 1 else given[0])
        firsts.extend(memo.first for memo in given[2:])

    for module in (model.encoder[1], *(block.conv for block in model.layers), model.head[1]):
        module.register_forward_pre_hook(see)
    out = model(whole_batch(sixty, model.need))
    for seen, level in zip(zeros, [sixty.x, *out.levels], strict=True):
        kept = level[level != 0]
        gone = (seen[level != 0] == 0).double().mean().item()
        assert 0.4 < gone < 0.6
        torch.testing.assert_close(
            seen[level != 0], torch.where(seen[level != 0] == 0, 0, 2 * kept)
        )
    assert all(first is out.levels[0] for first in firsts)
    assert (out.levels[0] != 0).double().mean() > 0.4  # relu halves it, dropout does not
    with_input = GCNII(sixty.shape, hidden=4, depth=1, input_dropout=0.0)
    assert [m.p for m in with_input.modules() if hasattr(m, "p")] == [0.0, 0.6]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("more", [{}, {"norm": "batch", "residual": True}], ids=["", "normed"])
def test_model(check_model, variant, more):
    check_model(lambda shape: GCNII(shape, hidden=8, depth=4, variant=variant, **more))


def test_a_stem_is_what_it_builds_on():
    with pytest.raises(UsageError, match=r"architecture\.stem=false: .*type architecture\.stem=tr"):
        GCNII(Shape(5, 3), stem=False)


def test_no_layer_can_be_trained_alone(tmp_path):
    plan = toy({"architecture": {"depth": 2}}, architecture="gcnii", recipe="layerwise")
    with pytest.raises(UsageError, match=r"architecture=gcnii: its layers read the first level"):
        train(plan, tmp_path)


# -- inference and histories -----------------------------------------------------------------------


@pytest.fixture
def net(sixty):
    torch.manual_seed(0)
    return GCNII(sixty.shape, hidden=6, depth=3, alpha=0.3).double().eval()


@pytest.mark.parametrize("inference", [Layerwise(chunk=17), Query(chunk=7)], ids=type)
def test_inference_by_pieces_carries_the_first_level(inference, net, sixty):
    rows, cpu = torch.tensor([3, 59, 3, 20]), torch.device("cpu")
    torch.testing.assert_close(
        inference(net, sixty, rows, cpu), Full()(net, sixty, rows, cpu), rtol=1e-10, atol=1e-12
    )


def swept(sampler, model):
    logits = torch.empty(60, 4, dtype=torch.float64)
    with torch.no_grad():
        for index in sampler.plan(torch.arange(60), Key(3, "plan")):
            batch = sampler.sample(index, Key(3, "sample", 1, 2))
            batch = sampler.bind(batch, torch.device("cpu"), write=True)
            logits[batch.ids] = model(batch).logits
            sampler.commit()
    return logits


def test_histories_are_exact_with_one_part_and_with_frozen_weights(net, sixty):
    everyone, cpu = torch.arange(60), torch.device("cpu")
    want = Full()(net, sixty, everyone, cpu)
    one, many = GAS(1, 1), GAS(6, 1, "random")
    for sampler in (one, many):
        sampler.prepare(sixty, net.need, Key(3, "prepare"))
    torch.testing.assert_close(swept(one, net), want, rtol=1e-10, atol=1e-12)
    found = [swept(many, net) for _ in range(4)]
    assert (found[0] - want).abs().max() > 1e-4
    for right in found[2:]:
        torch.testing.assert_close(right, want, rtol=1e-10, atol=1e-12)
    assert sorted(many.kept.tables) == [1, 2]


def test_histories_give_the_first_level_its_gradient(net, sixty):
    """One part: gradients are those of the whole graph, the encoder's through every h0 included."""
    sampler = GAS(1, 1)
    sampler.prepare(sixty, net.need, Key(3, "prepare"))
    part = sampler.bind(
        sampler.sample(torch.tensor([0]), Key(3, "sample", 1, 2)), torch.device("cpu"), True
    )
    grads = []
    for batch in (whole_batch(sixty, net.need), part):
        loss = net(batch).logits.square().sum()
        grads.append(torch.autograd.grad(loss, list(net.parameters())))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-10)
    assert nn.utils.parameters_to_vector(grads[0][:1]).abs().max() > 0
