import pytest
import torch

from gnnscale.core.hop import Need
from gnnscale.core.host import dgl
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import factors, whole_hop, with_loops

OPERATORS = ("row", "sym", "none")
LOOPS = ("none", "diag", "edges")


def operator(a, name, loops):
    """The matrix that the paper's formula names."""
    a = a if loops == "none" else a + torch.eye(len(a), dtype=a.dtype)
    into, out = a.sum(1), a.sum(0)
    into[into == 0], out[out == 0] = 1, 1
    if name == "row":
        return torch.diag(1 / into) @ a
    if name == "sym":
        return torch.diag(into**-0.5) @ a @ torch.diag(out**-0.5)
    return a


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("loops", LOOPS)
def test_hop_against_dense_matrices(name, loops, six, sixty, dense):
    for graph in (six, sixty.graph):
        x = torch.randn(graph.n_dst, 3, dtype=torch.float64)
        hop = whole_hop(graph, Need(1, name, loops), torch.float64)
        expected = operator(dense(graph), name, loops) @ x
        torch.testing.assert_close(hop.reduce(lambda h: h, x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", OPERATORS)
def test_factors_entry_by_entry(name, six, dense):
    found = factors(six, Need(1, name, "diag"), torch.float64)
    one = torch.ones(6, dtype=torch.float64)
    src, dst = (one if f is None else f for f in found[:2])
    matrix = dst.unsqueeze(1) * dense(six) * src + torch.diag(found.diag)
    torch.testing.assert_close(matrix, operator(dense(six), name, "diag"), rtol=0, atol=1e-15)


def test_six_nodes_by_hand(six):
    # in-degrees 3 1 4 1 1 0, out-degrees 2 2 2 2 2 0
    row = factors(six, Need(1, "row"))
    assert row.src is None
    assert row.diag is None
    torch.testing.assert_close(row.dst, torch.tensor([1 / 3, 1, 1 / 4, 1, 1, 0]))
    sym = factors(six, Need(1, "sym", "diag"))
    torch.testing.assert_close(sym.src**-2, torch.tensor([3.0, 3, 3, 3, 3, 1]))
    torch.testing.assert_close(sym.dst**-2, torch.tensor([4.0, 2, 5, 2, 2, 1]))
    torch.testing.assert_close(sym.diag, sym.src * sym.dst)
    assert sym.src.dtype == torch.float32


@pytest.mark.parametrize(("name", "norm"), [("sym", "both"), ("row", "right"), ("none", "none")])
@pytest.mark.parametrize("loops", ["none", "diag"])
def test_hop_against_dgl(name, norm, loops, six, sixty):
    for graph in (six, sixty.graph):
        x = torch.randn(graph.n_dst, 5)
        theirs = dgl.graph((graph.indices, graph.dst), num_nodes=graph.n_dst)
        theirs = theirs if loops == "none" else dgl.add_self_loop(theirs)
        conv = dgl.nn.GraphConv(5, 5, norm, weight=False, bias=False, allow_zero_in_degree=True)
        hop = whole_hop(graph, Need(1, name, loops))
        torch.testing.assert_close(hop.reduce(lambda h: h, x), conv(theirs, x))


def test_loops_stand_last_in_their_rows(six):
    looped = with_loops(six)
    rows = [r.tolist() for r in torch.tensor_split(looped.indices, looped.indptr[1:-1])]
    assert rows == [[1, 2, 4, 0], [0, 1], [0, 1, 3, 4, 2], [2, 3], [3, 4], [5]]
    assert looped.edges.tolist() == [0, 1, 2, -1, 3, -1, 4, 5, 6, 7, -1, 8, -1, 9, -1, -1]


def test_a_graph_without_edges():
    none = torch.empty(0, dtype=torch.int64)
    graph = Adjacency.from_edges(none, none, 3)
    found = factors(graph, Need(1, "sym"))
    assert found.src.tolist() == found.dst.tolist() == [0, 0, 0]
    looped = with_loops(graph)
    assert looped.indices.tolist() == [0, 1, 2]
    assert looped.edges.tolist() == [-1, -1, -1]
    hop = whole_hop(graph, Need(1, "row", "diag"))
    x = torch.randn(3, 2)
    torch.testing.assert_close(hop.reduce(lambda h: h, x), x)
