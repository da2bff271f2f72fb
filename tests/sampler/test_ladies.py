import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import quiet_metrics, toy, train

from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gcn import GCN
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler import _columns, fastgcn, ladies
from gnnscale.sampler._columns import weighted_draw
from gnnscale.sampler.fastgcn import FastGCN
from gnnscale.sampler.ladies import Ladies

SAMPLERS = [Ladies, FastGCN]
both = pytest.mark.parametrize("kind", SAMPLERS)
NEEDS = [Need(1, o, loops) for o in ("row", "sym", "none") for loops in ("none", "diag", "edges")]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")


def made(kind, data, need, *arguments, **more):
    sampler = kind(*arguments, **more)
    sampler.prepare(data, need, Key(3, "prepare"))
    return sampler


def batch(sampler, seeds, step=0, epoch=0):
    return sampler.sample(torch.as_tensor(seeds), Key(3, "sample", epoch, step))


def graph_data(graph, features=2):
    n, draw = graph.n_dst, torch.Generator().manual_seed(1)
    x = torch.randn(n, features, generator=draw, dtype=torch.float64)
    none = torch.arange(0)
    splits = {"train": torch.arange(n), "valid": none, "test": none}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task())


@pytest.fixture
def weighted(sixty):
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) * 3 + 0.1
    return sixty.with_(weight=weight)


def aggregate(part, op="sum"):
    return part.hops[0].reduce(lambda h: h, part.x, op)


def entries(data, need, dense):
    """The operator's matrix without own entries."""
    whole = whole_batch(data, need).hops[0]
    ones = torch.ones(data.graph.n_edges, dtype=torch.float64)
    a = dense(data.graph, ones if data.weight is None else data.weight)
    a = a if whole.src is None else a * whole.src
    return a if whole.dst is None else a * whole.dst.unsqueeze(1)


# -- unbiased, exactly ----------------------------------------------------------------------------


@both
@needs
@pytest.mark.parametrize("op", ["sum", "add", "mean"])
def test_the_expectation_over_every_node_is_exact(kind, need, op, weighted, dense, monkeypatch):
    """One draw: the sum over v of p_v times the estimate when v is drawn, for all v."""
    seeds = torch.tensor([5, 58, 0, 17, 33, 12])
    exact = aggregate(whole_batch(weighted, need), op)[seeds]
    seen, forced = {}, []

    def chosen(mass, names, s, unbiased, word):
        assert unbiased
        assert s == 1
        seen.update(mass=mass, names=names)
        k = forced[0]
        return np.array([k]), np.array([mass.sum() / mass[k]])

    for module in (ladies, fastgcn):
        monkeypatch.setattr(module, "weighted_draw", chosen)
    sampler = made(kind, weighted, need, 1)
    forced.append(0)
    batch(sampler, seeds)
    p, names = seen["mass"] / seen["mass"].sum(), seen["names"]
    expectation, size = torch.zeros_like(exact), 0
    for k in range(len(p)):
        forced[0] = k
        part = batch(sampler, seeds)
        expectation += p[k] * aggregate(part, op)
        size = max(size, len(part.nodes))
    torch.testing.assert_close(expectation, exact, rtol=0, atol=1e-10)
    assert size == len(seeds) + 1
    # and the probabilities are those of the papers, by the dense matrix
    a = entries(weighted, need, dense)
    if kind is Ladies:
        column = a[seeds].square().sum(0)
        column[seeds] = 0
    else:
        column = a.square().sum(0)
    wanted = torch.zeros(60, dtype=torch.float64)
    wanted[names] = torch.from_numpy(p)
    torch.testing.assert_close(wanted, column / column.sum(), rtol=0, atol=1e-12)


@both
@needs
def test_the_mean_of_many_draws(kind, need, sixty):
    """Unweighted: with weights some nodes are drawn too rarely for a normal limit."""
    data, draws, seeds = sixty.with_(x=sixty.x[:, :1]), 1500, torch.arange(0, 60, 3)
    sampler = made(kind, data, need, 6)
    found = torch.stack(
        [aggregate(batch(sampler, seeds, step)).squeeze(1) for step in range(draws)]
    )
    exact = aggregate(whole_batch(data, need)).squeeze(1)[seeds]
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()
    assert (found.std(0) > 0).sum() >= 15


def test_draws_follow_their_probability():
    mass, names = np.array([1.0, 0, 2, 3, 4]), np.array([7, 1, 3, 9, 4])
    seen, first = np.zeros(5), np.zeros(5)
    for word in range(3000):
        places, gain = weighted_draw(mass, names, 4, True, np.uint64(word * 2**33 + 1))
        times = gain * 4 * mass[places] / 10
        assert times.sum() == pytest.approx(4)
        seen[places] += times
        alone, one = weighted_draw(mass, names, 1, False, np.uint64(word * 2**33 + 5))
        first[alone] += 1
        assert one == pytest.approx(10 / mass[alone])
    for counts, draws in ((seen, 12000), (first, 3000)):
        p = mass / 10
        assert counts[1] == 0
        z = (counts - draws * p)[p > 0] / np.sqrt(draws * p * (1 - p))[p > 0]
        assert np.abs(z).max() < 4.5
    places, _ = weighted_draw(mass, names, 4, False, np.uint64(3))
    assert places.tolist() == [0, 2, 3, 4], "without replacement all that can be drawn are"


# -- the limit ------------------------------------------------------------------------------------


@both
@needs
@pytest.mark.parametrize("estimator", ["unbiased", "authors"])
@pytest.mark.parametrize("nodes", [-1, 60, [1000, -1]])
def test_all_nodes_are_the_whole_graph_and_its_gradients(kind, need, estimator, nodes, weighted):
    need, seeds = replace(need, depth=2), torch.tensor([5, 58, 0, 17, 33])
    whole = whole_batch(weighted, need)
    x = whole.x.clone().requires_grad_()
    expected = whole.hops[1].reduce(lambda h: h, whole.hops[0].reduce(lambda h: h, x))[seeds]
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    part = batch(made(kind, weighted, need, nodes, estimator=estimator), seeds)
    y = part.x.clone().requires_grad_()
    out = part.hops[1].reduce(lambda h: h, part.hops[0].reduce(lambda h: h, y))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    (g,) = torch.autograd.grad(out.square().sum(), y)
    found = torch.zeros_like(x).index_add_(0, part.nodes, g)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@both
@pytest.mark.parametrize("make", [GCN, lambda s: EGC(s, aggregators=["mean", "add", "symadd"])])
def test_models_give_the_same_logits_and_loss(kind, make, sixty):
    torch.manual_seed(0)
    model = make(sixty.shape).double().eval()
    seeds = torch.tensor([59, 3, 40])
    part = batch(made(kind, sixty, model.need, 60), seeds)
    expected = model(whole_batch(sixty, model.need)).logits[seeds]
    torch.testing.assert_close(model(part).logits, expected, rtol=0, atol=1e-12)
    mine, wanted = (sixty.task.losses(z, sixty.y[seeds]) for z in (model(part).logits, expected))
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-10)


# -- what is in a batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["unbiased", "authors"])
def test_ladies_has_every_edge_among_the_batch_nodes(estimator, sixty):
    seeds = torch.arange(0, 60, 2)
    part = batch(made(Ladies, sixty, Need(1), 5, estimator=estimator), seeds)
    graph = part.hops[0].graph
    assert len(part.nodes) <= len(seeds) + 5
    src, dst = sixty.graph.indices, sixty.graph.dst
    chosen = torch.zeros(60, dtype=torch.bool)
    chosen[part.nodes] = True
    wanted = (chosen[src] & (dst % 2 == 0)).nonzero().squeeze(1)
    assert graph.edges.tolist() == wanted.tolist()
    inner = graph.indices < len(seeds)
    if estimator == "unbiased":
        assert (part.hops[0].weight[inner] == 1).all(), "they are exact"
        assert (part.hops[0].weight[~inner] > 1).any()


def test_fastgcn_has_drawn_nodes_only(sixty):
    seeds = torch.arange(0, 60, 2)
    sampler = made(FastGCN, sixty, Need(1), 5)
    drawn = set()
    for step in range(30):
        part = batch(sampler, seeds, step)
        graph = part.hops[0].graph
        used = set(part.nodes[graph.indices.long()].tolist())
        assert len(used) <= 5
        assert graph.n_src == len(set(seeds.tolist()) | used), "nothing useless is in the batch"
        drawn |= used
    assert len(drawn) > 20


@both
@pytest.mark.parametrize("need", [Need(1, "row"), Need(1, "sym", "diag"), Need(1, "none", "edges")])
def test_the_authors_rows_sum_to_what_they_sum_to_in_the_whole_graph(kind, need, weighted):
    data = weighted.with_(x=torch.ones(60, 1, dtype=torch.float64))
    exact = aggregate(whole_batch(data, replace(need, loops="none")))
    seeds = torch.arange(0, 60, 2)
    plain = replace(need, loops="none") if need.loops == "diag" else need
    sampler = made(kind, data, need, 8, estimator="authors")
    whole = whole_batch(data, need)
    off = aggregate(whole) - (whole.hops[0].diag.unsqueeze(1) if plain is not need else 0)
    some = 0
    for step in range(5):
        part = batch(sampler, seeds, step)
        hop = replace(part.hops[0], diag=None)
        out = hop.reduce(lambda h: h, part.x)
        loops = int(need.loops == "edges")
        kept = hop.graph.in_degree > loops
        wanted = off[seeds]
        torch.testing.assert_close(out[kept], wanted[kept], rtol=1e-12, atol=1e-12)
        some += int(kept.sum())
        assert (hop.reduce(lambda h: h, part.x, "add")[kept] > 0).all()
    assert some > 20
    assert exact.shape == (60, 1)


def test_six_nodes_by_hand(six, monkeypatch):
    # 2 <- 0 1 3 4 and 0 <- 1 2 4: of the others 1 has 1/16 + 1/9, 4 the same, 3 has 1/16
    monkeypatch.setattr(
        _columns, "units", lambda word, n: np.array([0.0, 0.1, 0.99])[:n], raising=True
    )
    data = graph_data(six, 1)
    part = batch(made(Ladies, data, Need(1, "row"), 2), [2, 0])
    hop = part.hops[0]
    one = 1 / 16 + 1 / 9
    p = one / (2 * one + 1 / 16)  # of node 1, which is drawn twice
    assert part.nodes.tolist() == [2, 0, 1]
    assert hop.graph.indices.tolist() == [1, 2, 2, 0]
    assert hop.weight.tolist() == pytest.approx([1, 2 / (2 * p), 2 / (2 * p), 1])
    assert hop.dst.tolist() == pytest.approx([1 / 4, 1 / 3])


# -- the run --------------------------------------------------------------------------------------


@both
def test_draws_are_functions_of_the_step(kind, sixty):
    for estimator in ("unbiased", "authors"):
        sampler = made(kind, sixty, Need(2), 4, estimator=estimator)
        one, _, two = (batch(sampler, [4, 9, 30], step) for step in (1, 2, 1))
        assert torch.equal(one.nodes, two.nodes)
        parts = [batch(sampler, [4, 9, 30], s, e).nodes.tolist()
                 for s, e in ((0, 0), (1, 0), (0, 1), (5, 0))]  # fmt: skip
        assert len(set(map(tuple, parts))) > 1


@both
def test_workers_do_not_matter(kind, tmp_path):
    name, found = kind.purpose, []
    for workers in (0, 1, 2):
        changes = {"hardware": {"workers": workers}, "sampler": {"batch_size": 5, "nodes": 4}}
        train(toy(changes, sampler=name), tmp_path / str(workers))
        found.append(quiet_metrics(tmp_path / str(workers) / "seed-0"))
    assert found[0] == found[1] == found[2]


@both
def test_inductive_data_shows_only_training_nodes(kind, sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    sampler = made(kind, seen, Need(2), 3, 5)
    for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
        part = batch(sampler, index)
        assert torch.equal(part.x, sixty.x[ids[part.nodes]])


@both
@needs
@pytest.mark.parametrize("estimator", ["unbiased", "authors"])
def test_a_graph_without_edges(kind, need, estimator):
    none = torch.empty(0, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(none, none, 4))
    part = batch(made(kind, data, need, 3, estimator=estimator), [3, 1])
    expected = torch.zeros_like(part.x) if need.loops == "none" else part.x
    torch.testing.assert_close(aggregate(part), expected)


@both
def test_self_loops_and_parallel_edges_are_edges(kind):
    src, dst = torch.tensor([0, 1, 1, 2, 2, 2, 0]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    data = graph_data(Adjacency.from_edges(src, dst, 3))
    need = Need(1, "row", "diag")
    exact = aggregate(whole_batch(data, need))[[0]]
    sampler = made(kind, data, need, 1)
    found = torch.stack([aggregate(batch(sampler, [0], step)) for step in range(3000)])
    error = found.std(0) / 3000**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()


@both
def test_refusals(kind):
    for nodes in (0, -2, [4, 0]):
        with pytest.raises(UsageError, match=r"sampler\.nodes=.*number of nodes.*-1 for all"):
            kind(nodes)
    with pytest.raises(UsageError, match=r"give one number of nodes per layer.*nodes=\[4,4,4\]"):
        kind([4, 4]).check(Need(3))
    for architecture in ("gat", "egc_m"):
        with pytest.raises(CompositionError, match=r"needs .*'linear'"):
            toy(sampler=kind.purpose, architecture=architecture)
    for estimator in ("unbiased", "authors"):
        toy({"sampler": {"estimator": estimator}}, sampler=kind.purpose)


def test_the_two_samplers_are_two(sixty):
    parts = [batch(made(kind, sixty, Need(1), 5), torch.arange(9)) for kind in SAMPLERS]
    assert not any(torch.equal(a.nodes, b.nodes) for a, b in itertools.combinations(parts, 2))
