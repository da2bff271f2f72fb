import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnscale.core.errors import UsageError
from gnnscale.dataset._edges import adjacency
from gnnscale.dataset._features import build, degree, diffusion, zscore
from gnnscale.dataset._spectral import regularised, rotated, spectral

X = np.array([[2, 0], [0, 4], [1, 3], [0, 0], [-1, 1], [0, 1]], np.float64)


def graph(nodes=6, edges=((0, 1), (1, 2), (2, 3), (3, 0), (3, 4)), reverse_edges=True):
    src, dst = np.array(edges).T
    made, _, _ = adjacency(
        src, dst, nodes, weight=None, reverse_edges=reverse_edges, self_loops="remove"
    )
    return made


def random_graph(n=60, edges=150):
    src, dst = np.random.default_rng(0).integers(0, n, (2, edges))
    return graph(n, list(zip(src, dst, strict=True)))


def dense_matrix(g):
    a = np.zeros((g.n_dst, g.n_dst))
    a[g.dst.numpy(), g.indices.numpy()] = 1
    return a


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_normalisation_of_dense_and_sparse_rows(kind):
    def made(how):
        x = build(kind(X), graph(), ["raw"], how, 4, "toy")
        assert sp.issparse(x) == (kind is sp.csr_matrix)
        assert x.dtype == np.float32
        return x.toarray() if sp.issparse(x) else x

    assert made("none").tolist() == X.tolist()
    assert made("row").tolist() == [[1, 0], [0, 1], [0.25, 0.75], [0, 0], [-0.5, 0.5], [0, 1]]
    assert made("binary").tolist() == (X != 0).astype(float).tolist()


def test_zscore_uses_training_nodes_only():
    x, train = torch.from_numpy(X).float(), torch.tensor([0, 1, 2])
    out = zscore(x, train)
    torch.testing.assert_close(out[train].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[train].std(0, correction=0), torch.ones(2))
    poisoned = x.clone()
    poisoned[3:] = float("nan")
    assert torch.equal(zscore(poisoned, train)[:3], out[:3])
    constant = zscore(torch.ones(6, 1), train)
    assert torch.equal(constant, torch.zeros(6, 1))


def test_degree_and_one_hot():
    g = graph()
    assert degree(g).ravel().tolist() == pytest.approx(np.log1p([2, 2, 2, 3, 1, 0]).tolist())
    both = build(None, g, ["one_hot", "degree"], "none", 4, "toy")
    assert both.shape == (6, 7)
    assert both[:, :6].tolist() == np.eye(6).tolist()
    assert sp.issparse(build(sp.csr_matrix(X), g, ["raw", "one_hot"], "none", 4, "toy"))


def test_diffusion_is_ten_lazy_steps():
    g = graph()
    a = dense_matrix(g) + np.eye(6)
    root = 1 / np.sqrt(a.sum(1))
    lazy = 0.5 * np.eye(6) + 0.5 * (root[:, None] * a * root)
    wanted = np.linalg.matrix_power(lazy, 10) @ X
    np.testing.assert_allclose(diffusion(X.astype(np.float32), g), wanted, atol=1e-5)


def test_spectral_features_span_the_leading_eigenspace():
    """Against a dense eigendecomposition: same subspace, orthonormal, pivots axis-aligned."""
    g, k = random_graph(), 8
    a = dense_matrix(g)
    d = a.sum(1)
    tau = d.mean()
    root = 1 / np.sqrt(d + tau)
    full = np.eye(60) + root[:, None] * (a + tau / 60) * root
    values, vectors = np.linalg.eigh(full)
    order = np.argsort(-np.abs(values))[:k]
    assert abs(values[order[-1]]) - np.sort(np.abs(values))[-k - 1] > 1e-3, "a gap to speak of"
    z = spectral(g, k).astype(np.float64)
    np.testing.assert_allclose(z.T @ z, np.eye(k), atol=1e-4)
    v = vectors[:, order]
    np.testing.assert_allclose(z @ z.T, v @ v.T, atol=1e-3)
    # the rotation is the polar factor: the pivot rows form a symmetric positive matrix
    import scipy.linalg

    _, pivots = scipy.linalg.qr(z.T, mode="r", pivoting=True)
    block = z[pivots[:k]]
    assert np.linalg.norm(block - block.T) < 1e-3 * np.linalg.norm(block)
    assert np.array_equal(spectral(g, k), spectral(g, k))


@pytest.mark.parametrize(
    ("kinds", "raw", "message"),
    [
        ([], X, "name one kind or more"),
        (["raw", "raw"], X, "each once"),
        (["raw"], None, "toy has no features of its own; type dataset.features="),
        (["diffusion"], None, "has no features of its own"),
        (["spectral"], None, "dataset.dimensions=5: 6 nodes have at most 4"),
    ],
)
def test_what_cannot_be_computed_is_refused(kinds, raw, message):
    with pytest.raises(UsageError, match=message):
        build(raw, graph(), kinds, "none", 5, "toy")


def test_spectral_features_of_a_directed_graph_are_refused():
    with pytest.raises(UsageError, match=r"dataset\.reverse_edges=true"):
        spectral(graph(reverse_edges=False), 2)


def test_the_regularised_operator_is_the_dense_one():
    g = random_graph()
    a = dense_matrix(g)
    tau = a.sum(1).mean()
    root = 1 / np.sqrt(a.sum(1) + tau)
    full = np.eye(60) + root[:, None] * (a + tau / 60) * root
    v = np.random.default_rng(1).normal(size=60)
    np.testing.assert_allclose(regularised(g)(v), full @ v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(regularised(g)(v[:, None]), full @ v, rtol=1e-12, atol=1e-12)


def test_spectral_features_of_several_components_span_a_repeated_eigenvalue():
    """Three triangles and a hexagon: eigenvalues come in groups, subspaces are what is unique."""
    ring = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (6, 7), (7, 8), (8, 6)]
    g = graph(15, [*ring, *((9 + i, 9 + (i + 1) % 6) for i in range(6))])
    a = dense_matrix(g)
    assert (a.sum(1) == 2).all()
    values, vectors = np.linalg.eigh(np.eye(15) + (a + 2 / 15) / 4)
    order = np.argsort(-values)
    assert values[order[3]] - values[order[4]] > 0.1, "four components, then a gap"
    assert np.ptp(values[order[1:4]]) < 1e-12, "three of them alike"
    z, v = spectral(g, 4).astype(np.float64), vectors[:, order[:4]]
    np.testing.assert_allclose(z @ z.T, v @ v.T, atol=1e-5)
    assert all(np.ptp(z[near], axis=0).max() < 1e-5 for near in ([0, 1, 2], [6, 7, 8]))


def test_the_rotation_is_by_blocks_of_rows_and_orthogonal(monkeypatch):
    v = np.linalg.qr(np.random.default_rng(2).normal(size=(50, 6)))[0]
    whole = rotated(v)
    np.testing.assert_allclose(whole @ whole.T, v @ v.T, atol=1e-6)
    monkeypatch.setattr("gnnscale.dataset._spectral.ROWS", 7)
    np.testing.assert_allclose(rotated(v), whole, atol=1e-7)


def test_one_missing_reverse_makes_a_graph_directed():
    g = random_graph()
    keep = np.arange(g.n_edges) != g.n_edges // 2
    src, dst = g.indices.numpy()[keep], g.dst.numpy()[keep]
    made, _, _ = adjacency(src, dst, 60, weight=None, reverse_edges=False, self_loops="remove")
    assert made.n_edges == g.n_edges - 1
    with pytest.raises(UsageError, match="need an undirected graph"):
        spectral(made, 2)
