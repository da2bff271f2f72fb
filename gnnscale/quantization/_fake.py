"""Fake quantization: values that codes can hold, ranges that are tracked, straight gradients."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.core.hop import Hop
from gnnscale.core.ops.codes import Grid, fake
from gnnscale.core.sparse import SparseRows

Tracker = Literal["ema", "minmax", "percentile"]
SAMPLE = 1 << 18
"""Of larger tensors, this many entries are looked at for percentiles."""


@dataclass(frozen=True)
class Coding:
    """How a tensor is coded in b bits.

    bits: b. symmetric: codes -2^(b-1) .. 2^(b-1) - 1 around 0 with s = 2 max|x| / (2^b - 1); else
    codes 0 .. 2^b - 1 with s = (max - min) / (2^b - 1), z = round(-min / s) (Jacob et al., CVPR
    2018, arXiv:1712.05877, eq. 1). 0 always has a code. range: how (min, max) follows the tensors
    seen: ``ema``, moving average of rate ``momentum``; ``minmax``, over all of them;
    ``percentile``, the same of their ``percentile``-th smallest and largest values (Degree-Quant),
    or of all where so many are 0 that both of these are;
    None: those of the present tensor (weights). straight: the gradient passes also where codes are
    cut off.
    """

    bits: int
    symmetric: bool = False
    range: Tracker | None = None
    momentum: float = 0.01
    percentile: float = 0.001
    straight: bool = False

    def grid(self, low: Tensor, high: Tensor) -> Grid:
        """The grid of a range that includes 0."""
        top = 2**self.bits - 1
        least = torch.finfo(low.dtype).tiny
        if self.symmetric:
            scale = (2 * torch.maximum(-low, high) / top).clamp(min=least)
            return Grid(scale, torch.zeros_like(scale), -(2 ** (self.bits - 1)), top // 2)
        scale = ((high - low) / top).clamp(min=least)
        return Grid(scale, torch.round(-low / scale), 0, top)


class FakeQuant(nn.Module):
    """x -> s (clamp(round(x / s + z)) - z): the values that b-bit codes can hold.

    Where nothing has been seen yet, x is left alone. Sparse rows keep their zeros, which have a
    code of their own, and are quantized as the matrix that they are.

    Args:
        coding: see ``Coding``.
        channels: number of scales along ``axis`` of the tensor; None: one for all of it.
        axis: see above.
        idle: neither track nor quantize until told otherwise (calibration after training).
    """

    takes_sparse = True

    def __init__(
        self, coding: Coding, channels: int | None = None, axis: int = -1, idle: bool = False
    ):
        super().__init__()
        self.coding, self.axis, self.idle = coding, axis, idle
        self.watch = False
        """Track and leave values alone: a calibration is going on."""
        shape = () if channels is None else (channels,)
        self.low: Tensor
        self.high: Tensor
        self.seen: Tensor
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.coding.bits

    @property
    def grid(self) -> Grid:
        """The codes' numbers under the present range."""
        return self.coding.grid(self.low, self.high)

    @torch.no_grad()
    def track(self, x: Tensor | SparseRows) -> None:
        """Move the range towards that of ``x``; the first tensor sets it, an empty one does not."""
        values = x.values if isinstance(x, SparseRows) else x
        if values.numel() == 0:
            return
        low, high = self._ends(values.detach(), x.shape.numel())
        low, high = low.clamp(max=0).to(self.low.dtype), high.clamp(min=0).to(self.high.dtype)
        if self.coding.range in ("minmax", "percentile"):
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        rate = self.coding.momentum if self.coding.range == "ema" else 1.0
        share = torch.where(self.seen, rate, 1.0).to(self.low.dtype)
        self.low.lerp_(low, share)
        self.high.lerp_(high, share)
        self.seen.fill_(True)

    def _ends(self, values: Tensor, entries: int) -> tuple[Tensor, Tensor]:
        """(low, high) of values, of which ``entries`` - len(values) more are 0."""
        if self.low.dim():
            rest = [d for d in range(values.dim()) if d != self.axis % values.dim()]
            return values.amin(rest), values.amax(rest)
        if self.coding.range != "percentile":
            return values.aminmax()
        values = values.flatten().float()
        zeros = entries - len(values)
        if len(values) > SAMPLE:  # the same entries each time, spread by a multiplicative hash
            at = torch.arange(SAMPLE, device=values.device) * 2654435761 % len(values)
            zeros, values = zeros * SAMPLE // len(values), values[at]
        k = max(1, int(self.coding.percentile * (len(values) + zeros)))
        ends = []
        for sign in (1, -1):  # the k-th smallest, with the zeros in their place
            signed = values if sign > 0 else -values
            negative = int((signed < 0).sum())
            if k <= negative:
                found = signed.kthvalue(k).values
            elif k <= negative + zeros:
                found = signed.new_zeros(())
            else:
                found = signed.kthvalue(k - zeros).values
            ends.append(sign * found)
        if ends[0] == ends[1] == 0 and len(values):  # rarer than that: nothing would be left
            return values.aminmax()
        return ends[0], ends[1]

    def forward(self, x: Tensor | SparseRows, hop: Hop | None = None) -> Tensor | SparseRows:
        """Shapes: any -> the same. Ranges of activations move in training mode only."""
        if self.watch:
            self.track(x)
        if self.idle:
            return x
        if self.training or self.coding.range is None:
            self.track(x)
        return self.coded(x) if self.seen else x

    def coded(self, x: Tensor | SparseRows) -> Tensor | SparseRows:
        """``x`` under the present range."""
        if isinstance(x, SparseRows):
            return SparseRows.of(x.rows, self.coded(x.values))
        exact = x.dtype in (torch.float32, torch.float64)
        y = fake(x if exact else x.float(), self.grid, self.axis, self.coding.straight)
        return y if exact else y.to(x.dtype)
