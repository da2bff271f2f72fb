import numpy as np
import pytest
import torch

from gnnscale.graph.block import block
from gnnscale.graph.induce import scratch


def test_six_nodes_by_hand(six):
    # in-neighbours: 0 <- 1 2 4, 2 <- 0 1 3 4, 5 <- nobody
    part, sources = block(six, torch.tensor([2, 5, 0]))
    assert sources.tolist() == [2, 5, 0, 1, 3, 4]
    assert part.indptr.tolist() == [0, 4, 4, 7]
    assert part.indices.tolist() == [2, 3, 4, 5, 3, 0, 5]
    assert part.edges.tolist() == [4, 5, 6, 7, 0, 1, 2]
    assert (part.n_dst, part.n_src) == (3, 6)
    assert part.indices.dtype == torch.int32
    assert sources.dtype == part.edges.dtype == torch.int64


def test_sources_are_only_the_ones_needed(six):
    part, sources = block(six, torch.tensor([4]))
    assert sources.tolist() == [4, 3]
    assert part.indices.tolist() == [1]
    assert (part.n_dst, part.n_src) == (1, 2)


@pytest.mark.parametrize("size", [1, 7, 59, 60])
def test_keeps_every_in_edge(sixty, dense, size):
    nodes = torch.randperm(60, generator=torch.Generator().manual_seed(size))[:size]
    part, sources = block(sixty.graph, nodes)
    assert torch.equal(sources[:size], nodes)
    assert len(set(sources.tolist())) == len(sources) == part.n_src
    # scattered back into columns of the whole graph, its rows are the whole graph's rows
    rows = torch.zeros(size, 60, dtype=torch.float64)
    rows[:, sources] = dense(part)
    assert torch.equal(rows, dense(sixty.graph)[nodes])
    # every source beyond the destinations is used
    used = set(part.indices.tolist()) | set(range(size))
    assert used == set(range(part.n_src))
    # edges: positions in the whole graph
    assert torch.equal(sixty.graph.dst[part.edges].long(), nodes[part.dst.long()])
    assert torch.equal(sixty.graph.indices[part.edges].long(), sources[part.indices.long()])


def test_all_nodes_in_order_is_the_graph_itself(sixty):
    part, sources = block(sixty.graph, torch.arange(60))
    assert torch.equal(sources, torch.arange(60))
    assert torch.equal(part.indptr, sixty.graph.indptr)
    assert torch.equal(part.indices, sixty.graph.indices)
    assert torch.equal(part.edges, torch.arange(sixty.graph.n_edges))


def test_a_block_of_a_block(sixty, dense):
    # rows of a bipartite parent: destinations are its first sources
    first, sources = block(sixty.graph, torch.arange(10, 30))
    second, inner = block(first, torch.tensor([3, 0, 11]))
    rows = torch.zeros(3, first.n_src, dtype=torch.float64)
    rows[:, inner] = dense(second)
    assert torch.equal(rows, dense(first)[[3, 0, 11]])
    assert second.n_src == len(inner) <= len(sources)


def test_loops_and_duplicates_are_kept(dense):
    from gnnscale.core.ops.adjacency import Adjacency

    graph = Adjacency.from_edges(torch.tensor([1, 1, 0, 2]), torch.tensor([1, 1, 1, 0]), 3)
    part, sources = block(graph, torch.tensor([1]))
    assert sources.tolist() == [1, 0]
    assert dense(part).tolist() == [[2.0, 1.0]]


def test_no_nodes(six):
    part, sources = block(six, torch.empty(0, dtype=torch.int64))
    assert (part.n_dst, part.n_src, part.n_edges, len(sources)) == (0, 0, 0, 0)


def test_scratch_is_clean_after_use_and_results_do_not_share_it(sixty):
    part, sources = block(sixty.graph, torch.arange(0, 60, 2))
    kept = part.indices.clone(), sources.clone()
    assert np.all(scratch(60) == -1)
    block(sixty.graph, torch.arange(1, 60, 2))
    assert torch.equal(part.indices, kept[0])
    assert torch.equal(sources, kept[1])
