import os
import signal
import subprocess
import sys
from dataclasses import replace

import numba
import pytest
import torch
from compositions import CATALOG, permuted, plan, toy, train
from compositions import silenced as silence
from torch import nn

from gnnscale import finished
from gnnscale.architecture._readout import Pool
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.batch import Batch, Memo
from gnnscale.core.data import GraphData, Shape, Task
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler import shadow
from gnnscale.sampler.shadow import Shadow, ShadowKhop
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Own

KEY = Key(3, "prepare")
CPU = torch.device("cpu")
MODELS = {
    "gcn": lambda s: GCN(s, hidden=8),
    "gcn3_stem": lambda s: GCN(s, hidden=8, depth=3, stem=True, residual=True, norm="layer"),
    "sage": lambda s: SAGE(s, hidden=8),
    "sage_max": lambda s: SAGE(s, hidden=8, aggr="max"),
    "gat": lambda s: GAT(s, hidden=8, heads=2),
    "gin": lambda s: GIN(s, hidden=8, norm="none", mlp_norm="none"),
    "egc": lambda s: EGC(s, hidden=8, heads=2, norm="none", aggregators=["symadd", "max", "std"]),
}
SCOPES = {
    "ppr": lambda **more: Shadow(k=60, threshold=0.0, eps=1e-12, **more),
    "khop": lambda **more: ShadowKhop(depth=60, budget=-1, **more),
}
SMALL = {
    "ppr": lambda **more: Shadow(k=12, threshold=0.05, eps=1e-4, **more),
    "khop": lambda **more: ShadowKhop(depth=2, budget=3, **more),
}
both = pytest.mark.parametrize("name", list(SMALL))
models = pytest.mark.parametrize("model", MODELS)


def made(sampler, data, need=Need(2, "sym", "diag")):  # noqa: B008
    sampler.prepare(data, need, KEY)
    return sampler


def batch(sampler, seeds, step=0):
    return sampler.sample(torch.as_tensor(seeds), Key(3, "sample", 0, step))


def network(name, data, sampler=None):
    torch.manual_seed(0)
    model = MODELS[name](data.shape if sampler is None else sampler.shape(data)).double()
    silence(model)
    return model


def graph_data(graph, **more):
    n = graph.n_dst
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    splits = {"train": torch.arange(n), "valid": torch.arange(0), "test": torch.arange(0)}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task(), **more)


@pytest.fixture
def weighted(sixty):
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) * 3 + 0.1
    return sixty.with_(weight=weight)


# -- the limits -----------------------------------------------------------------------------------


@models
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("weights", [False, True])
def test_a_scope_of_the_whole_graph_is_full_batch(weights, scope, model, sixty, weighted):
    """Logits, loss and gradients."""
    data = weighted if weights else sixty
    net = network(model, data)
    sampler = made(SCOPES[scope](), data, net.need)
    seeds, objective = data.splits["train"], Objective(data.task, {})
    part, whole = batch(sampler, seeds), whole_batch(data, net.need)
    whole = replace(whole, rows=seeds, ids=seeds, y=whole.y[seeds], labeled=whole.labeled[seeds])
    found = []
    for one in (part, whole):
        net.zero_grad()
        out = net(one)
        loss = objective(out, one)
        loss.backward()
        grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        found.append((out.logits.detach(), loss.detach(), grads))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert found[0][1] > 0


@pytest.mark.parametrize("stems", [False, True])
def test_all_hops_of_a_mean_model_are_the_whole_graph(stems, sixty):
    """Row i of D^-1 A needs i's own neighbours only, and i lies within L - 1 hops."""
    torch.manual_seed(0)
    for depth in (1, 2, 3):
        net = SAGE(sixty.shape, hidden=8, depth=depth, stem=stems).double().eval()
        sampler = made(ShadowKhop(depth=depth, budget=-1), sixty, net.need)
        expected = net(whole_batch(sixty, net.need)).logits
        part = batch(sampler, torch.arange(60))
        assert len(part.nodes) < 60 * 58  # scopes are smaller than the graph
        torch.testing.assert_close(net(part).logits, expected, rtol=0, atol=1e-10)


def test_a_symmetric_norm_needs_one_hop_more(sixty):
    """It divides by the degrees of sources, and those L hops away have lost neighbours."""
    net = network("gcn", sixty)
    expected = net(whole_batch(sixty, net.need)).logits
    short, long = (
        net(batch(made(ShadowKhop(depth=k, budget=-1), sixty, net.need), torch.arange(60))).logits
        for k in (2, 3)
    )
    torch.testing.assert_close(long, expected, rtol=0, atol=1e-10)
    assert (short - expected).abs().max() > 1e-3


@both
@models
def test_batch_mates_do_not_change_a_root(name, model, sixty):
    sampler = SMALL[name](hop_features=True)
    net = network(model, sixty, sampler)
    made(sampler, sixty, net.need)
    seeds = torch.tensor([3, 17, 58, 40, 3, 5])
    together = net(batch(sampler, seeds)).logits
    apart = torch.cat([net(batch(sampler, [int(s)])).logits for s in seeds])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[0], together[4], rtol=0, atol=1e-12)


def test_logits_do_not_depend_on_the_order_of_nodes(sixty):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    net = network("gcn", sixty)
    sampler = Shadow(k=60, threshold=0.1, eps=1e-4)
    logits = [
        net(batch(made(sampler, data, net.need), torch.arange(60))).logits
        for data in (sixty, permuted(sixty, order))
    ]
    torch.testing.assert_close(logits[1], logits[0][order], rtol=0, atol=1e-12)
    assert len(batch(sampler, torch.arange(60)).nodes) < 60 * 40  # the threshold does cut


@both
def test_the_operator_has_the_subgraphs_own_degrees(name, sixty, dense):
    part = batch(made(SMALL[name](), sixty, Need(1, "sym", "diag")), [4, 9])
    hop = part.hops[0]
    a = dense(hop.graph) + torch.eye(hop.graph.n_dst, dtype=torch.float64)
    d = a.sum(1)
    expected = (a / (d.unsqueeze(1) * d).sqrt()) @ part.x
    torch.testing.assert_close(hop.reduce(lambda h: h, part.x), expected, rtol=0, atol=1e-12)
    assert (hop.graph.in_degree < sixty.graph.in_degree[part.nodes]).any()
    assert torch.equal(hop.degree, sixty.graph.in_degree[part.nodes])
    assert torch.equal(part.nodes[part.rows], torch.tensor([4, 9]))
    assert torch.equal(part.segment[part.rows], torch.tensor([0, 1]))
    assert torch.equal(hop.segment, part.segment)
    assert torch.equal(part.x, sixty.x[part.nodes])
    assert torch.equal(part.y, sixty.y[[4, 9]])


# -- readout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "max", "sum"])
def test_pooled_readout_by_hand(kind, six):
    # 0 <- 1 2 4, 1 <- 0, 2 <- 0 1 3 4, 3 <- 2, 4 <- 3, 5 <- nobody
    data = graph_data(six)
    sampler = made(ShadowKhop(depth=1, budget=-1, readout=kind), data, Need(1, "row"))
    part = batch(sampler, [2, 5, 1])
    assert part.nodes.tolist() == [2, 0, 1, 3, 4, 5, 1, 0]
    assert part.segment.tolist() == [0, 0, 0, 0, 0, 1, 2, 2]
    assert part.rows.tolist() == [0, 5, 6]
    torch.manual_seed(0)
    net = SAGE(sampler.shape(data), hidden=4, depth=1, stem=True).double().eval()
    h = net.layers[0](part.hops[0], net.encoder(part.x), Memo(part))
    pool = {"mean": lambda z: z.mean(0), "max": lambda z: z.amax(0), "sum": lambda z: z.sum(0)}
    expected = []
    for root, nodes in ((0, [0, 1, 2, 3, 4]), (5, [5]), (6, [6, 7])):
        z = torch.cat([h[root], pool[kind](h[nodes])])
        z = (net.pool.map.weight @ z + net.pool.map.bias).relu()
        expected.append(net.head.weight @ z + net.head.bias)
    torch.testing.assert_close(net(part).logits, torch.stack(expected), rtol=0, atol=1e-12)
    center = SAGE(Shape(3, 2), hidden=4, depth=1, stem=True)
    assert center.pool is None


@pytest.mark.parametrize("kind", ["mean", "max", "sum"])
def test_gradients_of_the_pool(kind):
    draw = torch.Generator().manual_seed(2)
    pool = Pool(kind, 3, 0.0, "elu", "none").double()
    h = torch.randn(7, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    nothing = torch.empty(0)
    part = Batch(
        nothing, (), nothing, torch.tensor([0, 3]), nothing, nothing, nothing,
        segment=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
    )  # fmt: skip
    assert torch.autograd.gradcheck(lambda h: pool(h, part), (h,))


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_pooled_model_trains_and_all_of_it_learns(norm, sixty):
    sampler = Shadow(k=10, readout="mean", hop_features=True, drop_edge=0.2)
    torch.manual_seed(0)
    net = GCN(sampler.shape(sixty), hidden=8, stem=True, norm=norm).double()
    part = batch(made(sampler, sixty, net.need), sixty.splits["train"])
    Objective(sixty.task, {})(net(part), part).backward()
    assert net.pool is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.pool.parameters()
               if not (norm == "batch" and p is net.pool.map.bias))  # fmt: skip


@pytest.mark.parametrize("architecture", ["gcn", "sage", "gat", "gin", "mlp"])
def test_a_model_without_a_head_refuses_a_pooled_readout(architecture):
    text = rf"sampler\.readout=max: architecture={architecture}.*architecture\.stem=true"
    with pytest.raises(CompositionError, match=text):
        plan({"sampler": {"readout": "max"}}, sampler="shadow", architecture=architecture)


@pytest.mark.parametrize("sampler", ["shadow", "shadow_khop"])
def test_a_pooled_readout_with_hop_features_from_training_to_predictions(sampler, tmp_path):
    changes = {
        "sampler": {"readout": "mean", "hop_features": True, "drop_edge": 0.1, "batch_size": 7},
        "architecture": {"stem": True, "hidden": 8},
    }
    (record,) = train(toy(changes, sampler=sampler, architecture="gcn"), tmp_path / "run")
    assert record.metric["valid"] > 0
    wide = (8 + 7) * 8 + 8 + 2 * (8 * 8 + 8) + (16 * 8 + 8) + 8 * 3 + 3
    assert record.parameters == wide
    out = finished.predict(
        tmp_path / "run", [], None, tmp_path / "p.csv", CATALOG, frozenset()
    )  # fmt: skip
    assert len(out.read_text().splitlines()) == 61


# -- hop features ---------------------------------------------------------------------------------


def test_hop_features_by_hand(six):
    data = graph_data(six)
    sampler = made(ShadowKhop(depth=2, budget=-1, hop_features=True), data)
    part = batch(sampler, [1])
    # 1 <- 0 <- 1 2 4
    assert part.nodes.tolist() == [1, 0, 2, 4]
    assert part.x[:, :3].tolist() == data.x[part.nodes].tolist()
    assert part.x[:, 3:].argmax(1).tolist() == [1, 2, 3, 3]
    assert part.x[:, 3:].sum(1).tolist() == [1] * 4
    d = data.shape.log_degree
    assert sampler.shape(data) == Shape(10, 2, codes=7, log_degree=d, nodes=6)


def test_sparse_features_with_codes_are_the_dense_ones(sixty):
    x = torch.where(sixty.x > 0.5, sixty.x, 0.0)
    thin = sixty.with_(x=SparseRows.from_dense(x))
    sampler = SMALL["ppr"](hop_features=True)
    seeds, need = torch.arange(0, 60, 7), Need(2, "sym", "diag")
    a = batch(made(sampler, sixty.with_(x=x), need), seeds)
    b = batch(made(sampler, thin, need), seeds)
    assert isinstance(b.x, SparseRows)
    assert torch.equal(b.x.dense(), a.x)
    assert (b.x.values != 0).all()
    net = network("sage", sixty, sampler)
    torch.testing.assert_close(net(b).logits, net(a).logits, rtol=0, atol=1e-12)


def test_codes_beside_the_features_are_a_linear_map_added_to_them(sixty):
    """The function class of the authors' Linear-then-add, for a first map W [x || c]."""
    sampler = made(SMALL["ppr"](hop_features=True), sixty)
    x, codes = batch(sampler, [4, 9]).x.split([7, 7], 1)
    stem = nn.Linear(14, 5, bias=False).double()
    added = x @ stem.weight[:, :7].T + codes @ stem.weight[:, 7:].T
    torch.testing.assert_close(stem(torch.cat([x, codes], 1)), added, rtol=0, atol=1e-12)


# -- draws, cache, evaluation ---------------------------------------------------------------------


@both
def test_steps_and_evaluation(name, sixty):
    sampler, seeds = made(SMALL[name](batch_size=7, drop_edge=0.3), sixty), torch.arange(60)
    one, again, other = batch(sampler, seeds), batch(sampler, seeds), batch(sampler, seeds, 1)
    assert torch.equal(one.hops[0].graph.indices, again.hops[0].graph.indices)
    assert not torch.equal(one.hops[0].graph.edges, other.hops[0].graph.edges)
    assert torch.equal(one.nodes, other.nodes) == (name == "ppr")
    own = [list(sampler.batches(sixty, sampler.need, seeds)) for _ in range(2)]
    assert [len(b.ids) for b in own[0]] == [7] * 8 + [4]
    for a, b in zip(*own, strict=True):
        assert torch.equal(a.nodes, b.nodes)
        assert torch.equal(a.hops[0].graph.edges, b.hops[0].graph.edges)
    whole = torch.cat([b.nodes for b in own[0]])
    if name == "ppr":
        assert torch.equal(whole, one.nodes)
        edges = sum(b.hops[0].graph.n_edges for b in own[0])
        assert edges > one.hops[0].graph.n_edges  # no edge is dropped in evaluation


@both
def test_evaluation_is_the_same_on_any_number_of_threads(name, sixty, monkeypatch):
    net = network("gcn", sixty).eval()
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    expected = Own(SMALL[name](batch_size=7))(net, sixty, rows, CPU)
    assert expected.shape == (60, 4)
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    assert torch.equal(Own(SMALL[name](batch_size=7))(net, sixty, rows, CPU), expected)
    assert Own(SMALL[name]())(net, sixty, rows[:0], CPU).shape == (0, 4)


@both
def test_training_extracts_from_the_training_graph_and_evaluation_from_all(name, sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    whole = replace(sixty, inductive=True)
    seen, ids = training_graph(replace(whole, x=x))
    sampler = made(SMALL[name](batch_size=6), seen)
    for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
        part = batch(sampler, index)
        assert torch.isfinite(part.x).all()
        assert torch.equal(part.x, sixty.x[ids[part.nodes]])
        assert part.labeled.all()
    rows = sixty.splits["test"]
    own = list(sampler.batches(whole, sampler.need, rows))
    assert torch.equal(torch.cat([b.ids for b in own]), rows)
    assert not torch.cat([b.labeled for b in own]).any()
    fresh = list(SMALL[name](batch_size=6).batches(whole, sampler.need, rows))
    for a, b in zip(own, fresh, strict=True):
        assert torch.equal(a.nodes, b.nodes)
    part = batch(sampler, [0])  # and training goes on with its own lists
    assert torch.equal(part.x, sixty.x[ids[part.nodes]])


def test_lists_are_read_again_with_the_same_bits(sixty, weighted, monkeypatch):
    seeds, options = torch.arange(60), {"k": 9, "eps": 3e-4}
    first = batch(made(Shadow(**options), sixty), seeds)
    extract, calls = shadow.push, []

    def counted(*arguments):
        calls.append(arguments)
        return extract(*arguments)

    monkeypatch.setattr(shadow, "push", counted)
    second = batch(made(Shadow(**options), sixty), seeds)
    assert calls == []
    assert torch.equal(first.nodes, second.nodes)
    assert torch.equal(first.hops[0].graph.indices, second.hops[0].graph.indices)
    order = torch.arange(60).flip(0)
    others = [
        ({**options, "k": 8}, sixty), ({**options, "eps": 4e-4}, sixty),
        ({**options, "threshold": 0.3}, sixty), ({**options, "damping": 0.5}, sixty),
        (options, weighted), (options, permuted(sixty, order)),
    ]  # fmt: skip
    for more, data in others:
        made(Shadow(**more), data)
    assert len(calls) == len(others)
    sampler = made(Shadow(**options), sixty)
    for data in (weighted, sixty):  # two graphs are remembered
        list(sampler.batches(data, sampler.need, seeds[:1]))
    assert len(calls) == len(others)


CHILD = """
import sys, time
import numpy as np
import torch
from gnnscale.core.data import GraphData, Task
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.sampler.shadow import Shadow
if sys.argv[1] == "slow":
    save = np.save
    def slow(path, array, **more):
        save(path, array, **more)
        print("saved", flush=True)
        time.sleep(60)
    np.save = slow
n = torch.arange(50)
graph = Adjacency.from_edges(torch.cat([n, (n + 1) % 50]), torch.cat([(n + 1) % 50, n]), 50)
splits = {"train": n, "valid": n, "test": n}
sampler = Shadow(k=7)
sampler.ready(GraphData("ring", graph, torch.zeros(50, 2), n % 2, splits, Task()))
print(sampler.tables[0][2].tolist())
"""


@pytest.mark.process
def test_a_killed_writer_leaves_nothing_that_could_be_read(tmp_path):
    def child(how):
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, how], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "GNNSCALE_CACHE": str(tmp_path)},
        )  # fmt: skip

    slow = child("slow")
    assert slow.stdout.readline() == "saved\n"
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    assert list(tmp_path.glob("shadow-*")) == []
    assert len(list(tmp_path.glob(".build-*"))) == 1
    lists = [child("whole").communicate()[0] for _ in range(2)]
    assert lists[0] == lists[1] != ""
    assert len(list(tmp_path.glob("shadow-*"))) == 1
    assert list(tmp_path.glob(".build-*")) == []


# -- refusals and edge cases ----------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, -2])
def test_budgets_that_are_no_number_of_neighbours(budget):
    with pytest.raises(UsageError, match=r"sampler\.budget=.*-1 for all"):
        ShadowKhop(budget=budget)


def test_negative_weights_are_refused(sixty):
    weight = torch.ones(sixty.graph.n_edges)
    weight[3] = -1
    with pytest.raises(UsageError, match=r"sampler=shadow: .*negative.*sampler=shadow_khop"):
        made(Shadow(), sixty.with_(weight=weight))
    made(ShadowKhop(), sixty.with_(weight=weight))


@pytest.mark.parametrize("loops", ["none", "diag", "edges"])
@both
def test_a_graph_without_edges(name, loops):
    none = torch.empty(0, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(none, none, 4))
    sampler = made(SMALL[name](hop_features=True), data, Need(2, "sym", loops))
    part = batch(sampler, [3, 1])
    assert part.nodes.tolist() == [3, 1]
    h = part.x
    for hop in part.hops:
        h = hop.reduce(lambda h: h, h)
    torch.testing.assert_close(h, torch.zeros_like(part.x) if loops == "none" else part.x)


@both
def test_self_loops_duplicates_and_budgets_beyond_the_graph(name, dense):
    src, dst = torch.tensor([0, 0, 1, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 1, 2])
    data = graph_data(Adjacency.from_edges(src, dst, 4))
    large = {"ppr": Shadow(k=500, threshold=0.0, eps=1e-12), "khop": ShadowKhop(9, 500)}[name]
    part = batch(made(large, data, Need(1)), [0, 3])
    found = dense(part.hops[0].graph)
    first = part.nodes[:3]
    assert sorted(first.tolist()) == [0, 1, 2]
    assert torch.equal(found[:3, :3], dense(data.graph)[first][:, first])
    assert part.nodes[3:].tolist() == [3]
    assert found[3].sum() == 0


@both
def test_a_batch_without_a_training_node_and_a_model_without_hops(name, sixty):
    net = network("gcn", sixty)
    part = batch(made(SMALL[name](), sixty, net.need), sixty.splits["valid"][:5])
    assert not part.labeled.any()
    loss = Objective(sixty.task, {})(net(part), part)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in net.parameters())
    assert batch(made(SMALL[name](), sixty, Need(0)), [4, 2]).hops == ()


@both
def test_every_seed_once_per_epoch(name, sixty):
    sampler, seeds = SMALL[name](batch_size=7), sixty.splits["train"]
    orders = [torch.cat(sampler.plan(seeds, Key(3, "plan", epoch))) for epoch in (0, 1)]
    assert all(torch.equal(o.sort().values, seeds.sort().values) for o in orders)
    assert not torch.equal(*orders)
    assert sampler.state() == {}
