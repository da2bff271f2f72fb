"""A matrix with an entry per pair of nodes: small graphs that have many of their possible edges.

What is no edge is masked by a zero, and a product is one of dense matrices, which costs the same
whatever the number of edges. What has a value per edge is ``torch_kernels``'.
"""

import torch
from torch import Tensor

from gnnscale.core.ops import torch_kernels
from gnnscale.core.ops.adjacency import Adjacency

DEVICES = ("cpu", "cuda")
DENSITY = 0.25
"""Edges per pair of nodes from which the dense product is the faster one: measured on one thread,
300 to 3,000 nodes, 64 and 256 columns (docs/benchmarks/dense.md)."""
ENTRIES = 1 << 12, 1 << 23
"""Of the smallest and the largest matrix that ``auto`` makes: smaller ones are mostly of blocks
that are seen once, the largest has 32 MiB."""


def pays(adj: Adjacency) -> bool:
    """Whether the dense product of this graph is the faster one, on the CPU, and fits."""
    if adj.device.type != "cpu":  # not measured
        return False
    entries = adj.n_dst * adj.n_src
    return ENTRIES[0] <= entries <= ENTRIES[1] and adj.n_edges > DENSITY * entries


def total(adj: Adjacency, x: Tensor) -> Tensor:
    """Sum of source rows per destination. [n_src, D] -> [n_dst, D]."""
    if adj.n_src == adj.n_edges:  # a column per edge: E / n times the pairs of nodes
        return torch_kernels.total(adj, x)
    return adj.dense(x.dtype) @ x.detach().contiguous()


def weighted_total(adj: Adjacency, x: Tensor, w: Tensor) -> Tensor:
    """Edge-weighted sum per head. x [n_src, H, D], w [E, H] -> [n_dst, H, D]."""
    wide = x.new_zeros(x.shape[1], adj.n_dst, adj.n_src)
    place = adj.dst.long(), adj.indices.long()
    for matrix, weight in zip(wide, w.detach().unbind(1), strict=True):
        matrix.index_put_(place, weight.to(x.dtype), accumulate=True)
    return torch.bmm(wide, x.detach().transpose(0, 1).contiguous()).transpose(0, 1)


def dot(adj: Adjacency, y: Tensor, x: Tensor) -> Tensor:
    """Inner product of the two ends of each edge. y [n_dst, H, D], x [n_src, H, D] -> [E, H]."""
    every = torch.bmm(y.transpose(0, 1), x.detach().permute(1, 2, 0))  # [H, n_dst, n_src]
    return every[:, adj.dst.long(), adj.indices.long()].T


extreme, extreme_back = torch_kernels.extreme, torch_kernels.extreme_back
softmax, softmax_back = torch_kernels.softmax, torch_kernels.softmax_back
additive, additive_back = torch_kernels.additive, torch_kernels.additive_back
