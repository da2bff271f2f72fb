import numba
import pytest
import torch
from compositions import permuted

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.push import push


def lazy_push(adj, sources, alpha, eps, top_k=None, weight=None):
    """As shaDow-GNN walks, as rows of top_k nodes and scores, -1 and 0 behind the last."""
    k = adj.n_dst if top_k is None else min(top_k, adj.n_dst)
    ranks = push(adj, sources, alpha, eps, k, 0.5, True, weight)
    nodes = torch.full((len(sources), k), -1, dtype=torch.int32)
    scores = torch.zeros(len(sources), k, dtype=torch.float64)
    sizes = ranks.indptr.diff()
    row = torch.arange(len(sources)).repeat_interleave(sizes)
    at = torch.arange(len(row)) - ranks.indptr[:-1].repeat_interleave(sizes)
    nodes[row, at], scores[row, at] = ranks.nodes, ranks.scores
    return nodes, scores


def exact(walk, teleport):
    """All rows of personalised PageRank by a dense solve; ``walk`` is the transition matrix."""
    eye = torch.eye(len(walk), dtype=torch.float64)
    return teleport * torch.linalg.inv(eye - (1 - teleport) * walk)


def table(adj, alpha, eps, weight=None):
    nodes, scores = lazy_push(adj, torch.arange(adj.n_dst), alpha, eps, weight=weight)
    p = torch.zeros(adj.n_dst, adj.n_dst, dtype=torch.float64)
    for i in range(adj.n_dst):
        kept = nodes[i] >= 0
        p[i, nodes[i][kept].long()] = scores[i][kept]
    return p


def transitions(dense, adj, weight=None):
    """Rows of the walk along in-edges; it stays where there is none."""
    a = dense(adj, weight)
    total = a.sum(1)
    return a / total.clamp(min=1e-300).unsqueeze(1) + torch.diag((total == 0).double()), total


@pytest.fixture
def symmetric(sixty):
    """Weights that are the same in both directions."""
    i, j = sixty.graph.dst.long(), sixty.graph.indices.long()
    return 0.2 + ((i + j) * 7 % 11).double() + (i * j % 5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.15, 0.5])
def test_the_limit_is_the_plain_walk_with_teleport_2a_over_1_plus_a(
    alpha, weighted, sixty, symmetric, dense
):
    weight = symmetric if weighted else None
    walk, _ = transitions(dense, sixty.graph, weight)
    plain = exact(walk, 2 * alpha / (1 + alpha))
    lazy = exact((torch.eye(60, dtype=torch.float64) + walk) / 2, alpha)
    torch.testing.assert_close(lazy, plain, rtol=0, atol=1e-14)
    found = table(sixty.graph, alpha, 1e-14, weight)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        found.sum(1), torch.ones(60, dtype=torch.float64), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [0.3, 1e-2, 1e-3, 1e-5])
def test_every_score_is_short_by_eps_times_degree_at_most(eps, weighted, sixty, symmetric, dense):
    weight = symmetric if weighted else None
    walk, degree = transitions(dense, sixty.graph, weight)
    gap = exact(walk, 0.3 / 1.15) - table(sixty.graph, 0.15, eps, weight)
    assert gap.min() >= -1e-15  # for all pairs
    assert (gap <= eps * degree + 1e-15).all()
    assert gap.max() > eps * 1e-3  # the bound is not met by doing too much


def test_six_nodes_directed_by_hand(six):
    # 1 <- 0 <- 1 2 4; one push of the root, then one of what lies above the threshold
    nodes, scores = lazy_push(six, torch.tensor([1, 5]), 0.2, 0.35)
    # r_1 = 1 pushes: p_1 = .2, r_1 = .4, r_0 = .4; 0 has degree 3, so only 1 exceeds .35 d
    # again: p_1 = .2 + .08, r_1 = .16, r_0 = .4 + .16 = .56 < 3 * .35
    assert nodes[0].tolist() == [1, -1, -1, -1, -1, -1]
    assert scores[0, 0].item() == pytest.approx(0.28, abs=1e-15)
    assert nodes[1].tolist() == [5, -1, -1, -1, -1, -1]  # alone: all of it
    assert scores[1, 0].item() == 1


def test_directed_scores_too_are_the_walks(six, dense):
    walk, _ = transitions(dense, six)
    torch.testing.assert_close(table(six, 0.15, 1e-15), exact(walk, 0.3 / 1.15), rtol=0, atol=1e-12)


def test_scores_do_not_depend_on_the_order_of_nodes(sixty):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    other = table(permuted(sixty, order).graph, 0.15, 1e-3)
    torch.testing.assert_close(
        other, table(sixty.graph, 0.15, 1e-3)[order][:, order], rtol=0, atol=1e-15
    )


def test_the_best_are_chosen_in_order_and_ties_by_node(sixty, six):
    everything, scores = lazy_push(sixty.graph, torch.arange(60), 0.15, 1e-4)
    for k in (1, 2, 7, 500):
        nodes, best = lazy_push(sixty.graph, torch.arange(60), 0.15, 1e-4, k)
        assert nodes.shape == (60, min(k, 60))
        assert torch.equal(best, scores[:, :k])
        assert torch.equal(nodes, everything[:, :k])
    assert (scores.diff() <= 0).all()
    star = Adjacency.from_edges(
        torch.tensor([1, 2, 3, 4, 0, 0, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 2, 3, 4]), 5
    )
    for k, expected in ((3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4])):
        assert lazy_push(star, torch.tensor([0]), 0.15, 1e-6, k)[0].tolist() == [expected]


def test_any_number_of_parts_gives_the_same_bits(sixty, monkeypatch):
    roots = torch.arange(60).flip(0)
    one = lazy_push(sixty.graph, roots, 0.15, 1e-4, 20)
    for parts in (2, 3, 7, 200):
        monkeypatch.setattr(numba, "get_num_threads", lambda parts=parts: parts)
        other = lazy_push(sixty.graph, roots, 0.15, 1e-4, 20)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_nothing_to_push():
    none = torch.empty(0, dtype=torch.int64)
    empty = Adjacency.from_edges(none, none, 4)
    nodes, scores = lazy_push(empty, torch.tensor([2, 0]), 0.15, 1e-4, 9)
    assert nodes.tolist() == [[2, -1, -1, -1], [0, -1, -1, -1]]
    assert scores[:, 0].tolist() == [1, 1]
    assert lazy_push(empty, none, 0.15, 1e-4, 2)[0].shape == (0, 2)


def test_self_loops_duplicates_and_edges_of_weight_zero(dense):
    src, dst = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1, 0])
    adj = Adjacency.from_edges(src, dst, 3)
    for weight in (None, torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0, 0.0], dtype=torch.float64)):
        walk, _ = transitions(dense, adj, weight)
        found = table(adj, 0.15, 1e-15, weight)
        torch.testing.assert_close(found, exact(walk, 0.3 / 1.15), rtol=0, atol=1e-12)
