"""Nodes divided into parts: by METIS, so that few edges are cut, at random, or in order."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.cache import cached, content
from gnnscale.core.errors import UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.simple import simple

Method = Literal["metis", "random", "order"]
KEPT = 100_000
"""Edges from which METIS' parts are kept: it takes 20 s for 2.3 million edges and 1,000 parts."""


class Parts:
    """A division of the nodes 0 .. N - 1 into ``count`` parts, none of them empty.

    Args:
        of: [N] int64, the part of each node.
        count: number of parts.
    """

    def __init__(self, of: Tensor, count: int):
        self.of, self.count = of, count
        self.sizes = torch.bincount(of, minlength=count)
        self.order = torch.argsort(of, stable=True)  # part by part, ascending within each
        self.ends = [0, *self.sizes.cumsum(0).tolist()]

    def nodes(self, parts: Tensor) -> Tensor:
        """The nodes of some parts together, ascending. Shapes: parts [q] -> [n] int64."""
        pieces = [self.order[self.ends[p] : self.ends[p + 1]] for p in parts.tolist()]
        return torch.from_numpy(np.sort(torch.cat(pieces).numpy()))

    def groups(self, size: int, seeds: Tensor, key: Key) -> list[Tensor]:
        """The parts in random order, ``size`` at a time; the last group may be smaller.

        Groups that hold none of ``seeds`` are left out, so every seed comes exactly once.
        """
        seeded = torch.zeros(self.count, dtype=torch.bool)
        seeded[self.of[seeds]] = True
        order = torch.randperm(self.count, generator=key.torch())
        return [group for group in order.split(size) if seeded[group].any()]

    def cut(self, adj: Adjacency) -> int:
        """Edges of ``adj`` that run from one part into another."""
        return int((self.of[adj.indices.long()] != self.of[adj.dst.long()]).sum())

    def said(self, adj: Adjacency, method: Method) -> str:
        """One line for the record: how many parts, of which sizes, and the edges they cut."""
        cut, edges = self.cut(adj), adj.n_edges
        share = f" ({cut / edges:.1%})" if edges else ""
        return (
            f"partition: {method}, {self.count} parts of {int(self.sizes.min())} to "
            f"{int(self.sizes.max())} nodes, {cut} of {edges} edges cut{share}"
        )


def partition(adj: Adjacency, parts: int, method: Method, key: Key) -> Parts:
    """Divide the nodes of a square ``adj`` into ``parts``, sizes as equal as they can be.

    METIS (Karypis & Kumar, SIAM J. Sci. Comput. 1998) sees the graph symmetrised and without
    self-loops and has a fixed seed of its own, so its parts are a function of the graph, the same
    for every ``key``, and are found once (``core.cache``). Where it leaves a part empty (parts
    nearly as many as nodes), one node of the largest part goes there. Random parts are drawn from
    ``key`` and differ in size by at most one.

    Not by ``dgl.metis_partition_assignment``: its METIS reads memory that was never written, so
    that one graph gets different parts in one process (DGL 2.1, both modes), and it kills the
    process on one part or on a graph without edges.

    In ``order``, parts are runs of consecutive nodes: one graph each where graphs of one size stand
    side by side.

    Raises: UsageError unless there are at least as many nodes as parts.
    """
    n = adj.n_dst
    if not 1 <= parts <= n:
        raise UsageError(
            f"sampler.parts={parts}: the graph that is divided has {n} nodes; valid: 1 to {n}, "
            f"e.g. sampler.parts={max(1, min(parts, n) // 10)}"
        )
    if method == "random":
        order = torch.randperm(n, generator=key.at("partition").torch())
        of = torch.empty(n, dtype=torch.int64)
        of[order] = torch.arange(n) % parts
    elif method == "order":
        of = torch.arange(n) * parts // n
    elif parts == n:
        of = torch.arange(n)
    else:
        of = _filled(_metis(adj, parts), parts)
    return Parts(of, parts)


def _metis(adj: Adjacency, parts: int) -> Tensor:
    """[N] int64 part of each node; kept in the cache where finding it takes longer than looking."""
    import pymetis

    if adj.n_edges < KEPT:
        return torch.from_numpy(_found(adj, parts))
    graph = content(adj.indptr.numpy(), adj.indices.numpy())
    key = {"what": "metis", "version": pymetis.version, "parts": parts, "graph": graph}
    found = cached("metis", key, lambda: {"of": _found(adj, parts)})
    return torch.from_numpy(np.array(found["of"]))


def _found(adj: Adjacency, parts: int) -> np.ndarray:
    """Parts with few cut edges: by bisection for up to 8 of them, else k-way."""
    import pymetis

    both, _ = simple(adj.indices, adj.dst, adj.n_dst)
    ends = pymetis.CSRAdjacency(both.indptr.numpy(), both.indices.numpy().astype(np.int64))
    _, found = pymetis.part_graph(parts, ends, options=pymetis.Options(seed=1))
    return np.asarray(found, np.int64)


def _filled(of: Tensor, parts: int) -> Tensor:
    """The same division, every empty part given the last node of the part that is largest then."""
    sizes = torch.bincount(of, minlength=parts)
    for empty in (sizes == 0).nonzero().squeeze(1).tolist():
        largest = int(sizes.argmax())
        of[(of == largest).nonzero()[-1]] = empty
        sizes[largest] -= 1
        sizes[empty] += 1
    return of


def grouped(parts: int, batch_parts: int) -> None:
    """Raise UsageError unless a batch can have that many parts."""
    if batch_parts > parts:
        raise UsageError(
            f"sampler.batch_parts={batch_parts}: there are only sampler.parts={parts}; valid: 1 to "
            f"{parts}, where {parts} is full batch"
        )
