"""A small matrix times a small matrix for every node, one row of each at a time.

``torch.bmm`` takes three times as long for products of [4, 12] with [12, 64] and their gradients,
as many as there are nodes (3.3 s and 1.1 s of an epoch of EGC-M, 169,343 nodes, one thread).
"""

import numba
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool


@compiled(parallel=True)
def _forward(w, u, by, out):
    for i in numba.prange(len(u)):
        for h in range(w.shape[1]):
            row = out[i, h]
            row[:] = by[h]
            for k in range(w.shape[2]):
                a, given = w[i, h, k], u[i, k]
                for d in range(u.shape[2]):
                    row[d] += a * given[d]


@compiled(parallel=True, fastmath={"reassoc"})
def _weights(u, g, gw):
    for i in numba.prange(len(u)):
        for k in range(gw.shape[2]):
            for h in range(gw.shape[1]):
                total, row, given = g.dtype.type(0), g[i, h], u[i, k]
                for d in range(u.shape[2]):
                    total += row[d] * given[d]
                gw[i, h, k] = total


@compiled(parallel=True)
def _rows(w, g, gu):
    for i in numba.prange(len(gu)):
        zero = g.dtype.type(0)
        for k in range(w.shape[2]):
            mine = gu[i, k]
            mine[:] = zero
            for h in range(w.shape[1]):
                a, row = w[i, h, k], g[i, h]
                for d in range(gu.shape[2]):
                    mine[d] += a * row[d]


def forward(w: Tensor, u: Tensor, by: Tensor) -> Tensor:
    """``mixed`` without gradients, [n, H, L]."""
    out = pool.empty(len(u), w.shape[1], u.shape[2], dtype=u.dtype)
    _forward(*(t.detach().numpy() for t in (w, u, by.view(out.shape[1:]), out)))
    return out


def weights(w: Tensor, u: Tensor, g: Tensor) -> Tensor:
    """The gradient of w, g_i u_i^T, from that of the result. Shapes: g [n, H, L] -> [n, H, K]."""
    gw = pool.like(w)
    _weights(u.numpy(), g.contiguous().numpy(), gw.numpy())
    return gw


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, u, by):
        w, u = w.contiguous(), u.contiguous()
        ctx.save_for_backward(w, u)
        return forward(w, u, by)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        w, u = ctx.saved_tensors
        gu = pool.like(u)
        _rows(w.numpy(), g.contiguous().numpy(), gu.numpy())
        return weights(w, u, g), gu, g.sum(0).flatten() if ctx.needs_input_grad[2] else None


def fits(w: Tensor, u: Tensor, by: Tensor) -> bool:
    """Whether the compiled loops take them."""
    return u.device.type == "cpu" and u.dtype == w.dtype == by.dtype and u.dtype in pool.KINDS


def mixed(w: Tensor, u: Tensor, by: Tensor) -> Tensor:
    """w_i u_i of every node i, plus a bias.

    Shapes: w [n, H, K], u [n, K, L], by [H L] -> [n, H L].
    """
    if fits(w, u, by):
        return _Mixed.apply(w, u, by).flatten(1)
    return torch.bmm(w, u).flatten(1) + by
