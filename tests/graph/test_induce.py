from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph import ego
from gnnscale.graph.induce import _bits, induce, isolate, scratch

WORD = np.uint64(77)


def test_six_nodes_by_hand(six):
    # 0 <- 1 2 4, 2 <- 0 1 3 4, 4 <- 3; edges numbered by destination
    part = induce(six, torch.tensor([2, 4, 0]))
    assert part.indptr.tolist() == [0, 2, 2, 4]
    assert part.indices.tolist() == [2, 1, 0, 1]  # 2 <- 0 4, 4 <- nobody, 0 <- 2 4
    assert part.edges.tolist() == [4, 7, 1, 2]
    assert (part.n_dst, part.n_src) == (3, 3)
    assert part.indices.dtype == torch.int32


@pytest.mark.parametrize("size", [1, 9, 59, 60])
def test_against_dense_matrices(size, sixty, dense):
    nodes = torch.randperm(60, generator=torch.Generator().manual_seed(size))[:size]
    part = induce(sixty.graph, nodes)
    assert torch.equal(dense(part), dense(sixty.graph)[nodes][:, nodes])
    assert torch.equal(sixty.graph.dst[part.edges], nodes[part.dst.long()].int())
    assert torch.equal(sixty.graph.indices[part.edges], nodes[part.indices.long()].int())


def test_all_nodes_in_order_are_the_graph(sixty):
    part = induce(sixty.graph, torch.arange(60))
    assert torch.equal(part.indices, sixty.graph.indices)
    assert torch.equal(part.edges, torch.arange(part.n_edges))


def test_no_nodes(six):
    part = induce(six, torch.empty(0, dtype=torch.int64))
    assert (part.n_dst, part.n_src, part.n_edges) == (0, 0, 0)


def test_scratch_is_left_clean_and_belongs_to_the_thread(sixty):
    induce(sixty.graph, torch.arange(30))
    assert not _bits(60).any()
    mine = scratch(60)
    assert (mine == -1).all()
    assert scratch(10) is mine
    assert len(scratch(len(mine) + 1)) > len(mine)
    parts = [torch.randperm(60)[:40] for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert pool.submit(scratch, 60).result() is not mine
        found = list(pool.map(lambda nodes: induce(sixty.graph, nodes), parts))
    for nodes, part in zip(parts, found, strict=True):
        expected = induce(sixty.graph, nodes)
        assert torch.equal(part.indices, expected.indices)
        assert torch.equal(part.indptr, expected.indptr)


def test_isolated_blocks_are_induced_subgraphs_side_by_side(sixty, dense):
    starts, members = ego.khop(sixty.graph, torch.tensor([4, 9, 4, 58]), 2, 3, WORD)
    blocks = isolate(sixty.graph, starts, members)
    whole = dense(blocks)
    expected = torch.block_diag(
        *[dense(induce(sixty.graph, p.long())) for p in members.split(starts.diff().tolist())]
    )
    assert torch.equal(whole, expected)
    nodes = members.long()
    assert torch.equal(sixty.graph.indices[blocks.edges], nodes[blocks.indices.long()].int())
    assert torch.equal(sixty.graph.dst[blocks.edges], nodes[blocks.dst.long()].int())
    assert (scratch(60) == -1).all()


def test_self_loops_and_duplicate_edges_stay():
    adj = Adjacency.from_edges(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1]), 3)
    starts, members = ego.khop(adj, torch.tensor([0]), 1, -1, WORD)
    assert members.tolist() == [0, 1]
    blocks = isolate(adj, starts, members)
    assert blocks.indices.tolist() == [0, 1, 1]
    assert blocks.edges.tolist() == [0, 1, 2]


def test_dropped_edges_are_a_share_and_each_roots_own(sixty):
    roots = torch.arange(60)
    sets = ego.khop(sixty.graph, roots, 2, -1, WORD)
    everything = isolate(sixty.graph, *sets)
    kept = isolate(sixty.graph, *sets, 0.3, WORD)
    n = everything.n_edges
    assert abs(kept.n_edges - 0.7 * n) < 4 * (n * 0.21) ** 0.5
    assert (kept.in_degree <= everything.in_degree).all()
    other = isolate(sixty.graph, *sets, 0.3, np.uint64(78))
    assert kept.edges.tolist() != other.edges.tolist()
    alone = isolate(sixty.graph, *ego.some(*sets, torch.tensor([33])), 0.3, WORD)
    a, b = sets[0][33], sets[0][34]
    assert alone.edges.tolist() == kept.edges[kept.indptr[a] : kept.indptr[b]].tolist()


def test_a_hub_with_many_edges_from_one_neighbour():
    """A row of 4,000 among five nodes, its sources in any order and more than once."""
    sources = torch.randint(1, 500, (4000,), generator=torch.Generator().manual_seed(0))
    indptr = torch.cat([torch.zeros(1), torch.full((500,), 4000)]).long()
    nodes = torch.tensor([444, 3, 0, 17, 18])
    part = induce(Adjacency(indptr, sources.int(), 500), nodes)
    expected = torch.isin(sources, nodes).nonzero().squeeze(1)
    assert part.in_degree.tolist() == [0, 0, len(expected), 0, 0]
    assert torch.equal(part.edges, expected)
    assert torch.equal(nodes[part.indices.long()], sources[expected])
