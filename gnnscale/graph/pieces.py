"""Some of the graphs of a disjoint union, cut out with everything that goes with them."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gnnscale.core.hop import Hop
from gnnscale.core.ops.adjacency import Adjacency


class Pieces(NamedTuple):
    """nodes: [n] their ids in the union. segment: [n] place of each one's graph among the chosen.

    first: [graphs] position of each graph's first node. hop: the union's hop on these nodes.
    """

    nodes: Tensor
    segment: Tensor
    first: Tensor
    hop: Hop


def ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """The numbers start .. start + size - 1 of each range, one after the other."""
    before = sizes.cumsum(0) - sizes
    shift = torch.repeat_interleave(starts - before, sizes)
    return shift + torch.arange(len(shift))


def pieces(hop: Hop, offsets: Tensor, chosen: Tensor) -> Pieces:
    """Graphs ``chosen`` of a union whose graph g is nodes offsets[g] .. offsets[g + 1] - 1.

    A graph chosen twice is there twice. Edges keep their order, and operators their entries: they
    factor over nodes, and no edge leaves a graph.

    Shapes: offsets [G + 1], chosen [graphs].
    """
    starts, sizes = offsets[chosen], offsets[chosen + 1] - offsets[chosen]
    nodes = ranges(starts, sizes)
    first = sizes.cumsum(0) - sizes
    segment = torch.repeat_interleave(torch.arange(len(chosen)), sizes)
    whole = hop.graph
    lows, highs = whole.indptr[starts], whole.indptr[offsets[chosen + 1]]
    counts = highs - lows
    edges = ranges(lows, counts)
    shift = torch.repeat_interleave((starts - first).to(whole.indices.dtype), counts)
    row = whole.in_degree[nodes].long()
    indptr = torch.cat([row.new_zeros(1), row.cumsum(0)])
    graph = Adjacency(indptr, whole.indices[edges] - shift, len(nodes), edges)

    def of(values: Tensor | None, ids: Tensor) -> Tensor | None:
        return None if values is None else values[ids]

    cut = replace(
        hop, graph=graph, src=of(hop.src, nodes), dst=of(hop.dst, nodes), diag=of(hop.diag, nodes),
        degree=of(hop.degree, nodes), weight=of(hop.weight, edges), edge=of(hop.edge, edges),
        segment=segment,
    )  # fmt: skip
    return Pieces(nodes, segment, first, cut)
