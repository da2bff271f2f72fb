"""Datasets as values: graph, features, labels, splits and task; and what models learn of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.cache import content
from gnnscale.core.errors import UsageError
from gnnscale.core.metrics import METRICS, USUAL
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.sparse import SparseRows


@dataclass(frozen=True)
class Task:
    """What is predicted and how it is scored.

    ``level``: labels are of nodes, or of whole graphs. ``kind``: ``single`` (one class per row,
    cross-entropy), ``multi`` (any number of classes per row, binary cross-entropy summed over the
    classes whose label is not NaN) or ``regression`` (C numbers per row, mean absolute error).
    ``metric``: name of the score, see ``METRICS``; "" is the usual one of the kind.

    ``group``: above 0, classes have no names: items k group to (k + 1) group - 1 belong together,
    and each such run is scored under its best renaming of the classes; the loss likewise, the least
    mean cross-entropy over the renamings (Chen, Li & Bruna, ICLR 2019, arXiv:1705.08415).

    - ``overlap`` is (accuracy - 1 / C) / (1 - 1 / C), mean over such runs, and theirs only.
    - ``micro_f1`` and ``macro_f1`` of multi are at logit > 0.
    - ``roc_auc`` and ``average_precision`` are those of OGB's evaluators: the mean, over the
      classes that have both positive and negative rows, of the area under the curve, rows with NaN
      labels left out; of two classes (single) they rank rows by the margin of the second.
    """

    level: str = "node"
    kind: str = "single"
    classes: int = 2
    metric: str = ""
    group: int = 0

    def __post_init__(self):
        fitting = [name for name, metric in METRICS.items() if self.kind in metric.kinds]
        ranked = self.metric in ("roc_auc", "average_precision")
        binary = not ranked or self.kind == "multi" or self.classes == 2
        unnamed = (self.metric == "overlap") == bool(self.group)
        if not fitting or not binary or not unnamed or self.metric not in ("", *fitting):
            valid = ", ".join(f"{n} for {' and '.join(m.kinds)}" for n, m in METRICS.items())
            raise ValueError(f"kind={self.kind} metric={self.metric}: valid: {valid}")
        object.__setattr__(self, "metric", self.metric or USUAL[self.kind])

    @property
    def sign(self) -> int:
        """1 if a higher score is better, else -1."""
        return METRICS[self.metric].sign

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss per row. Shapes: logits [n, C], y [n] or [n, C] -> [n]."""
        if self.group:
            return self._renamed(-logits.log_softmax(-1), y)
        if self.kind == "single":
            return F.cross_entropy(logits, y, reduction="none")
        if self.kind == "regression":
            return (logits - y).abs().mean(-1)
        known = ~y.isnan()
        losses = F.binary_cross_entropy_with_logits(
            logits, torch.where(known, y, 0.0), reduction="none"
        )
        return (losses * known).sum(-1)

    def arranged(self, ids: Tensor) -> Tensor:
        """Where items ``ids`` [n] stand, run after run, if classes have no names.

        Raises: UsageError if some run is not whole.
        """
        order = ids.argsort()
        run = ids[order] // self.group
        first = run[:: self.group].repeat_interleave(self.group)
        if len(first) != len(run) or (run != first).any():
            raise UsageError(
                "sampler: gives parts of graphs whose classes have no names, which can't be told "
                "apart then; type sampler=full, or sampler=cluster sampler.method=order with as "
                "many sampler.parts as graphs"
            )
        return order

    def _renamed(self, costs: Tensor, y: Tensor) -> Tensor:
        """[n] the cost of every row's class, under the cheapest renaming of each run's classes."""
        cost, y = costs.view(-1, self.group, costs.shape[-1]), y.view(-1, self.group)
        names = torch.tensor(list(permutations(range(cost.shape[2]))), device=y.device)  # [P, C]
        under = torch.stack([cost.gather(2, name[y].unsqueeze(2)).squeeze(2) for name in names])
        best = under.detach().mean(2).argmin(0)  # under: [P, runs, group]
        return under[best, torch.arange(len(y), device=y.device)].flatten()

    def score(self, logits: Tensor, y: Tensor) -> float:
        """Score of predictions; NaN where it has no value: without rows, or, for ``roc_auc`` and
        ``average_precision``, without a class that has rows of both labels.

        Shapes: logits [n, C], y [n] or [n, C].
        """
        if len(y) == 0:
            return float("nan")
        return _SCORES[self.metric](self, logits, y)


def _accuracy(task: Task, logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(-1) == y).double().mean().item()


def _overlap(task: Task, logits: Tensor, y: Tensor) -> float:
    wrong = 1 - F.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    accuracy = 1 - task._renamed(wrong, y).mean().item()
    return (accuracy - 1 / task.classes) / (1 - 1 / task.classes)


def _mae(task: Task, logits: Tensor, y: Tensor) -> float:
    return (logits.double() - y.double()).abs().mean().item()


def _rmse(task: Task, logits: Tensor, y: Tensor) -> float:
    return (logits.double() - y.double()).square().mean().sqrt().item()


def _f1(task: Task, logits: Tensor, y: Tensor, average: str) -> float:
    from sklearn.metrics import f1_score  # here: half a second that others need not wait

    single = task.kind == "single"
    said, true = (logits.argmax(-1), y) if single else (logits > 0, y > 0.5)
    if not single and average == "micro":
        hit = (said & true).sum().item()
        return 2 * hit / max(said.sum().item() + true.sum().item(), 1)
    pair = (true.cpu().numpy(), said.cpu().numpy())
    return float(f1_score(*pair, average=average, zero_division=0.0))


def _ranked(
    task: Task, logits: Tensor, y: Tensor, area: Callable[[Tensor, Tensor], float | None]
) -> float:
    if task.kind == "single":
        found = [area(logits[:, 1] - logits[:, 0], y.double())]
    else:
        found = [area(said, true) for said, true in zip(logits.T, y.T, strict=True)]
    areas = [a for a in found if a is not None]
    return sum(areas) / len(areas) if areas else float("nan")


def _precision(said: Tensor, true: Tensor) -> float | None:
    """Average precision, sum over thresholds of (gain in recall) * precision; None as below."""
    from sklearn.metrics import average_precision_score

    said, positive = said[~true.isnan()], true[~true.isnan()] > 0.5
    if positive.all() or not positive.any():
        return None
    if said.isnan().any():
        return float("nan")
    return float(average_precision_score(positive.cpu().numpy(), said.cpu().numpy()))


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


_SCORES: dict[str, Callable[[Task, Tensor, Tensor], float]] = {
    "accuracy": _accuracy,
    "overlap": _overlap,
    "macro_f1": partial(_f1, average="macro"),
    "micro_f1": partial(_f1, average="micro"),
    "roc_auc": partial(_ranked, area=_area),
    "average_precision": partial(_ranked, area=_precision),
    "mae": _mae,
    "rmse": _rmse,
}


@dataclass(frozen=True)
class Shape:
    """The sizes that a model's constructor needs.

    operators: R where the input is a stack [n, R, F] propagated beforehand; 0 where it is [n, F]
    and the model has its own hops. readout: what the head reads of the subgraph of each seed:
    ``center``, the seed's row, or the seed's row beside the ``mean``, ``max`` or ``sum`` of all.
    aggregated: whether the features are [A X || X], a node beside its neighbourhood, already.
    codes: how many of the features, the last ones, are a one-hot code of the distance to the root.
    views: further views of the same seeds in every batch. level: what labels are of, node or graph.
    categories: sizes of the tables that the columns of integer features count into; () where
    features are numbers. edge_features: columns of ``Hop.edge``, edge_categories: the same of its
    codes; 0 and () where batches carry none. log_degree: mean of log(degree + 1) over the nodes
    that training sees. nodes: N, where training sees every node that may be predicted, else 0.
    toy: whether the sizes stand in for those of data that has not been read yet, so that nothing
    may be refused because of them.
    """

    features: int
    classes: int
    operators: int = 0
    readout: str = "center"
    aggregated: bool = False
    codes: int = 0
    views: int = 0
    level: str = "node"
    categories: tuple[int, ...] = ()
    edge_features: int = 0
    edge_categories: tuple[int, ...] = ()
    log_degree: float = 1.0
    nodes: int = 1
    toy: bool = False


TOY = Shape(8, 3, toy=True)


@dataclass(frozen=True)
class GraphData:
    """One attributed graph, or many graphs side by side in one.

    graph: in-edges by destination; no duplicates, and no self-loops unless they were asked for
    (operators add their own).
    x: [N, F] features, dense or sparse rows; where ``categories`` is given, [N, F] int64, column c
    holding codes below categories[c].
    y: what is predicted of each item (a node, or a graph at graph level): int64 [items], -1 where
    unknown, or [items, C] float32, NaN where unknown.
    splits: ids of the items of ``train``, ``valid``, ``test``; where there is a further one,
    ``unseen``, part of ``test``, training and selection don't touch its nodes and their edges.
    inductive: training may touch only training nodes and the edges among them.
    weight: [E] float32 edge weights, or None for ones; operators multiply by them.
    names: [items] the source's own ids, or None if they are 0 .. items - 1.
    facts: what was done to the raw data, for the record.
    offsets: at graph level, [G + 1] int64: graph g is nodes offsets[g] to offsets[g + 1], which no
    edge leaves. edge: [E, F_e] features of edges, or None; codes where ``edge_categories``.
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
    offsets: Tensor | None = None
    edge: Tensor | None = None
    categories: tuple[int, ...] = ()
    edge_categories: tuple[int, ...] = ()

    @property
    def nodes(self) -> int:
        """Number of nodes N."""
        return self.graph.n_dst

    @property
    def items(self) -> int:
        """Number of things that labels are of: nodes, or graphs."""
        return self.nodes if self.offsets is None else len(self.offsets) - 1

    @cached_property
    def shape(self) -> Shape:
        """Sizes for a model that reads the raw features."""
        width = 0 if self.edge is None or self.edge_categories else self.edge.shape[1]
        return Shape(
            self.x.shape[1], self.task.classes, level=self.task.level, categories=self.categories,
            edge_features=width, edge_categories=self.edge_categories,
            log_degree=self._log_degree(),
            nodes=self.nodes if self.offsets is None and bool(self.seen.all()) else 0,
        )  # fmt: skip

    def _log_degree(self) -> float:
        degree = self.graph.in_degree
        if self.offsets is not None:
            size = self.offsets.diff()
            degree = degree[torch.repeat_interleave(self.mask("train"), size)]
        elif not (seen := self.seen).all():  # training sees the edges among these only
            inside = seen[self.graph.dst.long()] & seen[self.graph.indices.long()]
            ends = self.graph.dst[inside].long()
            degree = torch.bincount(ends, minlength=self.nodes)[seen]
        return degree.double().log1p().mean().item() if len(degree) else 0.0

    @property
    def seen(self) -> Tensor:
        """[N] bool: the nodes that training may see; of many graphs, all."""
        if self.inductive and self.offsets is None:
            return self.mask("train")
        return ~self.mask("unseen") if "unseen" in self.splits else torch.ones(self.nodes).bool()

    def mask(self, split: str) -> Tensor:
        """[items] bool: which items are in ``split``."""
        chosen = torch.zeros(self.items, dtype=torch.bool)
        chosen[self.splits[split]] = True
        return chosen

    def digest(self) -> str:
        """A digest of everything that training may read: two data with the same are the same."""
        x = self.x
        features = (x.rows.indptr, x.rows.indices, x.values) if isinstance(x, SparseRows) else (x,)
        arrays = (
            self.graph.indptr,
            self.graph.indices,
            self.weight,
            *features,
            self.y,
            self.offsets,
            self.edge,
            *(self.splits[name] for name in sorted(self.splits)),
        )
        flag = np.array([self.inductive])
        return content(flag, *(None if a is None else a.numpy() for a in arrays))

    def with_(self, **changes) -> "GraphData":
        """A copy with some fields replaced."""
        return replace(self, **changes)
