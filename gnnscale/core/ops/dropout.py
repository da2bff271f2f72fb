"""Dropout whose mask is a hash of (key, row, column): no stored mask, no serial generator.

``torch.bernoulli_`` is single-threaded and was a third of a full-batch GCN epoch on the CPU. Here
every element gets a 32-bit hash that vectorises, rows run in parallel, and the backward pass hashes
again instead of keeping the mask; so do passes that drop along with other work. The rate is rounded
to a multiple of 2^-32 and the kept values are divided by exactly that keep rate, so the expectation
is exact.
"""

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops import pool

STEPS = 1 << 32
CHUNK = 1 << 16
"""Entries of a vector that count as a row."""


@numba.njit(inline="always")
def mix(z):
    """SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(inline="always")
def halves(key, row):
    """The two words from which a row's hashes are made."""
    word = mix(key + np.uint64(row) * np.uint64(0x9E3779B97F4A7C15))
    return np.uint32(word), np.uint32(word >> np.uint64(32))


@numba.njit(inline="always")
def hashed(low, high, column):
    """An entry's hash, by MurmurHash3's 32-bit finaliser; it is kept if that is >= p 2^32."""
    z = np.uint32(np.uint32(column) * np.uint32(0x9E3779B1) + low)
    z = np.uint32((z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)) ^ high
    z = np.uint32((z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(z ^ (z >> np.uint32(16)))


@compiled(parallel=True)
def _drop(x, width, key, dropped, scale, out):
    for row in numba.prange((len(x) + width - 1) // width):
        low, high = halves(key, row)
        start = row * width
        size = min(width, len(x) - start)
        given, kept = x[start : start + size], out[start : start + size]
        for d in range(size):
            kept[d] = given[d] * scale if hashed(low, high, d) >= dropped else 0


def drawn(p: float) -> int:
    """A mask's key: one word of torch's generator, which the loop seeds by (seed, epoch, step)."""
    return int(torch.randint(2**62, ()).item()) if p else 0


def words(x: Tensor, key: int, p: float) -> tuple[np.uint64, np.uint32, Any]:
    """The key, how many of 2^32 hashes are dropped, and what the kept entries are multiplied by."""
    dropped = round(p * STEPS)
    scale = x.detach().numpy().dtype.type(STEPS / (STEPS - dropped))
    return np.uint64(key), np.uint32(dropped), scale


def applied(x: Tensor, key: int, p: float) -> Tensor:
    """``x`` under the mask of this key."""
    x = x.contiguous()
    out = pool.like(x)
    width = max(x.shape[-1], 1) if x.dim() > 1 else CHUNK
    _drop(x.view(-1).numpy(), width, *words(x, key, p), out.view(-1).numpy())
    return out


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        ctx.key, ctx.p = drawn(p), p
        return applied(x.detach(), ctx.key, p)

    @staticmethod
    def backward(ctx, g):
        return applied(g.detach(), ctx.key, ctx.p), None


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each entry with probability ``p`` and divide the rest by 1 - p; any shape.

    A fresh mask per call, drawn from torch's generator. CUDA uses torch's own; half precision comes
    out as float32.
    """
    if p == 0:
        return x
    if not isinstance(x, Tensor):  # sparse rows drop their own entries
        return x.dropout(p)
    if x.device.type != "cpu":
        return F.dropout(x, p)
    exact = x.dtype in (torch.float32, torch.float64)
    return _Dropout.apply(x if exact else x.float(), p)
