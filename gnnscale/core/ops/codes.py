"""Integer codes of real numbers: one quantizer for training and for integer inference.

code(x) = clamp(round(x / s + z), first, last), value(code) = s (code - z). x / s + z is one fused
multiply-add with the rounded reciprocal of s, rounded to the nearest integer, ties to even: bit for
bit what ``torch.quantize_per_tensor`` computes, while its fake quantization rounds before z is
added and so differs at ties.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor

from gnnscale.core.compiled import compiled

CHUNK = 1 << 14


@intrinsic
def fma(typing_context, x, y, z):
    """x y + z, rounded once."""
    signature = x(x, x, x)

    def generate(context, builder, signature, args):
        return builder.fma(*args)

    return signature, generate


@intrinsic
def rectified(typing_context, x):
    """max(x, 0) + 0, NaN where x is NaN.

    Without the last 0 a loop that puts it back where x was becomes one of masked stores, which
    takes three times as long (AMD, measured).
    """

    def generate(context, builder, signature, args):
        (value,) = args
        kind = value.type
        maximum = builder.module.declare_intrinsic(
            "llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind])
        )
        return builder.fadd(builder.call(maximum, [value, kind(0.0)]), kind(0.0))

    return x(x), generate


class Grid(NamedTuple):
    """The numbers that codes stand for: s (code - z) for codes first..last.

    scale, zero: () or [channels], of the type of the values; first, last: the end codes.
    """

    scale: Tensor
    zero: Tensor
    first: int
    last: int


@numba.njit(inline="always")
def _stretch(given, inv, s, z, first, last, what, grad, put):
    """Some values of one scale. what: 0 codes, 1 values, 2 grad where no code is cut off, 3 codes
    less zero.
    """
    if what == 2:
        for i in range(len(given)):
            code = np.rint(fma(given[i], inv, z))
            put[i] = grad[i] if code >= first and code <= last else 0
    else:
        for i in range(len(given)):
            code = np.rint(fma(given[i], inv, z))
            # comparisons, so that NaN stays NaN
            code = first if code < first else (last if code > last else code)
            put[i] = code if what == 0 else (code - z if what == 3 else (code - z) * s)


@compiled(parallel=True)
def _walk(x, inverse, scale, zero, first, last, what, g, out):
    """x [rows, n], one scale per row."""
    rows, n = x.shape
    chunks = (n + CHUNK - 1) // CHUNK
    for task in numba.prange(rows * chunks):
        r, start = task // chunks, (task % chunks) * CHUNK
        end = min(start + CHUNK, n)
        _stretch(
            x[r, start:end], inverse[r], scale[r], zero[r], first, last, what, g[r, start:end],
            out[r, start:end],
        )  # fmt: skip


@compiled(parallel=True)
def _walk_around(x, kept, inverse, scale, zero, first, last, what, g, out):
    """x [rows, n], one scale for all; rows that are kept stay as they are."""
    for r in numba.prange(len(x)):
        if kept[r]:
            out[r] = g[r] if what == 2 else x[r]
        else:
            _stretch(x[r], inverse[0], scale[0], zero[0], first, last, what, g[r], out[r])


@compiled()
def _count(x, low, high):
    below, above, negative, positive = 0, 0, 0, 0
    for i in range(len(x)):
        below += x[i] < low
        above += x[i] > high
        negative += x[i] < 0
        positive += x[i] > 0
    return below, above, negative, positive


def counted(x: Tensor, low: float, high: float) -> tuple[int, int, int, int]:
    """How many entries of a vector are below ``low``, above ``high``, negative and positive."""
    if x.device.type == "cpu":
        kind = x.numpy().dtype.type
        return _count(x.numpy(), kind(low), kind(high))
    found = [x < low, x > high, x < 0, x > 0]
    below, above, negative, positive = (int(torch.count_nonzero(mask)) for mask in found)
    return below, above, negative, positive


def _rows(x: Tensor, grid: Grid, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """x with one row per channel, and its shape with the channels in front."""
    if grid.scale.dim() == 0:
        return x.reshape(1, -1), tuple(x.shape)
    moved = x.movedim(axis, 0)
    return moved.reshape(len(moved), -1), tuple(moved.shape)


def _apply(x: Tensor, grid: Grid, axis: int, what: int, g: Tensor | None = None) -> Tensor:
    flat, shape = _rows(x, grid, axis)
    scale, zero = (t.to(x.dtype).reshape(-1) for t in (grid.scale, grid.zero))
    inverse = scale.reciprocal()
    if x.device.type == "cpu":
        flat = flat.contiguous()
        grad = flat if g is None else _rows(g, grid, axis)[0].contiguous()
        out = torch.empty_like(flat, dtype=torch.int16 if what == 3 else None)
        kind = flat.numpy().dtype.type
        _walk(flat.numpy(), inverse.numpy(), scale.numpy(), zero.numpy(), kind(grid.first),
              kind(grid.last), what, grad.numpy(), out.numpy())  # fmt: skip
    else:
        code = torch.addcmul(zero[:, None], flat, inverse[:, None]).round()
        if what == 2:
            assert g is not None
            inside = (code >= grid.first) & (code <= grid.last)
            out = torch.where(inside, _rows(g, grid, axis)[0], 0)
        else:
            out = code.clamp(grid.first, grid.last)
            out = out if what == 0 else out - zero[:, None]
            out = out.to(torch.int16) if what == 3 else out * scale[:, None] if what == 1 else out
    if grid.scale.dim() == 0:
        return out.view(shape)
    return out.view(shape).movedim(0, axis)


def centred(x: Tensor, grid: Grid) -> Tensor:
    """The code of every value less the code of 0, int16. grid: one scale for all."""
    return _apply(x, grid, -1, 3)


def encode(x: Tensor, grid: Grid, axis: int = -1) -> Tensor:
    """The code of every value, whole numbers in the type of ``x`` (float32 or float64).

    axis: of x, along which ``grid.scale`` [channels] runs. Shapes: any -> the same.
    """
    return _apply(x.detach(), grid, axis, 0)


def decode(codes: Tensor, grid: Grid, axis: int = -1) -> Tensor:
    """The values that codes stand for, s (code - z), in the type of the scale."""
    scale, zero = grid.scale, grid.zero
    if scale.dim():
        size = [1] * codes.dim()
        size[axis] = -1
        scale, zero = scale.view(size), zero.view(size)
    return (codes.to(scale.dtype) - zero) * scale


class _Fake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, grid, axis, straight):
        ctx.grid, ctx.axis, ctx.straight = grid, axis, straight
        if not straight:
            ctx.save_for_backward(x)
        return _apply(x, grid, axis, 1)

    @staticmethod
    def backward(ctx, g):
        if ctx.straight:
            return g, None, None, None
        (x,) = ctx.saved_tensors
        return _apply(x, ctx.grid, ctx.axis, 2, g), None, None, None


def fake(x: Tensor, grid: Grid, axis: int = -1, straight: bool = False) -> Tensor:
    """The value of the code of ``x``; the gradient is 0 where the code is cut off, else 1.

    straight: the gradient is 1 everywhere. Shapes: any -> the same.
    """
    return _Fake.apply(x, grid, axis, straight)


def _around(x: Tensor, kept: Tensor, grid: Grid, what: int, g: Tensor | None = None) -> Tensor:
    if x.device.type != "cpu":
        mask = kept.view(-1, *[1] * (x.dim() - 1))
        return torch.where(mask, x if g is None else g, _apply(x, grid, -1, what, g))
    shape = len(x), math.prod(x.shape[1:])
    rows = x.reshape(shape).contiguous()
    grad = rows if g is None else g.reshape(shape).contiguous()
    scale, zero = (t.to(x.dtype).reshape(1) for t in (grid.scale, grid.zero))
    out, kind = torch.empty_like(rows), rows.numpy().dtype.type
    _walk_around(rows.numpy(), kept.numpy(), scale.reciprocal().numpy(), scale.numpy(),
                 zero.numpy(), kind(grid.first), kind(grid.last), what, grad.numpy(),
                 out.numpy())  # fmt: skip
    return out.view(x.shape)


class _FakeAround(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept, grid, straight):
        ctx.grid, ctx.straight = grid, straight
        if not straight:
            ctx.save_for_backward(x, kept)
        return _around(x, kept, grid, 1)

    @staticmethod
    def backward(ctx, g):
        if ctx.straight:
            return g, None, None, None
        x, kept = ctx.saved_tensors
        return _around(x, kept, ctx.grid, 2, g), None, None, None


def fake_around(x: Tensor, kept: Tensor, grid: Grid, straight: bool = False) -> Tensor:
    """``fake`` with one scale, but for rows that are kept as they are, and their gradients.

    Shapes: x [n, ...], kept [n] -> as x.
    """
    return _FakeAround.apply(x, kept, grid, straight)
