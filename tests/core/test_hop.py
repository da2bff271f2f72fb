import pytest
import torch
from torch.autograd import gradcheck

from gnnscale.core.hop import AGGREGATORS, STD_EPS, Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop

X = torch.tensor(
    [[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0], [2.0, 2.0], [0.25, -3.0], [7.0, 7.0]],
    dtype=torch.float64,
)
NEIGHBOURS = ([1, 2, 4], [0], [0, 1, 3, 4], [2], [3], [])
BY_HAND = {
    "add": lambda rows: rows.sum(0),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0).values,
    "min": lambda rows: rows.min(0).values,
    "var": lambda rows: rows.var(0, correction=0),
    "std": lambda rows: (rows.var(0, correction=0) + STD_EPS).sqrt(),
}


def by_hand(op, x=X):
    rows = [BY_HAND[op](x[near]) if near else torch.zeros_like(x[0]) for near in NEIGHBOURS]
    if op == "std":
        rows[5] = torch.full_like(x[0], STD_EPS**0.5)
    return torch.stack(rows)


def identity(h):
    return h


def diagonal(v):
    return torch.diag(v)


def test_the_six_node_graph_is_what_the_tests_say(six):
    rows = torch.tensor_split(six.indices, six.indptr[1:-1])
    assert [row.tolist() for row in rows] == [list(near) for near in NEIGHBOURS]


@pytest.mark.parametrize("op", BY_HAND)
def test_set_aggregators(six, op):
    torch.testing.assert_close(Hop(six).reduce(identity, X, op), by_hand(op))


def test_every_aggregator_has_a_definition_here():
    assert set(BY_HAND) | {"sum"} == set(AGGREGATORS)


def test_sum_without_an_operator_is_add(six):
    hop = Hop(six)
    assert torch.equal(hop.reduce(identity, X), hop.reduce(identity, X, "add"))


def test_message_is_applied_once_before_the_aggregation(six):
    calls = []

    def message(h):
        calls.append(h)
        return h * 2 + 1

    found = Hop(six).reduce(message, X, ("max", "mean"))
    assert len(calls) == 1
    torch.testing.assert_close(found[0], by_hand("max", X * 2 + 1))
    torch.testing.assert_close(found[1], by_hand("mean", X * 2 + 1))


def test_a_tuple_of_names_gives_a_tuple(six, dense):
    ops = ("sum", "std", "min", "add", "var", "max", "mean")
    src = torch.rand(6, dtype=torch.float64)
    found = Hop(six, src=src).reduce(identity, X, ops)
    assert isinstance(found, tuple)
    torch.testing.assert_close(found[0], dense(six) @ (src.unsqueeze(1) * X))
    for op, out in zip(ops[1:], found[1:], strict=True):
        # set aggregators ignore the operator
        torch.testing.assert_close(out, by_hand(op))


@pytest.mark.parametrize("parts", ["", "s", "d", "w", "l", "sd", "sdw", "sdl", "sdwl", "wl"])
def test_operator(six, dense, parts):
    draw = torch.Generator().manual_seed(1)
    vectors = {n: torch.rand(6, generator=draw, dtype=torch.float64) + 0.5 for n in "sdl"}
    weight = torch.rand(six.n_edges, generator=draw, dtype=torch.float64) + 0.5
    ones = torch.ones(6, dtype=torch.float64)
    hop = Hop(
        six,
        src=vectors["s"] if "s" in parts else None,
        dst=vectors["d"] if "d" in parts else None,
        diag=vectors["l"] if "l" in parts else None,
        weight=weight if "w" in parts else None,
    )
    matrix = dense(six, weight) if "w" in parts else dense(six)
    matrix = diagonal(vectors["d"] if "d" in parts else ones) @ matrix
    matrix = matrix @ diagonal(vectors["s"] if "s" in parts else ones)
    if "l" in parts:
        matrix = matrix + diagonal(vectors["l"])
    torch.testing.assert_close(hop.reduce(identity, X), matrix @ X)


def test_operator_on_a_block(dense):
    graph = Adjacency(torch.tensor([0, 2, 3]), torch.tensor([1, 3, 2]).int(), 4)
    draw = torch.Generator().manual_seed(2)
    src, dst, diag = (torch.rand(n, generator=draw, dtype=torch.float64) for n in (4, 2, 2))
    matrix = diagonal(dst) @ dense(graph) @ diagonal(src)
    matrix[:, :2] += diagonal(diag)  # the destinations are the first sources
    hop = Hop(graph, src=src, dst=dst, diag=diag)
    torch.testing.assert_close(hop.reduce(identity, X[:4]), matrix @ X[:4])


def test_attention_weight_replaces_the_operator(six, dense):
    draw = torch.Generator().manual_seed(3)
    h = torch.randn(6, 2, 3, generator=draw, dtype=torch.float64)
    a = torch.rand(six.n_edges, 2, generator=draw, dtype=torch.float64)
    ones = torch.full((6,), 9.0, dtype=torch.float64)
    hop = Hop(six, src=ones, dst=ones, diag=ones, weight=a[:, 0])
    want = torch.stack([dense(six, a[:, k]) @ h[:, k] for k in range(2)], 1)
    torch.testing.assert_close(hop.reduce(identity, h, weight=a), want)


def test_unknown_aggregator_is_refused(six):
    with pytest.raises(ValueError, match="aggregator 'median' does not exist; valid: sum, add"):
        Hop(six).reduce(identity, X, "median")


def test_edges_see_both_ends(six):
    h_src, h_dst = X[:, :1], 10 * X[:, 1:]
    got = Hop(six).edges(lambda s, d: torch.cat([s, d], 1), h_src, h_dst)
    want = [[X[j, 0], 10 * X[i, 1]] for i, near in enumerate(NEIGHBOURS) for j in near]
    assert got.tolist() == [[float(a), float(b)] for a, b in want]


def test_edges_and_softmax_are_attention_by_hand(six):
    hop = Hop(six)
    score = torch.tensor([0.3, -1.0, 2.0, 0.7, 1.5, 0.0], dtype=torch.float64).unsqueeze(1)
    a = hop.softmax(hop.edges(torch.add, score, -score))
    rows = []
    for i, near in enumerate(NEIGHBOURS):
        if near:
            p = torch.tensor([(score[j] - score[i]).exp().item() for j in near]).double()
            rows.append((p / p.sum()) @ X[near])
        else:
            rows.append(torch.zeros(2, dtype=torch.float64))
    got = hop.reduce(identity, X.unsqueeze(1), weight=a).squeeze(1)
    torch.testing.assert_close(got, torch.stack(rows))


@pytest.mark.parametrize("op", AGGREGATORS)
def test_gradcheck(six, op):
    hop = whole_hop(six, Need(1, "sym", "diag"), torch.float64)
    assert gradcheck(
        lambda x: hop.reduce(identity, x, op), X.clone().requires_grad_(), fast_mode=True
    )


def test_std_of_equal_neighbours_has_a_finite_gradient(six):
    x = torch.full((6, 2), 0.3, dtype=torch.float64, requires_grad=True)
    out = Hop(six).reduce(identity, x, "std")
    torch.testing.assert_close(out, torch.full_like(out, STD_EPS**0.5))
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_std_survives_a_variance_that_rounding_makes_negative(six):
    row = torch.linspace(1e4, 2e4, 64)
    x = row.repeat(6, 1).requires_grad_()
    hop = Hop(six)
    assert hop.reduce(identity, x, "var").min() < -STD_EPS
    out = hop.reduce(identity, x, "std")
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("operator", ["sym", "row", "none"])
@pytest.mark.parametrize("loops", ["none", "diag", "edges"])
def test_whole_hop_is_the_textbook_operator(six, dense, operator, loops):
    a = dense(six) + (torch.eye(6, dtype=torch.float64) if loops != "none" else 0)
    d_in, d_out = a.sum(1), a.sum(0)
    power = {"sym": (-0.5, -0.5), "row": (-1.0, 0.0), "none": (0.0, 0.0)}[operator]
    left = torch.where(d_in > 0, d_in ** power[0], 0)
    right = torch.where(d_out > 0, d_out ** power[1], 0)
    hop = whole_hop(six, Need(1, operator, loops), torch.float64)
    want = diagonal(left) @ a @ diagonal(right) @ X
    torch.testing.assert_close(hop.reduce(identity, X), want)
    assert (hop.diag is not None) == (loops == "diag")
    assert hop.graph.n_edges == six.n_edges + 6 * (loops == "edges")
    assert hop.degree.tolist() == [3, 1, 4, 1, 1, 0]


def test_lift_is_the_identity(six):
    assert Hop(six).lift(X) is X


def test_to_moves_every_part(six):
    parts = {
        n: torch.zeros(6) for n in ("src", "dst", "weight", "diag", "edge", "degree", "segment")
    }
    hop = Hop(six, **parts)
    assert hop.to("cpu") is hop
    moved = hop.to("meta")
    for name in ("graph", *parts):
        assert getattr(moved, name).device.type == "meta", name
    assert Hop(six).to("meta").src is None


def test_only_sum_takes_edge_weights(six):
    hop = whole_hop(six, Need(1), torch.float64)
    with pytest.raises(ValueError, match="'max' takes no edge weights"):
        hop.reduce(identity, X, "max", weight=torch.ones(hop.graph.n_edges, 1))


@pytest.mark.parametrize("op", ["add", "mean", "max", "min", "var", "std"])
def test_collect_is_reduce_of_gathered_rows(six, op):
    """Values of edges, of which every one is its source's, aggregate as sources do."""
    hop = Hop(six)
    h = torch.randn(6, 3, dtype=torch.float64)
    want = hop.reduce(lambda h: h, h, op)
    torch.testing.assert_close(hop.collect(h[six.indices], op), want, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="edges take 'add'"):
        hop.collect(h[six.indices], "sum")
