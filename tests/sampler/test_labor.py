import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import quiet_metrics, toy, train
from scipy.stats import chi2

from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.dataset.planetoid import Planetoid
from gnnscale.graph.induce import scratch
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.labor import Labor, importances, solve
from gnnscale.sampler.neighbor import Neighbor

LOOPS = ("none", "diag", "edges")
NEEDS = [Need(1, operator, loops) for operator in ("row", "sym", "none") for loops in LOOPS]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
rounds = pytest.mark.parametrize("importance", [0, 1, 3, -1])


def made(data, need, *arguments, **more):
    sampler = Labor(*arguments, **more)
    sampler.prepare(data, need, Key(3, "prepare"))
    return sampler


def batch(sampler, seeds, step=0, epoch=0):
    return sampler.sample(torch.as_tensor(seeds), Key(3, "sample", epoch, step))


def graph_data(graph, features=1):
    n, draw = graph.n_dst, torch.Generator().manual_seed(1)
    x = torch.randn(n, features, generator=draw, dtype=torch.float64)
    none = torch.arange(0)
    splits = {"train": torch.arange(n), "valid": none, "test": none}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task())


def aggregate(part, op="sum"):
    return part.hops[0].reduce(lambda h: h, part.x, op)


def full_mask(part, graph):
    """Which edges of the graph the single hop of a batch of all its nodes has."""
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    edges = part.hops[0].graph.edges
    kept[edges[edges >= 0]] = True
    return kept


# -- the limit ------------------------------------------------------------------------------------


@needs
@rounds
@pytest.mark.parametrize("fanouts", [-1, 100, [100, -1]])
@pytest.mark.parametrize("estimator", ["hajek", "horvitz_thompson"])
def test_all_neighbours_are_the_whole_graph(need, importance, fanouts, estimator, sixty):
    need, seeds = replace(need, depth=2), torch.tensor([5, 58, 0, 17, 33])
    whole = whole_batch(sixty, need)
    x = whole.x.clone().requires_grad_()
    expected = whole.hops[1].reduce(lambda h: h, whole.hops[0].reduce(lambda h: h, x))[seeds]
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    sampler = made(sixty, need, fanouts, importance=importance, estimator=estimator)
    part = batch(sampler, seeds)
    y = part.x.clone().requires_grad_()
    out = part.hops[1].reduce(lambda h: h, part.hops[0].reduce(lambda h: h, y))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    (g,) = torch.autograd.grad(out.square().sum(), y)
    found = torch.zeros_like(x).index_add_(0, part.nodes, g)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    assert torch.equal(part.hops[0].degree, sixty.graph.in_degree[part.nodes])


@pytest.mark.parametrize("make", [GCN, GAT, lambda s: EGC(s, aggregators=["mean", "add", "max"])])
def test_models_give_the_same_logits(make, sixty):
    torch.manual_seed(0)
    model = make(sixty.shape).double().eval()
    seeds = torch.tensor([59, 3, 40])
    part = batch(made(sixty, model.need, -1), seeds)
    expected = model(whole_batch(sixty, model.need)).logits[seeds]
    torch.testing.assert_close(model(part).logits, expected, rtol=0, atol=1e-12)


# -- by hand --------------------------------------------------------------------------------------


def test_six_nodes_by_hand(six):
    # 0 <- 1 2 4, 2 <- 0 1 3 4: sources are agreed on, with p = 2 / 3 and 2 / 4
    data, seen = graph_data(six), set()
    for step in range(200):
        part = batch(made(data, Need(1, "row"), 2, estimator="horvitz_thompson"), [2, 0, 5], step)
        hop, nodes = part.hops[0], part.nodes
        rows = [set(nodes[hop.graph.indices[a:b].long()].tolist())
                for a, b in itertools.pairwise(hop.graph.indptr.tolist())]  # fmt: skip
        assert rows[2] == set()
        # r_1 < 1 / 2 puts node 1 into both rows; r_1 < 2 / 3 only into that of node 0
        assert rows[0] & {1, 4} <= rows[1]
        assert hop.row.tolist() == [2, 1.5, 1]
        assert hop.dst.tolist() == pytest.approx([0.25 * 2, 1.5 / 3, 0])
        seen.add((frozenset(rows[0]), frozenset(rows[1])))
    assert len(seen) > 12


def test_loops_are_always_there_and_not_scaled(six):
    part = batch(made(graph_data(six), Need(1, "none", "edges"), 1), [2, 5, 0])
    hop = part.hops[0]
    last = hop.graph.indptr[1:] - 1
    assert hop.graph.edges[last].tolist() == [-1, -1, -1]
    assert hop.graph.indices[last].tolist() == [0, 1, 2]
    assert hop.weight[last].tolist() == [1, 1, 1]


@pytest.mark.parametrize("d", [2, 5, 40])
def test_c_solves_its_equation(d):
    draw = np.random.default_rng(d)
    for k in range(1, d):
        pi = draw.uniform(0.01, 1, d)
        c = solve(pi, k)
        assert np.mean(1 / np.minimum(1, c * pi)) / d == pytest.approx(1 / k, rel=1e-12)
    assert solve(np.full(d, 0.3), 1) * 0.3 == pytest.approx(1 / d)


def test_each_round_expects_fewer_distinct_nodes(sixty):
    adj, k, expected = sixty.graph, 3, []
    targets = np.arange(0, 60, 2)
    for i in (0, 1, 2, 3, 5, 10):
        arrays = adj.indptr.numpy(), adj.indices.numpy(), targets, k, i, scratch(60)
        pi, c = importances(*arrays)
        rows = [range(adj.indptr[t], adj.indptr[t + 1]) for t in targets]
        column = np.concatenate([adj.indices[list(r)].numpy() for r in rows])
        target = np.repeat(np.arange(len(targets)), [len(r) for r in rows])
        p = np.minimum(1, np.where(np.isinf(c[target]), 1, c[target] * pi))
        inclusion = np.zeros(60)
        np.maximum.at(inclusion, column, p)
        expected.append(inclusion.sum())
        for t, r in enumerate(rows):
            if len(r) > k:  # the variance is that of k drawn neighbours, whatever pi is
                mine = p[target == t]
                assert np.mean(1 / mine) / len(r) == pytest.approx(1 / k, rel=1e-9)
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(expected))
    assert expected[0] > expected[-1] + 0.1


# -- chance ---------------------------------------------------------------------------------------


def test_edges_are_kept_with_their_probability_and_k_per_row_in_expectation(sixty):
    k, draws, graph = 2, 2000, sixty.graph
    sampler = made(sixty, Need(1), k)
    kept = torch.zeros(graph.n_edges, dtype=torch.float64)
    for step in range(draws):
        kept += full_mask(batch(sampler, torch.arange(60), step), graph)
    d = graph.in_degree[graph.dst]
    p = (k / d.double()).clamp(max=1)
    assert (kept[d <= k] == draws).all()
    some = d > k
    z = ((kept - draws * p).square() / (draws * p * (1 - p)))[some]
    assert z.max() < 4.5**2
    # rows add up to k: the mean over rows, each edge's number being independent within its row
    rows = torch.zeros(60, dtype=torch.float64).index_add_(0, graph.dst, kept) / draws
    wide = graph.in_degree > k
    spread = (k * (1 - k / graph.in_degree[wide].double()) / draws).sqrt()
    assert ((rows[wide] - k).abs() < 4.5 * spread).all()


@rounds
@pytest.mark.parametrize(
    ("need", "op"),
    [(need, "sum") for need in NEEDS if need.operator != "none"]
    + [(Need(1, "none", loops), op) for loops in LOOPS for op in ("add", "mean")],
    ids=str,
)
def test_horvitz_thompson_is_unbiased(need, importance, op, sixty):
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) + 0.1
    data, draws = sixty.with_(x=sixty.x[:, :1], weight=weight), 500
    sampler = made(data, need, 2, importance=importance, estimator="horvitz_thompson")
    found = torch.stack(
        [aggregate(batch(sampler, torch.arange(60), step), op).squeeze(1) for step in range(draws)]
    )
    exact = aggregate(whole_batch(data, need), op).squeeze(1)
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()
    assert (found.std(0) > 0).sum() > 30


@rounds
def test_hajek_is_exact_for_constants_where_something_was_kept(importance, sixty):
    """Self-normalised: of equal messages it makes their exact mean, or 0 of an empty row."""
    data = sixty.with_(x=torch.ones(60, 1, dtype=torch.float64))
    need = Need(1, "row")
    exact = aggregate(whole_batch(data, need))
    sampler = made(data, need, 2, importance=importance)
    spread, empty = [], 0
    for step in range(50):
        part = batch(sampler, torch.arange(60), step)
        out, some = aggregate(part), part.hops[0].graph.in_degree > 0
        torch.testing.assert_close(out[some], exact[some], rtol=1e-12, atol=0)
        assert (out[~some] == 0).all()
        empty += int((~some & (sixty.graph.in_degree > 0)).sum())
        other = made(data, need, 2, importance=importance, estimator="horvitz_thompson")
        spread.append(aggregate(batch(other, torch.arange(60), step)))
    assert torch.stack(spread).std(0).max() > 0.1
    assert empty > 0


def test_sources_are_agreed_on_between_rows():
    """Two rows with the same 20 neighbours draw the same ones; neighbour sampling does not."""
    src, dst = torch.arange(2, 22).repeat(2), torch.arange(2).repeat_interleave(20)
    data = graph_data(Adjacency.from_edges(src, dst, 22))
    sampler, other = made(data, Need(1), 4), Neighbor(4)
    other.prepare(data, Need(1), Key(3, "prepare"))
    mine, theirs = [], []
    for step in range(300):
        hop = batch(sampler, [0, 1], step).hops[0]
        a, b = (hop.graph.indices[s:e].tolist() for s, e in itertools.pairwise(hop.graph.indptr))
        assert a == b
        mine.append(hop.graph.n_src - 2)
        theirs.append(other.sample(torch.arange(2), Key(3, "sample", 0, step)).hops[0].graph.n_src)
    spread = (20 * 0.2 * 0.8 / 300) ** 0.5
    assert abs(np.mean(mine) - 4) < 4.5 * spread
    assert np.mean(theirs) - 2 > 6.5  # 8 - 8 * 4 / 20 / 2 distinct in expectation: 7.2


def test_numbers_are_uniform_over_nodes():
    """p = 1 / 10 each, over many nodes: a chi-squared test of the counts."""
    d = 40
    dst = torch.zeros(d, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(torch.arange(1, d + 1), dst, d + 1))
    sampler, draws, seen = made(data, Need(1), 4), 2000, torch.zeros(d)
    for step in range(draws):
        seen += full_mask(batch(sampler, [0], step), data.graph)
    p = 4 / d
    statistic = ((seen - draws * p).square() / (draws * p * (1 - p))).sum()
    assert 1e-3 < chi2.sf(statistic, d) < 1 - 1e-3


@pytest.mark.parametrize("importance", [0, 1, -1])
def test_fewer_distinct_nodes_than_neighbour_sampling(importance):
    """On a graph of 3000 nodes and average degree 30, two layers of 5."""
    draw = np.random.default_rng(0)
    src, dst = torch.from_numpy(draw.integers(0, 3000, (2, 90000)))
    data = graph_data(Adjacency.from_edges(src, dst, 3000))
    count = {}
    for name, sampler in {
        "labor": Labor(5, importance=importance),
        "dependent": Labor(5, importance=importance, layer_dependency=True),
        "neighbor": Neighbor(5),
    }.items():
        sampler.prepare(data, Need(2), Key(3, "prepare"))
        sizes = [len(batch(sampler, torch.arange(200), step).nodes) for step in range(20)]
        count[name] = np.mean(sizes)
    assert count["labor"] < 0.9 * count["neighbor"]
    assert count["dependent"] < count["labor"]


def test_fewer_distinct_nodes_on_cora():
    """Mean input nodes of 20 batches of 140, two layers of 2; draws are functions of the key."""
    root = os.environ.get("GNNSCALE_DATA") or Path(__file__).resolve().parents[3] / "shared/data"
    if not Path(root, "planetoid").is_dir():
        pytest.skip(f"planetoid is not in {root}")
    data, count = Planetoid("cora", root=str(root)).load(0), {}
    seeds = torch.randperm(data.nodes, generator=torch.Generator().manual_seed(0))[:140]
    for name, sampler in {
        "neighbor": Neighbor(2),
        "labor-0": Labor(2),
        "labor-1": Labor(2, importance=1),
        "labor-*": Labor(2, importance=-1),
    }.items():
        sampler.prepare(data, Need(2, "sym", "diag"), Key(0, "prepare"))
        count[name] = sum(len(batch(sampler, seeds, step).nodes) for step in range(20)) / 20
    assert count["labor-*"] < count["labor-1"] < count["labor-0"] < count["neighbor"]


def test_draws_do_not_depend_on_order_or_other_seeds(sixty):
    sampler = made(sixty, Need(2), 2)
    one = batch(sampler, [4, 9, 30], 1)
    batch(sampler, [1], 2)
    two = batch(sampler, [4, 9, 30], 1)
    assert torch.equal(one.nodes, two.nodes)
    alone = batch(sampler, [30], 1).hops[1].graph.edges
    assert torch.equal(alone, one.hops[1].graph.edges[len(one.hops[1].graph.edges) - len(alone) :])
    masks = [
        full_mask(batch(made(sixty, Need(1), 2), torch.arange(60), step, epoch), sixty.graph)
        for step, epoch in [(0, 0), (1, 0), (0, 1)]
    ]
    for a, b in itertools.combinations(masks, 2):
        assert not torch.equal(a, b)


def test_layers_share_their_numbers_only_if_asked_to(sixty):
    for dependent in (False, True):
        sampler = made(sixty, Need(2), 2, layer_dependency=dependent)
        same = []
        for step in range(20):
            first, last = batch(sampler, torch.arange(60), step).hops
            same.append(first.graph.edges.tolist() == last.graph.edges.tolist())
        assert all(same) is dependent
        assert any(same) is dependent


def test_workers_do_not_matter(tmp_path):
    found = []
    for workers in (0, 1, 2):
        changes = {"hardware": {"workers": workers}, "sampler": {"batch_size": 5, "fanouts": 2}}
        train(toy(changes, sampler="labor"), tmp_path / str(workers))
        found.append(quiet_metrics(tmp_path / str(workers) / "seed-0"))
    assert found[0] == found[1] == found[2]


# -- limits and refusals --------------------------------------------------------------------------


@needs
@rounds
def test_a_graph_without_edges(need, importance):
    none = torch.empty(0, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(none, none, 4))
    part = batch(made(data, need, 3, importance=importance), [3, 1])
    expected = torch.zeros_like(part.x) if need.loops == "none" else part.x
    torch.testing.assert_close(aggregate(part), expected)
    assert batch(made(data, Need(0), 3), [1]).hops == ()


@rounds
def test_self_loops_and_parallel_edges_are_edges(importance):
    src, dst = torch.tensor([0, 1, 1, 2, 2, 2, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    data = graph_data(Adjacency.from_edges(src, dst, 3))
    exact = aggregate(whole_batch(data, Need(1, "row", "diag")))
    sampler = made(data, Need(1, "row", "diag"), 2, importance=importance,
                   estimator="horvitz_thompson")  # fmt: skip
    found = torch.stack([aggregate(batch(sampler, [0, 1, 2], step)) for step in range(500)])
    error = found.std(0) / 500**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()


def test_inductive_data_shows_only_training_nodes(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    for index in (sampler := made(seen, Need(2), 2)).plan(seen.splits["train"], Key(3, "plan")):
        part = batch(sampler, index)
        assert torch.equal(part.x, sixty.x[ids[part.nodes]])
        assert part.labeled.all()


@pytest.mark.parametrize("fanouts", [0, -2, [10, 0]])
def test_fanouts_that_are_no_number_of_neighbours(fanouts):
    with pytest.raises(UsageError, match=r"sampler\.fanouts=.*-1 for all"):
        Labor(fanouts)


def test_other_refusals():
    with pytest.raises(UsageError, match=r"sampler\.importance=-2.*-1 until it settles"):
        Labor(importance=-2)
    with pytest.raises(UsageError, match=r"give one fan-out per layer.*fanouts=\[4,4,4\]"):
        Labor([4, 4]).check(Need(3))
