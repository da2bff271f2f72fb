"""Mini-batches of whole graphs."""

from dataclasses import replace

import pytest
import torch
from compositions import CATALOG, plan

from gnnscale import compose
from gnnscale.architecture.appnp import APPNP
from gnnscale.architecture.ga_mlp import GAMLP
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.reversible import Reversible
from gnnscale.architecture.sgc import SGC
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import CompositionError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.pieces import pieces, ranges
from gnnscale.graph.simple import simple
from gnnscale.sampler.graphs import Graphs


def union(sizes=(4, 1, 0, 6, 3, 5), classes=3) -> GraphData:
    """Random graphs side by side, one of one node, one of none."""
    draw = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    ends = [
        torch.randint(0, n, (2, 2 * n), generator=draw) + first
        for n, first in zip(sizes, offsets.tolist(), strict=False) if n
    ]  # fmt: skip
    src, dst = torch.cat(ends, 1)
    n = int(offsets[-1])
    graph, _ = simple(src, dst, n)
    g = len(sizes)
    return GraphData(
        "union", graph, torch.randn(n, 5, generator=draw, dtype=torch.float64),
        torch.randint(0, classes, (g,), generator=draw),
        {"train": torch.tensor([0, 1, 3, 5]), "valid": torch.tensor([2]),
         "test": torch.tensor([4])},
        Task("graph", "single", classes), offsets=offsets,
        edge=torch.randn(graph.n_edges, 2, generator=draw, dtype=torch.float64),
        weight=torch.rand(graph.n_edges, generator=draw) + 0.5,
    )  # fmt: skip


def single(data: GraphData, g: int) -> GraphData:
    """One graph of a union as a set of its own."""
    low, high = data.offsets[g : g + 2].tolist()
    e, f = data.graph.indptr[[low, high]].tolist()
    graph = Adjacency(data.graph.indptr[low : high + 1] - e, data.graph.indices[e:f] - low)
    return data.with_(
        graph=graph, x=data.x[low:high], y=data.y[g : g + 1], edge=data.edge[e:f],
        weight=data.weight[e:f], offsets=torch.tensor([0, high - low]),
        splits={n: torch.tensor([0] if n == "train" else [], dtype=torch.int64)
                for n in data.splits},
    )  # fmt: skip


def test_ranges():
    assert ranges(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(torch.tensor([3]), torch.tensor([0])).tolist() == []


@pytest.mark.parametrize("loops", ["none", "diag", "edges"])
@pytest.mark.parametrize("operator", ["none", "sym", "row"])
def test_pieces_are_the_graphs_own_operators(operator, loops, dense):
    """Cut out of the union, every entry is that of the graph by itself."""
    data, chosen = union(), torch.tensor([3, 0, 1, 2])
    need = Need(1, operator, loops)
    found = pieces(whole_hop(data.graph, need, torch.float64, data.weight), data.offsets, chosen)
    whole = dense(found.hop.graph, found.hop.entries(torch.float64))
    if found.hop.diag is not None:
        whole += found.hop.diag.diag()
    at = 0
    for g, first in zip(chosen.tolist(), found.first.tolist(), strict=True):
        one = single(data, g)
        hop = whole_hop(one.graph, need, torch.float64, one.weight)
        want = dense(hop.graph, hop.entries(torch.float64))
        want = want if hop.diag is None else want + hop.diag.diag()
        n = len(want)
        assert first == at
        torch.testing.assert_close(whole[at : at + n, at : at + n], want)
        whole[at : at + n, at : at + n] = 0
        at += n
    assert at == len(whole) == len(found.nodes)
    assert whole.abs().sum() == 0, "nothing joins two graphs"
    assert torch.equal(torch.bincount(found.segment, minlength=4), torch.tensor([6, 4, 1, 0]))


MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=8, stem=True),
    "gat": lambda shape: GAT(shape, hidden=8, heads=2, stem=True),
    "gin_graph_norm": lambda shape: GIN(shape, hidden=8, stem=True, norm="graph", mlp_norm="none"),
    "gcn_bare": lambda shape: GCN(shape, hidden=8, norm="layer"),
    "ga_mlp": lambda shape: GAMLP(shape, hidden=8, depth=2),
    "appnp": lambda shape: APPNP(shape, hidden=8, steps=3),
    "reversible": lambda shape: Reversible(shape, hidden=8, depth=3),
    "mlp": lambda shape: MLP(shape, hidden=8),
    "sgc": lambda shape: SGC(shape),
    "gcn_jump": lambda shape: GCN(shape, hidden=8, stem=True, jump="concat", depth=3),
}


@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_do_not_depend_on_batch_mates(name, readout):
    """A graph's logits in any batch are those it has alone, the empty graph's too."""
    data = union()
    sampler = Graphs(batch_size=4, readout=readout)
    torch.manual_seed(0)
    model = MODELS[name](sampler.shape(data)).double().eval()
    chosen = torch.tensor([4, 2, 0, 0, 5])
    both = torch.cat([model(b).logits for b in sampler.batches(data, model.need, chosen)])
    for g, logits in zip(chosen.tolist(), both, strict=True):
        one = single(data, g)
        alone = next(Graphs(4, readout).batches(one, model.need, torch.tensor([0])))
        torch.testing.assert_close(model(alone).logits[0], logits, rtol=1e-10, atol=1e-10)


def test_one_batch_of_all_graphs_by_hand():
    """Loss and gradient of all training graphs in one step, against a loop over graphs."""
    data = union()
    sampler = Graphs(batch_size=10)
    model = GCN(sampler.shape(data), hidden=8, stem=True, dropout=0.0).double()
    sampler.prepare(data, model.need, Key(0, "prepare"))
    (index,) = sampler.plan(data.splits["train"], Key(0, "plan", 0))
    batch = sampler.sample(index, Key(0, "sample", 0, 0))
    assert batch.labeled.all()
    data.task.losses(model(batch).logits, batch.y).mean().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for g in data.splits["train"].tolist():
        one = next(sampler.batches(single(data, g), model.need, torch.tensor([0])))
        (data.task.losses(model(one).logits, one.y).sum() / 4).backward()
    for p, want in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, want, rtol=1e-10, atol=1e-12)


def test_every_training_graph_once_per_epoch_in_an_order_of_the_seed():
    data = union()
    sampler = Graphs(batch_size=3)
    sampler.prepare(data, Need(1), Key(0, "prepare"))
    plans = [sampler.plan(data.splits["train"], Key(s, "plan", 0)) for s in (0, 0, 1)]
    assert [len(p) for p in plans[0]] == [3, 1]
    assert sorted(torch.cat(plans[0]).tolist()) == [0, 1, 3, 5]
    assert torch.equal(torch.cat(plans[0]), torch.cat(plans[1]))
    batch = sampler.sample(plans[0][0], Key(0, "sample", 0, 0))
    assert torch.equal(batch.ids, plans[0][0])
    assert torch.equal(batch.y, data.y[plans[0][0]])


def test_edges_carry_their_features():
    data = union()
    sampler = Graphs()
    shape = sampler.shape(data)
    assert (shape.edge_features, shape.level, shape.readout) == (2, "graph", "center")
    batch = next(sampler.batches(data, Need(1), torch.tensor([5, 0])))
    ((first, last),) = [data.graph.indptr[data.offsets[5:7]].tolist()]
    assert torch.equal(batch.hops[0].edge[: last - first], data.edge[first:last])


def test_graph_statistics_of_training_graphs_only():
    data = union()
    degree = data.graph.in_degree.double()
    nodes = torch.cat([torch.arange(*data.offsets[g : g + 2].tolist()) for g in (0, 1, 3, 5)])
    assert data.shape.log_degree == pytest.approx(degree[nodes].log1p().mean().item())
    other = data.with_(splits={**data.splits, "train": torch.tensor([4])})
    assert other.shape.log_degree != data.shape.log_degree


def test_levels_that_do_not_fit():
    with pytest.raises(CompositionError, match=r"sampler=full needs 'node'[\s\S]*sampler=graphs"):
        plan(dataset="mutag")
    with pytest.raises(CompositionError, match=r"sampler=graphs needs 'graph'"):
        plan(sampler="graphs")


def test_composition_binds():
    made = plan({"architecture": {"stem": True}}, dataset="mutag", sampler="graphs")
    assert compose.stages(made)
    assert "graphs" in CATALOG.options("sampler")
    assert replace(Graphs().widen(union().shape)).operators == 0
