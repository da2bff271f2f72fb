import numpy as np
import pytest
import torch

from gnnscale.graph.simple import simple


def rows(graph):
    return [row.tolist() for row in np.split(graph.indices.numpy(), graph.indptr[1:-1].numpy())]


def test_six_nodes_by_hand():
    #      0-1 both ways, 1-2 twice, 2-2 loop, 4-0 and 0-3 once; node 5 alone
    src = np.array([1, 0, 2, 2, 2, 4, 0])
    dst = np.array([0, 1, 1, 1, 2, 0, 3])
    graph, facts = simple(src, dst, 6)
    assert rows(graph) == [[1, 3, 4], [0, 2], [1], [0], [0], []]
    assert graph.indptr.tolist() == [0, 3, 5, 6, 7, 8, 8]
    assert facts == {
        "edges_given": 7,
        "loops_removed": 1,
        "duplicates_removed": 1,
        "reversed_added": 3,
    }
    assert graph.indptr.dtype == torch.int64
    assert graph.indices.dtype == torch.int32


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_equals_the_set_of_pairs(kind):
    src, dst = np.random.default_rng(0).integers(0, 40, (2, 500)).astype(kind)
    graph, facts = simple(torch.from_numpy(src), torch.from_numpy(dst), 40)
    given = {(j, i) for j, i in zip(src.tolist(), dst.tolist(), strict=True) if i != j}
    want = sorted((i, j) for a, b in given for i, j in ((a, b), (b, a)))
    assert list(zip(graph.dst.tolist(), graph.indices.tolist(), strict=True)) == sorted(set(want))
    assert facts["duplicates_removed"] == 500 - facts["loops_removed"] - len(given)
    assert facts["reversed_added"] == graph.n_edges - len(given)


def test_a_simple_graph_is_left_as_it_is():
    src, dst = np.random.default_rng(1).integers(0, 300, (2, 2000))
    once, _ = simple(src, dst, 300)
    again, facts = simple(once.indices, once.dst, 300)
    assert torch.equal(once.indptr, again.indptr)
    assert torch.equal(once.indices, again.indices)
    assert [facts[k] for k in list(facts)[1:]] == [0, 0, 0]


@pytest.mark.process
def test_threads_do_not_matter(threads):
    src, dst = np.random.default_rng(2).integers(0, 1000, (2, 20_000))
    (one, facts_one), (many, facts_many) = threads(lambda: simple(src, dst, 1000))
    assert torch.equal(one.indices, many.indices)
    assert facts_one == facts_many


def test_no_edges():
    graph, facts = simple(np.empty(0, np.int64), np.empty(0, np.int64), 3)
    assert rows(graph) == [[], [], []]
    assert set(facts.values()) == {0}


def test_refusals():
    with pytest.raises(ValueError, match="run from 0 to 6; valid: 0 to 5"):
        simple(np.array([0, 6]), np.array([1, 1]), 6)
    with pytest.raises(ValueError, match="run from -1 to 0"):
        simple(np.array([0, -1]), np.array([1, 1]), 6)
    with pytest.raises(ValueError, match="equally long"):
        simple(np.array([0, 1]), np.array([1]), 6)
