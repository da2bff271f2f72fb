"""Weighted edges: every sampler multiplies by the operator of the weighted graph."""

import pytest
import torch

from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.fastgcn import FastGCN
from gnnscale.sampler.labor import Labor
from gnnscale.sampler.ladies import Ladies
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.sampler.saint import SaintWalk
from gnnscale.sampler.shadow import Shadow, ShadowKhop
from gnnscale.sampler.vrgcn import VRGCN

KEY = Key(3, "prepare")
NEEDS = [
    Need(1, operator, loops)
    for operator in ("row", "sym", "none")
    for loops in ("none", "diag", "edges")
]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")


@pytest.fixture
def weighted(sixty):
    """The random graph with positive edge weights, not symmetric."""
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) * 3 + 0.1
    return sixty.with_(weight=weight)


def aggregate(part):
    return part.hops[0].reduce(lambda h: h, part.x)


@needs
def test_the_whole_hop_is_the_dense_weighted_operator(need, weighted, dense):
    a = dense(weighted.graph, weighted.weight)
    a = a if need.loops == "none" else a + torch.eye(60, dtype=a.dtype)
    into, out = a.sum(1), a.sum(0)
    if need.operator == "row":
        a = a / into.clamp(min=1e-300).unsqueeze(1)
    elif need.operator == "sym":
        a = a / (into.unsqueeze(1) * out).clamp(min=1e-300).sqrt()
    found = aggregate(whole_batch(weighted, need))
    torch.testing.assert_close(found, a @ weighted.x, rtol=0, atol=1e-12)


@needs
@pytest.mark.parametrize("kind", [Neighbor, Labor, Ladies, FastGCN])
def test_all_neighbours_are_the_whole_weighted_operator(kind, need, weighted):
    sampler, seeds = kind(-1), torch.tensor([5, 58, 0, 17])
    sampler.prepare(weighted, need, KEY)
    part = sampler.sample(seeds, Key(3, "sample"))
    exact = aggregate(whole_batch(weighted, need))[seeds]
    torch.testing.assert_close(aggregate(part), exact, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("need", [n for n in NEEDS if n.loops != "edges"], ids=str)
@pytest.mark.parametrize("mode", ["cv", "cvd"])
@pytest.mark.parametrize("preprocess", ["always", "never"])
def test_exact_histories_give_the_whole_weighted_operator(need, mode, preprocess, weighted):
    sampler, seeds = VRGCN(1, mode=mode, preprocess=preprocess), torch.tensor([5, 58, 0, 17])
    sampler.prepare(weighted, need, KEY)
    sampler.refresh(0, torch.arange(60), weighted.x)
    part = sampler.bind(sampler.sample(seeds, Key(3, "sample")), torch.device("cpu"), write=True)
    hop = part.hops[0]
    found = hop.reduce(lambda h: h, hop.lift(part.x))[part.rows]
    exact = aggregate(whole_batch(weighted, need))[seeds]
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("need", [Need(1, "row", "diag"), Need(1, "sym", "edges")])
@pytest.mark.parametrize("replace", [False, True])
def test_drawn_neighbours_are_unbiased(need, replace, weighted):
    data, draws = weighted.with_(x=weighted.x[:, :1]), 1500
    sampler = Neighbor(2, replace=replace)
    sampler.prepare(data, need, KEY)
    found = torch.stack([
        aggregate(sampler.sample(torch.arange(60), Key(3, "sample", 0, step))).squeeze(1)
        for step in range(draws)
    ])  # fmt: skip
    exact = aggregate(whole_batch(data, need)).squeeze(1)
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()
    assert (found.std(0) > 0).sum() > 30


@needs
def test_saint_pool_averages_to_the_whole_weighted_operator(need, weighted):
    sampler = SaintWalk(roots=7, length=3)
    sampler.prepare(weighted, need, KEY)
    sums, seen = torch.zeros_like(weighted.x), torch.zeros(60)
    for k in range(sampler.size):
        part = sampler.sample(torch.tensor([k]), Key(3, "sample"))
        sums[part.nodes] += aggregate(part)
        seen[part.nodes] += 1
    never = torch.zeros(60).index_add_(0, weighted.graph.dst, (sampler.c_e == 0).float())
    sure = (seen > 0) & (never == 0)
    assert sure.sum() >= 40
    exact = aggregate(whole_batch(weighted, need))
    mean = sums / seen.clamp(min=1).unsqueeze(1)
    torch.testing.assert_close(mean[sure], exact[sure], rtol=1e-12, atol=1e-12)


def test_the_training_graph_keeps_each_edges_own_weight(weighted, dense):
    cut, ids = training_graph(weighted.with_(inductive=True))
    whole = dense(weighted.graph, weighted.weight)
    assert torch.equal(dense(cut.graph, cut.weight), whole[ids][:, ids])


@needs
def test_scopes_of_the_whole_graph_are_the_whole_weighted_operator(need, weighted):
    exact = aggregate(whole_batch(weighted, need))
    for sampler in (Shadow(k=60, threshold=0.0, eps=1e-12), ShadowKhop(depth=60, budget=-1)):
        sampler.prepare(weighted, need, KEY)
        part = sampler.sample(torch.arange(60), Key(3, "sample"))
        torch.testing.assert_close(aggregate(part)[part.rows], exact, rtol=1e-12, atol=1e-12)
