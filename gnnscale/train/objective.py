"""What is minimised: the supervised loss and the terms beside it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import Task


class Objective(nn.Module):
    """L = (product of the terms' ``hard`` factors) * supervised + sum of terms.

    The supervised loss is the mean over labelled seeds, or, where the sampler gives absolute
    weights, their weighted sum (GraphSAINT, eq. 2); 0 for a batch without labels.

    Args:
        task: the loss and score. terms: by name, in the order in which they are added. log_eps:
            eps of log(eps + l) - log(eps), which replaces the supervised loss l of each row where
            eps is given; it bounds the pull of rows that can't be fitted (Li et al., ICML 2021: eps
            = 1 - log 2).
    """

    def __init__(self, task: Task, terms: Mapping[str, nn.Module], log_eps: float | None = None):
        super().__init__()
        self.task, self.log_eps = task, log_eps
        self.terms = nn.ModuleDict(terms)

    @property
    def each(self) -> list[Any]:
        """The terms in order."""
        return list(self.terms.values())

    @property
    def wants_unlabeled(self) -> bool:
        """Whether some term compares seeds that carry no training label."""
        return any(term.nodes != "train" for term in self.each)

    def supervised(self, out: Output, batch: Batch) -> Tensor:
        """The supervised loss of a batch, a scalar."""
        rows = batch.labeled if out.supervised is None else batch.labeled & out.supervised
        if not rows.any():
            return out.logits.sum() * 0
        if self.task.group:
            rows = rows.nonzero().squeeze(1)
            rows = rows[self.task.arranged(batch.ids[rows])]
        losses = self.task.losses(out.logits[rows], batch.y[rows])
        if self.log_eps is not None:
            losses = torch.log1p(losses / self.log_eps)
        return losses.mean() if batch.weight is None else (losses * batch.weight[rows]).sum()

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The whole loss of a batch, a scalar."""
        loss = self.supervised(out, batch)
        hard = math.prod(term.hard for term in self.each)
        if hard != 1:
            loss = hard * loss
        for term in self.each:
            loss = loss + term(out, batch)
        return torch.as_tensor(loss)
