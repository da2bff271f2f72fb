import pytest
import torch
from torch import nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData, Task
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.teacher import Teacher


def nodes(ids, labeled=None, weight=None, key=(0, 0, 0)) -> Batch:
    """A batch whose rows are the nodes ``ids``."""
    ids = torch.as_tensor(ids)
    n = len(ids)
    return Batch(
        x=torch.empty(n, 0), hops=(), nodes=ids, rows=torch.arange(n), ids=ids,
        y=torch.zeros(n, dtype=torch.int64),
        labeled=torch.ones(n, dtype=torch.bool) if labeled is None else torch.as_tensor(labeled),
        weight=weight, key=key,
    )  # fmt: skip


def said(h, batch=None) -> Output:
    """An output whose one hidden level is ``h``."""
    return Output(h.sum(1, keepdim=True), (h,), torch.arange(len(h)))


@pytest.fixture
def attached(six):
    """attached(cls, table, width=None, data=None, **options): a term that has its teacher."""

    def make(cls, table, width=None, data=None, **options):
        term = cls(**options)
        term.size((table.shape[1] if width is None else width,))
        torch.manual_seed(0)
        if data is None:
            data = GraphData("six", six, torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), {},
                             Task(classes=3))  # fmt: skip
        hidden = dict.fromkeys(term.taps, table)
        term.attach(nn.Identity(), data, Teacher(logits=table, hidden=hidden))
        return term.double()

    return make


def randn(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(n, seed=0):
    return torch.linalg.qr(randn(n, n, seed=seed)).Q


def gradient(term, h, batch):
    """(loss, gradient in h)."""
    h = h.clone().requires_grad_()
    loss = term(said(h), batch)
    (grad,) = torch.autograd.grad(loss, h)
    return loss.detach(), grad


def ring(n) -> Adjacency:
    """An undirected ring."""
    i = torch.arange(n)
    j = (i + 1) % n
    return Adjacency.from_edges(torch.cat([i, j]), torch.cat([j, i]), n)
