"""Dropout whose mask is a hash of (key, position): no stored mask, no serial generator.

``torch.bernoulli_`` is single-threaded and was a third of a full-batch GCN epoch on the CPU. Here
every element gets a 32-bit hash that vectorises, chunks run in parallel, and the backward pass
hashes again instead of keeping the mask. The rate is rounded to a multiple of 2^-32 and the kept
values are divided by exactly that keep rate, so the expectation is exact.
"""

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.compiled import compiled

STEPS = 1 << 32
CHUNK = 1 << 16


@numba.njit(inline="always")
def mix(z):
    """SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled(parallel=True)
def _drop(x, key, dropped, scale, out):
    for chunk in numba.prange((len(x) + CHUNK - 1) // CHUNK):
        word = mix(key + np.uint64(chunk) * np.uint64(0x9E3779B97F4A7C15))
        low, high = np.uint32(word), np.uint32(word >> np.uint64(32))
        start = chunk * CHUNK
        size = min(CHUNK, len(x) - start)
        given, kept = x[start : start + size], out[start : start + size]
        for i in range(size):
            # MurmurHash3's 32-bit finaliser, with both halves of the chunk's key
            z = np.uint32(np.uint32(i) * np.uint32(0x9E3779B1) + low)
            z = np.uint32((z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)) ^ high
            z = np.uint32((z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            z = np.uint32(z ^ (z >> np.uint32(16)))
            kept[i] = given[i] * scale if z >= dropped else 0


def _apply(x: Tensor, key: int, p: float) -> Tensor:
    dropped = round(p * STEPS)
    x = x.contiguous()
    out = torch.empty_like(x)
    scale = x.numpy().dtype.type(STEPS / (STEPS - dropped))
    _drop(x.view(-1).numpy(), np.uint64(key), np.uint32(dropped), scale, out.view(-1).numpy())
    return out


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        # one word of torch's generator, which the loop seeds by (seed, epoch, step)
        ctx.key, ctx.p = int(torch.randint(2**62, ()).item()), p
        return _apply(x.detach(), ctx.key, p)

    @staticmethod
    def backward(ctx, g):
        return _apply(g.detach(), ctx.key, ctx.p), None


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
