"""What every quantizer is: something that fills a model's sites."""

from torch import nn

from gnnscale.core.site import Site, sites
from gnnscale.core.traits import Component, Trait, traits


class Quantizer(Component):
    """Puts a module into each site; the layers themselves are never rewritten."""

    needs = (traits(Trait.SITES),)

    def make(self, site: Site) -> nn.Module | None:
        """The module for a site, called as module(value, hop); None leaves the site alone."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        """Fill every site of ``model``."""
        for _, site in list(sites(model)):
            site.quantizer = self.make(site)
