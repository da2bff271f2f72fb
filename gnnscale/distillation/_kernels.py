"""Similarities of hidden rows, along edges and between all pairs: what LSP and GSP compare.

Yang et al., CVPR 2020 (LSP): Euclidean, linear, polynomial, RBF; Joshi et al., 2021,
arXiv:2111.04964 (GSP, G-CRD): cosine and its square, L2, RBF of variance 1. ``l1_exp`` is what the
released code of LSP computes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.ends import Base, ends

Similarity = Literal["l1_exp", "linear", "poly", "rbf", "cosine", "cosine_poly", "l2"]
LEAST = 1e-12
"""Squared distances below it count as it, where a root or its gradient would not be finite."""


def l1_pairs(h: Tensor) -> Tensor:
    """||h_i - h_j||_1 of all pairs, [n, D] -> [n, n]."""
    return torch.cdist(h, h, p=1)


def square_pairs(h: Tensor) -> Tensor:
    """||h_i - h_j||_2^2 of all pairs, [n, D] -> [n, n], without an [n, n, D] in between."""
    own = h.square().sum(1)
    return (own.unsqueeze(1) + own.unsqueeze(0) - 2 * (h @ h.T)).clamp(min=0)


def dot_pairs(h: Tensor) -> Tensor:
    """h_i . h_j of all pairs, [n, D] -> [n, n]."""
    return h @ h.T


@dataclass(frozen=True)
class Kernel:
    """shape(base(h_i, h_j)), of rows scaled to length 1 first where it is a ``cosine``."""

    base: Base
    pairs: Callable[[Tensor], Tensor]
    shape: Callable[[Tensor], Tensor]
    cosine: bool = False

    def edges(self, h: Tensor, adj: Adjacency) -> Tensor:
        """Of the ends of every edge. Shapes: h [n, D] -> [E]."""
        return self.shape(ends(adj, F.normalize(h) if self.cosine else h, self.base))

    def matrix(self, h: Tensor) -> Tensor:
        """Shapes: h [n, D] -> [n, n]."""
        return self.shape(self.pairs(F.normalize(h) if self.cosine else h))


def same(x: Tensor) -> Tensor:
    """x itself."""
    return x


KERNELS: dict[str, Kernel] = {
    "l1_exp": Kernel("l1", l1_pairs, lambda d: torch.exp(-d / 100)),
    "linear": Kernel("dot", dot_pairs, same),
    "poly": Kernel("dot", dot_pairs, torch.square),
    "rbf": Kernel("square", square_pairs, lambda d: torch.exp(-d / 2)),
    "cosine": Kernel("dot", dot_pairs, same, cosine=True),
    "cosine_poly": Kernel("dot", dot_pairs, torch.square, cosine=True),
    "l2": Kernel("square", square_pairs, lambda d: d.clamp(min=LEAST).sqrt()),
}
"""``l1_exp`` exp(-||a - b||_1 / 100), ``linear`` a . b, ``poly`` (a . b)^2, ``rbf``
exp(-||a - b||^2 / 2), ``cosine``, ``cosine_poly`` its square, ``l2`` ||a - b||_2."""
