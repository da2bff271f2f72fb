"""Graphs of nearest neighbours among rows, in Euclidean or in Hamming space."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from gnnscale.core.ops import bits
from gnnscale.core.ops.adjacency import Adjacency

Space = Literal["euclid", "hamming"]
ROWS = 1024
"""Rows whose distances are held at a time."""


def nearest(x: Tensor, k: int, segment: Tensor | None = None, space: Space = "euclid") -> Adjacency:
    """Edges j -> i from the k rows j of i's own graph that are nearest to it, itself among them.

    Nearest first; of rows at one distance, the one of the lowest index. A graph of fewer than k
    rows is complete. ``hamming`` compares signs: the number of columns that differ, a quarter of
    the squared Euclidean distance of the signs (Bahri et al., CVPR 2021, arXiv:2012.15823, sec.
    3.3).

    Shapes: x [n, D], segment [n] ascending, the graph of each row; None: there is one.
    Raises: ValueError for segments that do not ascend.
    """
    owner = torch.zeros(len(x), dtype=torch.int64, device=x.device) if segment is None else segment
    if len(owner) > 1 and (owner.diff() < 0).any():
        raise ValueError("segment: rows of one graph must stand together, graphs in order")
    sizes = torch.bincount(owner)
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    degree = sizes.clamp(max=k)[owner]
    indptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    if space == "hamming" and x.device.type == "cpu":
        indices = bits.nearest(bits.pack(x), offsets, owner, indptr)
    else:
        rows = bits.sign(x.detach()) if space == "hamming" else x.detach()
        groups = [_among(rows[a:b], k) + a for a, b in pairwise(offsets)]
        indices = torch.cat(groups).int() if groups else owner.int()
    return Adjacency(indptr, indices, len(x))


def _among(rows: Tensor, k: int) -> Tensor:
    """The nearest rows of one graph, flat. Squares are not multiplied out, so that ties stay."""
    found = []
    for part in rows.split(ROWS):
        far = torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(far.sort(dim=1, stable=True).indices[:, :k].flatten())
    return torch.cat(found) if found else rows.new_empty(0, dtype=torch.int64)
