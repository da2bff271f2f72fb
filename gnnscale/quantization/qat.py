"""Quantization-aware training: fake quantization with straight-through gradients."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from gnnscale.core.site import Site
from gnnscale.core.values import Bits, Percentile, Share
from gnnscale.quantization._base import Quantizer
from gnnscale.quantization._fake import Coding, FakeQuant, Tracker

Activation = Literal["input", "message", "attention", "aggregate", "update"]


@dataclass(eq=False, repr=False)
class QAT(Quantizer):
    """Fake quantization of every site: weights by their own range, activations by a tracked one.

    Departs from Degree-Quant's baseline (Tailor et al., ICLR 2021, arXiv:2008.05000): the message
    is quantized once per source row, not once per edge, after the source's factor of a symmetric
    norm and before the destination's, which without codes for the norm leaves integers to be
    summed. Fake-quantized layers still run float kernels: their latency is never a speed-up.

    Args:
        weight_bits, activation_bits: widths of the codes.
        symmetric_weights: weights' codes are signed, around 0; else affine, as activations'.
        per_channel: a scale for each output of a weight.
        range: how activation ranges follow the data, see ``Coding``.
        momentum: of ``ema``. percentile: of ``percentile``.
        gradient: ``clip``, 0 where codes are cut off; ``straight``, 1 everywhere.
        roles: which activations are quantized.
        bits: widths of sites by their names, with wildcards; later ones win: {layers.0.*: 4}.
    """

    weight_bits: Bits = 8
    activation_bits: Bits = 8
    symmetric_weights: bool = True
    per_channel: bool = True
    range: Tracker = "ema"
    momentum: Share = 0.01
    percentile: Percentile = 0.001
    gradient: Literal["clip", "straight"] = "clip"
    roles: list[Activation] = field(
        default_factory=lambda: ["input", "message", "attention", "aggregate", "update"]
    )
    bits: dict[str, Bits] = field(default_factory=dict)

    def width(self, site: Site, name: str) -> int:
        """Bits of a site."""
        found = self.weight_bits if site.role == "weight" else self.activation_bits
        for pattern, bits in self.bits.items():
            found = bits if fnmatchcase(name, pattern) else found
        return found

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """Fake quantization at the width of the site."""
        bits, straight = self.width(site, name), self.gradient == "straight"
        if weight is not None:
            coding = Coding(bits, self.symmetric_weights, straight=straight)
            return self.fill(
                site, coding, weight.shape[site.channel] if self.per_channel else None
            )  # fmt: skip
        if site.role not in self.roles:
            return None
        coding = Coding(bits, False, self.range, self.momentum, self.percentile, straight)
        return self.fill(site, coding, None)

    def fill(self, site: Site, coding: Coding, channels: int | None) -> FakeQuant:
        """The module of a site."""
        return FakeQuant(coding, channels, site.channel)
