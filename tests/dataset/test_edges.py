import numpy as np
import pytest
import torch

from gnnscale.dataset._edges import adjacency, largest_component, restrict

SRC = np.array([0, 0, 1, 2, 2, 4, 3])
DST = np.array([1, 1, 0, 2, 3, 3, 4])
"""0 -> 1 twice and back, a loop at 2, 2 -> 3, and 3 and 4 both ways; node 5 is alone."""
W = np.array([1.0, 2.0, 5.0, 7.0, 0.5, 3.0, 4.0])


def matrix(reverse_edges=True, self_loops="remove", weight=None):
    graph, w, facts = adjacency(
        SRC, DST, 6, weight=weight, reverse_edges=reverse_edges, self_loops=self_loops
    )
    full = torch.zeros(6, 6)
    values = torch.ones(graph.n_edges) if w is None else w
    full[graph.dst.long(), graph.indices.long()] = values
    for i in range(6):
        row = graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist()
        assert row == sorted(set(row))
    return full, facts, graph


def entries(full):
    """{(j, i): weight} of the edges j -> i."""
    return {(int(j), int(i)): full[i, j].item() for i, j in full.nonzero()}


PAIRS = [(0, 1), (1, 0), (2, 3), (3, 2), (3, 4), (4, 3)]


@pytest.mark.parametrize(
    ("options", "edges"),
    [
        ({}, PAIRS),
        ({"reverse_edges": False}, [(0, 1), (1, 0), (2, 3), (3, 4), (4, 3)]),
        ({"self_loops": "keep"}, [*PAIRS, (2, 2)]),
        ({"self_loops": "add"}, [*PAIRS, *((i, i) for i in range(6))]),
        ({"self_loops": "add", "reverse_edges": False},
         [(0, 1), (1, 0), (2, 3), (3, 4), (4, 3), *((i, i) for i in range(6))]),
    ],
)  # fmt: skip
def test_directions_and_loops_by_hand(options, edges):
    full, facts, graph = matrix(**options)
    assert sorted(entries(full)) == sorted(edges)
    assert facts["edges_given"] == 7
    counted = (
        facts["edges_given"] - facts["loops_removed"] - facts["duplicates_removed"]
        + facts["reversed_added"] + facts.get("loops_added", 0)
    )  # fmt: skip
    assert counted == graph.n_edges


def test_weights_of_repeated_edges_are_summed_and_a_given_reverse_keeps_its_own():
    full, _, _ = matrix(weight=W)
    assert entries(full) == {
        (0, 1): 3, (1, 0): 5, (2, 3): 0.5, (3, 2): 0.5, (4, 3): 3, (3, 4): 4,
    }  # fmt: skip
    full, _, _ = matrix(weight=W, reverse_edges=False, self_loops="add")
    assert entries(full) == {
        (0, 1): 3, (1, 0): 5, (2, 3): 0.5, (4, 3): 3, (3, 4): 4,
        (2, 2): 7, **{(i, i): 1 for i in (0, 1, 3, 4, 5)},
    }  # fmt: skip


def test_both_ways_of_making_the_usual_graph_agree():
    draw = np.random.default_rng(0)
    src, dst = draw.integers(0, 50, (2, 400))
    usual, _, facts = adjacency(src, dst, 50, weight=None, reverse_edges=True, self_loops="remove")
    kept, _, other = adjacency(src, dst, 50, weight=None, reverse_edges=True, self_loops="keep")
    plain = kept.indices != kept.dst
    assert kept.indices[plain].equal(usual.indices)
    assert kept.dst[plain].equal(usual.dst)
    assert facts["reversed_added"] == other["reversed_added"]


def test_largest_component_ignores_directions():
    kept = largest_component(SRC, DST, 6)
    assert kept.tolist() == [2, 3, 4]
    src, dst, w = restrict(SRC, DST, W, kept, 6)
    assert list(zip(src.tolist(), dst.tolist(), w.tolist(), strict=True)) == [
        (0, 0, 7), (0, 1, 0.5), (2, 1, 3), (1, 2, 4),
    ]  # fmt: skip


def test_a_graph_without_edges():
    none = np.empty(0, np.int64)
    for loops in ("remove", "keep", "add"):
        graph, w, _ = adjacency(
            none, none, 3, weight=np.empty(0), reverse_edges=True, self_loops=loops
        )
        assert graph.n_edges == len(w) == (3 if loops == "add" else 0)
