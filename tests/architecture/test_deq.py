import copy
import json

import pytest
import torch
from compositions import permuted, toy, train
from torch import nn

from gnnscale.architecture.deq import DEQ
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.ops.dropout import dropout
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization.qat import QAT
from gnnscale.train import checkpoint

PROTEINS = Shape(16, 112, edge_features=8)
TIGHT = {
    "tolerance": 1e-13, "iterations": 300, "backward_tolerance": 1e-13, "backward_iterations": 300,
}  # fmt: skip


def contractive(shape, **options) -> DEQ:
    """A model whose f is a contraction: little of z comes back, and norms divide by enough."""
    model = DEQ(shape, **{"hidden": 8, **TIGHT, **options})
    cell = model.layers[0].steps.cell
    with torch.no_grad():
        if options.get("norm") != "none":
            cell.outer.weight.mul_(0.05)
            nn.init.normal_(cell.outer.bias, std=0.3)
        for name, p in (*cell.first.named_parameters(), *cell.second.named_parameters()):
            if name.endswith("bias"):
                nn.init.normal_(p)
            elif options.get("norm") == "none":
                p.mul_(0.3)
    return model


def test_standardised_features_have_no_scale(sixty):
    """What encoded features are multiplied by changes nothing; without, it does."""
    for standardise in (True, False):
        torch.manual_seed(0)
        model = contractive(sixty.shape, standardise=standardise).double().eval()
        steps, hop = model.layers[0].steps, whole_batch(sixty, model.need).hops[0]
        x = torch.randn(60, 8, dtype=torch.float64)
        one, other = steps(hop, x, Memo(None)), steps(hop, 30 * x, Memo(None))
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4) == standardise


@pytest.mark.parametrize(("hidden", "published"), [(64, 51_256), (224, 537_336)])
def test_published_counts(hidden, published, parameters):
    """Li et al., ICML 2021: 51.3K and 537K; the species' map of theirs has 72."""
    model = DEQ(PROTEINS, hidden=hidden, conv="gen")
    assert parameters(model) + 8 * 8 + 8 == published


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "anderson", "conv": "gen"},
        {"conv": "sage", "norm": "batch", "self_loops": True},
        {"conv": "gat", "heads": 2, "act": "elu"},
    ],
)
def test_model(check_model, options):
    check_model(lambda shape: contractive(shape, **options))


def unrolled(steps, hop, x, evaluations=200):
    """The same cell under the same draws, by plain autograd."""
    x = nn.functional.layer_norm(x, (8,))
    mask = dropout(torch.ones_like(x), steps.p)
    word, z = int(torch.randint(2**62, ())), torch.zeros_like(x)
    for _ in range(evaluations):
        torch.manual_seed(word)
        z = steps.cell(hop, z, x, mask, Memo(None))
    return z


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("broyden", {"conv": "gcn"}),
        ("anderson", {"conv": "gen", "norm": "batch"}),
        ("broyden", {"conv": "gat", "attention_dropout": 0.4}),
    ],
)
def test_gradients_are_those_of_200_unrolled_steps(solver, options, sixty):
    """Of every parameter and the input, in training mode, dropout included."""
    torch.manual_seed(0)
    model = contractive(sixty.shape, solver=solver, dropout=0.3, **options).double()
    steps, hop = model.layers[0].steps, whole_batch(sixty, model.need).hops[0]
    x = torch.randn(60, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    found = []
    for forward in (lambda: steps(hop, x, Memo(None)), lambda: unrolled(steps, hop, x)):
        torch.manual_seed(3)
        z = forward()
        found.append((z, torch.autograd.grad((z * weight).sum(), [x, *steps.parameters()])))
    assert steps.solves["forward_residual"] <= 1e-13
    assert steps.solves["backward_residual"] <= 1e-13
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=1e-9)
    for mine, plain in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-8)
        assert mine.abs().max() > 0


def test_the_cell_by_its_formula(sixty):
    """Z'' = norm(Z' + X), Z''' = conv(mask * relu(Z'')), norm(relu(Z''' + Z'))."""
    torch.manual_seed(0)
    model = contractive(sixty.shape).double()
    cell, hop = model.layers[0].steps.cell, whole_batch(sixty, model.need).hops[0]
    z, x, mask = torch.randn(3, 60, 8, dtype=torch.float64)
    first = cell.first(hop, z, None)
    inner = nn.functional.layer_norm(first + x, (8,), cell.inner.weight, cell.inner.bias)
    second = cell.second(hop, inner.relu() * mask, None)
    want = nn.functional.layer_norm(
        (second + first).relu(), (8,), cell.outer.weight, cell.outer.bias
    )
    torch.testing.assert_close(cell(hop, z, x, mask, None), want)


def test_solvers_agree_and_reach_their_tolerance(sixty):
    found = []
    for solver in ("anderson", "broyden"):
        torch.manual_seed(0)
        model = contractive(sixty.shape, solver=solver).double()
        found.append(model(whole_batch(sixty, model.need)).logits)
        assert model.measured()["forward_residual"] <= 1e-13
        assert 3 < model.measured()["forward_iterations"] < 100
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


def test_a_looser_tolerance_stops_earlier(sixty):
    used = {}
    for tolerance in (1e-2, 1e-6, 1e-10):
        torch.manual_seed(0)
        model = contractive(sixty.shape, tolerance=tolerance).double()
        model(whole_batch(sixty, model.need))
        said = model.measured()
        assert tolerance / 1e4 < said["forward_residual"] <= tolerance
        used[tolerance] = said["forward_iterations"]
    assert used[1e-2] < used[1e-6] < used[1e-10]


def test_an_early_end_does_not_see_the_order_of_nodes(sixty):
    """Also where a solve ends early: the iterates themselves are equivariant."""
    torch.manual_seed(0)
    model = DEQ(sixty.shape, hidden=8, iterations=3, tolerance=0.0).double().eval()
    order = torch.randperm(60)
    one = model(whole_batch(sixty, model.need)).logits
    other = model(whole_batch(permuted(sixty, order), model.need)).logits
    torch.testing.assert_close(other, one[order], rtol=1e-10, atol=1e-10)


# -- what is drawn, remembered and kept ------------------------------------------------------------


def test_all_evaluations_share_one_mask_and_every_pass_draws_its_own(sixty):
    model = contractive(sixty.shape, dropout=0.3, norm="none").double()
    steps, hop = model.layers[0].steps, whole_batch(sixty, model.need).hops[0]
    steps.cell.act = nn.Identity()  # nothing but the mask makes zeros
    seen, masks = [], []
    steps.cell.second.register_forward_pre_hook(lambda _, given: seen.append(given[1] == 0))
    x = torch.randn(60, 8, dtype=torch.float64)
    for _ in range(2):
        seen.clear()
        steps(hop, x, Memo(None))
        assert len(seen) > 3
        assert all(torch.equal(m, seen[0]) for m in seen)
        masks.append(seen[0])
    assert not torch.equal(*masks)
    assert masks[0].double().mean() == pytest.approx(0.3, abs=4 * (0.21 / 480) ** 0.5)
    seen.clear()
    steps.eval()(hop, x, Memo(None))
    assert not any(m.any() for m in seen)


def test_generators_go_on_as_if_only_the_mask_had_been_drawn(sixty):
    model = contractive(sixty.shape, conv="gat", attention_dropout=0.4, dropout=0.2).double()
    steps, hop = model.layers[0].steps, whole_batch(sixty, model.need).hops[0]
    x, after = torch.randn(60, 8, dtype=torch.float64, requires_grad=True), []
    for limit in (1, 30):
        steps.ahead = type(steps.ahead)(0.0, limit)
        torch.manual_seed(0)
        z = steps(hop, x, Memo(None))
        after.append(torch.rand(3))
        z.sum().backward()
        after.append(torch.get_rng_state())
    assert torch.equal(after[0], after[2])
    assert torch.equal(after[1], after[3])


def test_statistics_and_ranges_move_once_per_step(sixty):
    torch.manual_seed(0)
    model = contractive(sixty.shape, norm="batch").double()
    QAT(weight_bits=8, activation_bits=8, momentum=0.3).attach(model)
    batch, steps = whole_batch(sixty, model.need), model.layers[0].steps
    longer = copy.deepcopy(model)
    for limit, each in ((2, model), (7, longer)):
        each.layers[0].steps.ahead = type(steps.ahead)(0.0, limit)
        torch.manual_seed(1)
        each(batch).logits.sum().backward()
        assert each.layers[0].steps.cell.inner.num_batches_tracked == 1
    one = dict(model.named_buffers())
    moved = [n for n, b in longer.named_buffers() if not torch.equal(b, one[n])]
    assert moved  # they were taken at other iterates, and still once


def test_memory_does_not_grow_with_iterations(sixty):
    """What autograd keeps is one evaluation's, whatever the iterations."""
    kept = {}
    for limit in (2, 40):
        torch.manual_seed(0)
        model = DEQ(sixty.shape, hidden=8, iterations=limit, tolerance=0.0).double()
        batch, saved = whole_batch(sixty, model.need), []

        def pack(t, saved=saved):
            saved.append(t.numel() * t.element_size())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model(batch).logits.sum()
        assert model.measured()["forward_iterations"] == limit
        kept[limit] = (len(saved), sum(saved))
        loss.backward()
    assert kept[2] == kept[40]


# -- a solve that does not converge, and what is said of it ----------------------------------------


def test_training_goes_on_and_tells_of_residuals(tmp_path):
    limits = {"iterations": 2, "backward_iterations": 2, "tolerance": 1e-12}
    plan = toy({"architecture": limits, "trainer": {"epochs": 3}}, architecture="deq")
    (record,) = train(plan, tmp_path)
    lines = (tmp_path / "seed-0/metrics.jsonl").read_text().splitlines()
    names = {f"{a}_{b}" for a in ("forward", "backward") for b in ("iterations", "residual")}
    for line in map(json.loads, lines):
        assert names < set(line)
        assert line["forward_iterations"] == line["backward_iterations"] == 2
        assert line["forward_residual"] > 1e-6
    assert record.metric["extra"] == {name: json.loads(lines[-1])[name] for name in names}
    # a finished run taken up again says the same
    state = checkpoint.load(tmp_path / "seed-0/checkpoint.pt")
    assert state["extra"] == record.metric["extra"]


def test_weights_that_overflow_end_in_a_message_not_a_crash(sixty):
    model = DEQ(sixty.shape, hidden=8, norm="none").double()
    with torch.no_grad():
        model.layers[0].steps.cell.first.weight.fill_(1e200)
    out = model(whole_batch(sixty, model.need)).logits
    out.sum().backward()
    assert model.measured()["forward_iterations"] < 50


def test_the_sampler_sees_one_square_hop():
    assert DEQ(Shape(5, 3)).need == Need(1, "sym", "diag", stem=True)
    assert {str(t.value) for t in DEQ.needs[0]} == {"hops", "square"}
