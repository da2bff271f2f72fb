"""Traits: the words by which options say what they give and what they need."""

from enum import Enum
from typing import ClassVar


class Trait(str, Enum):
    """One fact about a component of a composition."""

    NODE = "node"
    GRAPH = "graph"
    HOPS = "hops"
    SQUARE = "square"
    STACK = "stack"
    PPR = "ppr"
    LAYERS = "layers"
    LINEAR = "linear"
    SITES = "sites"
    SHARDS = "shards"
    TEACHER = "teacher"
    SEARCH = "search"
    OPTIONS = "options"
    CALIBRATION = "calibration"
    RANGES = "ranges"
    CODES = "codes"
    STAGED = "staged"


MEANING = {
    Trait.NODE: "labels on nodes",
    Trait.GRAPH: "labels on whole graphs",
    Trait.HOPS: "one message-passing step per layer",
    Trait.SQUARE: "steps whose sources and destinations are the same nodes",
    Trait.STACK: "features propagated beforehand, [n, R, F]",
    Trait.PPR: "rows weighted by personalised PageRank",
    Trait.LAYERS: "a uniform list of layers that can be applied one at a time",
    Trait.LINEAR: "aggregation that is linear in the messages",
    Trait.SITES: "layers built on quantizable sites",
    Trait.SHARDS: "mini-batches that can be split over processes",
    Trait.TEACHER: "a trained teacher whose outputs are tabulated",
    Trait.SEARCH: "a search stage before training",
    Trait.OPTIONS: "options for a search to choose between",
    Trait.CALIBRATION: "a calibration after training",
    Trait.RANGES: "ranges of codes that a calibration sets",
    Trait.CODES: "sites that hold integers, as gnnscale convert makes them",
    Trait.STAGED: "codes that can be relaxed to real values, stage by stage",
}

Traits = frozenset[Trait]


def traits(*names: Trait) -> Traits:
    """A set of traits."""
    return frozenset(names)


class Component:
    """What every option of the lattice states about itself.

    ``gives``: the traits it brings. ``needs``: alternatives, any one of which must be given by the
    composition as a whole; empty means that it needs nothing.
    """

    gives: ClassVar[Traits] = frozenset()
    needs: ClassVar[tuple[Traits, ...]] = ()

    @classmethod
    def declare(cls, **parameters: object) -> tuple[Traits, tuple[Traits, ...]]:
        """(gives, needs) under these parameters; override where a parameter alters them."""
        return cls.gives, cls.needs
