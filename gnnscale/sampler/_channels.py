"""What VR-GCN's hops are made of: histories, two channels per node, rows aggregated beforehand."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnscale.core.errors import UsageError
from gnnscale.core.hop import AGGREGATORS, Hop
from gnnscale.core.ops import full
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.sparse import SparseRows


class History:
    """One level's rows of every node, [N, D]: zero until written."""

    def __init__(self, nodes: int):
        self.nodes, self.table = nodes, None
        self.noted: tuple[Tensor, Tensor] | None = None

    def pull(self, ids: Tensor, like: Tensor) -> Tensor:
        """Rows ``ids`` [n], as wide as ``like`` and of its type."""
        if self.table is None:
            return like.new_zeros(len(ids), like.shape[1])
        self.table = self.table.to(like.device)
        return self.table.index_select(0, ids).to(like.dtype)

    def note(self, ids: Tensor, h: Tensor) -> None:
        """Keep the rows of this forward pass until ``commit``."""
        self.noted = ids, full(h)

    def commit(self) -> None:
        """Write what was noted last."""
        if self.noted is not None:
            self.write(*self.noted)
            self.noted = None

    def write(self, ids: Tensor, h: Tensor) -> None:
        """Rows h [n, D] of nodes ``ids`` [n]."""
        if self.table is None:
            self.table = h.new_zeros(self.nodes, h.shape[1])
        self.table = self.table.to(h.device)
        self.table.index_copy_(0, ids.to(h.device), h.to(self.table.dtype))


@dataclass(frozen=True)
class Channels(Hop):
    """A hop whose rows come in ``channels`` per node: h alone, or h and mu one below the other.

    With two, rows 2 k and 2 k + 1 are node k's h and mu (the graph has two copies of every node,
    so that layers need not know); dropout leaves mu alone.
    """

    channels: int = 1

    scales = drops = False

    def drop(self, h: Tensor | SparseRows, p: float, inside: bool = False) -> Any:
        """Dropout of the h channel."""
        if p == 0 or self.channels == 1:
            return dropout(h, p)  # type: ignore[arg-type]
        if isinstance(h, SparseRows):
            even = h.rows.dst % 2 == 0
            return SparseRows.of(h.rows, torch.where(even, dropout(h.values, p), h.values))
        noisy, mu = h.reshape(-1, 2, h.shape[1]).unbind(1)
        return torch.stack([dropout(noisy.contiguous(), p), mu.to(full(noisy).dtype)], 1).flatten(
            0, 1
        )


@dataclass(frozen=True)
class Read(Channels):
    """An aggregation that was computed beforehand: destination i reads source n_dst + i, (P x)_i.

    raw: the batch's features, which the first layer must read as they are.
    """

    raw: Any = None

    own = frozenset(AGGREGATORS)

    def lift(self, h: Tensor) -> Tensor:
        """``h`` itself. Raises UsageError if an encoder has changed it."""
        if self.raw is not None and h is not self.raw:
            raise UsageError(
                "sampler.preprocess=auto: the model's first layer reads an encoder's rows, not the "
                "features; type sampler.preprocess=never"
            )
        return h

    def _reduce(self, m: Tensor, op: str, weight: Tensor | None) -> Tensor:
        if op != "sum":
            raise UsageError(
                f"sampler.preprocess=auto: the model aggregates by '{op}', and only its operator "
                "was applied beforehand; type sampler.preprocess=never"
            )
        return super()._reduce(m, op, weight)


def doubled(graph: Adjacency) -> Adjacency:
    """Two copies of a block, nodes 2 k and 2 k + 1 being copies of node k."""
    row = torch.repeat_interleave(graph.in_degree, 2)
    indptr = torch.cat([row.new_zeros(1), row.cumsum(0)])
    # the edges of a row twice in succession: the first time to even sources, then to odd ones
    start = torch.repeat_interleave(graph.indptr[:-1], 2) - indptr[:-1]
    edge = torch.arange(2 * graph.n_edges) + torch.repeat_interleave(start, row)
    odd = torch.repeat_interleave(torch.arange(len(row)) % 2, row)
    indices = (2 * graph.indices[edge] + odd).int()
    edges = None if graph.edges is None else graph.edges[edge]
    return Adjacency(indptr, indices, 2 * graph.n_src, edges)
