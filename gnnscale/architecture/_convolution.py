"""The convolutions that a deep network can repeat, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from gnnscale.architecture.egc import EGConv
from gnnscale.architecture.gat import GATConv
from gnnscale.architecture.gcn import GCNConv
from gnnscale.architecture.gen import GENConv
from gnnscale.architecture.gin import GINConv
from gnnscale.architecture.sage import SAGEConv
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.site import Dense

Conv = Literal["gcn", "sage", "gat", "gin", "egc", "gen"]
Aggr = Literal["auto", "mean", "max", "softmax", "power", "add"]

AGGREGATORS: Mapping[str, tuple[str, ...]] = {
    "sage": ("mean", "max"),
    "gen": ("max", "softmax", "power", "mean", "add"),
}
"""Those that a convolution offers, its default first."""
HEADS = {"gat", "egc"}
BASES = 4
"""Of EGC, as in architecture=egc."""


@dataclass(frozen=True)
class Convolution:
    """One convolution from d to d columns, with those of its options that a user may set.

    Args:
        name: gcn, sage, gat, gin, egc (symadd, 4 bases) or gen. aggr: of sage or gen; auto: mean
            or max. heads: of gat or egc. attention_dropout: of gat. self_loops: count a node among
            its neighbours also in sage, gin and gen; the others do in any case.

    Raises: UsageError for an option that the convolution does not have.
    """

    name: Conv
    aggr: Aggr = "auto"
    heads: int = 1
    attention_dropout: float = 0.0
    self_loops: bool = False

    def __post_init__(self) -> None:
        offered = AGGREGATORS.get(self.name, ())
        if self.aggr == "auto":
            object.__setattr__(self, "aggr", offered[0] if offered else "auto")
        elif self.aggr not in offered:
            said = f"takes {' or '.join(offered)}" if offered else "has its own aggregator"
            self._refuse("aggr", self.aggr, said, "architecture.aggr=auto")
        if self.heads != 1 and self.name not in HEADS:
            self._refuse("heads", self.heads, "has no heads", "architecture.heads=1")
        if self.attention_dropout and self.name != "gat":
            self._refuse(
                "attention_dropout", self.attention_dropout, "has no attention",
                "architecture.attention_dropout=0",
            )  # fmt: skip

    def _refuse(self, key: str, value: object, why: str, remedy: str) -> None:
        raise UsageError(f"architecture.{key}={value}: conv={self.name} {why}; type {remedy}")

    def need(self, depth: int) -> Need:
        """What it asks of its hops."""
        if self.name in ("gcn", "egc"):
            return Need(depth, "sym", "diag")
        if self.name == "gat":
            return Need(depth, "none", "edges")
        need = Need(depth, "row" if self.aggr == "mean" else "none")
        if not self.self_loops:
            return need
        summed = self.name == "gin" or self.aggr in ("mean", "add")
        return replace(need, loops="diag" if summed else "edges")

    def make(self, width: int, edge: int = 0) -> nn.Module:
        """A convolution with weights of its own; ``edge``: width of edge features, read by gen.

        Raises: UsageError if heads does not divide width.
        """
        if width % self.heads:
            self._refuse("heads", self.heads, f"works on {width} columns", "a divisor of that")
        if self.name == "gcn":
            return GCNConv(width, width)
        if self.name == "sage":
            return SAGEConv(width, width, self.aggr)
        if self.name == "gat":
            return GATConv(width, width, self.heads, True, self.attention_dropout)
        if self.name == "gin":
            return GINConv(width, width, width, "layer", True)
        if self.name == "egc":
            return EGConv(width, width, self.heads, BASES, ("symadd",))
        mapped = Dense(edge, width, rows="edges") if edge else None
        return GENConv(width, width, self.aggr, edge=mapped)
