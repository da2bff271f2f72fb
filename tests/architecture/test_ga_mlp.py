from dataclasses import replace

import pytest
import torch
from compositions import toy
from torch import nn

from gnnscale.architecture.ga_mlp import GAMLP
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sgc import SGC
from gnnscale.architecture.sign import SIGN
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.simple import simple
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.precompute import Precompute, PrecomputeSign

KEY = Key(0, "prepare")
F64 = torch.float64
OPERATORS = [("none", False), ("none", True), ("sym", True), ("row", False), ("bethe", False)]


def on_table(data, sampler, seed=0, **more):
    """A model for the sampler's table, and every row of that."""
    torch.manual_seed(seed)
    shape = replace(data.shape, operators=sampler.operators)
    model = GAMLP(shape, **{"hidden": 6, **more}).double()
    sampler.prepare(data, model.need, KEY)
    return model, sampler.sample(torch.arange(data.nodes), KEY)


def by_hops(data, seed=0, **more):
    torch.manual_seed(seed)
    return GAMLP(data.shape, **{"hidden": 6, **more}).double()


@pytest.mark.parametrize(("operator", "self_loops"), OPERATORS)
@pytest.mark.parametrize("maps", [1, 2, 3])
def test_hops_and_table_are_one_function(operator, self_loops, maps, sixty):
    table, rows = on_table(sixty, Precompute(3, operator, self_loops), maps=maps)
    hops = by_hops(sixty, maps=maps, depth=3, operator=operator, self_loops=self_loops)
    assert hops.state_dict().keys() == table.state_dict().keys()
    a, b = hops(whole_batch(sixty, hops.need)), table(rows)
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-11, atol=1e-11)
    for level in range(maps):
        torch.testing.assert_close(a.hidden(level), b.hidden(level), rtol=1e-11, atol=1e-11)


def test_on_the_same_operators_it_is_signs_perceptron(sixty):
    mine, rows = on_table(sixty, PrecomputeSign(2, 1, 1))
    shape = replace(sixty.shape, operators=5)
    sign = SIGN(shape, "mlp", 6, 2, dropout=0.0, norm="none").double()
    for p, q in zip(mine.parameters(), sign.parameters(), strict=True):
        q.data.copy_(p.data)
    assert torch.equal(mine(rows).logits, sign(rows).logits)


def test_linear_and_blind_to_lower_powers_it_is_sgc(sixty):
    model, rows = on_table(sixty, Precompute(3), maps=1)
    sgc = SGC(replace(sixty.shape, operators=4), 3).double()
    (weight, bias) = model.first()
    with torch.no_grad():
        weight[:, :21] = 0
        sgc.encoder.weight.copy_(weight[:, 21:])
        sgc.head.bias.copy_(bias)
    torch.testing.assert_close(model(rows).logits, sgc(rows).logits, rtol=1e-12, atol=1e-12)


def test_the_norm_stands_between_the_powers(sixty, dense):
    model = by_hops(sixty, depth=3, operator="none", norm="batch", maps=1)
    norms = [layer.norm for layer in model.layers]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 2), nn.init.uniform_(norm.bias)
    a, h = dense(sixty.graph), sixty.x
    powers = [h]
    for norm in norms:
        z = a @ h
        z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
        h = z * norm.weight + norm.bias
        powers.append(h)
    weight, bias = model.first()
    want = torch.cat(powers, 1) @ weight.T + bias
    whole = whole_batch(sixty, model.need)
    for training in (True, False):  # the batch's statistics in evaluation as well
        model.train(training)
        torch.testing.assert_close(model(whole).logits, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", ["none", "bethe"])
def test_120_powers_stay_finite_with_the_norm_alone(operator, sixty):
    """The published model: 120 hops, width 10; A^120 X has no value in float32."""
    data = sixty.with_(x=torch.ones(60, 1))
    more = {"hidden": 10, "depth": 120, "operator": operator}
    with_norm = GAMLP(data.shape, **more, norm="batch")
    logits = with_norm(whole_batch(data, with_norm.need)).logits
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in with_norm.parameters())
    without = GAMLP(data.shape, **more)
    assert not torch.isfinite(without(whole_batch(data, without.need)).logits).all()


def test_published_count(parameters):
    """Community detection: 121 features of width 1, 10 hidden units, 2 classes, 120 norms."""
    model = GAMLP(Shape(1, 2), 10, depth=120, norm="batch")
    assert parameters(model) == 121 * 10 + 10 + 10 * 2 + 2 + 120 * 2


def test_bethe_is_the_dense_hessian(sixty, dense):
    a = dense(sixty.graph)
    c = a.sum() / 60
    h = (c - 1) * torch.eye(60, dtype=F64) - c.sqrt() * a + torch.diag(a.sum(1))
    op = 8 * torch.eye(60, dtype=F64) - h
    model = by_hops(sixty, depth=2, operator="bethe", maps=1)
    weight, bias = model.first()
    want = torch.cat([sixty.x, op @ sixty.x, op @ op @ sixty.x], 1) @ weight.T + bias
    torch.testing.assert_close(model(whole_batch(sixty, model.need)).logits, want)


def made(edges, nodes, data):
    src, dst = torch.tensor(edges).T
    graph, _ = simple(src, dst, nodes)
    draw = torch.Generator().manual_seed(3)
    return data.with_(graph=graph, x=torch.randn(nodes, 7, generator=draw, dtype=F64),
                      y=data.y[:nodes], splits={"train": torch.arange(1)})  # fmt: skip


def test_triangles_of_k4_and_of_a_tree(sixty):
    k4 = made([(i, j) for i in range(4) for j in range(i)], 4, sixty)
    model, rows = on_table(k4, Precompute(1, "motif_triangle"), maps=1)
    weight, bias = model.first()
    others = (k4.x.sum(0) - k4.x) / 3
    want = torch.cat([k4.x, others], 1) @ weight.T + bias
    torch.testing.assert_close(model(rows).logits, want, rtol=1e-12, atol=1e-12)
    tree = made([(0, 1), (0, 2), (1, 3), (1, 4)], 5, sixty)
    model, rows = on_table(tree, Precompute(2, "motif_triangle"), maps=1)
    want = tree.x @ model.first()[0][:, :7].T + model.first()[1]
    torch.testing.assert_close(model(rows).logits, want, rtol=1e-12, atol=1e-12)


def rooted(colours, data):
    """A path 3 - 1 - 0 - 2 - 4 seen from its middle, with one-hot colours."""
    src, dst = torch.tensor([(3, 1), (1, 0), (0, 2), (2, 4)]).T
    x = torch.nn.functional.one_hot(torch.tensor(colours), 2).double()
    return data.with_(graph=simple(src, dst, 5)[0], x=x, y=data.y[:5],
                      splits={"train": torch.arange(1)})  # fmt: skip


def test_two_rooted_graphs_that_only_gin_tells_apart(sixty, dense):
    """Each colour is as often at distance 1, and at distance 2, in both: every A^k X has the same
    row at the root. But the red neighbour's red neighbours are the root and one more in the first
    graph, the root alone in the second: there are 2 and 1 walks root - red - red (sec. 5).
    """
    same, crossed = rooted([0, 0, 1, 0, 1], sixty), rooted([0, 0, 1, 1, 0], sixty)
    for data, count in ((same, 2), (crossed, 1)):
        a, red = dense(data.graph), data.x[:, 0]
        assert (a @ (red * (a @ red)))[0] == count
    for seed in range(5):
        for operator, self_loops in OPERATORS:
            more = {"depth": 4, "operator": operator, "self_loops": self_loops}
            model = by_hops(same, seed, **more)
            a, b = (model(whole_batch(d, model.need)).logits[0] for d in (same, crossed))
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.manual_seed(seed)
        gin = GIN(same.shape, depth=2, dropout=0.0, norm="none", mlp_norm="none").double()
        a, b = (gin(whole_batch(d, gin.need)).logits[0] for d in (same, crossed))
        assert (a - b).abs().max() > 1e-3


def test_sparse_features_give_the_same(sixty):
    x = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    model = by_hops(sixty)
    a, b = (model(whole_batch(sixty.with_(x=f), model.need)).logits
            for f in (x, SparseRows.from_dense(x)))  # fmt: skip
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", ["none", "sym", "row"])
def test_holds_what_every_model_holds(operator, check_model):
    check_model(lambda shape: GAMLP(shape, 5, operator=operator))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 3}, r"architecture\.depth=3: .*type architecture\.depth=null"),
        ({"operator": "sym"}, r"architecture\.operator=sym: .*type architecture\.operator=null"),
        ({"self_loops": True}, r"self_loops=true: .*type architecture\.self_loops=false"),
        ({"norm": "batch"}, r"architecture\.norm=batch: .*type architecture\.norm=none.*full"),
    ],
)
def test_what_only_hops_can_do_is_refused_on_a_table(options, said):
    with pytest.raises(CompositionError, match=said):
        toy({"architecture": options}, sampler="precompute", architecture="ga_mlp")
    toy({"architecture": options}, sampler="full", architecture="ga_mlp")


def test_bethe_needs_a_graph_without_loops():
    with pytest.raises(CompositionError, match=r"'hops' .* and 'square'"):
        toy({"architecture": {"operator": "bethe"}}, sampler="neighbor", architecture="ga_mlp")
    with pytest.raises(UsageError, match=r"type architecture\.self_loops=false"):
        GAMLP(Shape(3, 2), operator="bethe", self_loops=True)
