"""Directed edges in compressed rows, one row per destination: what every kernel runs on."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.host import dgl


@compiled()
def _transpose(indptr, indices, n_src):
    """Counting sort of the edges by source; stable, so rows come out ascending."""
    starts = np.zeros(n_src + 1, np.int64)
    for j in indices:
        starts[j + 1] += 1
    for j in range(n_src):
        starts[j + 1] += starts[j]
    fill = starts[:-1].copy()
    columns = np.empty(len(indices), np.int32)
    edges = np.empty(len(indices), np.int64)
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            at = fill[indices[e]]
            fill[indices[e]] += 1
            columns[at] = i
            edges[at] = e
    return starts, columns, edges


class Adjacency:
    """Edges j -> i stored by destination i, with the transpose and DGL's handle made on demand.

    Args:
        indptr: [n_dst + 1] int64, row bounds.
        indices: [E] int32, the source of each edge.
        n_src: number of sources; sources and destinations are the same nodes when the adjacency
            is square, otherwise the destinations are the first sources (a bipartite block).
        edges: [E] int64, where each edge stands in the parent this one was cut or transposed
            from; None if it has no parent.
    """

    def __init__(
        self, indptr: Tensor, indices: Tensor, n_src: int | None = None, edges: Tensor | None = None
    ):
        self.indptr, self.indices, self.edges = indptr, indices, edges
        self.n_dst = len(indptr) - 1
        self.n_src = self.n_dst if n_src is None else n_src
        self._moved: dict[torch.device, Adjacency] = {}
        self._dense: dict[torch.dtype, Tensor] = {}

    def __repr__(self) -> str:
        return f"Adjacency({self.n_src} -> {self.n_dst}, {self.n_edges} edges, {self.device})"

    @property
    def n_edges(self) -> int:
        """Number of directed edges E."""
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        """Where the index tensors live."""
        return self.indptr.device

    @cached_property
    def in_degree(self) -> Tensor:
        """[n_dst] int64: edges that enter each destination."""
        return self.indptr[1:] - self.indptr[:-1]

    @cached_property
    def out_degree(self) -> Tensor:
        """[n_src] int64: edges that leave each source."""
        return torch.bincount(self.indices, minlength=self.n_src)

    @cached_property
    def dst(self) -> Tensor:
        """[E] int32: the destination of each edge."""
        ids = torch.arange(self.n_dst, dtype=torch.int32, device=self.device)
        return torch.repeat_interleave(ids, self.in_degree, output_size=self.n_edges)

    @cached_property
    def T(self) -> "Adjacency":
        """The reversed edges by source; its ``edges`` say where each stands in this adjacency."""
        if self.device.type == "cpu":
            arrays = _transpose(self.indptr.numpy(), self.indices.numpy(), self.n_src)
            indptr, indices, edges = (torch.from_numpy(a) for a in arrays)
        else:
            edges = torch.argsort(self.indices, stable=True)
            indices = self.dst[edges]
            indptr = torch.zeros(self.n_src + 1, dtype=torch.int64, device=self.device)
            torch.cumsum(self.out_degree, 0, out=indptr[1:])
        return Adjacency(indptr, indices, self.n_dst, edges)

    @cached_property
    def dgl(self):
        """The same edges as a DGL graph (square) or block, int32, in row order."""
        unnamed = torch.empty(0, dtype=torch.int32, device=self.device)  # edge ids in row order
        columns = (self.indptr.int(), self.indices, unnamed)
        if self.n_src == self.n_dst:
            return dgl.graph(("csc", columns), num_nodes=self.n_dst, device=self.device)
        return dgl.create_block(
            ("csc", columns), num_src_nodes=self.n_src, num_dst_nodes=self.n_dst,
            device=self.device,
        )  # fmt: skip

    def dense(self, dtype: torch.dtype) -> Tensor:
        """How many edges go from source to destination, [n_dst, n_src], made once per type."""
        if dtype not in self._dense:
            pair = self.dst.long() * self.n_src + self.indices
            count = torch.bincount(pair, minlength=self.n_dst * self.n_src)
            self._dense[dtype] = count.view(self.n_dst, self.n_src).to(dtype)
        return self._dense[dtype]

    @cached_property
    def edgewise(self) -> "Adjacency":
        """The same rows over edges in place of sources: for values that edges have of their own."""
        each = torch.arange(self.n_edges, dtype=torch.int32, device=self.device)
        return Adjacency(self.indptr, each, self.n_edges)

    @cached_property
    def by_edge(self) -> "Adjacency":
        """Of a transposed one: the same rows over the edges it was made of in place of sources."""
        assert self.edges is not None
        return Adjacency(self.indptr, self.edges.int(), self.n_edges)

    def to(self, device: torch.device | str) -> "Adjacency":
        """The same edges on another device: itself if it is there already, and moved only once."""
        device = torch.device(device)
        if device == self.device:
            return self
        if device not in self._moved:
            edges = None if self.edges is None else self.edges.to(device, non_blocking=True)
            self._moved[device] = Adjacency(
                self.indptr.to(device, non_blocking=True),
                self.indices.to(device, non_blocking=True),
                self.n_src,
                edges,
            )
        return self._moved[device]

    def pin_memory(self) -> "Adjacency":
        """The same edges in page-locked memory."""
        edges = None if self.edges is None else self.edges.pin_memory()
        return Adjacency(self.indptr.pin_memory(), self.indices.pin_memory(), self.n_src, edges)

    @staticmethod
    def from_edges(src: Tensor, dst: Tensor, nodes: int) -> "Adjacency":
        """A square adjacency from an edge list; duplicates and self-loops are kept as given."""
        order = np.lexsort((src.numpy(), dst.numpy()))
        counts = np.bincount(dst.numpy(), minlength=nodes)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return Adjacency(torch.from_numpy(indptr), src[torch.from_numpy(order)].int(), nodes)
