"""Fake quantization: values that codes can hold, ranges that are tracked, straight gradients."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.core.hop import Hop
from gnnscale.core.ops.codes import Grid, counted, fake
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
    def track(self, x: Tensor | SparseRows, rows: Tensor | None = None) -> None:
        """Move the range towards that of ``x``; the first tensor sets it, an empty one does not.

        rows: numbers of the rows of ``x`` that count; None: all.
        """
        low, high = self._ends(x, rows)
        if low is None or high is None:
            return
        low, high = low.clamp(max=0).to(self.low.dtype), high.clamp(min=0).to(self.high.dtype)
        if self.coding.range in ("minmax", "percentile"):
            low, high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        rate = self.coding.momentum if self.coding.range == "ema" else 1.0
        share = torch.where(self.seen, rate, 1.0).to(self.low.dtype)
        self.low.lerp_(low, share)
        self.high.lerp_(high, share)
        self.seen.fill_(True)

    def _ends(self, x: Tensor | SparseRows, rows: Tensor | None) -> tuple[Tensor | None, ...]:
        """(low, high) of what is in ``x``, (None, None) if nothing is."""
        percentile = self.coding.range == "percentile" and not self.low.dim()
        if isinstance(x, Tensor) and percentile:
            return self._percentiles(_sampled(x.detach(), rows), 0)
        x = x if rows is None else x[rows]
        values = x.values.detach() if isinstance(x, SparseRows) else x.detach()
        if values.numel() == 0:
            return None, None
        if percentile:
            zeros = (x.shape.numel() - len(values)) * min(SAMPLE, len(values)) // len(values)
            return self._percentiles(_sampled(values, None), zeros)
        if not self.low.dim():
            return values.aminmax()
        rest = [d for d in range(values.dim()) if d != self.axis % values.dim()]
        return values.amin(rest), values.amax(rest)

    def _percentiles(self, values: Tensor, zeros: int) -> tuple[Tensor | None, ...]:
        """(low, high) of values and so many zeros, or, which is cheaper, the range there is.

        Ranges only grow, so that one which leaves out fewer values than the percentile does stays.
        """
        if not len(values):
            return None, None
        k = max(1, int(self.coding.percentile * (len(values) + zeros)))
        low, high = float(self.low), float(self.high)
        below, above, negative, positive = counted(values, low, high)
        at_zero = zeros + len(values) - negative - positive
        if max(negative, positive) < k <= min(negative, positive) + at_zero:
            return values.aminmax()  # both percentiles are 0: nothing would be left
        return (
            values[values < low].kthvalue(k).values if below >= k else self.low,
            -(-values[values > high]).kthvalue(k).values if above >= k else self.high,
        )

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


def _sampled(x: Tensor, rows: Tensor | None) -> Tensor:
    """Entries of some rows as one float32 vector; of many, ``SAMPLE`` of them.

    Those are the same each time, spread by a multiplicative hash.
    """
    if rows is None:
        x = x.flatten()
        return (x if len(x) <= SAMPLE else x.take(_spread(len(x), x.device))).float()
    width = x[:1].numel() if len(x) else 0
    if len(rows) * width <= SAMPLE:
        return x[rows].flatten().float()
    at = _spread(len(rows) * width, x.device)
    return x.reshape(len(x), width)[rows[at // width], at % width].float()


def _spread(n: int, device: torch.device) -> Tensor:
    return torch.arange(SAMPLE, device=device) * 2654435761 % n
