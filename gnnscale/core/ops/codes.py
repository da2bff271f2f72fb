"""Integer codes of real numbers: one quantizer for training and for integer inference.

code(x) = clamp(round(x / s + z), first, last), value(code) = s (code - z). x / s + z is one fused
multiply-add with the rounded reciprocal of s, rounded to the nearest integer, ties to even: bit for
bit what ``torch.quantize_per_tensor`` computes, while its fake quantization rounds before z is
added and so differs at ties.
"""

from typing import NamedTuple

import numba
import numpy as np
import torch
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


class Grid(NamedTuple):
    """The numbers that codes stand for: s (code - z) for codes first..last.

    scale, zero: () or [channels], of the type of the values; first, last: the end codes.
    """

    scale: Tensor
    zero: Tensor
    first: int
    last: int


@compiled(parallel=True)
def _walk(x, inverse, scale, zero, first, last, what, g, out):
    """x [rows, n], one scale per row. what: 0 codes, 1 values, 2 g where no code is cut off."""
    rows, n = x.shape
    chunks = (n + CHUNK - 1) // CHUNK
    for task in numba.prange(rows * chunks):
        r, start = task // chunks, (task % chunks) * CHUNK
        size = min(CHUNK, n - start)
        given, put = x[r, start : start + size], out[r, start : start + size]
        inv, s, z = inverse[r], scale[r], zero[r]
        if what == 2:
            grad = g[r, start : start + size]
            for i in range(size):
                code = np.rint(fma(given[i], inv, z))
                put[i] = grad[i] if code >= first and code <= last else 0
        else:
            for i in range(size):
                code = np.rint(fma(given[i], inv, z))
                # comparisons, so that NaN stays NaN
                code = first if code < first else (last if code > last else code)
                put[i] = code if what == 0 else (code - z) * s


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
        out = torch.empty_like(flat)
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
            out = out if what == 0 else (out - zero[:, None]) * scale[:, None]
    if grid.scale.dim() == 0:
        return out.view(shape)
    return out.view(shape).movedim(0, axis)


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
