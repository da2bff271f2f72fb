import pytest
import torch
from compositions import toy

from gnnscale.architecture.appnp import APPNP, Step
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError
from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.gas import GAS
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.train.predict import Full, Layerwise
from gnnscale.train.query import Query

NEED, CPU = Need(1, "sym", "diag"), torch.device("cpu")


def operator(matrix):
    a = matrix + torch.eye(len(matrix), dtype=torch.float64)
    return a.sum(1).rsqrt().unsqueeze(1) * a * a.sum(0).rsqrt()


def made(shape, **options):
    torch.manual_seed(0)
    return APPNP(shape, **{"hidden": 8, "steps": 3, **options}).double()


def test_without_steps_it_is_the_perceptron(sixty):
    model = made(sixty.shape, steps=0, depth=3, bias=True).eval()
    assert model.need.depth == 0
    h = sixty.x
    for part in model.maps:
        h = torch.nn.functional.linear(h.relu() if part is not model.maps[0] else h,
                                       part[-1].weight, part[-1].bias)  # fmt: skip
    torch.testing.assert_close(model(whole_batch(sixty, model.need)).logits, h)


def test_many_steps_are_personalised_pagerank(sixty, dense):
    model = made(sixty.shape, steps=200, alpha=0.1).eval()
    out = model(whole_batch(sixty, model.need))
    s, eye = operator(dense(sixty.graph)), torch.eye(60, dtype=torch.float64)
    exact = 0.1 * torch.linalg.inv(eye - 0.9 * s)
    h = (sixty.x @ model.maps[0][-1].weight.T).relu() @ model.maps[1][-1].weight.T
    torch.testing.assert_close(out.logits, exact @ h, rtol=1e-8, atol=1e-9)


def test_alpha_one_never_propagates_and_zero_is_a_power(sixty, dense):
    model = made(sixty.shape, alpha=1.0).eval()
    levels = model(whole_batch(sixty, model.need))
    torch.testing.assert_close(levels.logits, levels.levels[1])
    model = made(sixty.shape, alpha=0.0).eval()
    out = model(whole_batch(sixty, model.need))
    power = torch.linalg.matrix_power(operator(dense(sixty.graph)), 3)
    torch.testing.assert_close(out.logits, power @ out.levels[1], rtol=1e-10, atol=1e-12)


def test_steps_equal_appnpconv(six_dgl, six, features):
    """DGL drops edges in training only; here none are."""
    oracle = dgl.nn.APPNPConv(4, 0.2)
    want = oracle(dgl.add_self_loop(six_dgl), features.float())  # its weights are float32
    hop, memo, z = whole_hop(six, NEED, torch.float64), Memo(None, features), features
    for _ in range(4):
        z = Step(0.2, 0.5).eval()(hop, z, memo)
    torch.testing.assert_close(z, want.double(), rtol=1e-5, atol=1e-6)


def test_edge_dropout_is_of_single_entries_and_unbiased(six, features, dense):
    """Node 5 has its self entry only; every entry is dropped or doubled, anew in every step."""
    hop, memo, step = whole_hop(six, NEED, torch.float64), Memo(None, features), Step(0.0, 0.5)
    torch.manual_seed(0)
    draws = torch.stack([step(hop, features, memo) for _ in range(2000)])
    alone = draws[:, 5] / features[5]
    torch.testing.assert_close(alone, alone[:, :1].expand_as(alone))
    assert sorted({round(v, 9) for v in alone[:, 0].tolist()}) == [0.0, 2.0]
    want = operator(dense(six)) @ features
    error = (draws.mean(0) - want).abs()
    assert (error <= 4 * draws.std(0) / 2000**0.5 + 1e-12).all()
    torch.testing.assert_close(step.eval()(hop, features, memo), want)


def test_edge_dropout_gradient(six, features):
    hop, step = whole_hop(six, NEED, torch.float64), Step(0.1, 0.5)

    def run(z, first):
        torch.manual_seed(1)
        return step(hop, z, Memo(None, first))

    leaves = (features.clone().requires_grad_(), (features + 1).requires_grad_())
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("options", [{}, {"norm": "batch", "bias": True, "depth": 3}])
def test_model(check_model, options):
    check_model(lambda shape: APPNP(shape, hidden=8, steps=4, **options))


def test_counts_and_which_weights_decay(parameters):
    cora = APPNP(Shape(1433, 7))
    assert parameters(cora) == 1433 * 64 + 64 * 7
    assert [tuple(p.shape) for p in cora.first()] == [(64, 1433)]
    assert [tuple(p.shape) for p in cora.last()] == [(7, 64)]


def test_linear_unless_the_operator_is_drawn():
    assert Trait.LINEAR in APPNP.declare(edge_dropout=0.0)[0]
    assert Trait.LINEAR not in APPNP.declare()[0]
    assert {Trait.LAYERS, Trait.SITES} <= APPNP.declare()[0]


def test_a_table_of_propagated_features_is_refused():
    with pytest.raises(CompositionError, match=r"architecture=appnp needs 'hops'"):
        toy(architecture="appnp", sampler="precompute")


# -- by pieces -------------------------------------------------------------------------------------


def test_blocks_of_all_neighbours_are_the_whole_graph(sixty):
    model = made(sixty.shape).eval()
    sampler = Neighbor(-1, 7)
    sampler.prepare(sixty, model.need, Key(3, "prepare"))
    want = Full()(model, sixty, torch.arange(60), CPU)
    for index in sampler.plan(torch.arange(60), Key(3, "plan")):
        batch = sampler.sample(index, Key(3, "sample", 0, 1))
        assert batch.hops[0].graph.n_src > batch.hops[-1].graph.n_dst
        torch.testing.assert_close(model(batch).logits, want[batch.ids], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inference", [Layerwise(chunk=17), Query(chunk=7)], ids=type)
def test_inference_by_pieces(inference, sixty):
    model, rows = made(sixty.shape).eval(), torch.tensor([3, 59, 3, 20])
    torch.testing.assert_close(
        inference(model, sixty, rows, CPU), Full()(model, sixty, rows, CPU), rtol=1e-10, atol=1e-12
    )


def test_histories_become_exact_with_frozen_weights(sixty):
    model = made(sixty.shape).eval()
    want = Full()(model, sixty, torch.arange(60), CPU)
    sampler, logits = GAS(6, 1, "random"), torch.empty(60, 4, dtype=torch.float64)
    sampler.prepare(sixty, model.need, Key(3, "prepare"))
    off = []
    for _ in range(4):
        for index in sampler.plan(torch.arange(60), Key(3, "plan")):
            batch = sampler.sample(index, Key(3, "sample", 1, 2))
            batch = sampler.bind(batch, CPU, write=True)
            with torch.no_grad():
                logits[batch.ids] = model(batch).logits
            sampler.commit()
        off.append((logits - want).abs().max().item())
    assert off[0] > 1e-4
    assert off[2] < 1e-10
