"""Rows of many graphs in one tensor, reduced per graph."""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["mean", "max", "sum"]


def reduced(kind: str, h: Tensor, segment: Tensor, groups: int) -> Tensor:
    """The ``mean``, ``max`` or ``sum`` of each group's rows, 0 for a group without any.

    Shapes: h [n, D], segment [n] the group of each row -> [groups, D].
    Raises: ValueError for another kind.
    """
    if kind == "max":
        return h.new_zeros(groups, h.shape[1]).scatter_reduce(
            0, segment.unsqueeze(1).expand_as(h), h, "amax", include_self=False
        )
    total = h.new_zeros(groups, h.shape[1]).index_add(0, segment, h)
    if kind == "sum":
        return total
    if kind != "mean":
        raise ValueError(f"reduction '{kind}' does not exist; valid: mean, max, sum")
    size = torch.bincount(segment, minlength=groups).clamp(min=1)
    return total / size.unsqueeze(1).to(h.dtype)
