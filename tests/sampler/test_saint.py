import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph import walk
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.saint import BLOCK, SaintEdge, SaintMRW, SaintNode, SaintWalk

MAKE = {
    "walk": lambda **more: SaintWalk(roots=7, length=3, **more),
    "node": lambda **more: SaintNode(nodes=25, **more),
    "column": lambda **more: SaintNode(nodes=25, probability="column_norm", **more),
    "edge": lambda **more: SaintEdge(edges=12, **more),
    "mrw": lambda **more: SaintMRW(frontier=6, budget=25, **more),
    "mrw_clip": lambda **more: SaintMRW(frontier=6, budget=25, degree_clip=3, **more),
}
KEY = Key(3, "prepare")
NEEDS = [
    Need(1, operator, loops) for operator in ("row", "sym", "none")
    for loops in ("none", "diag", "edges")
]  # fmt: skip
every = pytest.mark.parametrize("name", list(MAKE))


def made(name, data, need=Need(2, "row"), **more):  # noqa: B008
    sampler = MAKE[name](**more)
    sampler.prepare(data, need, KEY)
    return sampler


def batch(sampler, k, step=0):
    return sampler.sample(torch.tensor([k]), Key(3, "sample", 0, step))


def aggregate(part):
    return part.hops[0].reduce(lambda h: h, part.x)


def graph_data(graph, train=None):
    n = graph.n_dst
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    train = torch.arange(n) if train is None else train
    empty = torch.empty(0, dtype=torch.int64)
    splits = {"train": train, "valid": empty, "test": empty}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task())


def node_losses():
    return torch.rand(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


# -- the identities -------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
def test_pool_average_of_a_hop_is_the_whole_operator(name, need, sixty):
    sampler = made(name, sixty, need)
    sums, seen = torch.zeros_like(sixty.x), torch.zeros(60)
    for k in range(sampler.size):
        part = batch(sampler, k)
        sums[part.nodes] += aggregate(part)
        seen[part.nodes] += 1
    assert (seen == sampler.c_v).all()
    exact = aggregate(whole_batch(sixty, need))
    never = torch.zeros(60).index_add_(0, sixty.graph.dst, (sampler.c_e == 0).float())
    sure = (seen > 0) & (never == 0)
    assert sure.sum() >= 40
    mean = sums / seen.clamp(min=1).unsqueeze(1)
    torch.testing.assert_close(mean[sure], exact[sure], rtol=1e-12, atol=1e-12)


@every
def test_pool_average_of_the_loss_is_the_mean_training_loss(name, sixty):
    degree = sixty.graph.in_degree
    train = sixty.splits["train"]
    data = replace(sixty, splits=sixty.splits | {"train": train[degree[train] > 0]})
    sampler = made(name, data)
    losses = node_losses()
    total = 0.0
    for k in range(sampler.size):
        part = batch(sampler, k)
        total += (part.weight * losses[part.ids] * part.labeled).sum()
    assert (sampler.c_v[data.splits["train"]] > 0).all()
    mean = losses[data.splits["train"]].mean()
    torch.testing.assert_close(total / sampler.size, mean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
def test_a_subgraph_that_is_the_whole_graph_is_full_batch(need, sixty):
    sampler = SaintWalk(roots=3000, length=1, coverage=2.0)
    sampler.prepare(sixty, need, KEY)
    part, whole = batch(sampler, 5), whole_batch(sixty, need)
    assert part.nodes.tolist() == list(range(60))
    assert (part.hops[0].weight == 1).all()
    torch.testing.assert_close(aggregate(part), aggregate(whole), rtol=0, atol=1e-14)
    torch.testing.assert_close(part.weight, torch.full((60,), 1 / 20, dtype=torch.float64))
    assert (part.labeled == whole.labeled).all()
    assert (part.y == sixty.y).all()


# -- small graphs by hand -------------------------------------------------------------------------


@every
def test_counts_are_those_of_sets(name, six):
    data = graph_data(six)
    sampler = made(name, data, coverage=120.0)
    assert sampler.size > BLOCK
    sets = [set(sampler.nodes(k).tolist()) for k in range(sampler.size)]
    sizes = np.cumsum([len(s) for s in sets])
    assert sizes[-1] > 120 * 6 >= sizes[-2]
    assert sampler.c_v.tolist() == [sum(v in s for s in sets) for v in range(6)]
    ends = zip(six.indices.tolist(), six.dst.tolist(), strict=True)
    assert sampler.c_e.tolist() == [sum({u, v} <= s for s in sets) for u, v in ends]


def test_six_nodes_by_hand(six):
    # 0 <- 1 2 4, 2 <- 0 1 3 4; the subgraph {0, 1, 2} of counts chosen here
    data = graph_data(six, train=torch.tensor([0, 5]))
    sampler = SaintWalk(roots=2, length=2)
    sampler.prepare(data, Need(1, "row"), KEY)
    sampler.size = 8
    sampler.c_v = torch.tensor([4, 6, 5, 1, 1, 0], dtype=torch.int32)
    sampler.c_e = torch.tensor([2, 4, 1, 3, 5, 0, 1, 1, 0, 0], dtype=torch.int32)
    sampler.nodes = lambda k: torch.tensor([0, 1, 2])
    part = batch(sampler, 0)
    hop = part.hops[0]
    assert hop.graph.edges.tolist() == [0, 1, 3, 4, 5]
    # targets 0 0 1 2 2: 4/2, 4/4, 6/3, 5/5, and 5/1 for the edge that the pool never held
    assert hop.weight.tolist() == [2, 1, 2, 1, 5]
    x0, x1, x2 = data.x[:3]
    expected = torch.stack([(2 * x1 + x2) / 3, 2 * x0, (x0 + 5 * x1) / 4])
    torch.testing.assert_close(aggregate(part), expected)
    assert part.weight.tolist() == pytest.approx([8 / (4 * 2), 8 / (6 * 2), 8 / (5 * 2)])
    assert part.labeled.tolist() == [True, False, False]
    assert hop.degree.tolist() == [3, 1, 4]
    sampler.nodes = lambda k: torch.tensor([4, 5])
    assert batch(sampler, 0).weight.tolist() == pytest.approx([8 / 2, 8 / 0.2])
    sampler.c_v[2] = 0
    sampler.nodes = lambda k: torch.tensor([1, 2])
    assert batch(sampler, 0).hops[0].weight.tolist() == [0.1]  # 0/0


def test_walks_follow_in_edges_and_stay_put_at_dead_ends(six):
    out = np.empty(50 * 4, np.int32)
    walk.walk(six.indptr.numpy(), six.indices.numpy(), 50, 3, np.uint64(9), out)
    steps = out.reshape(4, 50)
    into = {v: set(six.indices[six.indptr[v] : six.indptr[v + 1]].tolist()) for v in range(6)}
    for before, after in zip(steps[:-1].ravel(), steps[1:].ravel(), strict=True):
        assert after in (into[before] or {before})
    assert (steps[:, steps[0] == 5] == 5).all()
    assert set(steps[0].tolist()) == set(range(6))


def test_alias_tables_hold_the_distribution(sixty):
    for weight in (sixty.graph.in_degree.double().numpy(), np.array([3.0]), np.ones(5)):
        keep, other = walk.alias(weight)
        p = np.bincount(other, weights=1 - keep, minlength=len(weight)) + keep
        np.testing.assert_allclose(p / len(weight), weight / weight.sum(), atol=1e-14)
        assert keep.min() >= 0


def test_column_norm_is_that_of_the_row_operator(six, dense):
    sampler = SaintNode(4, "column_norm")
    keep, other = sampler.tables(six)
    matrix = dense(six) / six.in_degree.clamp(min=1).unsqueeze(1)
    p = np.bincount(other, weights=1 - keep, minlength=6) + keep
    norms = matrix.square().sum(0).numpy()
    np.testing.assert_allclose(p / 6, norms / norms.sum(), atol=1e-14)


def test_edges_are_drawn_by_inverse_degrees(sixty):
    graph, degree = sixty.graph, sixty.graph.in_degree.double()
    out = np.empty(400_000, np.int32)
    walk.pairs(*SaintEdge().tables(graph), np.uint64(4), out)
    low, high = np.sort(out.reshape(-1, 2), 1).T
    seen = np.bincount(60 * low.astype(int) + high, minlength=3600)
    u, v = graph.indices.long(), graph.dst.long()
    u, v = u[u < v], v[u < v]
    p = 1 / degree[u] + 1 / degree[v]
    expected = (p / p.sum() * 200_000).numpy()
    found = seen[(60 * u + v).numpy()]
    assert found.sum() == 200_000  # only edges of the graph
    assert chi2.sf(((found - expected) ** 2 / expected).sum(), len(p) - 1) > 1e-3


@pytest.mark.parametrize("clip", [2, 10**9])
@pytest.mark.parametrize("size", [1, 6, 8, 13])
def test_frontier_is_the_plain_algorithm(clip, size, six, sixty):
    for graph in (six, sixty.graph):
        indptr, indices = graph.indptr.numpy(), graph.indices.numpy()
        n, stream, out = len(indptr) - 1, np.uint64(77), np.empty(60, np.int32)
        walk.frontier(indptr, indices, size, clip, stream, out)
        front = [walk.below(stream, i, n) for i in range(size)]
        expected = list(front)
        for i in range(size, 60):
            degree = [min(indptr[v + 1] - indptr[v], clip) for v in front]
            total = sum(degree)
            if total == 0:
                expected.append(expected[0])
                continue
            at = int(np.searchsorted(np.cumsum(degree), walk.below(stream, 2 * i, total), "right"))
            row = indices[indptr[front[at]] : indptr[front[at] + 1]]
            front[at] = row[walk.below(stream, 2 * i + 1, len(row))]
            expected.append(front[at])
        assert out.tolist() == expected


# -- chance ---------------------------------------------------------------------------------------


@every
def test_an_independent_pool_is_unbiased(name, sixty):
    data = replace(sixty, x=sixty.x[:, :1])
    sampler = made(name, data, Need(1, "row"), coverage=1500.0)
    draws, seen = 2000, torch.zeros(60)
    sums, squares = torch.zeros(60, dtype=torch.float64), torch.zeros(60, dtype=torch.float64)
    losses, found = node_losses(), []
    for k in range(sampler.size, sampler.size + draws):
        part = batch(sampler, k)
        z = aggregate(part).squeeze(1)
        sums[part.nodes] += z
        squares[part.nodes] += z * z
        seen[part.nodes] += 1
        found.append((part.weight * losses[part.ids] * part.labeled).sum())
    exact = aggregate(whole_batch(data, Need(1, "row"))).squeeze(1)
    drawn = (seen > 30) & (sampler.c_v > 30)
    mean = sums / seen
    sd = (squares / seen - mean.square()).clamp(min=0).sqrt()
    # the weights come from another finite pool, whose error adds to that of the draws
    error = sd * (1 / seen + 1 / sampler.c_v).sqrt()
    assert drawn.sum() >= 58
    assert ((mean - exact).abs()[drawn] <= 4 * error[drawn] + 1e-12).all()
    reached = data.splits["train"][sampler.c_v[data.splits["train"]] > 0]
    truth = losses[reached].sum() / 20
    found = torch.stack(found)
    error = found.std() * (1 / draws + 1 / sampler.size) ** 0.5
    assert abs(found.mean() - truth) <= 4 * error


@every
def test_first_steps_are_the_pool_and_epochs_go_on_counting(name, sixty):
    sampler = made(name, sixty)
    steps = [int(k) for e in range(3) for k in sampler.plan(torch.arange(5), Key(3, "plan", e))]
    assert steps == list(range(3 * sampler.per_epoch))
    assert sampler.per_epoch == -(-60 // sampler.budget)
    assert made(name, sixty, steps=5).per_epoch == 5
    assert sampler.state() == {}


@pytest.mark.process
@every
def test_pools_do_not_depend_on_threads(name, sixty, threads):
    one, two = threads(lambda: made(name, sixty))
    assert one.size == two.size
    assert (one.c_v == two.c_v).all()
    assert (one.c_e == two.c_e).all()


@every
def test_draws_do_not_depend_on_order_or_history(name, sixty):
    one, two = made(name, sixty), made(name, sixty)
    assert one.size == two.size
    assert (one.c_v == two.c_v).all()
    assert (one.c_e == two.c_e).all()
    for k in (4, 1000, 0, 4):
        a, b = batch(one, k), batch(two, k, step=k)
        assert (a.nodes == b.nodes).all()
        assert (a.hops[0].weight == b.hops[0].weight).all()
    found = []
    beside = threading.Thread(target=lambda: found.append(batch(one, 4)))
    beside.start()
    beside.join()
    assert (found[0].nodes == batch(two, 4).nodes).all()
    assert len({tuple(one.nodes(k).tolist()) for k in range(50)}) == 50
    other = MAKE[name]()
    other.prepare(sixty, Need(2, "row"), Key(4, "prepare"))
    assert not torch.equal(other.c_v, one.c_v)


# -- limits and refusals --------------------------------------------------------------------------


@every
def test_nodes_are_sorted_distinct_and_all_are_seeds(name, sixty):
    part = batch(made(name, sixty), 0)
    assert (part.nodes.diff() > 0).all()
    assert torch.equal(part.rows, torch.arange(len(part.nodes)))
    assert torch.equal(part.ids, part.nodes)
    assert torch.equal(part.labeled, sixty.mask("train")[part.nodes])
    assert len(part.hops) == 2
    assert part.hops[0] is part.hops[1]
    assert len(part.nodes) <= MAKE[name]().width


@every
def test_a_budget_beyond_the_graph_and_a_model_without_hops(name, six):
    big = {
        "walk": SaintWalk(100, 5), "node": SaintNode(500), "column": SaintNode(500, "column_norm"),
        "edge": SaintEdge(500), "mrw": SaintMRW(50, 500), "mrw_clip": SaintMRW(50, 500, 1),
    }[name]  # fmt: skip
    big.prepare(graph_data(six), Need(0), KEY)
    assert big.per_epoch == 1
    part = batch(big, 0)
    assert part.hops == ()
    assert len(part.nodes) <= 6
    assert torch.isfinite(part.weight).all()


@pytest.mark.parametrize("name", ["walk", "node", "column", "mrw", "mrw_clip"])
def test_a_graph_without_edges_gives_uniform_nodes(name):
    none = torch.empty(0, dtype=torch.int64)
    sampler = made(name, graph_data(Adjacency.from_edges(none, none, 40)), Need(1, "sym", "diag"))
    assert (sampler.c_v > 0).all()
    part = batch(sampler, 0)
    torch.testing.assert_close(aggregate(part), part.x)


def test_edges_of_a_graph_without_any():
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"sampler=saint_edge.*no edges.*sampler=saint_node"):
        made("edge", graph_data(Adjacency.from_edges(none, none, 4)))


def test_a_frontier_beyond_the_budget():
    with pytest.raises(UsageError, match=r"sampler\.frontier=9.*sampler\.budget=8"):
        SaintMRW(frontier=9, budget=8)


@every
def test_inductive_data_shows_only_training_nodes(name, sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    sampler = made(name, seen, Need(1, "row"))
    for k in range(50):
        part = batch(sampler, k)
        assert torch.isfinite(part.x).all()
        assert torch.isfinite(aggregate(part)).all()
        assert part.labeled.all()
        assert torch.equal(seen.x[part.nodes], sixty.x[ids[part.nodes]])
