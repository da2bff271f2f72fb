import typing

import numpy as np
import pytest
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hardware import Order
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.sparse import SparseRows
from gnnscale.dataset.synthetic import Synthetic
from gnnscale.graph.order import ORDERS, by_degree, ordered, reverse_cuthill_mckee
from gnnscale.graph.simple import simple
from gnnscale.graph.whole import whole_batch

orders = pytest.mark.parametrize("order", ORDERS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path))


def data(nodes=60, sparse=False, names=None, weighted=True):
    torch.manual_seed(0)
    src, dst = torch.randint(0, nodes, (2, 4 * nodes))
    graph = simple(src, dst, nodes)[0]
    x = torch.randn(nodes, 5).clamp(min=0)
    return GraphData(
        name="drawn",
        graph=graph,
        x=SparseRows.from_dense(x) if sparse else x,
        y=torch.randint(0, 3, (nodes,)),
        splits={
            "train": torch.arange(0, nodes, 3),
            "valid": torch.arange(1, nodes, 3),
            "test": torch.arange(2, nodes, 3),
        },
        task=Task("node", "single", 3),
        weight=torch.rand(graph.n_edges) if weighted else None,
        edge=torch.rand(graph.n_edges, 2),
        names=names,
    )


def dense(adj: Adjacency, values: torch.Tensor) -> torch.Tensor:
    full = torch.zeros(adj.n_dst, adj.n_src)
    full[adj.dst.long(), adj.indices.long()] = values
    return full


def test_every_order_that_can_be_typed_is_there():
    assert set(typing.get_args(Order)) == {"source", *ORDERS}


@orders
@pytest.mark.parametrize("sparse", [False, True])
def test_everything_is_of_the_same_nodes(order, sparse):
    before = data(sparse=sparse)
    after = ordered(before, order)
    ids = torch.from_numpy(after.names)
    assert ids.sort().values.equal(torch.arange(60))
    rows = (d.x.dense() if sparse else d.x for d in (after, before))
    assert torch.equal(*(r if k == 0 else r[ids] for k, r in enumerate(rows)))
    assert after.y.equal(before.y[ids])
    for name, there in before.splits.items():
        assert ids[after.splits[name]].sort().values.equal(there)
        assert after.splits[name].equal(after.splits[name].sort().values)
    for values in ("weight", "edge"):
        theirs, ours = getattr(before, values), getattr(after, values)
        columns = (v.view(len(v), -1).unbind(1) for v in (theirs, ours))
        for was, now in zip(*columns, strict=True):
            assert dense(after.graph, now).equal(dense(before.graph, was)[ids][:, ids])
    starts = after.graph.indptr[:-1].unique()
    falls = (after.graph.indices.diff() <= 0).nonzero().flatten() + 1
    assert set(falls.tolist()) <= set(starts.tolist())  # sources ascend within every row
    assert after.facts["order"] == order


@orders
def test_a_product_of_the_whole_graph_is_the_same(order):
    before = data()
    after = ordered(before, order)
    ids = torch.from_numpy(after.names)
    products = []
    for d in (before, after):
        batch = whole_batch(d, Need(1, operator="sym", loops="diag"))
        products.append(batch.hops[0].reduce(lambda h: h, d.x))
    torch.testing.assert_close(products[1], products[0][ids])


def test_the_sources_own_names_go_along():
    names = np.array([f"n{k}" for k in range(60)])
    before = data(names=names)
    after = ordered(before, "degree")
    place = {name: k for k, name in enumerate(names)}
    assert after.y.equal(before.y[[place[n] for n in after.names]])


def test_by_degree_and_of_equal_ones_as_they_were():
    #  0 - 3, 1 - 3, 2 - 3, 2 - 4; node 5 alone
    adj = simple(torch.tensor([0, 1, 2, 2]), torch.tensor([3, 3, 3, 4]), 6)[0]
    assert by_degree(adj).tolist() == [3, 2, 0, 1, 4, 5]


def test_cuthill_mckee_puts_a_shuffled_path_in_line():
    names = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    adj = simple(names[:-1], names[1:], 50)[0]
    order = reverse_cuthill_mckee(adj)
    assert order.tolist() in (names.tolist(), names.flip(0).tolist())


def test_metis_puts_neighbours_near_each_other():
    whole = Synthetic(nodes=4000, degree=6, classes=4, homophily=1.0).load(0)

    def span(d):
        return (d.graph.dst - d.graph.indices).abs().float().mean().item()

    assert span(ordered(whole, "metis")) < 0.7 * span(whole)


def test_the_sources_order_is_no_copy():
    before = data()
    assert ordered(before, "source") is before


def test_an_order_is_found_again(monkeypatch):
    first = ordered(data(), "rcm")
    monkeypatch.setitem(ORDERS, "rcm", lambda adj: 1 / 0)
    assert ordered(data(), "rcm").graph.indices.equal(first.graph.indices)
    with pytest.raises(ZeroDivisionError):
        ordered(data(nodes=61), "rcm")


MANY = [{"offsets": torch.tensor([0, 30, 60])}, {"task": Task("node", "single", 2, "overlap", 30)}]


@pytest.mark.parametrize("change", MANY, ids=["graphs", "runs of nodes"])
def test_many_graphs_stay_where_they_are(change):
    before = data().with_(**change)
    with pytest.raises(UsageError, match=r"hardware\.order=rcm: drawn is many graphs .*=source"):
        ordered(before, "rcm")
