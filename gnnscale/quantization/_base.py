"""What every quantizer is: something that fills a model's sites."""

from operator import attrgetter

from torch import nn

from gnnscale.core.data import GraphData
from gnnscale.core.site import Site, sites
from gnnscale.core.traits import Component, Trait, traits


class Quantizer(Component):
    """Puts a module into each site; the layers themselves are never rewritten."""

    needs = (traits(Trait.SITES),)

    def prepare(self, data: GraphData) -> None:
        """Learn what is needed of the data, once, before models are made."""

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """The module for a site, called as module(value, hop); None leaves the site alone.

        name: the site's, with dots. weight: the parameter, where the site is a weight's.
        """
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        """Fill every site of ``model``."""
        for name, site in list(sites(model)):
            weight = getattr(owner(model, name), site.of) if site.role == "weight" else None
            site.quantizer = self.make(site, name, weight)


def owner(model: nn.Module, name: str) -> nn.Module:
    """The module that a site belongs to, by the site's name."""
    path = name.rpartition(".")[0]
    return attrgetter(path)(model) if path else model
