"""Dense products whose large results lie in memory that is used again.

Under autocast to bfloat16, where the processor has no instructions for it, torch multiplies entry
by entry: an epoch of a GCN took 36.6 s in place of 2.8 (docs/benchmarks/speed.md). There both sides
are rounded to bfloat16, as the instructions would have them, and multiplied in float32, which is
what the instructions add up in.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnscale.core.ops import pool
from gnnscale.core.ops.blas import multiply

Made = Callable[[], Tensor]
AUTOCAST = (torch.float32, torch.bfloat16)
"""What becomes bfloat16; float64 stays."""
BESIDE = 256
"""Columns up to which two kinds of rows are laid side by side: no more were measured."""


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, onto, over):
        ctx.save_for_backward(x, w)
        ctx.row = onto is not None and onto.dim() == 1
        if over:
            ctx.mark_dirty(onto)
            return multiply(x, w, onto, keep=True)
        out = pool.empty(len(x), w.shape[1], dtype=x.dtype)
        return multiply(x, w, out if onto is None else out.copy_(onto), keep=onto is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        rows, weight = (lambda: multiply(g, w.T, pool.like(x))), (lambda: x.T @ g)
        return *_gradients(ctx, g, rows, weight), None


def _gradients(ctx: Any, g: Tensor, rows: Made, weight: Made) -> list[Tensor | None]:
    """Of x, w and onto, each made only where it is needed."""
    onto: Made = (lambda: g.sum(0)) if ctx.row else (lambda: g)
    needed = zip((rows, weight, onto), ctx.needs_input_grad, strict=False)
    return [make() if wanted else None for make, wanted in needed]


class _Widened(torch.autograd.Function):
    """Of bfloat16 entries, added up in float32, to bfloat16."""

    @staticmethod
    def forward(ctx, x, w, onto):
        kinds = x.dtype, w.dtype, None if onto is None else onto.dtype
        x, w = x.bfloat16(), w.bfloat16()
        ctx.save_for_backward(x, w)
        ctx.kinds, ctx.row = kinds, onto is not None and onto.dim() == 1
        out = _wide(x, w)
        return (out if onto is None else out.add_(onto)).bfloat16()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x, w), g = ctx.saved_tensors, g.float()
        empty = g.new_empty(w.shape)
        rows, weight = (
            lambda: _wide(g, w.T),
            lambda: torch.mm(x.T.float(), g, out=empty),  # so it is never autocast
        )
        found = zip(_gradients(ctx, g, rows, weight), ctx.kinds, strict=True)
        return tuple(t if t is None else t.to(kind) for t, kind in found)


def _wide(a: Tensor, b: Tensor) -> Tensor:
    """a b in float32."""
    out = pool.empty(len(a), b.shape[1], dtype=torch.float32)
    return multiply(a.float(), b.float(), out)


@functools.cache
def _native() -> bool:
    """Whether torch's products of bfloat16 are as fast as the processor can do them."""
    if not torch.backends.mkldnn.is_available():  # whatever else multiplies there
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, by):
        return torch.add(z, by, out=pool.like(z))

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g, g.sum(0)


def product(x: Any, w: Any, onto: Any = None, over: bool = False) -> Any:
    """x w, or onto + x w; sparse rows and codes multiply in their own way.

    over: nothing else needs the rows ``onto``, so the result may lie where they lie.

    Shapes: x [n, D], w [D, D'], onto [n, D'] or [D'] -> [n, D'].
    """
    plain = all(isinstance(t, Tensor) for t in (x, w, w if onto is None else onto))
    if plain and x.dim() == 2:
        if _large(x, max(w.shape)) and w.dtype == x.dtype and _alike(onto, x):
            return _Product.apply(x, w, onto, over and _free(onto, (len(x), w.shape[1])))
        if w.dim() == 2 and _slow(x, w):
            return _Widened.apply(x, w, onto)
        return x @ w if onto is None else torch.addmm(onto, x, w)
    return x @ w if onto is None else x @ w + onto


def summed(x: Any, w: Any, other: Any, v: Any, onto: Any) -> Any:
    """x w + other v + onto: one product of the rows side by side where they need no gradient.

    One product of 256 columns runs 1.8 times as fast as two of 128 (OpenBLAS, two threads), which
    pays for the copy; a gradient would have to be cut in two again.

    Shapes: x [n, D], w [D, D'], other [n, E], v [E, D'], onto [n, D'] or [D'] -> [n, D'].
    """
    plain = all(isinstance(t, Tensor) and t.dim() == 2 for t in (x, w, other, v))
    if plain and not (x.requires_grad or other.requires_grad) and x.dtype == other.dtype:
        width = x.shape[1] + other.shape[1]
        if _large(x, width) and width <= BESIDE:
            rows = torch.cat((x, other), 1, out=pool.empty(len(x), width, dtype=x.dtype))
            return product(rows, torch.cat((w, v)), onto)
    return product(other, v, product(x, w, onto), over=True)


def shifted(z: Any, by: Tensor) -> Any:
    """z + by. Shapes: z [n, D], by [D] -> [n, D]."""
    if isinstance(z, Tensor) and z.dim() == 2 and _large(z, z.shape[1]) and _alike(by, z):
        return _Shifted.apply(z, by)
    return z + by


def _free(onto: Tensor | None, shape: tuple[int, int]) -> bool:
    """Whether these rows may be written over: a leaf's gradient is of what it holds."""
    if onto is None or onto.shape != shape or not onto.is_contiguous():
        return False
    return not (onto.is_leaf and onto.requires_grad)


def _slow(*sides: Tensor) -> bool:
    """Whether torch would multiply entries of bfloat16 one by one."""
    if not torch.is_autocast_enabled("cpu") or _native():
        return False
    here = all(t.device.type == "cpu" and t.dtype in AUTOCAST for t in sides)
    return here and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _alike(t: Tensor | None, x: Tensor) -> bool:
    return t is None or t.dtype == x.dtype


def _large(x: Tensor, width: int) -> bool:
    """Whether n rows of so many columns are worth a block of the pool, where there is one."""
    here = x.device.type == "cpu" and x.dtype in pool.KINDS
    return (
        here and len(x) * width * x.itemsize >= pool.LEAST and not torch.is_autocast_enabled("cpu")
    )
