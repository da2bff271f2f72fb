from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from compositions import plan
from torch import nn

from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.gttf import GTTF
from gnnscale.train.objective import Objective

KEY = Key(3, "prepare")
OPERATORS, LOOPS = ("row", "sym", "none"), ("none", "diag", "edges")
NEEDS = [Need(2, operator, loops) for operator in OPERATORS for loops in LOOPS]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
accumulators = pytest.mark.parametrize("accumulator", ["sampled_adjacency", "forest_mean"])
LARGE = [400, 40]
"""With replacement, a neighbour of 12 is missed with probability (11/12)^400 < 1e-15, and again
at the second level, where every node stands about 33 times or more."""
ROWS = {  # models that read complete rows only
    "sage": lambda s: SAGE(s, hidden=8),
    "sage_gcn": lambda s: SAGE(s, hidden=8, aggr="gcn"),
    "sage_max": lambda s: SAGE(s, hidden=8, aggr="max"),
    "gat": lambda s: GAT(s, hidden=8, heads=2),
    "gin": lambda s: GIN(s, hidden=8),
    "egc": lambda s: EGC(s, hidden=8, heads=2, depth=2, aggregators=["add", "max", "std"]),
}


def made(data, need, *arguments, **more):
    sampler = GTTF(*arguments, **more)
    sampler.prepare(data, need, KEY)
    return sampler


def batch(sampler, seeds, step=0, epoch=0):
    return sampler.sample(torch.as_tensor(seeds), Key(3, "sample", epoch, step))


def graph_data(graph, **more):
    n = graph.n_dst
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    splits = {"train": torch.arange(n), "valid": torch.arange(0), "test": torch.arange(0)}
    return GraphData("toy", graph, x, torch.arange(n) % 2, splits, Task(), **more)


def propagate(part):
    h = part.x
    for hop in part.hops:
        h = hop.reduce(lambda h: h, h)
    return h[part.rows]


class Linear(nn.Module):
    """Two operators, each beside a map of the node itself."""

    def __init__(self, features):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        sizes = [(features, 6), (features, 6), (6, 4), (6, 4)]
        self.maps = nn.ParameterList(
            nn.Parameter(torch.randn(*s, generator=draw, dtype=torch.float64)) for s in sizes
        )

    def forward(self, part):
        h = part.x
        for hop, (a, b) in zip(part.hops, (self.maps[:2], self.maps[2:]), strict=True):
            h = hop.reduce(lambda h: h, h) @ a + h[: hop.graph.n_dst] @ b
        return h[part.rows]


@pytest.fixture
def weighted(sixty):
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) * 3 + 0.1
    return sixty.with_(weight=weight)


# -- the forest mean ------------------------------------------------------------------------------


def every_path(adj, seeds, fanouts):
    """The forest in which every neighbour is drawn as often as every other: all paths, each as
    often as it is likely. Every fan-out must be a multiple of every degree.
    """
    nodes, edges = [list(seeds)], [[-1] * len(seeds)]
    for f in fanouts:
        level, places = [], []
        for v in nodes[-1]:
            first, d = int(adj.indptr[v]), int(adj.in_degree[v])
            for child in range(f):
                e = -1 if d == 0 else first + child % d
                places.append(e)
                level.append(v if d == 0 else int(adj.indices[e]))
        nodes.append(level)
        edges.append(places)
    return (
        torch.tensor(list(chain(*nodes)), dtype=torch.int32),
        torch.tensor(list(chain(*edges)), dtype=torch.int64),
    )


@pytest.mark.parametrize("weights", [False, True])
@needs
def test_all_paths_weighted_by_probability_are_the_powers_of_the_operator(need, weights, six):
    weight = torch.arange(1, 11).double() / 3 if weights else None
    data = graph_data(six, weight=weight)  # in-degrees 3 1 4 1 1 0 divide 12
    sampler = made(data, need, [12, 12], 6, "forest_mean")
    sampler.forests.draw = lambda seeds, fanouts, word: every_path(six, seeds.tolist(), fanouts)
    part = batch(sampler, torch.arange(6))
    whole = whole_batch(data, need)
    torch.testing.assert_close(propagate(part), propagate(whole), rtol=1e-12, atol=1e-12)
    model = Linear(3)
    torch.testing.assert_close(model(part), model(whole), rtol=1e-12, atol=1e-12)


def test_three_levels_of_all_paths_are_t_cubed_x(six, dense):
    data = graph_data(six)
    sampler = made(data, Need(3, "row"), [12, 12, 12], 6, "forest_mean")
    sampler.forests.draw = lambda seeds, fanouts, word: every_path(six, seeds.tolist(), fanouts)
    walk = dense(six) / six.in_degree.clamp(min=1).unsqueeze(1)
    expected = torch.linalg.matrix_power(walk, 3) @ data.x
    found = propagate(batch(sampler, torch.arange(6)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_six_nodes_by_hand(six):
    data = graph_data(six)
    part = batch(made(data, Need(2, "row"), [2, 3], 6, "forest_mean"), [2, 5])
    deep, top = part.hops
    assert (deep.graph.n_src, deep.graph.n_dst) == (2 + 4 + 12, 2 + 4)
    assert (top.graph.n_src, top.graph.n_dst) == (2 + 4, 2)
    assert top.graph.indices.tolist() == [2, 3]  # node 5 has nobody to read
    assert top.graph.in_degree.tolist() == [2, 0]
    assert deep.graph.in_degree.tolist() == [2, 0, 3, 3, 0, 0]
    x = data.x[part.nodes]
    level = torch.stack([x[6:9].mean(0), x[9:12].mean(0)])  # of the children of node 2
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(propagate(part), torch.stack([level.mean(0), zero]))
    assert part.nodes[[0, 1, 4, 5]].tolist() == [2, 5, 5, 5]
    assert torch.equal(deep.degree, six.in_degree[part.nodes])


UNBIASED = [
    (Need(2, "row"), False),
    (Need(2, "sym", "diag"), True),
    (Need(2, "none", "edges"), True),
]


@pytest.mark.parametrize(("need", "weights"), UNBIASED, ids=["row", "sym-weighted", "none-edges"])
def test_the_forest_mean_is_unbiased(need, weights, sixty, weighted):
    data = weighted if weights else sixty
    data = data.with_(x=data.x[:, :1])
    model, draws = Linear(1), 150
    sampler = made(data, need, [3, 2], 64, "forest_mean")
    seeds = torch.arange(60)
    with torch.no_grad():
        found = torch.stack([model(batch(sampler, seeds, step))[:, 0] for step in range(draws)])
        exact = model(whole_batch(data, need))[:, 0]
    error = found.std(0) / draws**0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-10).all()
    assert (error > 0).sum() > 30


def test_loops_stand_last_and_are_not_scaled(six):
    part = batch(made(graph_data(six), Need(1, "none", "edges"), 2, 6, "forest_mean"), [2, 5, 0])
    hop = part.hops[0]
    assert hop.graph.in_degree.tolist() == [3, 1, 3]
    assert hop.graph.indices[hop.graph.indptr[1:] - 1].tolist() == [0, 1, 2]
    assert hop.weight.tolist() == [2, 2, 1, 1, 1.5, 1.5, 1]


# -- the sampled graph ----------------------------------------------------------------------------


def within(adj, seeds, steps):
    found = set(seeds)
    for _ in range(steps):
        found |= {u for v in found for u in adj.indices[adj.indptr[v] : adj.indptr[v + 1]].tolist()}
    return found


def test_large_fanouts_find_every_edge_that_touches_what_is_one_level_nearer(sixty):
    adj, seeds = sixty.graph, [4, 58, 30]
    assert adj.in_degree.max() <= 12
    part = batch(made(sixty, Need(2), LARGE), seeds)
    near = within(adj, seeds, 1)
    ends = zip(adj.dst.tolist(), adj.indices.tolist(), strict=True)
    expected = [e for e, (i, j) in enumerate(ends) if i in near or j in near]
    assert part.hops[0].graph.edges.tolist() == expected
    assert part.nodes.tolist() == sorted(within(adj, seeds, 2))
    assert len(expected) < adj.n_edges


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("weights", [False, True])
def test_large_fanouts_are_the_whole_graph_for_models_that_read_rows(
    name, weights, sixty, weighted
):
    data = weighted if weights else sixty
    torch.manual_seed(0)
    model = ROWS[name](data.shape).double().eval()
    seeds = torch.tensor([4, 58, 30, 7])
    part = batch(made(data, model.need, LARGE), seeds)
    assert len(part.nodes) < 60
    expected = model(whole_batch(data, model.need)).logits[seeds]
    torch.testing.assert_close(model(part).logits, expected, rtol=0, atol=1e-10)


def test_a_symmetric_norm_needs_one_level_more(sixty):
    """The last level's degrees are those of the sample."""
    torch.manual_seed(0)
    model = GCN(sixty.shape, hidden=8).double().eval()
    seeds = torch.tensor([4, 58, 30])
    expected = model(whole_batch(sixty, model.need)).logits[seeds]
    short = model(batch(made(sixty, model.need, LARGE), seeds)).logits
    long = model(batch(made(sixty, model.need, [*LARGE, 2]), seeds)).logits
    torch.testing.assert_close(long, expected, rtol=0, atol=1e-10)
    assert (short - expected).abs().max() > 1e-3


@needs
def test_the_sampled_graph_has_its_own_norm_and_the_seeds_are_read_out(need, sixty, dense):
    seeds = [30, 4, 59]
    part = batch(made(sixty, need, [2, 2]), seeds)
    assert part.hops[0] is part.hops[1]
    hop = part.hops[0]
    assert part.nodes[part.rows].tolist() == seeds
    a = dense(hop.graph)
    if need.loops == "diag":
        a = a + torch.eye(len(a), dtype=a.dtype)
    into, out = a.sum(1), a.sum(0)
    if need.operator == "row":
        a = a / into.clamp(min=1e-300).unsqueeze(1)
    elif need.operator == "sym":
        a = a / (into.unsqueeze(1) * out).clamp(min=1e-300).sqrt()
    torch.testing.assert_close(hop.reduce(lambda h: h, part.x), a @ part.x, rtol=0, atol=1e-12)
    assert torch.equal(hop.degree, sixty.graph.in_degree[part.nodes])
    bare = made(sixty, replace(need, loops="none"), [2, 2])
    adj = batch(bare, seeds).hops[0].graph
    assert torch.equal(dense(adj), dense(adj).T)  # every edge with its reverse, each once
    assert dense(adj).max() == 1


# -- both -----------------------------------------------------------------------------------------


@accumulators
def test_draws_do_not_depend_on_what_ran_before(accumulator, sixty):
    sampler = made(sixty, Need(2, "row"), [3, 2], 64, accumulator)
    one = batch(sampler, [4, 9, 30], 1)
    batch(sampler, [1], 2)
    two = batch(sampler, [4, 9, 30], 1)
    assert torch.equal(one.nodes, two.nodes)
    assert torch.equal(one.hops[0].graph.edges, two.hops[0].graph.edges)
    for step, epoch in ((2, 0), (1, 1)):
        other = batch(sampler, [4, 9, 30], step, epoch)
        assert one.hops[0].graph.edges.tolist() != other.hops[0].graph.edges.tolist()
    assert torch.equal(one.y, sixty.y[[4, 9, 30]])
    assert torch.equal(one.labeled, sixty.mask("train")[[4, 9, 30]])
    assert torch.equal(one.x, sixty.x[one.nodes])
    assert sampler.state() == {}


@accumulators
@pytest.mark.parametrize("bias", ["uniform", "node2vec", "no_revisit"])
def test_inductive_data_shows_only_training_nodes(accumulator, bias, sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    sampler = made(seen, Need(2, "row", "diag"), [3, 3], 6, accumulator, bias, 0.5, 2.0)
    for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
        part = batch(sampler, index)
        assert torch.isfinite(part.x).all()
        assert torch.equal(part.x, sixty.x[ids[part.nodes]])
        assert part.labeled.all()


@accumulators
def test_every_seed_once_per_epoch(accumulator, sixty):
    sampler = made(sixty, Need(2), 2, 7, accumulator)
    seeds = sixty.splits["train"]
    orders = [sampler.plan(seeds, Key(3, "plan", epoch)) for epoch in (0, 1)]
    assert [len(p) for p in orders[0]] == [7, 7, 6]
    for order in orders:
        assert torch.equal(torch.cat(order).sort().values, seeds.sort().values)
    assert not torch.equal(torch.cat(orders[0]), torch.cat(orders[1]))


@accumulators
@pytest.mark.parametrize("loops", LOOPS)
def test_a_graph_without_edges(accumulator, loops):
    none = torch.empty(0, dtype=torch.int64)
    data = graph_data(Adjacency.from_edges(none, none, 4))
    sampler = made(data, Need(2, "sym", loops), 3, 4, accumulator)
    part = batch(sampler, [3, 1])
    own = data.x[[3, 1]]
    expected = torch.zeros_like(own) if loops == "none" else own
    torch.testing.assert_close(propagate(part), expected)


@accumulators
def test_self_loops_and_duplicates(accumulator):
    src, dst = torch.tensor([0, 1, 1, 0, 2, 0]), torch.tensor([0, 0, 0, 1, 1, 2])
    data = graph_data(Adjacency.from_edges(src, dst, 4))
    need = Need(1, "row")
    sampler = made(data, need, 3000, 4, accumulator)
    part, whole = batch(sampler, [0, 3, 1]), whole_batch(data, need)
    exact = propagate(whole)[[0, 3, 1]]
    if accumulator == "sampled_adjacency":  # every edge as often as it is there
        torch.testing.assert_close(propagate(part), exact, rtol=1e-12, atol=1e-12)
    else:
        assert (propagate(part) - exact).abs().max() < 4.5 * data.x.abs().max() / 3000**0.5


@accumulators
def test_a_batch_without_a_training_node_and_a_model_without_hops(accumulator, sixty):
    model = GCN(sixty.shape, hidden=8).double()
    part = batch(made(sixty, model.need, 2, 9, accumulator), sixty.splits["valid"][:5])
    loss = Objective(sixty.task, {})(model(part), part)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in model.parameters())
    bare = batch(made(sixty, Need(0), [3, 2], 9, accumulator), [4, 2])
    assert bare.hops == ()
    assert torch.equal(bare.x[bare.rows], sixty.x[[4, 2]])
    assert len(bare.nodes) == 2


def test_a_level_per_layer_for_means_only():
    text = (
        r"sampler\.fanouts=\[5,5\]: the model has 3 message-passing layers.*"
        r"sampler\.fanouts=\[5,5,5\]"
    )
    with pytest.raises(UsageError, match=text):
        GTTF([5, 5], accumulator="forest_mean").check(Need(3))
    GTTF([5, 5], accumulator="forest_mean").check(Need(2))
    GTTF(5, accumulator="forest_mean").check(Need(7))
    GTTF([5, 5]).check(Need(3))


def test_a_forest_beyond_memory():
    with pytest.raises(UsageError, match=r"sampler\.fanouts=\[1000,1000\].*512512512 nodes"):
        GTTF([1000, 1000], 512).check(Need(2))


def test_only_the_sampled_graph_is_square():
    assert Trait.SQUARE in GTTF.declare(accumulator="sampled_adjacency")[0]
    assert Trait.SQUARE not in GTTF.declare(accumulator="forest_mean")[0]
    checked = plan({"sampler": {"accumulator": "forest_mean"}}, sampler="gttf")
    assert checked.one("sampler").arguments["accumulator"] == "forest_mean"


@pytest.mark.parametrize("fanouts", [0, -1, [5, 0]])
def test_fanouts_that_are_no_number_of_successors(fanouts):
    with pytest.raises(UsageError, match=r"sampler\.fanouts=.*greater than or equal to 1"):
        plan({"sampler": {"fanouts": fanouts}}, sampler="gttf")


def test_levels_are_prefixes_of_one_forest(sixty):
    part = batch(made(sixty, Need(3, "sym", "diag"), [3, 2, 2], 64, "forest_mean"), [4, 9])
    for deep, top in pairwise(part.hops):
        assert deep.graph.n_dst == top.graph.n_src
        n = top.graph.n_edges
        assert torch.equal(deep.graph.edges[:n], top.graph.edges)
        assert torch.equal(deep.graph.indices[:n], top.graph.indices)
        assert torch.equal(deep.diag[: top.graph.n_dst], top.diag)


def test_a_forest_that_is_too_large_is_refused_with_one_that_fits():
    need = Need(16, "sym", "diag")
    with pytest.raises(UsageError, match=r"of 16 levels .* change to sampler\.fanouts=2"):
        GTTF(5, 512).check(need)
    GTTF(2, 512).check(need)
    with pytest.raises(UsageError, match=r"change to a smaller sampler\.batch_size"):
        GTTF(2, 2**28).check(need)
