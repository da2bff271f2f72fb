"""Fixed operators applied to features beforehand, by blocks of columns so that memory is bounded.

SGC (Wu et al., ICML 2019, arXiv:1902.07153) and SIGN (Frasca et al., 2020, arXiv:2004.11198).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.norm import whole_hop

BLOCK = 1 << 28
"""Bytes of one block of columns; about four of them are in use at a time."""

Operator = Callable[[Tensor], Tensor]
"""A linear map of node features, [N, f] -> [N, f], column by column."""


class Chain(NamedTuple):
    """The powers 1 .. ``powers`` of one operator."""

    operator: Operator
    powers: int


def one_step(
    adj: Adjacency, need: Need, dtype: torch.dtype, weight: Tensor | None = None
) -> Operator:
    """The operator that a model's hop would be: sym, row or none, with or without self-loops."""
    hop = whole_hop(adj, need, dtype, weight)
    return lambda x: hop.reduce(lambda h: h, x)


def diffusion(step: Operator, alpha: float, tolerance: float) -> Operator:
    """alpha (I - (1 - alpha) S)^-1 x by power iteration, H <- (1 - alpha) S H + alpha x from H = x.

    The error falls as (1 - alpha)^k; k is the least with (1 - alpha)^k <= tolerance, whatever the
    features are, so that no block of columns depends on the others. With S = D^-1/2 A D^-1/2 the
    Frobenius norm of the error is at most 2 tolerance ||x||.
    """
    steps = math.ceil(math.log(tolerance) / math.log1p(-alpha))

    def apply(x: Tensor) -> Tensor:
        h = x
        for _ in range(steps):
            h = (1 - alpha) * step(h) + alpha * x
        return h

    return apply


@compiled(parallel=True)
def _triangles(indptr, indices, out_ptr, out_indices, marks):
    """Per edge j -> i, how many k have j -> k -> i, none of the three the same node."""
    count = np.zeros(len(indices), np.int64)
    for i in numba.prange(len(indptr) - 1):
        mark = marks[numba.get_thread_id()]
        mine = indices[indptr[i] : indptr[i + 1]]
        for k in mine:
            mark[k] = True
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            if j == i:
                continue
            theirs = out_indices[out_ptr[j] : out_ptr[j + 1]]
            if len(theirs) <= 8 * len(mine):
                for k in theirs:
                    count[e] += mark[k] and k != i and k != j
            else:  # a hub: look up the few in its sorted row
                for k in mine:
                    at = np.searchsorted(theirs, k)
                    found = at < len(theirs) and theirs[at] == k
                    count[e] += found and k != i and k != j
        for k in mine:
            mark[k] = False
    return count


def triangle_counts(adj: Adjacency) -> Tensor:
    """The entries of A o A^2 at the edges of a simple graph without its self-loops, [E] int64."""
    back = adj.T  # rows ascend: the hub's branch searches in them
    marks = np.zeros((numba.get_num_threads(), adj.n_src), np.bool_)
    return torch.from_numpy(
        _triangles(
            adj.indptr.numpy(), adj.indices.numpy(), back.indptr.numpy(), back.indices.numpy(),
            marks,
        )
    )  # fmt: skip


def triangle(adj: Adjacency, dtype: torch.dtype) -> Operator:
    """A o A^2 with rows summing to 1; 0 for nodes in no triangle. Edge weights have no part in it.

    SIGN, sec. 4 (the triangle-based operator; the weighting by triangles per edge is that of the
    GA-MLP authors' code).
    """
    return one_step(adj, Need(1, "row"), dtype, triangle_counts(adj).double())


def bethe(adj: Adjacency, dtype: torch.dtype) -> Operator:
    """8 I - H(sqrt c) with H(r) = (r^2 - 1) I - r A + D and c the mean degree.

    Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116 (GA-MLP-H), shifted as in its code.
    """
    c = adj.n_edges / max(adj.n_dst, 1)
    hop = Hop(adj, dst=torch.full((adj.n_dst,), math.sqrt(c), dtype=dtype),
              diag=(9 - c - adj.in_degree.double()).to(dtype))  # fmt: skip
    return lambda x: hop.reduce(lambda h: h, x)


def two_steps(adj: Adjacency, dtype: torch.dtype) -> Operator:
    """min(A^2, 1): the pairs that two steps join, a node and itself too. Edge weights have no part.

    Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116 (``min_triangle`` of its code). The pairs are
    held in memory, at most sum_i d_i^2 of them.
    """
    ones = np.ones(adj.n_edges, np.float32)
    a = scipy.sparse.csr_matrix(
        (ones, adj.indices.numpy(), adj.indptr.numpy()), (adj.n_dst, adj.n_src)
    )
    two = a @ a
    two.sort_indices()
    pairs = Adjacency(
        torch.from_numpy(two.indptr.astype(np.int64)),
        torch.from_numpy(two.indices.astype(np.int32)), adj.n_src,
    )  # fmt: skip
    return one_step(pairs, Need(1), dtype)


def columns(x: Tensor | SparseRows, width: int) -> Iterator[tuple[int, Tensor]]:
    """(first column, [N, <= width] dense block) of features that may be sparse."""
    if isinstance(x, Tensor):
        for at in range(0, x.shape[1], width):
            yield at, x[:, at : at + width].contiguous()
        return
    by_column = x.rows.T
    for at in range(0, x.shape[1], width):
        size = min(width, x.shape[1] - at)
        a, b = int(by_column.indptr[at]), int(by_column.indptr[at + size])
        block = torch.zeros(len(x), size, dtype=x.dtype)
        column = torch.repeat_interleave(
            torch.arange(size), by_column.in_degree[at : at + size], output_size=b - a
        )
        block[by_column.indices[a:b].long(), column] = x.values[by_column.edges[a:b]]
        yield at, block


def fill(
    out: Any,
    x: Tensor | SparseRows,
    chains: Sequence[Chain],
    keep: slice = slice(None),
    block: int = BLOCK,
) -> None:
    """Write X and the powers of every chain into the stack ``out``, block of columns by block.

    Args:
        out: [N, R, F] array, in memory or mapped from disk; its type may be narrower.
        x: [N, F] features. chains: R - 1 powers in all, after X itself.
        keep: which of the R + ... columns are written, e.g. ``slice(-1, None)`` for the last.
        block: bytes of one block.

    Raises: OverflowError if a finite value does not fit into the type of ``out``.
    """
    size = torch.finfo(x.dtype).bits // 8
    most, narrower = float(np.finfo(out.dtype).max), np.finfo(out.dtype).bits < 8 * size
    table = torch.from_numpy(out)  # copies by all threads
    wanted = range(1 + sum(chain.powers for chain in chains))[keep]
    with torch.no_grad():
        for at, first in columns(x, max(1, block // (size * max(len(x), 1)))):
            for r, h in enumerate(_powers(first, chains)):
                if r not in wanted:
                    continue
                if narrower:
                    large = h.abs()
                    if bool(((large > most) & large.isfinite()).any()):
                        raise OverflowError(f"{float(large[large.isfinite()].max()):.3g}")
                table[:, r - wanted.start, at : at + h.shape[1]].copy_(h)


def _powers(x: Tensor, chains: Sequence[Chain]) -> Iterator[Tensor]:
    yield x
    for operator, powers in chains:
        h = x
        for _ in range(powers):
            h = operator(h)
            yield h


def propagated(data: GraphData, need: Need) -> Tensor | SparseRows:
    """P X of the operator that ``need`` names, own entries included; sparse where X is."""
    hop = whole_hop(data.graph, need, data.x.dtype, data.weight)
    if isinstance(data.x, Tensor):
        return hop.reduce(lambda x: x, data.x)

    def ones(n: int, factor: Tensor | None) -> Any:
        return scipy.sparse.diags(np.ones(n) if factor is None else factor.double().numpy())

    n, weight = data.nodes, np.ones(data.graph.n_edges)
    if hop.weight is not None:
        weight = hop.weight.double().numpy()
    a = scipy.sparse.csr_matrix(
        (weight, hop.graph.indices.numpy(), hop.graph.indptr.numpy()), (n, n)
    )
    p = ones(n, hop.dst) @ a @ ones(n, hop.src)
    if hop.diag is not None:
        p = p + ones(n, hop.diag)
    entries = data.x.values.double().numpy()
    columns, rows = data.x.rows.indices.numpy(), data.x.rows.indptr.numpy()
    x = scipy.sparse.csr_matrix((entries, columns, rows), tuple(data.x.shape))
    px = (p @ x).tocsr()
    return SparseRows(
        torch.from_numpy(px.indptr.astype(np.int64)),
        torch.from_numpy(px.indices.astype(np.int32)),
        torch.from_numpy(px.data).to(data.x.dtype), data.x.shape[1],
    )  # fmt: skip
