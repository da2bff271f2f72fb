"""Propagation of labels and of errors over a graph: the two steps of Correct & Smooth.

Huang, He, Singh, Lim & Benson, ICLR 2021, arXiv:2010.13993; details as in the authors' code.

Departs from it: edges may have weights, and a label may be known for some classes only.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop, Need
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.simple import simple

Matrix = Literal["DAD", "DA", "AD"]
Way = Literal["autoscale", "fixed", "none"]
LARGEST_SCALE = 1000.0
"""A residual that would have to grow by more than this is left as it is."""


def propagate(
    step: Callable[[Tensor], Tensor],
    g: Tensor,
    alpha: float,
    steps: int,
    after: Callable[[Tensor], Tensor] = lambda r: r,
) -> Tensor:
    """R^(0) = G, R^(t+1) = after(alpha M R^(t) + (1 - alpha) G); R^(steps).

    Huang et al., eq. 3 to 5; alpha multiplies the graph's term. From Y at labelled nodes and 0
    elsewhere, with ``after`` clamping to [0, 1], it is label propagation.

    Args:
        step: R -> M R, in memory of its own. g: [N, C]. alpha, steps: as above. after: may work
            in place.
    """
    r, own = g, (1 - alpha) * g
    for _ in range(steps):
        r = after(step(r).mul_(alpha).add_(own))
    return r


def matrix(kind: Matrix, data: GraphData, dtype: torch.dtype) -> Hop:
    """DAD D^-1/2 A D^-1/2, DA D^-1 A or AD A D^-1 of the undirected graph without self-loops.

    A graph that is such keeps its edge weights; another one is made so, and its edges count one
    each.
    """
    graph, weight = data.graph, data.weight
    back = graph.T
    mirrored = torch.equal(graph.indptr, back.indptr) and torch.equal(graph.indices, back.indices)
    if weight is not None:
        mirrored = mirrored and torch.equal(weight, weight[back.edges])
    if not mirrored or bool((graph.dst == graph.indices).any()):
        graph, weight = simple(graph.indices, graph.dst, data.nodes)[0], None
    if kind == "DAD":
        return whole_hop(graph, Need(1, "sym"), dtype, weight)
    row = whole_hop(graph, Need(1, "row"), dtype, weight)
    return row if kind == "DA" else replace(row, src=row.dst, dst=None)


@dataclass(frozen=True)
class Known:
    """Labels that may be used. rows: [n] node ids. y: [n, C], 0 or 1, NaN where unknown."""

    rows: Tensor
    y: Tensor

    @classmethod
    def of(cls, data: GraphData, rows: Tensor, like: Tensor) -> "Known":
        """Those of the nodes ``rows``, as ``like`` [N, C] in type and place."""
        if data.y.dim() == 2:
            return cls(rows.to(like.device), data.y[rows].to(like))
        rows = rows[data.y[rows] >= 0]
        return cls(rows.to(like.device), F.one_hot(data.y[rows], like.shape[1]).to(like))

    def put(self, into: Tensor) -> Tensor:
        """A copy of ``into`` [N, C] with the labels in their rows."""
        out = into.clone()
        out[self.rows] = torch.where(self.y.isnan(), into[self.rows], self.y)
        return out


@dataclass(frozen=True)
class Settings:
    """One way to correct and smooth; what ``correct`` and ``smooth`` do not use is None."""

    correct: Way
    correct_alpha: float | None
    correct_matrix: Matrix | None
    scale: float | None
    smooth_alpha: float
    smooth_matrix: Matrix

    def __str__(self) -> str:
        return " ".join(f"{k}={v}" for k, v in asdict(self).items() if v is not None)


class Propagation:
    """What both steps need of a graph, kept for as long as it is the same one."""

    def __init__(self, steps: int):
        self.steps = steps
        self.kept: tuple[GraphData, dict[tuple, Hop]] | None = None

    def hop(self, kind: Matrix, data: GraphData, like: Tensor) -> Callable[[Tensor], Tensor]:
        """R -> M R on the device and in the type of ``like``."""
        if self.kept is None or self.kept[0] is not data:
            self.kept = (data, {})
        key = (kind, like.device, like.dtype)
        if key not in self.kept[1]:
            self.kept[1][key] = matrix(kind, data, like.dtype).to(like.device)
        hop = self.kept[1][key]
        return lambda r: hop.reduce(lambda h: h, r)

    def residual(self, how: Settings, data: GraphData, z: Tensor, known: Known) -> Tensor:
        """The propagated error of the predictions, E = Y - Z at labelled nodes, 0 elsewhere.

        ``autoscale``: clamped to [-1, 1] in every step, then row i scaled to the mean L1 norm of
        the labelled rows of E (not where that asks for more than 1000). ``fixed``: labelled rows
        are put back in every step.
        """
        assert how.correct_matrix is not None
        assert how.correct_alpha is not None
        error = known.put(z) - z
        step = self.hop(how.correct_matrix, data, z)
        if how.correct == "fixed":
            own = error[known.rows]

            def put_back(r: Tensor) -> Tensor:
                r[known.rows] = own
                return r

            return propagate(step, error, how.correct_alpha, self.steps, put_back)
        spread = propagate(step, error, how.correct_alpha, self.steps, lambda r: r.clamp_(-1, 1))
        norm = spread.abs().sum(1, keepdim=True)
        wanted = error.abs().sum() / max(len(known.rows), 1)
        scale = torch.where(norm > 0, wanted / norm, 1.0)
        return torch.where(scale > LARGEST_SCALE, 1.0, scale) * spread

    def smoothed(self, how: Settings, data: GraphData, corrected: Tensor, known: Known) -> Tensor:
        """Labels in their rows, predictions elsewhere, propagated and clamped to [0, 1]."""
        step = self.hop(how.smooth_matrix, data, corrected)
        g = known.put(corrected)
        return propagate(step, g, how.smooth_alpha, self.steps, lambda r: r.clamp_(0, 1))

    def __call__(self, how: Settings, data: GraphData, z: Tensor, known: Known) -> Tensor:
        """Scores [N, C] in [0, 1] from probabilities Z [N, C]."""
        if how.correct != "none":
            spread = self.residual(how, data, z, known)
            z = z + (spread if how.scale is None else how.scale * spread)
        return self.smoothed(how, data, z, known)
