import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.push import degrees, normalized, push
from gnnscale.graph.simple import simple

ALPHAS = (0.05, 0.25, 0.5, 0.9)


def exact(a, alpha):
    """alpha (I - (1 - alpha) D^-1 A)^-1 with D^-1 = 0 where D is."""
    d = a.sum(1, keepdim=True)
    walk = torch.where(d > 0, a / d.clamp(min=1e-300), 0)
    return alpha * torch.linalg.inv(torch.eye(len(a), dtype=a.dtype) - (1 - alpha) * walk)


def matrix(ranks, n):
    """The scores as a dense [n_sources, n] matrix."""
    rows = torch.repeat_interleave(torch.arange(len(ranks.indptr) - 1), ranks.indptr.diff())
    return torch.zeros(len(ranks.indptr) - 1, n, dtype=torch.float64).index_put(
        (rows, ranks.nodes.long()), ranks.scores
    )


def whole(adj, alpha, eps, **more):
    """(scores of all pairs, their ranks), nothing cut."""
    ranks = push(adj, torch.arange(adj.n_dst), alpha, eps, adj.n_dst, **more)
    return matrix(ranks, adj.n_dst), ranks


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 12))
    ends = st.lists(st.integers(0, n - 1), max_size=30)
    src, dst = draw(ends), draw(ends)
    m = min(len(src), len(dst))
    return simple(torch.tensor(src[:m], dtype=torch.int64), torch.tensor(dst[:m]).long(), n)[0]


def check_bound(adj, dense, alpha, eps, lazy):
    p, ranks = whole(adj, alpha, eps, lazy=lazy)
    a = dense(adj)
    d = a.sum(1)
    pi = exact(a, alpha / (1 - lazy * (1 - alpha)))
    gap = pi - p
    assert gap.min() >= -1e-12
    assert (gap <= eps * d + 1e-12).all()
    assert (p >= 0).all()
    reached = d > 0  # from an isolated node nothing is passed on
    mass = ranks.total + ranks.left
    torch.testing.assert_close(mass[reached], torch.ones_like(mass[reached]), rtol=0, atol=1e-12)
    torch.testing.assert_close(p.sum(1), ranks.total, rtol=0, atol=1e-12)
    own = alpha / (1 - lazy * (1 - alpha))
    assert torch.allclose(ranks.total[~reached], torch.full_like(ranks.total[~reached], own))


@pytest.mark.parametrize("lazy", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("eps", [1e-4, 1e-2, 0.3, 5.0])
def test_bound_and_mass_for_all_pairs(sixty, dense, alpha, eps, lazy):
    check_bound(sixty.graph, dense, alpha, eps, lazy)


@given(graphs(), st.floats(0.01, 0.99), st.floats(1e-6, 2), st.sampled_from([0.0, 0.5, 0.9]))
@settings(max_examples=150, deadline=None)
def test_bound_and_mass_on_any_graph(adj, alpha, eps, lazy):
    def dense(adj):
        a = torch.zeros(adj.n_dst, adj.n_dst, dtype=torch.float64)
        a.index_put_((adj.dst.long(), adj.indices.long()), torch.ones((), dtype=torch.float64))
        return a

    check_bound(adj, dense, alpha, eps, lazy)


@pytest.mark.parametrize("lazy", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_without_a_threshold_it_is_the_dense_inverse(sixty, six, dense, alpha, lazy):
    """Also on the directed graph, whose walk follows in-edges, and with weights."""
    draw = torch.Generator().manual_seed(5)
    same = alpha / (1 - lazy * (1 - alpha))
    for adj in (sixty.graph, six):
        weight = torch.rand(adj.n_edges, generator=draw, dtype=torch.float64) * 4
        for w in (None, weight):
            p, _ = whole(adj, alpha, 1e-13, lazy=lazy, weight=w)
            torch.testing.assert_close(p, exact(dense(adj, w), same), rtol=0, atol=1e-11)


def test_six_nodes_by_hand(six):
    """alpha = 0.5, source 3, eps = 0.1: row 3 reads 2 alone, row 2 reads 0, 1, 3 and 4.

    3: p = 1/2, node 2 gets 1/4 >= 0.05 * 4. 2: p = 1/4; 0, 1, 3 and 4 get 1/32 each, which is
    below 0.05 * 3 for 0 and below 0.05 for 1, 3 and 4.
    """
    ranks = push(six, torch.tensor([3, 5]), 0.5, 0.1, 6)
    assert ranks.indptr.tolist() == [0, 2, 3]
    assert ranks.nodes.tolist() == [3, 2, 5]
    assert ranks.scores.tolist() == [0.5, 0.25, 0.5]
    assert ranks.total.tolist() == [0.75, 0.5]
    assert ranks.left.tolist() == [0.25, 0.0]  # node 5 has no neighbour to pass half of it to
    # at eps = 1/32 the thresholds are 1/64 of the degree: 1 is pushed and lifts 0 to its own, 3/64;
    # 3 is pushed; 4 lifts 3 to 1/64 again; 0 and 3 follow, and 2 stays below 4/64
    more = push(six, torch.tensor([3]), 0.5, 1 / 32, 6)
    found = dict(zip(more.nodes.tolist(), more.scores.tolist(), strict=True))
    assert found == {3: 1 / 2 + 1 / 32 + 1 / 64, 2: 1 / 4, 0: 3 / 64, 1: 1 / 32, 4: 1 / 32}


def test_the_residual_is_exactly_what_is_missing(sixty, dense):
    """pi_s = p + sum_u (r_u / alpha) pi_u; summed over all targets, with no sink, 1 = p + left."""
    p, ranks = whole(sixty.graph, 0.2, 0.05)
    pi = exact(dense(sixty.graph), 0.2)
    connected = sixty.graph.in_degree > 0
    torch.testing.assert_close(
        (pi - p).sum(1)[connected], ranks.left[connected], rtol=0, atol=1e-12
    )
    assert ranks.left[connected].max() > 0.05


def test_the_largest_are_kept_in_order_and_not_renormalised(sixty):
    p, _ = whole(sixty.graph, 0.25, 1e-6)
    for k in (1, 5, 59, 60, 1000):
        ranks = push(sixty.graph, torch.arange(60), 0.25, 1e-6, k)
        for s in range(60):
            a, b = ranks.indptr[s], ranks.indptr[s + 1]
            order = sorted(range(60), key=lambda t: (-p[s, t].item(), t))
            want = [t for t in order if p[s, t] > 0][:k]
            assert ranks.nodes[a:b].tolist() == want
            assert torch.equal(ranks.scores[a:b], p[s, want])


def test_ties_go_to_the_smaller_node():
    star, _ = simple(torch.zeros(6, dtype=torch.int64), torch.tensor([5, 3, 1, 6, 4, 2]), 7)
    assert push(star, torch.tensor([0]), 0.5, 1e-3, 4).nodes.tolist() == [0, 1, 2, 3]


def test_rows_depend_on_their_source_alone(sixty):
    """Not on batch-mates, their order, blocks or threads; scratch is clean afterwards."""
    everyone = push(sixty.graph, torch.arange(60), 0.1, 1e-5, 20)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    some = push(sixty.graph, order, 0.1, 1e-5, 20)
    for i, s in enumerate(order.tolist()):
        a, b, c, d = everyone.indptr[s], everyone.indptr[s + 1], some.indptr[i], some.indptr[i + 1]
        assert torch.equal(everyone.nodes[a:b], some.nodes[c:d])
        assert torch.equal(everyone.scores[a:b], some.scores[c:d])


def test_blocks_change_nothing(sixty, monkeypatch):
    want = push(sixty.graph, torch.arange(60), 0.1, 1e-5, 20)
    monkeypatch.setattr("gnnscale.graph.push.BLOCK", 140)  # seven sources at a time
    got = push(sixty.graph, torch.arange(60), 0.1, 1e-5, 20)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.process
def test_threads_change_nothing(sixty, threads):
    one, two = threads(lambda: push(sixty.graph, torch.arange(60), 0.1, 1e-5, 20))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_room_grows_past_its_first_size():
    n = 2000
    star, _ = simple(torch.zeros(n, dtype=torch.int64), torch.arange(1, n + 1), n + 1)
    ranks = push(star, torch.tensor([0, 1]), 0.2, 1e-9, n + 1)
    assert ranks.indptr.tolist() == [0, n + 1, 2 * n + 2]
    torch.testing.assert_close(ranks.total, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_norms_are_the_pagerank_of_their_operators(sixty, dense, alpha):
    a = dense(sixty.graph)
    d = a.sum(1)
    ranks = push(sixty.graph, torch.arange(60), alpha, 1e-13, 60)
    rows = torch.repeat_interleave(torch.arange(60), ranks.indptr.diff())
    inverse = torch.where(d > 0, 1 / d.clamp(min=1), 0)
    operators = {
        "row": inverse[:, None] * a,
        "sym": inverse.sqrt()[:, None] * a * inverse.sqrt(),
        "col": a * inverse,
    }
    for norm, operator in operators.items():
        scores = normalized(ranks.scores, rows, ranks.nodes, degrees(sixty.graph), norm)
        want = alpha * torch.linalg.inv(torch.eye(60, dtype=a.dtype) - (1 - alpha) * operator)
        torch.testing.assert_close(
            matrix(ranks._replace(scores=scores), 60), want, rtol=0, atol=1e-11
        )


def test_no_edges_and_no_sources(sixty):
    nothing = torch.empty(0, dtype=torch.int64)
    bare = Adjacency.from_edges(nothing, nothing, 3)
    ranks = push(bare, torch.arange(3), 0.25, 1e-4, 32)
    assert ranks.nodes.tolist() == [0, 1, 2]
    assert ranks.scores.tolist() == [0.25] * 3
    none = push(sixty.graph, nothing, 0.25, 1e-4, 32)
    assert (none.indptr.tolist(), len(none.nodes), len(none.total)) == ([0], 0, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"alpha": 0.0}, "alpha=0"), ({"alpha": 1.5}, "alpha=1.5"), ({"eps": 0.0}, "eps=0"),
     ({"eps": -1.0}, "eps=-1"), ({"top_k": 0}, "top_k=0"), ({"lazy": 1.0}, "lazy=1")],
)  # fmt: skip
def test_values_out_of_range_are_refused(sixty, change, said):
    with pytest.raises(UsageError, match=said):
        push(sixty.graph, torch.arange(3), **{"alpha": 0.2, "eps": 1e-3, "top_k": 3, **change})


def test_negative_weights_are_refused(six):
    weight = torch.full((six.n_edges,), -0.5)
    with pytest.raises(UsageError, match=r"edge weight -0\.5: .*must not be negative"):
        push(six, torch.arange(3), 0.2, 1e-3, 3, weight=weight)
