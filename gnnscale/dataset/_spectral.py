"""Spectral features of Correct & Smooth, of graphs as large as the vectors of the iteration allow.

Huang et al., ICLR 2021, arXiv:2010.13993 (sec. B.2 of its appendix and the authors' code).
"""

from collections.abc import Callable

import numba
import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from gnnscale.core.compiled import compiled
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency

TOLERANCE, ROUGH, MISSED = 1e-6, 1e-2, 1e-4
"""Of eigenvalues, relatively: as the authors have it; for a bound from below; by which one larger
than the least of those found was overlooked."""
ROWS = 1 << 16
"""Rows that are rotated at a time."""


@compiled(parallel=True)
def _product(indptr, indices, root, scaled, shift, v, out):
    """Row i of v + R (A + shift 1 1^T) R v, R = diag(root) and scaled = R v."""
    for i in numba.prange(len(indptr) - 1):
        total = shift
        for e in range(indptr[i], indptr[i + 1]):
            total += scaled[indices[e]]
        out[i] = v[i] + root[i] * total


@compiled(parallel=True)
def _one_way(indptr, indices):
    """How many edges have no reverse; rows ascend."""
    count = 0
    for i in numba.prange(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            row = indices[indptr[j] : indptr[j + 1]]
            at = np.searchsorted(row, i)
            count += not (at < len(row) and row[at] == i)
    return count


def regularised(graph: Adjacency) -> Callable[[np.ndarray], np.ndarray]:
    """v -> (I + D_t^-1/2 (A + t / N 1 1^T) D_t^-1/2) v, D_t = D + t I, t the mean degree.

    No matrix is made: edges are read where they are, and have no values. Shapes: [N] -> [N].
    """
    indptr, indices, n = graph.indptr.numpy(), graph.indices.numpy(), graph.n_dst
    degrees = graph.in_degree.numpy().astype(np.float64)
    tau = degrees.mean() or 1.0
    root = 1 / np.sqrt(degrees + tau)

    def product(v: np.ndarray) -> np.ndarray:
        v, out = v.ravel(), np.empty(n)
        scaled = root * v
        _product(indptr, indices, root, scaled, tau / n * scaled.sum(), v, out)
        return out

    return product


def spectral(graph: Adjacency, dimensions: int) -> np.ndarray:
    """Leading eigenvectors of a regularised adjacency, rotated towards the axes.

    With t the mean degree, those of I + D_t^-1/2 (A + t / N 1 1^T) D_t^-1/2 with D_t = D + t I,
    largest in absolute value. Columns V are then rotated as V U W^T, with V[p]^T = U S W^T and p
    the first k pivots of a column-pivoted QR of V^T (Damle, Minden & Ying 2019). The start vector
    is fixed and sums have one order, so that the result is a function of the graph (where an
    eigenvalue repeats, of its numbering too). The vectors of the iteration are what fills memory:
    2 k + 1 of N float64 numbers, then twice k.

    Shapes: -> [N, k] float32. Raises: UsageError if the graph is directed or has too few nodes.
    """
    n = graph.n_dst
    if not 1 <= dimensions < n - 1:
        raise UsageError(
            f"dataset.dimensions={dimensions}: {n} nodes have at most {n - 2} spectral features; "
            f"type dataset.dimensions={max(1, min(32, n - 2))}"
        )
    if _one_way(graph.indptr.numpy(), graph.indices.numpy()):
        raise UsageError(
            "dataset.features: spectral features need an undirected graph; "
            "type dataset.reverse_edges=true"
        )
    return rotated(leading(regularised(graph), n, dimensions))


def leading(product: Callable[[np.ndarray], np.ndarray], n: int, k: int) -> np.ndarray:
    """Eigenvectors of the k largest eigenvalues of a symmetric map without negative ones, [n, k].

    Lanczos' iteration from one vector meets an eigenvalue once, however often it is there (alike
    components of a graph repeat theirs). Hence what is orthogonal to the vectors found is searched
    for one that is larger than the least of them, and takes its place, until there is none.
    """
    rng = np.random.default_rng(0)

    def search(of: Callable, count: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        ncv = max(min(n, max(2 * count + 1, 20)), 2)
        return eigsh(
            LinearOperator((n, n), matvec=of, dtype=np.float64), count, which="LM",
            v0=rng.normal(size=n), ncv=ncv, tol=tolerance,
        )  # fmt: skip

    def apart(x: np.ndarray) -> np.ndarray:
        return x - v @ (v.T @ x)

    values, v = search(product, k, TOLERANCE)
    while True:
        least = values.argmin()
        beyond, _ = search(lambda x: apart(product(apart(x.ravel()))), 1, ROUGH)
        if beyond[0] <= values[least] * (1 + MISSED):
            return v
        value, more = search(lambda x: apart(product(apart(x.ravel()))), 1, TOLERANCE)
        values[least], v[:, least] = value[0], more[:, 0]


def rotated(v: np.ndarray) -> np.ndarray:
    """V U W^T in float32, see ``spectral``. Shapes: v [N, k] -> [N, k]."""
    k = v.shape[1]
    _, pivots = scipy.linalg.qr(v.T.copy(), mode="r", pivoting=True, overwrite_a=True,
                                check_finite=False)  # fmt: skip
    u, _, w = np.linalg.svd(v[pivots[:k]].T)
    out, turn = np.empty(v.shape, np.float32), u @ w
    for at in range(0, len(v), ROWS):
        out[at : at + ROWS] = v[at : at + ROWS] @ turn
    return out
