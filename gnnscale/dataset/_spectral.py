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
    is fixed and sums have one order, so that the result is a function of the graph. The vectors of
    the iteration are what fills memory: 2 k + 1 of N float64 numbers, then twice k.

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
    start = np.random.default_rng(0).normal(size=n)
    operator = LinearOperator((n, n), matvec=regularised(graph), dtype=np.float64)
    ncv = min(n, 2 * dimensions + 1)
    _, v = eigsh(operator, dimensions, which="LM", v0=start, ncv=max(ncv, 2), tol=1e-6)
    return rotated(v)


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
