"""Input features: normalised raw ones, and ones computed from the graph.

Spectral and diffusion features are those of Correct & Smooth (Huang et al., ICLR 2021,
arXiv:2010.13993; sec. B.2 of its appendix and the authors' code).
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.dataset._spectral import spectral

Matrix = np.ndarray | sp.csr_matrix
DIFFUSION_STEPS, DIFFUSION_RATE = 10, 0.5


def build(
    raw: Matrix | None,
    graph: Adjacency,
    kinds: Sequence[str],
    normalize: str,
    dimensions: int,
    name: str,
) -> Matrix:
    """The parts named by ``kinds`` side by side, [N, F] float32; sparse if every part is.

    Args:
        raw: [N, F] features of the source, or None.
        graph: what computed features are computed from.
        kinds: of raw, spectral, diffusion, degree, one_hot, in this order of columns.
        normalize: of raw ones: none, ``row`` or ``binary`` (``zscore`` needs the split: later).
        dimensions: columns of the spectral part.
        name: of the dataset, for messages.

    Raises: UsageError if a kind is repeated, or can't be computed here.
    """
    if not kinds or len(set(kinds)) < len(kinds):
        raise UsageError(
            f"dataset.features=[{','.join(kinds)}]: name one kind or more, each once; "
            "e.g. dataset.features=[raw,spectral]"
        )
    if raw is None and {"raw", "diffusion"} & set(kinds):
        raise UsageError(
            f"dataset.features=[{','.join(kinds)}]: {name} has no features of its own; "
            "type dataset.features=[one_hot], [degree] or [spectral]"
        )
    x = None if raw is None else _normalized(raw, normalize)
    parts = []
    for kind in kinds:
        if kind == "raw":
            parts.append(x)
        elif kind == "diffusion":
            parts.append(diffusion(x, graph))
        elif kind == "spectral":
            parts.append(spectral(graph, dimensions))
        elif kind == "degree":
            parts.append(degree(graph))
        else:
            parts.append(sp.identity(graph.n_dst, np.float32, "csr"))
    if len(parts) == 1:
        return parts[0]
    if all(sp.issparse(p) for p in parts):
        return sp.hstack(parts, "csr", np.float32)
    return np.hstack([p.toarray() if sp.issparse(p) else p for p in parts]).astype(np.float32)


def _normalized(x: Matrix, how: str) -> Matrix:
    """``row``: x_i / sum_f |x_if|, rows of zeros stay; ``binary``: 1 where x is not 0."""
    x = x.astype(np.float32)
    if sp.issparse(x):
        x = x.tocsr()
        x.eliminate_zeros()
    if how == "binary":
        if not sp.issparse(x):
            return (x != 0).astype(np.float32)
        x.data = np.ones_like(x.data)
    if how == "row":
        total = np.asarray(abs(x).sum(1)).reshape(-1, 1)
        scale = np.divide(1, total, where=total != 0, out=np.zeros_like(total))
        return sp.diags(scale.ravel(), dtype=np.float32) @ x if sp.issparse(x) else x * scale
    return x


def zscore(x: Tensor, train: Tensor) -> Tensor:
    """(x - mean) / std, both per column over the training nodes; constant columns only shifted.

    Shapes: x [N, F], train [n] node ids. The std is the population's, as in GraphSAINT's code.
    """
    seen = x[train].double()
    mean, std = seen.mean(0), seen.std(0, correction=0)
    return ((x - mean) / torch.where(std > 0, std, 1.0)).float()


def _matrix(graph: Adjacency) -> sp.csr_matrix:
    """A [N, N] in float64, entry (i, j) for the edge j -> i."""
    ones = np.ones(graph.n_edges)
    return sp.csr_matrix(
        (ones, graph.indices.numpy(), graph.indptr.numpy()), shape=(graph.n_dst, graph.n_src)
    )


def _inverse_root(d: np.ndarray) -> np.ndarray:
    return np.divide(1, np.sqrt(d), where=d > 0, out=np.zeros_like(d))


def diffusion(x: Matrix, graph: Adjacency) -> np.ndarray:
    """Ten steps of x <- x - (I - S) x / 2, S = D~^-1/2 (A + I) D~^-1/2; as wide as ``x``."""
    a = _matrix(graph) + sp.identity(graph.n_dst, format="csr")
    root = _inverse_root(np.asarray(a.sum(1)).ravel())
    s = (sp.diags(root) @ a @ sp.diags(root)).astype(np.float32)
    x = x.toarray() if sp.issparse(x) else x
    for _ in range(DIFFUSION_STEPS):
        x = (1 - DIFFUSION_RATE) * x + DIFFUSION_RATE * (s @ x)
    return x.astype(np.float32)


def degree(graph: Adjacency) -> np.ndarray:
    """log(1 + d_i), d the in-degree: [N, 1]."""
    return np.log1p(graph.in_degree.numpy().astype(np.float32)).reshape(-1, 1)
