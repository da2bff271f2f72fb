from dataclasses import replace

import pandas as pd
import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale import compose, finished
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.sage import SAGE
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.cluster import Cluster
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Full as Inference

KEY = Key(3, "prepare")
MAKE = {
    "gcn": GCN, "sage": SAGE, "gat": GAT, "gin": GIN, "egc": EGC, "mlp": MLP,
    "sage_gcn": lambda s: SAGE(s, aggr="gcn"),
    "sage_max": lambda s: SAGE(s, aggr="max"),
    "egc_m": lambda s: EGC(s, aggregators=["symadd", "max", "mean"], self_loops="all"),
    "gcn_stem": lambda s: GCN(s, stem=True, residual=True, norm="batch"),
}  # fmt: skip
NEEDS = [
    Need(1, operator, loops) for operator in ("row", "sym", "none")
    for loops in ("none", "diag", "edges")
]  # fmt: skip
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
methods = pytest.mark.parametrize("method", ["metis", "random"])


def made(data, need, *arguments, **more):
    sampler = Cluster(*arguments, **more)
    sampler.prepare(data, need, KEY)
    return sampler


def batch(sampler, parts):
    return sampler.sample(torch.as_tensor(parts), Key(3, "sample", 1, 2))


def weighted(data):
    draw = torch.Generator().manual_seed(4)
    return data.with_(weight=torch.rand(data.graph.n_edges, generator=draw).double() * 3 + 0.1)


def operator(part):
    """The batch's matrix [n, n], column by column."""
    n = len(part.nodes)
    return part.hops[0].reduce(lambda h: h, torch.eye(n, dtype=torch.float64))


def reference(a, need, extra=0.0):
    """The normalised dense matrix of a dense adjacency, its diagonal enhanced."""
    a = a if need.loops == "none" else a + torch.eye(len(a), dtype=a.dtype)
    into, out = (a.sum(d, keepdim=True).clamp(min=1e-300) for d in (1, 0))
    if need.operator == "row":
        a = a / into
    elif need.operator == "sym":
        a = a / (into * out).clamp(min=1e-300).sqrt()
    return a + extra * a.diagonal().diag()


# -- the limit ------------------------------------------------------------------------------------


@methods
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", MAKE)
def test_all_parts_are_full_batch_in_logits_loss_and_gradients(name, count, method, sixty, silence):
    torch.manual_seed(0)
    model = MAKE[name](sixty.shape).double()
    silence(model)
    objective = Objective(sixty.task, {})
    sampler = made(sixty, model.need, count, count, method)
    (index,) = sampler.plan(sixty.splits["train"], Key(3, "plan"))
    results = []
    for part in (whole_batch(sixty, model.need), sampler.sample(index, Key(3, "sample"))):
        model.train()
        out = model(part)
        loss = objective(out, part)
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        logits = torch.empty(60, 4, dtype=torch.float64)
        logits[part.ids] = out.logits
        results.append((logits, loss, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


# -- the operator of a batch ----------------------------------------------------------------------


@needs
@pytest.mark.parametrize("extra", [0.0, 0.7])
@pytest.mark.parametrize("change", [lambda d: d, weighted], ids=["plain", "weighted"])
def test_a_batch_is_normalised_after_the_union(need, extra, change, sixty, dense):
    data = change(sixty)
    attention = need.loops == "edges" and need.operator == "none"
    if extra and (need.loops == "none" or attention):
        with pytest.raises(UsageError, match=r"sampler\.diagonal=0\.7: .*no diagonal"):
            made(data, need, 6, 2, diagonal=extra)
        return
    sampler = made(data, need, 6, 2, diagonal=extra)
    a = dense(data.graph, data.weight)
    for index in sampler.plan(torch.arange(60), Key(3, "plan")):
        part = batch(sampler, index)
        inside = a[part.nodes][:, part.nodes]
        torch.testing.assert_close(operator(part), reference(inside, need, extra))
        # between-part edges are there
        loops = len(part.nodes) if need.loops == "edges" else 0
        assert part.hops[0].graph.n_edges == int((inside != 0).sum()) + loops
        assert torch.equal(part.hops[0].degree, data.graph.in_degree[part.nodes])


def test_rows_sum_to_one_and_enhanced_to_one_plus_lambda_over_degree(sixty):
    for extra in (0.0, 1.0, 1e-4):
        part = batch(made(sixty, Need(1, "row", "diag"), 6, 3, diagonal=extra), [0, 2, 5])
        d = part.hops[0].graph.in_degree.double()
        torch.testing.assert_close(operator(part).sum(1), 1 + extra / (d + 1), rtol=1e-14, atol=0)


def test_six_nodes_by_hand(six, sixty):
    x = torch.tensor([[1.0], [10], [100], [1000], [10000], [7]])
    data = replace(sixty, graph=six, x=x, y=torch.arange(6), splits={"train": torch.tensor([0, 3])})
    sampler = made(data, Need(1, "row", "diag"), 6, 3, diagonal=0.5)
    part = batch(sampler, [4, 0, 2])  # as many parts as nodes: part v is node v
    assert part.nodes.tolist() == part.ids.tolist() == [0, 2, 4]
    # 0 <- 2 4, 2 <- 0 4, 4 <- nobody; 1/3 each, the diagonal half as much again
    found = part.hops[0].reduce(lambda h: h, part.x).squeeze(1).tolist()
    assert found == pytest.approx([(1.5 + 100 + 10000) / 3, (1 + 150 + 10000) / 3, 15000])
    assert part.hops[0].degree.tolist() == [3, 4, 1]
    assert part.labeled.tolist() == [True, False, False]
    assert part.weight is None
    assert part.key == (3, 1, 2)


# -- the plan -------------------------------------------------------------------------------------


@methods
def test_every_training_node_once_per_epoch_and_no_step_without_one(method, sixty):
    sampler, train = made(sixty, Need(2), 25, 2, method), sixty.splits["train"]
    orders = []
    for epoch in range(3):
        steps = [batch(sampler, i) for i in sampler.plan(train, Key(3, "plan", epoch))]
        assert all(part.labeled.any() for part in steps)
        seen = torch.cat([part.ids[part.labeled] for part in steps])
        assert torch.equal(seen.sort().values, train.sort().values)
        assert all(len(part.hops) == 2 and part.hops[0] is part.hops[1] for part in steps)
        orders.append(torch.cat([part.ids for part in steps]).tolist())
    assert orders[0] != orders[1] != orders[2]
    everyone = sampler.plan(torch.arange(60), Key(3, "plan"))
    assert torch.equal(torch.cat(everyone).sort().values, torch.arange(25))
    assert sampler.plan(train[:1], Key(3, "plan"))[0].numel() <= 2
    assert len(sampler.plan(train[:1], Key(3, "plan"))) == 1


def test_inductive_data_divides_the_training_graph_only(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    sampler = made(seen, Need(1, "row", "diag"), 4, 2, precalc=True)
    assert len(sampler.divided.of) == 20
    for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
        part = batch(sampler, index)
        assert torch.isfinite(part.x).all()
        assert torch.equal(part.x[:, 7:], sixty.x[ids[part.nodes]])
        assert part.labeled.all()
    with pytest.raises(UsageError, match=r"sampler\.parts=21: .* 20 nodes; valid: 1 to 20"):
        made(seen, Need(1), 21, 1)


def test_the_record_says_what_was_cut_and_a_checkpoint_holds_the_division(sixty):
    sampler = made(sixty, Need(1), 5, 1)
    (line,) = sampler.facts()
    assert line.startswith("partition: metis, 5 parts of 12 to 12 nodes, ")
    other = made(sixty, Need(1), 5, 1, "random")
    assert not torch.equal(other.divided.of, sampler.divided.of)
    other.load(sampler.state())
    assert torch.equal(other.divided.nodes(torch.tensor([1, 4])), batch(sampler, [4, 1]).nodes)


# -- layer-0 precalculation -----------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda d: d, weighted], ids=["plain", "weighted"])
def test_precalculated_features_are_a_x_beside_x(change, sixty, dense):
    data = change(sixty)
    sampler = made(data, Need(1), 5, 2, precalc=True)
    expected = torch.cat([dense(data.graph, data.weight) @ data.x, data.x], 1)
    view = sampler.view(data)
    torch.testing.assert_close(view.x, expected, rtol=1e-13, atol=1e-13)
    assert sampler.view(data) is view
    assert sampler.shape(data).features == 14
    sparse = data.with_(x=SparseRows.from_dense(data.x * (data.x > 0.5)))
    x = sampler.view(sparse).x
    assert isinstance(x, SparseRows)
    own = sparse.x.dense()
    torch.testing.assert_close(x.dense(), torch.cat([dense(data.graph, data.weight) @ own, own], 1))
    part = batch(sampler, [0, 3])
    torch.testing.assert_close(part.x, expected[part.nodes], rtol=1e-13, atol=1e-13)
    assert made(data, Need(1), 5, 2).view(data) is data


def test_inference_reads_the_same_input_whatever_the_parts(sixty):
    torch.manual_seed(0)
    samplers = [made(sixty, Need(2), p, q, m, precalc=True)
                for p, q, m in ((5, 5, "metis"), (7, 2, "random"))]  # fmt: skip
    model = SAGE(samplers[0].shape(sixty)).double().eval()
    rows, here = torch.arange(60), torch.device("cpu")
    said = []
    for sampler in samplers:
        inference = Inference()
        inference.view = sampler.view
        said.append(inference(model, sixty, rows, here))
    assert torch.equal(*said)
    with torch.no_grad():
        part = batch(made(sixty, model.need, 5, 5, precalc=True), range(5))
        torch.testing.assert_close(model(part).logits, said[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loops", ["diag", "edges"])
def test_inference_enhances_the_diagonal_as_training_does(loops, sixty, dense):
    need = Need(1, "row", loops)
    sampler = made(sixty, need, 5, 5, diagonal=0.7)
    want = reference(dense(sixty.graph), need, 0.7)
    exact = whole_batch(sixty, sampler.refine(need)).hops[0]
    eye = torch.eye(60, dtype=torch.float64)
    torch.testing.assert_close(exact.reduce(lambda h: h, eye), want)
    assert sampler.refine(sampler.refine(need)) == sampler.refine(need) == sampler.need
    assert made(sixty, need, 5, 5).need == need


def test_a_run_predicts_with_the_operator_it_was_trained_on(tmp_path):
    """With every part in the batch, the logits of a training batch are those of inference."""
    changes = {"sampler": {"parts": 3, "batch_parts": 3, "diagonal": 1.0, "precalc": True}}
    plan = toy(changes, sampler="cluster", architecture="cluster_gcn")
    run = compose.build(plan, 0, tmp_path)
    assert run.model.need.diagonal == run.make_model().need.diagonal == 1.0
    run.prepare()
    part = batch(run.sampler, [0, 1, 2])
    said = run.inference(run.model, run.data, part.ids, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(run.model.eval()(part).logits, said, rtol=1e-4, atol=1e-4)
        plain = replace(run.model.need, diagonal=0.0)
        other = replace(part, hops=whole_batch(run.data, plain).hops)
        assert torch.equal(part.ids, torch.arange(60))
        assert (run.model(other).logits - said).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", ["sage", "mlp", "cluster_gcn"])
def test_a_run_with_precalculated_features_is_scored_and_predicts(architecture, tmp_path):
    changes = {"sampler": {"parts": 6, "precalc": True}, "trainer": {"epochs": 3}}
    (record,) = train(toy(changes, sampler="cluster", architecture=architecture), tmp_path)
    assert record.data["features"] == 8  # of the data; the model reads twice as many
    assert any(note.startswith("partition: metis, 6 parts") for note in record.notes)
    path = finished.predict(tmp_path, [], None, None, CATALOG, frozenset())
    table = pd.read_csv(path)
    assert len(table) == 60
    assert table["split"].value_counts()["train"] == 18


# -- odd graphs -----------------------------------------------------------------------------------


@needs
def test_a_graph_without_edges(need, sixty):
    none = torch.empty(0, dtype=torch.int64)
    data = sixty.with_(graph=Adjacency.from_edges(none, none, 60))
    part = batch(made(data, need, 4, 2), [0, 1])
    found = part.hops[0].reduce(lambda h: h, part.x)
    expected = torch.zeros_like(part.x) if need.loops == "none" else part.x
    torch.testing.assert_close(found, expected)


def test_duplicate_edges_and_self_loops_count_as_given(six, sixty, dense):
    src = torch.tensor([1, 1, 2, 0, 3])
    dst = torch.tensor([0, 0, 1, 0, 2])
    data = sixty.with_(
        graph=Adjacency.from_edges(src, dst, 6), x=sixty.x[:6], y=sixty.y[:6],
        splits={"train": torch.arange(6)},
    )  # fmt: skip
    need = Need(1, "row", "diag")
    part = batch(made(data, need, 3, 3), [0, 1, 2])
    torch.testing.assert_close(operator(part), reference(dense(data.graph), need))


def test_more_parts_per_batch_than_parts():
    with pytest.raises(UsageError, match=r"sampler\.batch_parts=9: .*sampler\.parts=8; valid"):
        Cluster(8, 9)
