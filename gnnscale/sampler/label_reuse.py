"""Training labels as input, and predictions in the place of those that are not known."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData, Shape, Task
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.values import Share, Whole
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.full import Full


class LabelReuse(Full):
    """Full batch whose features are x beside labels, [N, F + C], for any architecture.

    A node's label columns hold its label if it is given, else zeros; after each of ``iterations``
    passes without gradients, the probabilities that the model predicted in that pass. In a training
    step every training label is given with probability ``rate``; the loss is that of the training
    nodes whose label was not. In inference all training labels are given. No other label is ever
    read.

    Wang, Jin, Zhang, Yu, Zhang & Wipf, "Bag of Tricks for Node Classification with Graph Neural
    Networks", arXiv:2103.13355, sec. 3 (label usage and label reuse); the recipe of RevGAT (Li et
    al., ICML 2021, arXiv:2106.07476). Labels as input go back to Shi et al., IJCAI 2021,
    arXiv:2009.03509. The passes without gradients are in training mode, as in the authors' code,
    so that statistics of batch normalisation move in each.

    Args:
        rate: share of the training labels that are given in a step; with all of them, only terms
            (distillation) are left as a loss. iterations: passes that fill
            the columns of the other nodes; 0: labels are input only.

    Raises: UsageError for numbers to be predicted, or for features that are codes.
    """

    inference = "own"
    labels = True

    def __init__(self, rate: Share = 0.5, iterations: Whole = 1):
        self.rate, self.iterations = rate, iterations
        self.kept: tuple[GraphData, Need, Batch] | None = None

    def shape(self, data: GraphData) -> Shape:
        """Classes beside the features."""
        if data.task.kind == "regression":
            raise UsageError(
                f"sampler=label_reuse: {data.name} has numbers to predict, not classes; type "
                "sampler=full"
            )
        if data.categories:
            raise UsageError(
                f"sampler=label_reuse: features of {data.name} are codes, beside which labels "
                "can't stand; type sampler=full"
            )
        return super().shape(data)

    def widen(self, shape: Shape) -> Shape:
        """Classes beside the features."""
        shape = super().widen(shape)
        return replace(shape, features=shape.features + shape.classes)

    def facts(self) -> list[str]:
        """What the score of the training split means."""
        return ["the score of the training split: its nodes were given their own labels"]

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Build the one batch that every step shares, and the table of training labels."""
        super().prepare(data, need, key)
        self.task = data.task
        self.known, self.table = known(data)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The whole graph with ``index`` as seeds, and some training labels given."""
        batch = super().sample(index, key)
        drawn = torch.rand(len(self.known), generator=key.torch()) < self.rate
        given = (drawn & self.known).to(batch.rows.device)
        self.table = self.table.to(batch.rows.device)
        labels = self.table.masked_fill(~given.unsqueeze(1), 0.0)
        return replace(
            batch, labeled=batch.labeled & ~given[batch.rows],
            extra={"labels": labels, "given": given},
        )  # fmt: skip

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """The whole graph with every training label given."""
        kept = self.kept
        if kept is None or kept[0] is not data or kept[1] != need:
            given, table = known(data)
            whole = replace(whole_batch(data, need), extra={"labels": table, "given": given})
            kept = self.kept = (data, need, whole)
        self.task = data.task
        whole = kept[2]
        yield replace(
            whole, rows=rows, ids=rows, y=whole.y[rows], labeled=whole.labeled[rows]
        )  # fmt: skip

    def primed(self, batch: Batch, model: nn.Module) -> Batch:
        """The batch with predictions in the label columns of nodes whose label is not given."""
        given = batch.extra["given"].unsqueeze(1)
        for _ in range(self.iterations):
            with torch.no_grad():
                logits = model(replace(batch, rows=batch.nodes)).logits
            said = probabilities(logits, self.task).to(batch.extra["labels"].dtype)
            labels = torch.where(given, batch.extra["labels"], said)
            batch = replace(batch, extra={**batch.extra, "labels": labels})
        return batch


def known(data: GraphData) -> tuple[Tensor, Tensor]:
    """([N] bool, [N, C]): training nodes, and the labels of those alone; zeros elsewhere."""
    train, classes = data.mask("train"), data.task.classes
    if data.task.kind == "single":
        y = torch.where(train, data.y, -1)
        train = y >= 0
        rows = F.one_hot(y.clamp(min=0), classes)
    else:
        rows = data.y.nan_to_num(0.0)
    return train, rows.masked_fill(~train.unsqueeze(1), 0).to(data.x.dtype)


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Of the classes. [n, C] -> [n, C]."""
    return logits.softmax(1) if task.kind == "single" else logits.sigmoid()
