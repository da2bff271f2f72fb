"""Batches, outputs and numbers for tests of losses on matched rows."""

import torch

from gnnscale.core.batch import Batch, Output
from gnnscale.core.ops.adjacency import Adjacency


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


def said(h) -> Output:
    """An output whose one hidden level is ``h``."""
    return Output(h.sum(1, keepdim=True), (h,), torch.arange(len(h)))


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
