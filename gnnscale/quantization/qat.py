"""Quantization-aware training: fake quantization with straight-through gradients."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.core.hop import Hop
from gnnscale.core.site import Site
from gnnscale.core.values import Bits, Share
from gnnscale.quantization._base import Quantizer


class FakeQuant(nn.Module):
    """x -> s (clamp(round(x / s + z), 0, 2^b - 1) - z): the values that b-bit codes can hold.

    Affine per tensor: s = (max - min) / (2^b - 1) over a tracked range that always includes 0,
    z = round(-min / s), so that 0 is represented exactly. Jacob et al., CVPR 2018,
    arXiv:1712.05877, eq. 1. The gradient passes unchanged inside the range (straight through) and
    is 0 where the code saturates.

    Args:
        bits: width b of the codes.
        momentum: rate of the moving average of the range; None follows the current tensor in
            evaluation too (weights).
    """

    def __init__(self, bits: int, momentum: float | None):
        super().__init__()
        self.bits, self.momentum = bits, momentum
        self.low: Tensor
        self.high: Tensor
        self.seen: Tensor
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def track(self, x: Tensor) -> None:
        """Move the range towards that of ``x``; the first tensor sets it."""
        if x.numel() == 0:
            return
        low, high = x.detach().aminmax()
        later = 1.0 if self.momentum is None else self.momentum
        rate = torch.where(self.seen, later, 1.0).to(self.low.dtype)
        self.low.lerp_(low.clamp(max=0).to(self.low.dtype), rate)
        self.high.lerp_(high.clamp(min=0).to(self.high.dtype), rate)
        self.seen.fill_(True)

    def forward(self, x: Tensor, hop: Hop | None = None) -> Tensor:
        """Shapes: any -> the same. Ranges of activations move in training mode only."""
        if self.training or self.momentum is None:
            self.track(x)
        top = 2**self.bits - 1
        scale = ((self.high - self.low) / top).to(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)
        zero = torch.round(-self.low / scale)
        code = torch.round(x.detach() / scale + zero)
        through = torch.where((code >= 0) & (code <= top), x, 0)  # saturated: no gradient
        # the difference is an exact 0, so that the result is a code's value to the last bit
        coded = (code.clamp(0, top) - zero) * scale + (through - through.detach())
        return torch.where(self.seen, coded, x)  # no range yet: nothing to quantize by


class QAT(Quantizer):
    """Fake quantization of every site: weights per tensor, activations by tracked ranges.

    Departs from Degree-Quant's baseline (Tailor et al., ICLR 2021, arXiv:2008.05000): the message
    is quantized once per source row, before the operator's float factors, not once per edge.
    Fake-quantized layers still run float kernels: their latency is never a speed-up.

    Args:
        weight_bits, activation_bits: widths of the codes.
        momentum: rate of the moving average of activation ranges.
        roles: which activations are quantized.
    """

    def __init__(
        self,
        weight_bits: Bits = 8,
        activation_bits: Bits = 8,
        momentum: Share = 0.01,
        roles: list[Literal["input", "message", "attention", "aggregate", "update"]] = (
            "input", "message", "attention", "aggregate", "update",
        ),  # type: ignore[assignment]
    ):  # fmt: skip
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.momentum, self.roles = momentum, frozenset(roles)

    def make(self, site: Site) -> nn.Module | None:
        """Fake quantization at the width of the site's role."""
        if site.role == "weight":
            return FakeQuant(self.weight_bits, momentum=None)
        if site.role in self.roles:
            return FakeQuant(self.activation_bits, self.momentum)
        return None
