from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gnnscale.graph.induce import induce, scratch


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
