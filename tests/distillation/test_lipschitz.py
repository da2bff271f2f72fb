import pytest
import torch
from compositions import toy, train

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.mlp import MLP
from gnnscale.distillation.lipschitz import Lipschitz
from gnnscale.graph.whole import whole_batch


def value(model, data, **options):
    """(term, output, whole batch) of one training pass."""
    term = Lipschitz(**options)
    term.attach(model, data, None)
    model.train()
    torch.manual_seed(7)
    whole = whole_batch(data, model.need)
    out = model(whole)
    return term(out, whole), out, whole


def test_a_linear_layer_moves_by_its_operator_on_the_noise(sixty, dense):
    torch.manual_seed(0)
    model = GCN(sixty.shape, depth=2, hidden=6, dropout=0.0).double()
    found, _, _ = value(model, sixty, weight=3.0, radius=0.25)
    torch.manual_seed(7)
    noise = torch.randn(60, 6, dtype=torch.float64)
    a = dense(sixty.graph) + torch.eye(60, dtype=torch.float64)
    d = a.sum(1)
    operator = a / (d.unsqueeze(1) * d).sqrt()
    moved = 0.25 * operator @ noise @ model.layers[1].conv.weight
    torch.testing.assert_close(found, 3 * moved.norm(dim=1).mean(), rtol=1e-10, atol=0)
    (g,) = torch.autograd.grad(found, model.layers[1].conv.weight)
    assert g.abs().max() > 0


def test_the_mlp_of_gin_alone_and_the_mean_over_layers(sixty):
    torch.manual_seed(0)
    model = GIN(sixty.shape, depth=3, hidden=5, dropout=0.0, norm="none", mlp_norm="none").double()
    inputs = []
    for layer in model.layers[1:]:
        layer.conv.mlp.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
    found, _, _ = value(model, sixty)
    assert len(inputs) == 4  # twice each
    torch.manual_seed(7)
    noises = [torch.randn(60, 5, dtype=torch.float64) for _ in range(2)]
    model.eval()  # not to be probed again
    expected = 0.0
    for layer, h, noise in zip(model.layers[1:], inputs[::2], noises, strict=True):
        mlp = layer.conv.mlp
        expected += (mlp(h) - mlp(h + 0.1 * noise)).norm(dim=1).mean() / 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_without_noise_nothing_moves_whatever_dropout_draws(sixty):
    """The same attention dropout in both passes: only the noise is measured."""
    torch.manual_seed(0)
    model = GAT(sixty.shape, depth=3, hidden=8, heads=2).double()
    found, _, _ = value(model, sixty, radius=1e-12)
    assert 0 < found < 1e-9
    large, _, _ = value(model, sixty, radius=1.0)
    assert large > 1e-3


def test_statistics_of_batch_norm_are_those_of_the_true_pass(sixty):
    kept = []
    for with_term in (False, True):
        torch.manual_seed(0)
        model = GIN(sixty.shape, depth=2, hidden=5, dropout=0.0).double().train()
        if with_term:
            value(model, sixty)
        else:
            torch.manual_seed(7)
            model(whole_batch(sixty, model.need))
        kept.append({k: v.clone() for k, v in model.named_buffers()})
    assert kept[0]
    assert all(torch.equal(v, kept[1][k]) for k, v in kept[0].items())


@pytest.mark.parametrize("make", [MLP, lambda s: GCN(s, depth=1)])
def test_nothing_to_regularise_is_zero(make, sixty):
    model = make(sixty.shape).double()
    found, _, _ = value(model, sixty)
    assert found == 0


def test_evaluation_is_not_probed(sixty):
    model = GCN(sixty.shape).double()
    term = Lipschitz()
    term.attach(model, sixty, None)
    whole = whole_batch(sixty, model.need)
    with torch.no_grad():
        model.eval()(whole)
        model.train()(whole)
    assert term.found == {}


def test_it_trains_without_a_teacher_under_histories(tmp_path):
    plan = toy(
        {"sampler": {"parts": 4, "batch_parts": 1}},
        sampler="gas", architecture="gin", distillation=["lipschitz"],
    )  # fmt: skip
    assert plan.teacher is None
    (record,) = train(plan, tmp_path)
    assert record.time_s["epochs"] == 2
