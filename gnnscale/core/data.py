"""Datasets as values: graph, features, labels, splits and task; and what models learn of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.sparse import SparseRows

METRICS = {"accuracy": ("single",), "micro_f1": ("multi",), "roc_auc": ("multi", "single")}
"""Scores, and the kinds of task that each is for."""


@dataclass(frozen=True)
class Task:
    """What is predicted and how it is scored.

    ``kind``: ``single`` (one class per row, cross-entropy) or ``multi`` (any number of classes per
    row, binary cross-entropy summed over classes). ``metric``: name of the score, higher is
    better: ``accuracy`` for single, ``micro_f1`` (at logit > 0) for multi, ``roc_auc`` for multi
    and for single with two classes; "" is the first of the kind. ROC-AUC is that of OGB's
    evaluator: the mean, over the classes that have both positive and negative rows, of the area
    under the curve, rows with NaN labels left out; of two classes it ranks rows by the margin of
    the second.
    """

    level: str = "node"
    kind: str = "single"
    classes: int = 2
    metric: str = ""

    def __post_init__(self):
        fitting = [name for name, kinds in METRICS.items() if self.kind in kinds]
        binary = self.metric != "roc_auc" or self.kind == "multi" or self.classes == 2
        if not fitting or not binary or self.metric not in ("", *fitting):
            raise ValueError(f"kind={self.kind} metric={self.metric}: valid: {METRICS}")
        object.__setattr__(self, "metric", self.metric or fitting[0])

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss per row. Shapes: logits [n, C], y [n] or [n, C] -> [n]."""
        if self.kind == "single":
            return F.cross_entropy(logits, y, reduction="none")
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1)

    def score(self, logits: Tensor, y: Tensor) -> float:
        """Score of predictions in [0, 1]; NaN where it has no value: without rows, or, for
        ``roc_auc``, without a class that has rows of both labels.

        Shapes: logits [n, C], y [n] or [n, C].
        """
        if len(y) == 0:
            return float("nan")
        if self.metric == "accuracy":
            return (logits.argmax(-1) == y).double().mean().item()
        if self.metric == "roc_auc" and self.kind == "single":
            area = _area(logits[:, 1] - logits[:, 0], y.double())
            return float("nan") if area is None else area
        if self.metric == "roc_auc":
            found = (_area(said, true) for said, true in zip(logits.T, y.T, strict=True))
            areas = [area for area in found if area is not None]
            return sum(areas) / len(areas) if areas else float("nan")
        said, true = logits > 0, y > 0.5
        hit = (said & true).sum().item()
        return 2 * hit / max(said.sum().item() + true.sum().item(), 1)


def _area(said: Tensor, true: Tensor) -> float | None:
    """P(a positive row scores above a negative one), ties counted half; None if one has no rows.

    By the ranks R of the scores (mean ranks where tied): (sum of R over positives -
    P (P + 1) / 2) / (P Q) for P positive and Q negative rows.

    Shapes: said [n] scores, true [n] 0, 1 or NaN.
    """
    said, positive = said[~true.isnan()], true[~true.isnan()] > 0.5
    p = int(positive.sum())
    q = len(positive) - p
    if not p or not q:
        return None
    if said.isnan().any():
        return float("nan")
    _, tie, size = torch.unique(said, return_inverse=True, return_counts=True)
    rank = (size.cumsum(0).double() - (size.double() - 1) / 2)[tie]
    return (rank[positive].sum().item() - p * (p + 1) / 2) / (p * q)


@dataclass(frozen=True)
class Shape:
    """The sizes that a model's constructor needs.

    operators: R where the input is a stack [n, R, F] propagated beforehand; 0 where it is [n, F]
    and the model has its own hops. readout: what the head reads of the subgraph of each seed:
    ``center``, the seed's row, or the seed's row beside the ``mean``, ``max`` or ``sum`` of all.
    aggregated: whether the features are [A X || X], a node beside its neighbourhood, already.
    codes: how many of the features, the last ones, are a one-hot code of the distance to the root.
    views: further views of the same seeds in every batch.
    edge_features: columns of ``Hop.edge``; 0 where batches carry none.
    """

    features: int
    classes: int
    operators: int = 0
    readout: str = "center"
    aggregated: bool = False
    codes: int = 0
    views: int = 0
    edge_features: int = 0


@dataclass(frozen=True)
class GraphData:
    """One attributed graph.

    graph: in-edges by destination; no duplicates, and no self-loops unless they were asked for
    (operators add their own).
    x: [N, F] features, dense or sparse rows. y: [N] int64, -1 where unknown, or [N, C] float32,
    NaN where unknown. splits: node ids of ``train``, ``valid``, ``test``.
    inductive: training may touch only training nodes and the edges among them.
    weight: [E] float32 edge weights, or None for ones; operators multiply by them.
    names: [N] the source's own node ids, or None if they are 0 .. N - 1.
    facts: what was done to the raw data, for the record.
    """

    name: str
    graph: Adjacency
    x: Tensor | SparseRows
    y: Tensor
    splits: Mapping[str, Tensor]
    task: Task
    inductive: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    weight: Tensor | None = None
    names: np.ndarray | None = None

    @property
    def nodes(self) -> int:
        """Number of nodes N."""
        return self.graph.n_dst

    @property
    def shape(self) -> Shape:
        """Sizes for a model that reads the raw features."""
        return Shape(self.x.shape[1], self.task.classes)

    def mask(self, split: str) -> Tensor:
        """[N] bool: which nodes are in ``split``."""
        chosen = torch.zeros(self.nodes, dtype=torch.bool)
        chosen[self.splits[split]] = True
        return chosen

    def with_(self, **changes) -> "GraphData":
        """A copy with some fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Teacher:
    """What a trained teacher says of every node: rows are indexed by global node id.

    logits: [N, C]. hidden: per level [N, D], possibly empty. source: where it came from.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    source: str = ""
