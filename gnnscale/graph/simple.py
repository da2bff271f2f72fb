"""Any edge list as a simple undirected graph: compiled, in memory proportional to the edges."""

import numba
import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency

MOST_NODES = 2**30
"""Rows hold 2 * neighbour + direction in 32 bits while they are sorted."""


@compiled()
def _scatter(src, dst, nodes):
    """Unsorted rows of 2 j + b for both directions of every edge; b = 0 where j -> i was given."""
    indptr = np.zeros(nodes + 1, np.int64)
    loops = 0
    for e in range(len(src)):
        if src[e] == dst[e]:
            loops += 1
        else:
            indptr[src[e] + 1] += 1
            indptr[dst[e] + 1] += 1
    for i in range(nodes):
        indptr[i + 1] += indptr[i]
    fill = indptr[:-1].copy()
    rows = np.empty(indptr[-1], np.int32)
    for e in range(len(src)):
        j, i = src[e], dst[e]
        if i != j:
            rows[fill[i]] = 2 * j
            rows[fill[j]] = 2 * i + 1
            fill[i] += 1
            fill[j] += 1
    return indptr, rows, loops


@compiled(parallel=True)
def _sort(indptr, rows, kept):
    """Sort every row and move its distinct neighbours to the front; how many edges were distinct.

    ``kept`` [nodes + 1] gets the number of neighbours of node i at i + 1.
    """
    distinct = 0
    for i in numba.prange(len(indptr) - 1):
        row = rows[indptr[i] : indptr[i + 1]]
        row.sort()
        end, given, last = 0, 0, -1
        for at in range(len(row)):
            code = row[at]
            if at == 0 or code != last:
                given += 1 - (code & 1)
                if at == 0 or code >> 1 != last >> 1:
                    row[end] = code >> 1
                    end += 1
            last = code
        kept[i + 1] = end
        distinct += given
    return distinct


@compiled(parallel=True)
def _compact(loose, rows, indptr, indices):
    for i in numba.prange(len(indptr) - 1):
        for at in range(indptr[i + 1] - indptr[i]):
            indices[indptr[i] + at] = rows[loose[i] + at]


def simple(
    src: np.ndarray | Tensor, dst: np.ndarray | Tensor, nodes: int
) -> tuple[Adjacency, dict[str, int]]:
    """Make an edge list an undirected graph without self-loops and duplicates, rows ascending.

    Memory, besides the input: 8 bytes per directed edge and 24 per node.

    Args:
        src: [E] int32 or int64 node ids.
        dst: [E] likewise; edges may come in any order, in one direction or both.
        nodes: number of nodes N, at most 2^30.

    Returns: the adjacency and what was done, in directed edges: ``edges_given``,
        ``loops_removed``, ``duplicates_removed`` (the same edge in the same direction again) and
        ``reversed_added``; given - loops - duplicates + reversed is the number of edges.
    Raises: ValueError if the ids do not fit.
    """
    src, dst = np.asarray(src), np.asarray(dst)
    if src.shape != dst.shape or src.ndim != 1:
        raise ValueError(f"src {src.shape} and dst {dst.shape} must be equally long lists of ids")
    if nodes > MOST_NODES:
        raise ValueError(f"nodes={nodes}: node ids are packed into 32 bits; nodes <= {MOST_NODES}")
    for ids in (src, dst):
        if len(ids) and (ids.min() < 0 or ids.max() >= nodes):
            raise ValueError(
                f"edge ids run from {ids.min()} to {ids.max()}; valid: 0 to {nodes - 1}"
            )
    loose, rows, loops = _scatter(src, dst, nodes)
    indptr = np.zeros(nodes + 1, np.int64)
    distinct = _sort(loose, rows, indptr)
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], np.int32)
    _compact(loose, rows, indptr, indices)
    facts = {
        "edges_given": len(src),
        "loops_removed": int(loops),
        "duplicates_removed": int(len(src) - loops - distinct),
        "reversed_added": int(len(indices) - distinct),
    }
    return Adjacency(torch.from_numpy(indptr), torch.from_numpy(indices), nodes), facts
