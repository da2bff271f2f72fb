import copy

import pytest
import torch
import torch.nn.functional as F
from compositions import plan

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.choice import Choice, choices
from gnnscale.core.errors import UsageError
from gnnscale.core.site import Dense, Site, sites
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization._fake import FakeQuant
from gnnscale.quantization.mixed import Exact, Mixed, Mixture
from gnnscale.quantization.qat import QAT

MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=16),
    "gat": lambda shape: GAT(shape, hidden=16, heads=4),
    "gin": lambda shape: GIN(shape, hidden=16),
    "sage": lambda shape: SAGE(shape, hidden=16, norm="batch"),
}
FAR = 1e4
"""A logit beside which the softmax of others is exactly 0."""


@pytest.fixture
def data(sixty):
    return sixty.with_(x=sixty.x.float())


def filled(model, quantizer):
    coded = copy.deepcopy(model)
    quantizer.attach(coded)
    return coded


def steps(model, data, n=4):
    """Losses and final gradients of some steps of training, then logits in evaluation."""
    batch = whole_batch(data, model.need)
    mine = [p for name, p in model.named_parameters() if not name.endswith("theta")]
    optimizer = torch.optim.SGD(mine, lr=0.1)
    losses = []
    for k in range(n):
        torch.manual_seed(k)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(batch).logits, data.y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.grad.clone() for p in mine], model.eval()(batch).logits.detach()


def same(found, wanted):
    assert found[0] == wanted[0]
    assert all(map(torch.equal, found[1], wanted[1]))
    assert torch.equal(found[2], wanted[2])


def decide(model, seed):
    """One-hot gates everywhere; the widths by the sites' names."""
    draw = torch.Generator().manual_seed(seed)
    for choice in choices(model):
        with torch.no_grad():
            choice.theta.fill_(-FAR)
            choice.theta[int(torch.randint(len(choice.options), (), generator=draw))] = FAR
        assert sorted(choice.gates.tolist()) == [0.0] * (len(choice.options) - 1) + [1.0]
    mixtures = ((name, s.quantizer) for name, s in sites(model))
    return {n: m.widths[m.choice.best] for n, m in mixtures if isinstance(m, Mixture)}


@pytest.mark.parametrize("name", MODELS)
def test_one_option_everywhere_is_plain_training_bit_for_bit(data, name):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    mixed = filled(model, Mixed([4], [6], [6]))
    assert not list(choices(mixed))
    same(steps(mixed, data), steps(filled(model, QAT(4, 6)), data))
    float_ = filled(model, Mixed([32], [32], [32]))
    assert all(site.quantizer is None for _, site in sites(float_))


@pytest.mark.parametrize("block", ["site", "layer"])
@pytest.mark.parametrize("name", MODELS)
def test_one_hot_gates_are_the_discrete_network_bit_for_bit(data, name, block):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    quantizer = Mixed([2, 4, 8], [4, 8, 32], [8, 16], block=block)
    for seed in range(2):
        mixed = filled(model, quantizer)
        bits = decide(mixed, seed)
        assert len(set(bits.values())) > 1
        same(steps(mixed, data), steps(filled(model, quantizer.settled(bits)), data))


def test_a_settled_network_without_float_is_qat_at_these_widths(data):
    torch.manual_seed(0)
    model = GAT(data.shape, hidden=16, heads=4)
    quantizer = Mixed()
    bits = decide(filled(model, quantizer), 5)
    assert set(bits) == {name for name, _ in sites(model)}
    plain = filled(model, QAT(bits=bits))
    same(steps(filled(model, quantizer.settled(bits)), data), steps(plain, data))


def test_a_soft_site_is_the_weighted_sum_and_its_options_are_told_apart():
    site = Site("input")
    mixture = Mixed(activation_bits=[4, 8]).make(site, "q_input", None).train()
    with torch.no_grad():
        mixture.choice.theta.copy_(torch.tensor([0.3, -0.5]))
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    four, eight = (QAT(activation_bits=b).make(site, "q_input", None).train() for b in (4, 8))
    g = torch.tensor([0.3, -0.5]).softmax(0)
    torch.testing.assert_close(mixture(x), g[0] * four(x) + g[1] * eight(x))
    # a range for each option, which are no parts of one another
    low, high = mixture.options[0].low, mixture.options[1].low
    assert low == four.low == high == eight.low
    assert low.data_ptr() != high.data_ptr()
    g0 = torch.autograd.grad(mixture(x).square().sum(), mixture.choice.theta)[0]
    assert g0.abs().min() > 0


def test_blocks_share_a_choice(data):
    model = GAT(data.shape, hidden=16, heads=4)
    by_site, by_layer = filled(model, Mixed()), filled(model, Mixed(block="layer"))
    assert len(list(choices(by_site))) == len(list(sites(model))) == 16
    names = [choice.name for choice in choices(by_layer)]
    assert names == [
        f"layers.{i} {kind}"
        for i in range(2)
        for kind in ("activations of 4/8/16 bits", "weights of 2/4/8 bits",
                     "activations of 8/16 bits")
    ]  # fmt: skip
    # attention has a list of its own, and names win over roles
    quantizer = Mixed(bits={"layers.0.*": [4, 8], "*.q_weight": [3, 32], "*.1.*aggregate": [5]})
    widths = {name: quantizer.widths(site, name) for name, site in sites(model)}
    assert widths["layers.0.conv.q_attention"] == [4, 8]
    assert widths["layers.1.conv.q_attention"] == [8, 16]
    assert widths["layers.0.conv.q_weight"] == [3, 32]
    assert widths["layers.1.conv.q_left"] == [2, 4, 8]
    mixed = filled(model, quantizer)
    assert isinstance(mixed.layers[1].conv.q_aggregate.quantizer, FakeQuant)
    assert isinstance(mixed.layers[0].conv.q_weight.quantizer.options[1], Exact)


def test_roles_that_are_left_out_are_left_alone(data):
    model = filled(GAT(data.shape, hidden=16, heads=4), Mixed(roles=["message"]))
    found = {site.role for _, site in sites(model) if site.quantizer is not None}
    assert found == {"weight", "message"}


def test_every_choice_gets_a_gradient_also_behind_sparse_rows():
    torch.manual_seed(0)
    layer = Dense(12, 3)
    Mixed(activation_bits=[3, 4, 8]).attach(layer)
    for choice in choices(layer):
        torch.nn.init.normal_(choice.theta)
    x = torch.randn(40, 12) * (torch.rand(40, 12) < 0.3)
    grads = []
    for given in (x, SparseRows.from_dense(x)):
        layer.train()(given)  # ranges
        theta = [c.theta for c in choices(layer)]
        out = layer.eval()(given)
        grads.append([out, *torch.autograd.grad(out.square().sum(), [*theta, layer.weight])])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0
    # frozen, as in steps of weights: one product with the mixed values, and the same result
    for choice in choices(layer):
        choice.theta.requires_grad_(False)
    torch.testing.assert_close(layer(SparseRows.from_dense(x)), grads[0][0])
    assert type(layer.q_input(SparseRows.from_dense(x))) is SparseRows


# -- gates -----------------------------------------------------------------------------------------


def test_draws_choose_each_option_as_often_as_its_probability():
    choice, draws = Choice("a", "abc"), 4000
    with torch.no_grad():
        choice.theta.copy_(torch.tensor([1.0, 0.0, -0.7]))
    counts, generator = torch.zeros(3), torch.Generator().manual_seed(0)
    for _ in range(draws):
        choice.draw(1e-3, generator)
        gates = choice.gates.detach()
        assert abs(gates.sum().item() - 1) < 1e-6
        counts[gates.argmax()] += 1
    p = choice.probabilities
    assert ((counts / draws - p).abs() < 4 * (p * (1 - p) / draws).sqrt()).all()
    assert choice.gates.max().item() > 0.99, "cold draws are nearly one-hot"


def test_gates_are_the_draws_and_take_nothing_from_torchs_generator():
    choice = Choice("a", "abc")
    torch.manual_seed(0)
    want = torch.rand(2)
    torch.manual_seed(0)
    choice.draw(0.5, torch.Generator().manual_seed(1))
    first = choice.gates
    assert torch.equal(torch.rand(2), want)
    assert torch.equal(choice.gates, first)
    choice.draw(0.5, torch.Generator().manual_seed(2))
    assert not torch.equal(choice.gates, first)
    choice.draw(0.5, torch.Generator().manual_seed(1))
    assert torch.equal(choice.gates, first)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [({"weight_bits": []}, r"weight_bits=\[\]"), ({"activation_bits": [4, 4]}, "different widths"),
     ({"bits": {"*.q_input": []}}, r"bits.\*.q_input=\[\]"),
     ({"weight_bits": [1, 8]}, "weight_bits"), ({"weight_bits": [24]}, "weight_bits")],
)  # fmt: skip
def test_lists_are_of_different_widths(how, said):
    with pytest.raises(UsageError, match=said):
        plan({"quantization": how}, quantization="mixed", recipe="search", architecture="gcn",
             dataset="synthetic")  # fmt: skip


@pytest.mark.parametrize(
    ("quantization", "recipe", "said"),
    [("mixed", "supervised", "recipe=search"), ("none", "search", "quantization=mixed"),
     ("qat", "search", "quantization=mixed")],
)  # fmt: skip
def test_widths_need_a_search_and_the_other_way_round(quantization, recipe, said):
    with pytest.raises(UsageError, match=said):
        plan(quantization=quantization, recipe=recipe, architecture="gcn", dataset="synthetic")
