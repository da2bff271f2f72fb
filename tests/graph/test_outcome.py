from dataclasses import replace
from itertools import product

import pytest
import torch

from gnnscale.core.data import Task
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.outcome import Known, Propagation, Settings, matrix, propagate
from gnnscale.graph.simple import simple

F64 = torch.float64
KINDS = ("DAD", "DA", "AD")
AUTO = Settings("autoscale", 0.8, "DAD", None, 0.7, "DA")
FIXED = Settings("fixed", 1.0, "DAD", 1.0, 0.7, "DA")
WAYS = [replace(AUTO, correct_matrix=a, smooth_matrix=b) for a, b in product(KINDS, KINDS)] + [
    replace(FIXED, correct_matrix=a, correct_alpha=0.9, scale=3.0) for a in KINDS
]


@pytest.fixture
def ring(sixty):
    """Twelve nodes in one component: a ring with chords; labels of four are known."""
    src = torch.arange(12)
    chords = torch.tensor([[0, 2, 3, 7], [5, 8, 10, 11]])
    graph, _ = simple(torch.cat([src, chords[0]]), torch.cat([(src + 1) % 12, chords[1]]), 12)
    splits = {"train": torch.tensor([1, 4, 6, 11]), "valid": torch.tensor([0, 2]),
              "test": torch.tensor([3, 5])}  # fmt: skip
    return sixty.with_(graph=graph, x=sixty.x[:12], y=torch.arange(12) % 3, splits=splits,
                       task=Task(classes=3))  # fmt: skip


@pytest.fixture
def z(ring):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(12, 3, generator=draw, dtype=F64).softmax(1)


def known(data, z):
    return Known.of(data, data.splits["train"], z)


def rest(data):
    return ~data.mask("train")


def dense_matrix(kind, a):
    d = a.sum(1)
    left, right = {"DAD": (-0.5, -0.5), "DA": (-1, 0), "AD": (0, -1)}[kind]
    d = torch.where(d > 0, d, torch.inf)
    return (d**left if left else torch.ones_like(d))[:, None] * a * (
        d**right if right else torch.ones_like(d))  # fmt: skip


def by_rows(how, a, z, y, labeled, steps):
    """The method node by node and without any of our code."""
    n, c = z.shape
    e = torch.zeros(n, c, dtype=F64)
    g = torch.zeros(n, c, dtype=F64)
    for i in labeled:
        e[i] = torch.eye(c, dtype=F64)[y[i]] - z[i]
    m, r, alpha = dense_matrix(how.correct_matrix, a), e, how.correct_alpha
    for _ in range(steps):
        r = alpha * (m @ r) + (1 - alpha) * e
        if how.correct == "autoscale":
            r = r.clamp(-1, 1)
        else:
            for i in labeled:
                r[i] = e[i]
    for i in range(n):
        if how.correct == "fixed":
            s = how.scale
        else:
            s = (e.abs().sum() / len(labeled) / r[i].abs().sum()).item()
            s = 1.0 if s > 1000 else s
        g[i] = z[i] + s * r[i]
    for i in labeled:
        g[i] = torch.eye(c, dtype=F64)[y[i]]
    m, r = dense_matrix(how.smooth_matrix, a), g
    for _ in range(steps):
        r = (how.smooth_alpha * (m @ r) + (1 - how.smooth_alpha) * g).clamp(0, 1)
    return r


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("steps", [1, 7])
def test_the_whole_method_node_by_node(how, steps, ring, z, dense):
    want = by_rows(how, dense(ring.graph), z, ring.y, ring.splits["train"], steps)
    got = Propagation(steps)(how, ring, z, known(ring, z))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_sums_beyond_a_probability_are_clamped(ring, z, dense):
    """The middle of a star is the target of nine whole labels and errors under A D^-1."""
    graph, _ = simple(torch.zeros(9, dtype=torch.int64), torch.arange(1, 10), 12)
    data = ring.with_(graph=graph, y=torch.ones(12, dtype=torch.int64))
    data = data.with_(splits={**ring.splits, "train": torch.arange(1, 10)})
    how = replace(AUTO, correct_matrix="AD", smooth_matrix="AD")
    alone = z.clone()
    alone[10:] = torch.tensor([0.2, 0.5, 0.3], dtype=F64)  # no neighbour, nothing to scale
    got = Propagation(3)(how, data, alone, known(data, alone))
    want = by_rows(how, dense(graph)[:10, :10], alone[:10], data.y, range(1, 10), 3)
    torch.testing.assert_close(got[:10], want, rtol=1e-12, atol=1e-12)
    assert got[0, 1:].tolist() == [1, 0]
    torch.testing.assert_close(got[10:], 0.3 * alone[10:])


def test_by_hand(ring):
    """Two nodes, one edge, one step, alpha 1/2: E = (-.6, .6), both rows of R are (-.3, .3), which
    autoscale doubles; the other node becomes (.1, .9), and (.05, .95) when smoothed.
    """
    src = torch.tensor([0, 1])
    data = ring.with_(graph=Adjacency.from_edges(src, 1 - src, 2), y=torch.tensor([1, 0]),
                      splits={"train": torch.tensor([0])}, task=Task(classes=2))  # fmt: skip
    z = torch.tensor([[0.6, 0.4], [0.7, 0.3]], dtype=F64)
    how = Settings("autoscale", 0.5, "DA", None, 0.5, "DA")
    spread, labels = Propagation(1), known(data, z)
    want = torch.tensor([[-0.6, 0.6], [-0.6, 0.6]], dtype=F64)
    torch.testing.assert_close(spread.residual(how, data, z, labels), want)
    want = torch.tensor([[0.05, 0.95], [0.05, 0.95]], dtype=F64)
    torch.testing.assert_close(spread(how, data, z, labels), want)


@pytest.mark.parametrize("way", [AUTO, FIXED])
def test_alpha_of_zero_corrects_labelled_nodes_alone(way, ring, z):
    how = replace(way, correct_alpha=0.0)
    corrected = z + Propagation(50).residual(how, ring, z, known(ring, z))
    assert torch.equal(corrected[rest(ring)], z[rest(ring)])
    assert (corrected - z)[ring.splits["train"]].abs().amin() > 0.01


def test_alpha_of_zero_smooths_labelled_nodes_alone(ring, z):
    how = Settings("none", None, None, None, 0.0, "DAD")
    got = Propagation(50)(how, ring, z, known(ring, z))
    assert torch.equal(got[rest(ring)], z[rest(ring)])
    train = ring.splits["train"]
    assert torch.equal(got[train], torch.eye(3, dtype=F64)[ring.y[train]])


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_and_alpha_of_one_is_the_harmonic_extension(kind, ring, z, dense):
    how = replace(FIXED, correct_matrix=kind)
    error = known(ring, z).put(z) - z
    m, u, t = dense_matrix(kind, dense(ring.graph)), rest(ring), ring.mask("train")
    eye = torch.eye(int(u.sum()), dtype=F64)
    want = torch.linalg.solve(eye - m[u][:, u], m[u][:, t] @ error[t])
    for steps in (1, 50, 3000):
        got = Propagation(steps).residual(how, ring, z, known(ring, z))
        assert torch.equal(got[t], error[t])
    torch.testing.assert_close(got[u], want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", [AUTO, replace(FIXED, scale=7.0)])
def test_without_an_error_nothing_is_corrected(way, ring, z):
    right = known(ring, z).put(z)
    assert not Propagation(50).residual(way, ring, right, known(ring, z)).any()


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_da_keeps_the_sum_of_rows(alpha, ring, z):
    how = Settings("none", None, None, None, alpha, "DA")
    got = Propagation(50)(how, ring, z, known(ring, z))
    torch.testing.assert_close(got.sum(1), torch.ones(12, dtype=F64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_label_propagation_is_the_dense_inverse(kind, ring, dense):
    """(1 - alpha) (I - alpha M)^-1 Y, also from any constant prediction that is 0."""
    hop, nothing = matrix(kind, ring, F64), torch.zeros(12, 3, dtype=F64)
    y = known(ring, nothing).put(nothing)
    m = dense_matrix(kind, dense(ring.graph))
    want = 0.1 * torch.linalg.solve(torch.eye(12, dtype=F64) - 0.9 * m, y)
    assert 0 < want.max() < 1, "no clamp is active"
    got = propagate(lambda r: hop.reduce(lambda h: h, r), y, 0.9, 400, lambda r: r.clamp(0, 1))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_residuals_that_would_grow_a_thousandfold_are_left(sixty):
    """A path: far from the label autoscale gives up, and at infinity there is nothing to scale."""
    src = torch.arange(29)
    graph, _ = simple(src, src + 1, 32)
    data = sixty.with_(graph=graph, y=torch.zeros(32, dtype=torch.int64), task=Task(classes=2),
                       splits={"train": torch.tensor([0])})  # fmt: skip
    z = torch.full((32, 2), 0.5, dtype=F64)
    how = replace(AUTO, correct_alpha=0.3, correct_matrix="DA")
    plain, scaled = (
        torch.zeros(32, 2, dtype=F64),
        Propagation(50).residual(how, data, z, known(data, z)),
    )
    plain[0] = torch.tensor([0.5, -0.5], dtype=F64)
    hop = matrix("DA", data, F64)
    plain = propagate(lambda r: hop.reduce(lambda h: h, r), plain, 0.3, 50)
    far = 1.0 / plain.abs().sum(1) > 1000
    assert far[4:30].all()
    assert not far[:3].any()
    torch.testing.assert_close(scaled[far], plain[far])
    torch.testing.assert_close(scaled[~far].abs().sum(1), torch.ones(int((~far).sum()), dtype=F64))
    assert not scaled[30:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_of_the_undirected_graph_without_loops(kind, six, dense, sixty):
    loop = torch.tensor([3])
    src, dst = torch.cat([six.indices.long(), loop]), torch.cat([six.dst.long(), loop])
    for graph in (six, Adjacency.from_edges(src, dst, 6)):
        data = sixty.with_(graph=graph, x=sixty.x[:6])
        a = dense(six)
        want = dense_matrix(kind, ((a + a.T) > 0).double())
        got = matrix(kind, data, F64).reduce(lambda h: h, torch.eye(6, dtype=F64))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_of_a_weighted_graph_are_weighted(kind, ring, dense):
    graph = ring.graph
    weight = 1.0 / (1 + graph.indices + graph.dst).float()
    data = ring.with_(weight=weight)
    want = dense_matrix(kind, dense(graph, weight.double()))
    got = matrix(kind, data, F64).reduce(lambda h: h, torch.eye(12, dtype=F64))
    torch.testing.assert_close(got, want)
    lopsided = ring.with_(weight=weight * torch.arange(1, graph.n_edges + 1))
    got = matrix(kind, lopsided, F64).reduce(lambda h: h, torch.eye(12, dtype=F64))
    torch.testing.assert_close(got, dense_matrix(kind, dense(graph)))


def test_labels_that_are_not_known_change_nothing(ring, z):
    part = ring.with_(y=torch.where(torch.arange(12) == 4, -1, ring.y))
    fewer = {**ring.splits, "train": torch.tensor([1, 6, 11])}
    got = Propagation(9)(AUTO, part, z, known(part, z))
    want = Propagation(9)(AUTO, ring, z, known(ring.with_(splits=fewer), z))
    assert torch.equal(got, want)
    several = torch.nn.functional.one_hot(ring.y, 3).float()
    several[4] = torch.nan
    got = Propagation(9)(FIXED, ring, z, known(ring.with_(y=several), z))
    assert torch.isfinite(got).all()


def test_nothing_is_propagated_twice_for_the_same_graph(ring, z):
    spread, labels = Propagation(3), known(ring, z)
    spread(AUTO, ring, z, labels)
    hops = dict(spread.kept[1])
    spread(AUTO, ring, z, labels)
    assert len(hops) == 2
    assert all(spread.kept[1][key] is hop for key, hop in hops.items())
    spread(AUTO, ring.with_(name="other"), z, labels)
    assert all(spread.kept[1][key] is not hop for key, hop in hops.items())
