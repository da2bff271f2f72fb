"""What stands behind a convolution in one pass: normalisation, activation, dropout; and back.

y = drop(act(gamma (x - mean) / sqrt(var + eps) + beta)), statistics by column (batch norm: Ioffe &
Szegedy, ICML 2015, arXiv:1502.03167) or by row (layer norm: Ba, Kiros & Hinton, 2016,
arXiv:1607.06450); act(v) = v for v > 0, slope v else. Nothing but x is kept for the backward pass,
which computes signs and mask again; the mask is that of ``dropout``. Matrices are read
twice and written once in each direction, where a pass for each step reads and writes seven.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool
from gnnscale.core.ops.dropout import drawn, halves, hashed
from gnnscale.core.ops.dropout import words as dropout_words

RUNS = 64
"""Partial sums over rows, whatever the number of threads."""
CHUNK = 32
"""Rows whose mean and squared deviations are taken together, while they are in the cache."""


@compiled(parallel=True)
def _moments(x, means, squares):
    """Mean and summed squared deviations of every run of rows, by column (Chan et al., 1983)."""
    n, width, runs = len(x), x.shape[1], len(means)
    for run in numba.prange(runs):
        zero = x.dtype.type(0)
        first, stop = run * n // runs, (run + 1) * n // runs
        part, mean, square = np.empty(width, x.dtype), means[run], squares[run]
        mean[:] = zero
        square[:] = zero
        for begin in range(first, stop, CHUNK):
            end = min(begin + CHUNK, stop)
            part[:] = zero
            for i in range(begin, end):
                for d in range(width):
                    part[d] += x[i, d]
            size, before = x.dtype.type(end - begin), x.dtype.type(begin - first)
            share = size / (size + before)
            for d in range(width):
                part[d] /= size
            for i in range(begin, end):
                for d in range(width):
                    off = x[i, d] - part[d]
                    square[d] += off * off
            for d in range(width):
                off = part[d] - mean[d]
                mean[d] += share * off
                square[d] += off * off * before * share


@compiled(parallel=True)
def _by_column(x, mean, by, beta, slope, key, dropped, scale, out):
    for i in numba.prange(len(x)):
        zero, leaks = x.dtype.type(0), slope != 0
        low, high = halves(key, i)
        for d in range(x.shape[1]):
            v = (x[i, d] - mean[d]) * by[d] + beta[d]
            out[i, d] = v if not v <= zero else (slope * v if leaks else zero)
        if dropped > 0:
            for d in range(x.shape[1]):
                out[i, d] = out[i, d] * scale if hashed(low, high, d) >= dropped else zero


@compiled(parallel=True)
def _column_sums(x, g, mean, by, beta, slope, key, dropped, scale, plain, times):
    """Over rows, in runs: the gradient before the norm's factors, and that times (x - mean)."""
    n, width, runs = len(x), x.shape[1], len(plain)
    for run in numba.prange(runs):
        zero, one = x.dtype.type(0), x.dtype.type(1)
        first, second = plain[run], times[run]
        first[:] = zero
        second[:] = zero
        part = np.empty(width, x.dtype)
        for i in range(run * n // runs, (run + 1) * n // runs):
            low, high = halves(key, i)
            for d in range(width):
                part[d] = g[i, d]
            if dropped > 0:
                for d in range(width):
                    part[d] = part[d] * scale if hashed(low, high, d) >= dropped else zero
            for d in range(width):
                off = x[i, d] - mean[d]
                b = part[d] * (one if off * by[d] + beta[d] > zero else slope)
                first[d] += b
                second[d] += b * off


@compiled(parallel=True)
def _back_by_column(x, g, mean, by, beta, slope, key, dropped, scale, inverse2, plain, times, out):
    """by (g' - plain - (x - mean) inverse^2 times)."""
    for i in numba.prange(len(x)):
        zero, one = x.dtype.type(0), x.dtype.type(1)
        low, high = halves(key, i)
        for d in range(x.shape[1]):
            out[i, d] = g[i, d]
        if dropped > 0:
            for d in range(x.shape[1]):
                out[i, d] = out[i, d] * scale if hashed(low, high, d) >= dropped else zero
        for d in range(x.shape[1]):
            off = x[i, d] - mean[d]
            b = out[i, d] * (one if off * by[d] + beta[d] > zero else slope)
            out[i, d] = by[d] * (b - plain[d] - off * inverse2[d] * times[d])


@compiled(parallel=True, fastmath={"reassoc"})
def _by_row(x, gamma, beta, eps, slope, key, dropped, scale, means, inverses, out):
    width = x.dtype.type(x.shape[1])
    for i in numba.prange(len(x)):
        zero, one, leaks = x.dtype.type(0), x.dtype.type(1), slope != 0
        low, high = halves(key, i)
        total = zero
        for d in range(x.shape[1]):
            total += x[i, d]
        mean = total / width
        total = zero
        for d in range(x.shape[1]):
            off = x[i, d] - mean
            total += off * off
        inverse = one / np.sqrt(total / width + eps)
        means[i], inverses[i] = mean, inverse
        for d in range(x.shape[1]):
            v = (x[i, d] - mean) * inverse * gamma[d] + beta[d]
            out[i, d] = v if not v <= zero else (slope * v if leaks else zero)
        if dropped > 0:
            for d in range(x.shape[1]):
                out[i, d] = out[i, d] * scale if hashed(low, high, d) >= dropped else zero


@compiled(parallel=True, fastmath={"reassoc"})
def _back_by_row(x, g, gamma, beta, slope, key, dropped, scale, means, inverses, gx, ggamma, gbeta):
    n, width, runs = len(x), x.shape[1], len(gbeta)
    for run in numba.prange(runs):
        zero, one, size = x.dtype.type(0), x.dtype.type(1), x.dtype.type(x.shape[1])
        first, second = gbeta[run], ggamma[run]
        first[:] = zero
        second[:] = zero
        part, off = np.empty(width, x.dtype), np.empty(width, x.dtype)
        for i in range(run * n // runs, (run + 1) * n // runs):
            low, high = halves(key, i)
            mean, inverse = means[i], inverses[i]
            for d in range(width):
                part[d] = g[i, d]
            if dropped > 0:
                for d in range(width):
                    part[d] = part[d] * scale if hashed(low, high, d) >= dropped else zero
            plain, times = zero, zero
            for d in range(width):
                off[d] = (x[i, d] - mean) * inverse
                b = part[d] * (one if off[d] * gamma[d] + beta[d] > zero else slope)
                first[d] += b
                second[d] += b * off[d]
                part[d] = b * gamma[d]
                plain += part[d]
                times += part[d] * off[d]
            plain, times = plain / size, times / size
            for d in range(width):
                gx[i, d] = inverse * (part[d] - plain - off[d] * times)


def words(x: Tensor, slope: float, p: float) -> tuple[Any, ...]:
    """The activation's slope; dropout's key, threshold and factor."""
    return x.detach().numpy().dtype.type(slope), *dropout_words(x, drawn(p), p)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every column, [D] each, of x [n, D]."""
    n = len(x)
    means, squares = x.new_empty(2, RUNS, x.shape[1]).unbind(0)
    _moments(_array(x), means.numpy(), squares.numpy())
    ends = torch.arange(RUNS + 1) * n // RUNS
    sizes = (ends[1:] - ends[:-1]).unsqueeze(1).double()
    means, squares = means.double(), squares.double()
    mean = (sizes * means).sum(0) / n
    var = (squares + sizes * (means - mean).square()).sum(0) / n
    return mean.to(x.dtype), var.to(x.dtype)


class _ByColumn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, mean, inverse, said, own):
        x = x.contiguous()
        by = inverse * gamma
        out = pool.like(x)
        _by_column(_array(x), _array(mean), _array(by), _array(beta), *said, out.numpy())
        ctx.said, ctx.own = said, own
        ctx.save_for_backward(x, mean, inverse, by, beta)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, mean, inverse, by, beta = ctx.saved_tensors
        given = _array(g)
        rows = (_array(x), given, _array(mean), _array(by), _array(beta), *ctx.said)
        gx = ggamma = gbeta = None
        shares = torch.zeros_like(by), torch.zeros_like(by)
        if ctx.own or any(ctx.needs_input_grad[1:3]):
            plain, times = x.new_empty(2, RUNS, x.shape[1]).unbind(0)
            _column_sums(*rows, plain.numpy(), times.numpy())
            gbeta, times = plain.sum(0), times.sum(0)
            ggamma = times * inverse
            if ctx.own:  # other statistics than the rows' own are constants
                shares = gbeta / len(x), times / len(x)
        if ctx.needs_input_grad[0]:
            gx = pool.like(x)
            square = _array(inverse.square())
            _back_by_column(*rows, square, *(_array(s) for s in shares), gx.numpy())
        return gx, ggamma, gbeta, None, None, None, None


class _ByRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, eps, said):
        x = x.contiguous()
        out, (means, inverses) = pool.like(x), x.new_empty(2, len(x)).unbind(0)
        number = out.numpy().dtype.type
        _by_row(
            _array(x), _array(gamma), _array(beta), number(eps), *said, means.numpy(),
            inverses.numpy(), out.numpy(),
        )  # fmt: skip
        ctx.said = said
        ctx.save_for_backward(x, gamma, beta, means, inverses)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, gamma, beta, means, inverses = ctx.saved_tensors
        gx = pool.like(x)
        ggamma, gbeta = x.new_empty(2, RUNS, x.shape[1]).unbind(0)
        _back_by_row(
            _array(x), _array(g), _array(gamma), _array(beta), *ctx.said, means.numpy(),
            inverses.numpy(), gx.numpy(), ggamma.numpy(), gbeta.numpy(),
        )  # fmt: skip
        return gx, ggamma.sum(0), gbeta.sum(0), None, None


def by_column(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float,
    slope: float, p: float, own: bool,
) -> Tensor:  # fmt: skip
    """Columns normalised by ``mean`` and ``var``, activated, dropped, on the CPU.

    own: whether these are the rows' own ``moments``, through which gradients flow.

    Shapes: x [n, D] float32 or float64, others [D] -> [n, D].
    """
    inverse = (var + eps).rsqrt()
    return _ByColumn.apply(x, gamma, beta, mean, inverse, words(x, slope, p), own)


def plain(x: Tensor, slope: float, p: float) -> Tensor:
    """Activated and dropped without a norm, on the CPU.

    Shapes: x [n, D] float32 or float64 -> the same.
    """
    one, zero = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return _ByColumn.apply(x, one, zero, zero, one, words(x, slope, p), False)


def by_row(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, slope: float, p: float) -> Tensor:
    """Rows normalised each by itself, activated, dropped, on the CPU.

    Shapes: x [n, D] float32 or float64, others [D] -> [n, D].
    """
    return _ByRow.apply(x, gamma, beta, eps, words(x, slope, p))
