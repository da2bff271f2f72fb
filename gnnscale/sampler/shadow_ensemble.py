"""shaDow-GNN's ensemble: several subgraphs per root, each by an extractor of its own.

Zeng et al., NeurIPS 2021, arXiv:2201.07858. A batch is the first extractor's; those of the others
are its ``views``, of the same roots in the same order.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData, Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Positive, Rate, Share
from gnnscale.sampler._base import Sampler, seed_batches
from gnnscale.sampler.shadow import Isolated, Readout, Shadow, ShadowKhop


@with_config(ConfigDict(extra="forbid", strict=True))
class PPR(TypedDict, total=False):
    """Options of the extractor ``ppr``, as of sampler=shadow."""

    k: Count
    threshold: Share
    damping: Rate
    eps: Positive


@with_config(ConfigDict(extra="forbid", strict=True))
class KHop(TypedDict, total=False):
    """Options of the extractor ``khop``, as of sampler=shadow_khop."""

    depth: Count
    budget: int


@with_config(ConfigDict(extra="forbid", strict=True))
class Branch(TypedDict, total=False):
    """One extractor with its options."""

    ppr: PPR
    khop: KHop


class ShadowEnsemble(Sampler):
    """Batches of roots, with one view of them per branch.

    Args:
        branches: ``{ppr: {..}}`` or ``{khop: {..}}`` each, with options of ``Shadow`` or
            ``ShadowKhop``; what is left out is at its default there.
        batch_size, readout, hop_features, drop_edge: see ``Isolated``; of all branches.

    Raises: UsageError for fewer than two branches, or one that names no extractor or two; and what
        the extractors raise.
    """

    gives = traits(Trait.HOPS, Trait.SQUARE, Trait.SHARDS)
    needs = (traits(Trait.NODE),)
    inference: Literal["exact", "own"] = "own"

    def __init__(
        self,
        branches: list[Branch] = ({"ppr": {}}, {"khop": {}}),  # type: ignore[assignment]
        batch_size: Count = 64,
        readout: Readout = "center",
        hop_features: bool = False,
        drop_edge: Rate = 0.0,
    ):
        shared: dict[str, Any] = {
            "batch_size": batch_size, "readout": readout, "hop_features": hop_features,
            "drop_edge": drop_edge,
        }  # fmt: skip
        if len(branches) < 2 or any(len(branch) != 1 for branch in branches):
            raise UsageError(
                f"sampler.branches={list(branches)}: an ensemble has two or more, each with one "
                "extractor, ppr or khop; type sampler.branches=[{ppr:{k:200}},{khop:{depth:2}}], "
                "or choose sampler=shadow for one"
            )
        self.batch_size = batch_size
        self.each: list[Isolated] = [
            Shadow(**branch["ppr"], **shared) if "ppr" in branch
            else ShadowKhop(**branch["khop"], **shared)
            for branch in branches
        ]  # fmt: skip
        for number, extractor in enumerate(self.each):
            extractor.purpose = f"shadow {number}"

    def widen(self, shape: Shape) -> Shape:
        """As for one branch, and how many further ones there are."""
        return replace(self.each[0].widen(shape), views=len(self.each) - 1)

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """What each extractor does once."""
        for extractor in self.each:
            extractor.prepare(data, need, key)

    def plan(self, seeds: Tensor, key: Key) -> list[Tensor]:
        """Every seed once, in random order; the last batch may be smaller."""
        return seed_batches(seeds, self.batch_size, key)

    def sample(self, index: Tensor, key: Key) -> Batch:
        """The subgraphs of the roots ``index`` by every extractor."""
        return _views([extractor.sample(index, key) for extractor in self.each])

    def batches(self, data: GraphData, need: Need, rows: Tensor) -> Iterator[Batch]:
        """The subgraphs of ``rows`` by every extractor, the same at every call."""
        each = [extractor.batches(data, need, rows) for extractor in self.each]
        return (_views(list(found)) for found in zip(*each, strict=True))


def _views(found: list[Batch]) -> Batch:
    """The first batch with the others as its views."""
    return replace(found[0], views=tuple(found[1:]))
