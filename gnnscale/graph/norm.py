"""Propagation operators, factored so that products use the unweighted kernel."""

from typing import NamedTuple

import torch
from torch import Tensor

from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency


class Factors(NamedTuple):
    """Operator entry of edge j -> i: dst_i * src_j; self entry: diag_i. None stands for ones."""

    src: Tensor | None
    dst: Tensor | None
    diag: Tensor | None


def factors(
    adj: Adjacency,
    need: Need,
    dtype: torch.dtype = torch.float32,
    weight: Tensor | None = None,
) -> Factors:
    """Factors of the operator that ``need`` names, from the degrees of ``adj``.

    With d the degrees (sums of edge weights, if there are any) plus one where ``need.loops`` is not
    "none":
        sym: src = d_out^-1/2, dst = d_in^-1/2, diag = src * dst   (Kipf & Welling 2017, eq. 2)
        row: dst = 1 / d_in, diag = 1 / d_in
        none: no factors, diag = 1
    and diag times 1 + ``need.diagonal``. Nodes of degree 0 get factor 0.

    Shapes: weight [E]; each factor [N] of a square ``adj``.
    """
    loop = need.loops != "none"
    d_in = (degrees(adj.dst, weight, adj.n_dst, adj.in_degree) + loop).to(dtype)
    if need.operator == "sym":
        d_out = (degrees(adj.indices, weight, adj.n_src, adj.out_degree) + loop).to(dtype)
        src, dst = _power(d_out, -0.5), _power(d_in, -0.5)
        diag = src * dst
    elif need.operator == "row":
        src, dst = None, _power(d_in, -1.0)
        diag = dst
    else:
        src = dst = None
        diag = torch.ones(adj.n_dst, dtype=dtype, device=adj.device)
    if need.loops != "diag":
        return Factors(src, dst, None)
    return Factors(src, dst, diag * (1 + need.diagonal) if need.diagonal else diag)


def degrees(ends: Tensor, weight: Tensor | None, nodes: int, count: Tensor) -> Tensor:
    """Sum of the weights of each node's edges; their number if they have none."""
    if weight is None:
        return count
    sums = torch.zeros(nodes, dtype=torch.float64, device=weight.device)
    return sums.index_add_(0, ends.long(), weight.double())


def _power(d: Tensor, exponent: float) -> Tensor:
    return torch.where(d > 0, torch.where(d > 0, d, 1.0).pow(exponent), 0)


def entries(graph: Adjacency, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """[E] weights of edges cut out of a weighted graph, 1 for loops that were added; or None."""
    if weight is None:
        return None
    if graph.edges is None:
        return weight.to(dtype)
    found = torch.ones(graph.n_edges, dtype=dtype, device=graph.device)
    given = graph.edges >= 0
    found[given] = weight.to(dtype)[graph.edges[given]]
    return found


def with_loops(adj: Adjacency) -> Adjacency:
    """The adjacency with one self-loop per destination, last in its row; E becomes E + n_dst.

    In a block, whose destinations are the first sources, a loop is an edge i -> i, too. ``edges``
    of the result: the edge each came from, -1 for the loops.
    """
    n = adj.n_dst
    nodes = torch.arange(n, dtype=torch.int32, device=adj.device)
    shift = torch.arange(n + 1, dtype=torch.int64, device=adj.device)
    at = torch.arange(adj.n_edges, device=adj.device) + adj.dst  # one loop before every row's start
    indices = torch.empty(adj.n_edges + n, dtype=torch.int32, device=adj.device)
    edges = torch.full((adj.n_edges + n,), -1, dtype=torch.int64, device=adj.device)
    indptr = adj.indptr + shift
    indices[indptr[1:] - 1] = nodes
    indices[at] = adj.indices
    edges[at] = torch.arange(adj.n_edges, device=adj.device)
    return Adjacency(indptr, indices, adj.n_src, edges)


def whole_hop(
    adj: Adjacency,
    need: Need,
    dtype: torch.dtype = torch.float32,
    weight: Tensor | None = None,
) -> Hop:
    """One exact step over a whole graph, whose edges may have weights [E]."""
    src, dst, diag = factors(adj, need, dtype, weight)
    if need.loops == "edges":
        graph = with_loops(adj)
        w = entries(graph, weight, dtype)
        if need.diagonal:
            enhanced = torch.where(graph.edges < 0, 1 + need.diagonal, 1.0).to(dtype)
            w = enhanced if w is None else w * enhanced
    else:
        graph, w = adj, None if weight is None else weight.to(dtype)
    return Hop(graph=graph, src=src, dst=dst, weight=w, diag=diag, degree=adj.in_degree)
