"""Post-training quantization: a float model is trained, then the ranges of its codes are set."""

from dataclasses import dataclass

from torch import nn

from gnnscale.core.site import Site, sites
from gnnscale.core.traits import Trait, traits
from gnnscale.quantization._fake import Coding, FakeQuant, Tracker
from gnnscale.quantization.qat import QAT


@dataclass(eq=False, repr=False)
class PTQ(QAT):
    """Sites that do nothing in training; the stage ``calibrate`` sets ranges and turns them on.

    Args: those of ``QAT``; gradients have no part.
    """

    range: Tracker = "minmax"

    gives = traits(Trait.RANGES)
    needs = (traits(Trait.SITES, Trait.CALIBRATION),)

    def fill(self, site: Site, coding: Coding, channels: int | None) -> FakeQuant:
        """The module of a site."""
        return FakeQuant(coding, channels, site.channel, idle=True)

    def watch(self, model: nn.Module, on: bool) -> None:
        """Follow what passes through the sites, unquantized, or stop."""
        for _, site in sites(model):
            if isinstance(site.quantizer, FakeQuant):
                site.quantizer.watch = on

    def release(self, model: nn.Module) -> None:
        """Quantize from now on."""
        for _, site in sites(model):
            if isinstance(site.quantizer, FakeQuant):
                site.quantizer.idle = False
