from dataclasses import replace

import pytest
import torch

from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.graph.whole import training_graph
from gnnscale.sampler.full import Full

LOOPS = ("none", "diag", "edges")


def made(data, need):
    sampler = Full()
    sampler.prepare(data, need, Key(0, "prepare"))
    return sampler


def test_one_step_with_all_seeds(sixty):
    sampler, seeds = made(sixty, Need(3)), sixty.splits["train"]
    (index,) = sampler.plan(seeds, Key(0, "plan", 4))
    part = sampler.sample(index, Key(0, "sample", 4, 0))
    assert torch.equal(part.ids, seeds)
    assert torch.equal(part.rows, seeds)
    assert torch.equal(part.y, sixty.y[seeds])
    assert part.labeled.all()
    assert part.weight is None
    assert torch.equal(part.nodes, torch.arange(60))
    assert len(part.hops) == 3
    assert all(hop is part.hops[0] for hop in part.hops)
    assert part.key == (0, 4, 0)
    both = torch.arange(60)
    assert torch.equal(sampler.sample(both, Key(0, "sample")).labeled, sixty.mask("train"))


@pytest.mark.parametrize("operator", ["row", "sym", "none"])
@pytest.mark.parametrize("loops", LOOPS)
def test_the_hop_is_the_dense_operator(operator, loops, sixty, dense):
    a = dense(sixty.graph)
    a = a if loops == "none" else a + torch.eye(60, dtype=a.dtype)
    into = a.sum(1).clamp(min=1)
    if operator == "row":
        a = a / into.unsqueeze(1)
    elif operator == "sym":
        a = a / (into.unsqueeze(1) * a.sum(0).clamp(min=1)).sqrt()
    part = made(sixty, Need(1, operator, loops)).sample(torch.arange(60), Key(0, "sample"))
    found = part.hops[0].reduce(lambda h: h, part.x)
    torch.testing.assert_close(found, a @ sixty.x, rtol=0, atol=1e-13)
    assert torch.equal(part.hops[0].degree, sixty.graph.in_degree)


def test_six_nodes_by_hand(six, sixty):
    x = torch.tensor([[1.0], [10], [100], [1000], [10000], [7]])
    data = replace(sixty, graph=six, x=x, y=torch.arange(6), splits={"train": torch.arange(2)})
    part = made(data, Need(1, "row", "diag")).sample(torch.arange(6), Key(0, "sample"))
    found = part.hops[0].reduce(lambda h: h, part.x).squeeze(1)
    sums = [10 + 100 + 10000 + 1, 1 + 10, 1 + 10 + 1000 + 10000 + 100, 1100, 11000, 7]
    expected = [s / d for s, d in zip(sums, [4, 2, 5, 2, 2, 1], strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_graph_is_moved_once(sixty):
    sampler = made(sixty, Need(2, "sym", "diag"))
    part = sampler.sample(torch.arange(4), Key(0, "sample", 1, 0))
    bound = sampler.bind(part, torch.device("cpu"), write=True)
    assert bound is part
    there = sampler.bind(part, torch.device("meta"), write=True)
    assert there.x.device.type == there.hops[0].graph.device.type == "meta"
    assert there.key == (0, 1, 0)
    again = sampler.bind(sampler.sample(torch.arange(4), Key(0, "sample", 2, 0)), there.x.device, 1)
    assert again.x is there.x
    assert again.hops[0] is there.hops[0]
    assert again.key == (0, 2, 0)


def test_inductive_data_shows_only_training_nodes(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    part = made(seen, Need(1, "row")).sample(seen.splits["train"], Key(0, "sample"))
    assert torch.equal(part.x, sixty.x[ids])
    assert torch.equal(part.y, sixty.y[ids])
    assert torch.isfinite(part.hops[0].reduce(lambda h: h, part.x)).all()
    assert len(seen.splits["test"]) == len(seen.splits["valid"]) == 0
