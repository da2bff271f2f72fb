"""Large float32 products by the library that is fast on this processor.

torch multiplies with MKL. On AMD's processors OpenBLAS, which comes with scipy, is faster at tall
matrices, the more so on several threads; there ``multiply`` calls it (docs/hardware.md has the
figures). The processor alone decides, never a measurement, so that a run that is gone on with gives
the same numbers.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gnnscale.core.ops.watch import tell_dense

_limited = 0
"""Threads that OpenBLAS was last told to use."""


def multiply(a: Tensor, b: Tensor, out: Tensor, keep: bool = False) -> Tensor:
    """out = a b, or with ``keep`` out += a b; no gradient.

    Shapes: a [n, k], b [k, m], out [n, m], contiguous and apart from both.
    Raises: RuntimeError, torch's, for others.
    """
    left, right, call = _layout(a), _layout(b), None
    kinds = {t.dtype for t in (a, b, out)} | {t.device.type for t in (a, b, out)}
    # what is called checks no size, so torch gets, and refuses, what does not fit
    fits = a.shape[1] == b.shape[0] and out.shape == (len(a), b.shape[1]) and out.is_contiguous()
    if fits and left and right and min(*a.shape, *b.shape) and kinds == {torch.float32, "cpu"}:
        call = openblas()
    if call is None or left is None or right is None:
        return torch.addmm(out, a, b, out=out) if keep else torch.mm(a, b, out=out)
    tell_dense(len(a), a.shape[1], b.shape[1], a.dtype)
    _follow_threads()
    # BLAS reads columns first, to which a row-first matrix is its transpose: out' = b' a'
    flags, sizes = (right[0], left[0]), (b.shape[1], a.shape[0], a.shape[1])
    call(
        *flags, *map(_whole, sizes), _real(1.0), b.data_ptr(), _whole(right[1]),
        a.data_ptr(), _whole(left[1]), _real(float(keep)), out.data_ptr(), _whole(out.shape[1]),
    )  # fmt: skip
    return out


@functools.cache
def openblas() -> Callable[..., None] | None:
    """scipy's ``sgemm``, if it is OpenBLAS's and the processor one that it is the faster on."""
    if not amd():
        return None
    from numba.extending import get_cython_function_address
    from threadpoolctl import threadpool_info

    try:
        address = get_cython_function_address("scipy.linalg.cython_blas", "sgemm")
    except (ImportError, ValueError):
        return None
    if not any(lib["internal_api"] == "openblas" for lib in threadpool_info()):
        return None
    whole, real, flag, place = _WHOLE, _REAL, ctypes.c_char_p, ctypes.c_void_p
    return ctypes.CFUNCTYPE(  # lets other threads of Python go on meanwhile
        None, flag, flag, whole, whole, whole, real, place, whole, place, whole, real, place, whole
    )(address)


@functools.cache
def amd() -> bool:
    """Whether the processor is AMD's."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


_WHOLE, _REAL = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_float)


def _whole(value: int) -> ctypes._Pointer:
    return ctypes.pointer(ctypes.c_int(value))


def _real(value: float) -> ctypes._Pointer:
    return ctypes.pointer(ctypes.c_float(value))


def _layout(t: Tensor) -> tuple[bytes, int] | None:
    """(whether rows lie in a row or are columns of one that does, step between them)."""
    rows, columns = t.shape
    if t.stride(1) == 1 and (t.stride(0) >= columns or rows == 1):
        return b"N", max(t.stride(0), columns)
    if t.stride(0) == 1 and (t.stride(1) >= rows or columns == 1):
        return b"T", max(t.stride(1), rows)
    return None


def _follow_threads() -> None:
    """As many threads as torch has."""
    global _limited
    if _limited != torch.get_num_threads():
        from threadpoolctl import threadpool_limits

        _limited = torch.get_num_threads()
        threadpool_limits(_limited, user_api="blas")
