import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.drawn import choose
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.neighbor import Neighbor

KEY = Key(3, "prepare")
LOOPS = ("none", "diag", "edges")
NEEDS = [Need(2, operator, loops) for operator in ("row", "sym", "none") for loops in LOOPS]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")


def made(data, need, *arguments, **more):
    sampler = Neighbor(*arguments, **more)
    sampler.prepare(data, need, KEY)
    return sampler


def batch(sampler, seeds, step=0, epoch=0):
    return sampler.sample(torch.as_tensor(seeds), Key(3, "sample", epoch, step))


def graph_data(graph, n_features=1):
    n = graph.n_dst
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, n_features, generator=draw, dtype=torch.float64)
    splits = {"train": torch.arange(n), "valid": torch.arange(0), "test": torch.arange(0)}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task())


def star(leaves):
    """Node 0 reads nodes 1 .. leaves."""
    dst = torch.zeros(leaves, dtype=torch.int64)
    return graph_data(Adjacency.from_edges(torch.arange(1, leaves + 1), dst, leaves + 1))


class Linear(nn.Module):
    """Two operators with a weight after each."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.a = nn.Parameter(torch.randn(7, 6, generator=draw, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(6, 4, generator=draw, dtype=torch.float64))

    def forward(self, part):
        h = part.hops[0].reduce(lambda h: h, part.x) @ self.a
        return (part.hops[1].reduce(lambda h: h, h) @ self.b)[part.rows]


# -- the limit ------------------------------------------------------------------------------------


@needs
@pytest.mark.parametrize("arguments", [(-1,), ([-1, -1],), (100,)], ids=str)
def test_all_neighbours_are_the_whole_graph_and_its_gradients(need, arguments, sixty):
    seeds = torch.tensor([5, 58, 0, 17, 33])
    model, whole = Linear(), whole_batch(sixty, need)
    expected = model(whole)[seeds]
    wanted = torch.autograd.grad(expected.square().sum(), model.parameters())
    part = batch(made(sixty, need, *arguments), seeds)
    out = model(part)
    found = torch.autograd.grad(out.square().sum(), model.parameters())
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(part.y, sixty.y[seeds])
    assert torch.equal(part.labeled, sixty.mask("train")[seeds])
    for hop, nodes in zip(part.hops, (part.nodes, part.nodes[: part.hops[1].graph.n_src])):  # noqa: B905
        assert torch.equal(hop.degree, sixty.graph.in_degree[nodes])
        if need.loops == "edges":
            assert (hop.weight is None) == (arguments != (100,))


@pytest.mark.parametrize("make", [GCN, GAT, SAGE, lambda shape: SAGE(shape, aggr="max")])
def test_models_give_the_same_logits(make, sixty):
    torch.manual_seed(0)
    model = make(sixty.shape).double().eval()
    seeds = torch.tensor([59, 3, 40])
    part = batch(made(sixty, model.need, -1), seeds)
    expected = model(whole_batch(sixty, model.need)).logits[seeds]
    torch.testing.assert_close(model(part).logits, expected, rtol=0, atol=1e-12)


# -- by hand --------------------------------------------------------------------------------------


def test_six_nodes_by_hand(six):
    # 0 <- 1 2 4, 1 <- 0, 2 <- 0 1 3 4, 3 <- 2, 4 <- 3, 5 <- nobody
    data = graph_data(six)
    part = batch(made(data, Need(2, "row"), [1, -1]), [2, 5])
    first, last = part.hops
    assert part.nodes[: last.graph.n_src].tolist() == [2, 5, 0, 1, 3, 4]
    assert last.graph.indptr.tolist() == [0, 4, 4]
    assert last.graph.indices.tolist() == [2, 3, 4, 5]
    assert last.graph.edges.tolist() == [4, 5, 6, 7]
    assert last.dst.tolist() == [0.25, 0]
    assert first.graph.in_degree.tolist() == [1, 0, 1, 1, 1, 1]
    assert first.dst.tolist() == [1, 0, 1, 1, 1, 1]  # 1 / d times d / 1
    assert first.graph.n_src == len(part.nodes) == 6
    assert first.degree.tolist() == [4, 0, 3, 1, 1, 1]
    for i, e in zip(first.graph.dst.tolist(), first.graph.edges.tolist(), strict=True):
        target = int(part.nodes[i])
        assert six.indptr[target] <= e < six.indptr[target + 1]
    assert torch.equal(part.nodes[first.graph.indices.long()], six.indices[first.graph.edges])
    assert part.rows.tolist() == [0, 1]


def test_loops_stand_last_and_are_not_scaled(six):
    part = batch(made(graph_data(six), Need(1, "none", "edges"), 2), [2, 5, 0])
    hop = part.hops[0]
    assert hop.graph.in_degree.tolist() == [3, 1, 3]
    assert hop.graph.indices[hop.graph.indptr[1:] - 1].tolist() == [0, 1, 2]
    assert (hop.graph.edges == -1).tolist() == [False, False, True, True, False, False, True]
    assert hop.weight.tolist() == [2, 2, 1, 1, 1.5, 1.5, 1]


def test_draws_are_distinct_edges_of_the_row_and_sources_distinct(sixty):
    graph = sixty.graph
    part = batch(made(sixty, Need(3), [2, 3, 4]), torch.arange(0, 60, 2))
    n = [len(part.nodes)]
    for hop, fanout in zip(part.hops, [2, 3, 4], strict=True):
        nodes = part.nodes[: hop.graph.n_src]
        targets = nodes[: hop.graph.n_dst]
        assert hop.graph.n_src == n[-1]
        n.append(hop.graph.n_dst)
        expected = graph.in_degree[targets].clamp(max=fanout)
        assert torch.equal(hop.graph.in_degree, expected)
        assert len(set(hop.graph.edges.tolist())) == hop.graph.n_edges
        assert torch.equal(graph.dst[hop.graph.edges], targets[hop.graph.dst.long()].int())
        assert torch.equal(graph.indices[hop.graph.edges], nodes[hop.graph.indices.long()].int())
    assert len(set(part.nodes.tolist())) == len(part.nodes)


def test_with_replacement_every_row_has_the_fanout(sixty):
    part = batch(made(sixty, Need(1), 6, replace=True), torch.arange(60))
    graph = part.hops[0].graph
    expected = torch.where(sixty.graph.in_degree > 0, 6, 0)
    assert torch.equal(graph.in_degree, expected)
    assert len(set(graph.edges.tolist())) < graph.n_edges


# -- chance ---------------------------------------------------------------------------------------


@needs
@pytest.mark.parametrize("replace_", [False, True])
def test_one_layer_is_unbiased(need, replace_, sixty):
    data, need = replace(sixty, x=sixty.x[:, :1]), replace(need, depth=1)
    sampler, draws = made(data, need, 2, replace=replace_), 2000
    found = []
    for step in range(draws):
        part = batch(sampler, torch.arange(60), step)
        found.append(part.hops[0].reduce(lambda h: h, part.x))
    found = torch.stack(found).squeeze(2)  # [draws, 60]
    whole = whole_batch(data, need)
    exact = whole.hops[0].reduce(lambda h: h, whole.x).squeeze(1)
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - exact).abs() <= 4 * error + 1e-12).all()
    assert (found.std(0) > 0).sum() > 30


@pytest.mark.parametrize(("d", "k"), [(5, 2), (6, 5), (7, 1), (8, 4)])
def test_all_subsets_are_equally_likely(d, k):
    subsets = dict.fromkeys(itertools.combinations(range(d), k), 0)
    taken, edges = np.zeros(d, bool), np.empty(k, np.int64)
    draws = 400 * len(subsets)
    for stream in range(draws):
        choose(np.uint64(stream * 2**32 + 1), d, k, False, taken, edges)
        subsets[tuple(sorted(edges.tolist()))] += 1
        assert not taken.any()
    statistic = sum((n - 400) ** 2 / 400 for n in subsets.values())
    assert chi2.sf(statistic, len(subsets) - 1) > 1e-3


@pytest.mark.parametrize("replace_", [False, True])
def test_neighbours_are_chosen_uniformly(replace_):
    d, k, draws = 30, 7, 3000
    sampler = made(star(d), Need(1), k, replace=replace_)
    seen = np.zeros(d)
    for step in range(draws):
        seen += np.bincount(batch(sampler, [0], step).hops[0].graph.edges.numpy(), minlength=d)
    p = k / d
    variance = draws * (p if replace_ else p * (1 - p) * d / (d - 1))
    assert seen.sum() == k * draws
    assert 1e-3 < chi2.sf(((seen - draws * p) ** 2).sum() / variance, d - 1) < 1 - 1e-3


def test_every_seed_once_per_epoch(sixty):
    sampler = made(sixty, Need(1), 2, batch_size=7)
    seeds = sixty.splits["train"]
    orders = []
    for epoch in (0, 1):
        plan = sampler.plan(seeds, Key(3, "plan", epoch))
        assert [len(p) for p in plan] == [7, 7, 6]
        orders.append(torch.cat(plan))
        assert torch.equal(orders[-1].sort().values, seeds.sort().values)
    assert not torch.equal(*orders)


@pytest.mark.process
def test_draws_do_not_depend_on_threads(sixty, threads):
    sampler = made(sixty, Need(2), 2)
    one, two = threads(lambda: batch(sampler, [4, 9, 30], 1))
    for a, b in zip(one.hops, two.hops, strict=True):
        assert torch.equal(a.graph.edges, b.graph.edges)


def test_draws_do_not_depend_on_order_or_other_seeds(sixty):
    sampler = made(sixty, Need(2), 2)
    one = batch(sampler, [4, 9, 30], 1)
    batch(sampler, [1], 2)
    two = batch(sampler, [4, 9, 30], 1)
    assert torch.equal(one.nodes, two.nodes)
    for a, b in zip(one.hops, two.hops, strict=True):
        assert torch.equal(a.graph.edges, b.graph.edges)
    alone = batch(sampler, [30], 1).hops[1].graph.edges
    assert torch.equal(alone, one.hops[1].graph.edges[-len(alone) :])
    # other steps, epochs, seeds and layers draw otherwise
    edges = [
        batch(made(sixty, Need(2), 2), torch.arange(60), step, epoch).hops[layer].graph.edges
        for step, epoch, layer in [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 0)]
    ]
    for a, b in itertools.combinations(edges, 2):
        assert not torch.equal(a.sort().values, b.sort().values)


# -- limits and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("fanouts", [10, -1, [5, 5]])
def test_a_model_without_hops(fanouts, sixty):
    part = batch(made(sixty, Need(0), fanouts), [4, 2])
    assert part.hops == ()
    assert torch.equal(part.x, sixty.x[[4, 2]])


@pytest.mark.parametrize("loops", LOOPS)
def test_a_graph_without_edges(loops):
    none = torch.empty(0, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(none, none, 4))
    need = Need(2, "sym", loops)
    part = batch(made(data, need, 3, replace=True), [3, 1])
    h = part.x
    for hop in part.hops:
        h = hop.reduce(lambda h: h, h)
    expected = torch.zeros_like(part.x) if loops == "none" else part.x
    torch.testing.assert_close(h, expected)


def test_inductive_data_shows_only_training_nodes(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    for fanout in (-1, 2):
        sampler = made(seen, Need(2, "row", "diag"), fanout)
        for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
            part = batch(sampler, index)
            assert torch.isfinite(part.x).all()
            assert torch.equal(part.x, sixty.x[ids[part.nodes]])
            assert part.labeled.all()


@pytest.mark.parametrize("fanouts", [0, -2, [10, 0], [-3, 10]])
def test_fanouts_that_are_no_number_of_neighbours(fanouts):
    with pytest.raises(UsageError, match=r"sampler\.fanouts=.*-1 for all"):
        Neighbor(fanouts)


def test_one_fanout_per_layer():
    text = (
        r"sampler\.fanouts=\[10,10\]: the model has 3 message-passing layers; give one fan-out per "
        r"layer, e\.g\. sampler\.fanouts=\[10,10,10\]"
    )
    with pytest.raises(UsageError, match=text):
        Neighbor([10, 10]).check(Need(3))
    with pytest.raises(UsageError, match=r"e\.g\. sampler\.fanouts=\[4\]"):
        Neighbor([4, 5]).check(Need(1))
    Neighbor([4, 5]).check(Need(2))
    Neighbor([4, 5]).check(Need(0))
