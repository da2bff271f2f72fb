from dataclasses import replace

import pytest
import torch
from compositions import silenced, toy
from torch import nn

from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.sgc import SGC
from gnnscale.architecture.sign import SIGN
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.random import Key
from gnnscale.core.site import Dense
from gnnscale.sampler.precompute import Precompute, PrecomputeSign

KEY = Key(0, "prepare")
HEADS = ("paper", "ffn", "mlp")


def batch(data, sampler, model, index):
    sampler.prepare(data, model.need, KEY)
    return sampler.sample(index, KEY)


def made(data, sampler, seed=0, **more):
    torch.manual_seed(seed)
    return SIGN(replace(data.shape, operators=sampler.operators), **{"hidden": 6, **more}).double()


def linear_maps(model):
    return [m for m in model.modules() if isinstance(m, Dense)]


@pytest.mark.parametrize(
    ("sizes", "head", "hidden", "count"),
    [
        ((128, 40, 6), "ffn", 512, 3_566_128),
        ((100, 47, 6), "ffn", 512, 3_483_703),
        ((128, 172, 10), "mlp", 512, 1_008_812),
        ((128, 172, 10), "mlp", 2048, 7_180_460),
        ((100, 47, 4), "paper", 256, 4 * (100 + 1) * 256 + 1 + (4 * 256 + 1) * 47),
    ],
)
def test_published_counts(sizes, head, hidden, count, parameters):
    with torch.device("meta"):
        assert parameters(SIGN(Shape(*sizes), head=head, hidden=hidden)) == count


@pytest.mark.parametrize(("head", "norm"), [("paper", "none"), ("mlp", "none"), ("mlp", "batch")])
def test_without_powers_it_is_an_mlp(head, norm, sixty):
    sampler, depth = PrecomputeSign(0, 0, 0), {"paper": 2, "mlp": 3}[head]
    mine = made(sixty, sampler, head=head, act="relu", norm=norm)
    torch.manual_seed(0)
    mlp = MLP(sixty.shape, 6, depth, norm=norm).double()
    for a, b in zip(mine.parameters(), mlp.parameters(), strict=True):
        assert torch.equal(a, b)  # both draw in the same order
    index = torch.arange(60)
    rows = batch(sixty, sampler, mine, index)
    plain = replace(rows, x=sixty.x)
    for training in (True, False):
        mine.train(training), mlp.train(training)
        silenced(mine), silenced(mlp)
        a, b = mine(rows), mlp(plain)
        torch.testing.assert_close(a.logits, b.logits, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a.hidden(-1), b.hidden(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_linear_and_blind_to_lower_powers_it_is_sgc(head, sixty):
    """Theta_k = 0 for k < p, act the identity: logits = S^p X (W_1 W_2 ..) + the bias through."""
    p = 3
    sampler = PrecomputeSign(p, 0, 0)
    model = made(sixty, sampler, head=head, act="none", norm="none").eval()
    with torch.no_grad():
        for m in linear_maps(model):
            m.bias.zero_()
        if head == "mlp":
            model.first()[0][:, : p * 7] = 0
        for part in list(model.parts)[:p]:
            linear_maps(part)[-1].weight.zero_()
    table = Precompute(p)
    sgc = SGC(replace(sixty.shape, operators=p + 1), p).double()
    eye = torch.eye(7, dtype=torch.float64)
    probe = torch.zeros(7, p + 1, 7, dtype=torch.float64)
    probe[:, p] = eye  # what the maps make of each feature of S^p X alone
    with torch.no_grad():
        sgc.encoder.weight.copy_(model.head(model.encode(probe)[-1]).T)
        sgc.head.bias.zero_()
    assert sgc.encoder.weight.abs().max() > 1e-3
    index = torch.arange(60)
    torch.testing.assert_close(
        model(batch(sixty, sampler, model, index)).logits,
        sgc(batch(sixty, table, sgc, index)).logits,
        rtol=1e-10, atol=1e-12,
    )  # fmt: skip


def test_features_of_one_power_are_x_and_sx(sixty, dense):
    a = dense(sixty.graph) + torch.eye(60, dtype=torch.float64)
    s = a / (a.sum(1, keepdim=True) * a.sum(1)).sqrt()
    sampler = PrecomputeSign(1, 0, 0)
    model = made(sixty, sampler, head="paper").eval()
    last, low, high = linear_maps(model)  # the head is the first of modules
    z = torch.cat([sixty.x @ low.weight.T + low.bias, s @ sixty.x @ high.weight.T + high.bias], 1)
    want = torch.where(z > 0, z, 0.25 * z) @ last.weight.T + last.bias  # PReLU starts at 1/4
    got = model(batch(sixty, sampler, model, torch.arange(60))).logits
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_rows_do_not_see_each_other_in_evaluation(head, sixty):
    sampler = PrecomputeSign(2, 1, 1)
    model = made(sixty, sampler, head=head).eval()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    every = model(batch(sixty, sampler, model, torch.arange(60))).logits
    shuffled = model(batch(sixty, sampler, model, order)).logits
    torch.testing.assert_close(shuffled, every[order], rtol=1e-12, atol=1e-12)
    few = model(batch(sixty, sampler, model, order[:3])).logits
    torch.testing.assert_close(few, every[order[:3]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_every_operator_and_parameter_has_a_part_in_it(head, sixty):
    sampler = PrecomputeSign(1, 1, 1)
    model = made(sixty, sampler, head=head)
    rows = batch(sixty, sampler, model, torch.arange(60))
    rows = replace(rows, x=rows.x.clone().requires_grad_())
    model(rows).logits.square().sum().backward()
    assert all(rows.x.grad[:, r].abs().max() > 0 for r in range(4))
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_prelu_has_one_slope_per_feed_forward_part():
    model = SIGN(Shape(4, 3, 2), head="ffn", hidden=5, depth=3)
    assert sum(isinstance(m, nn.PReLU) for m in model.modules()) == 2 + 1 + 1


def test_weight_decay_of_the_first_layer_reaches_every_operator():
    for head, count in {"paper": 2 * 3, "ffn": 2 * 3, "mlp": 2}.items():
        assert len(SIGN(Shape(4, 3, 3), head=head).first()) == count


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match=r"architecture\.depth=2.*type architecture\.head=ffn"):
        SIGN(Shape(4, 3, 2), depth=2)
    with pytest.raises(UsageError, match=r"architecture\.norm=batch.*type architecture\.head=mlp"):
        SIGN(Shape(4, 3, 2), head="ffn", norm="batch")


def test_hops_alone_are_refused():
    with pytest.raises(CompositionError, match=r"needs 'stack'(.|\n)*sampler=precompute"):
        toy({}, sampler="full", architecture="sign")
