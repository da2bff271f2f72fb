"""What networks of hundreds of layers share: a stem around one composite layer on one hop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Dropout, Model, divisible
from gnnscale.architecture._convolution import Aggr, Conv, Convolution
from gnnscale.architecture._coupling import Coupling, Unit
from gnnscale.architecture._encoder import edge_encoder, encoder
from gnnscale.architecture._readout import Pool
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.site import Dense
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate

Act = Literal["relu", "elu", "gelu"]
Norm = Literal["none", "batch", "layer"]


@dataclass(eq=False, repr=False)
class Deep(Model):
    """Linear encoder, one composite layer, linear head.

    The composite layer takes all its steps on one square hop, so a sampler sees depth 1. Edge
    features, where batches carry them, are mapped to ``hidden`` columns once and read by conv=gen.

    Args:
        shape: input and output sizes.
        hidden: D, width. conv: the convolution that is repeated. aggr, heads, attention_dropout,
            self_loops: its options, see ``Convolution``. norm, act: in front of it.
        dropout: rate of the mask that all steps share, and before the head.
        input_dropout: rate on the features.

    Raises: UsageError for options that ``conv`` does not have.
    """

    shape: Shape
    hidden: Count = 64
    conv: Conv = "gcn"
    aggr: Aggr = "auto"
    heads: Count = 1
    attention_dropout: Rate = 0.0
    self_loops: bool = False
    norm: Norm = "layer"
    act: Act = "relu"
    dropout: Rate = 0.1
    input_dropout: Rate = 0.0

    gives = traits(Trait.SITES)
    needs = (traits(Trait.HOPS, Trait.SQUARE),)

    def __post_init__(self) -> None:
        super().__init__()
        shape, width = self.shape, self.hidden
        self.kind = Convolution(
            self.conv, self.aggr, self.heads, self.attention_dropout, self.self_loops
        )
        self.need = replace(self.kind.need(1), stem=True)
        entry = encoder(shape, width)
        self.encoder = (
            nn.Sequential(Dropout(self.input_dropout), entry) if self.input_dropout else entry
        )
        edged = shape.edge_features or shape.edge_categories
        self.edges = width if edged and self.conv == "gen" else 0
        self.layers.append(self.composite())
        self.head = Dense(width, shape.classes, rows="dst")
        if shape.readout != "center":
            self.pool = Pool(shape.readout, width, self.dropout, self.act, self.norm)

    def composite(self) -> nn.Module:
        """The layer between encoder and head."""
        raise NotImplementedError


class Composite(nn.Module):
    """Steps on one square hop, and what follows them: dropout(act(norm(steps(h)))).

    The norm is taken over all rows, as in every step.

    Args:
        steps: called as steps(hop, h, memo). width: D. edge: maps edge features to the D columns
            that the steps read; None: they read none. norm, act, drop: of what
            follows; "none", "none" and 0.0 for nothing.

    Shapes: h [N, D] -> [N, D].
    """

    def __init__(
        self,
        steps: nn.Module,
        width: int,
        edge: nn.Module | None,
        norm: str,
        act: str,
        drop_out: float,
    ):
        super().__init__()
        self.steps, self.drop_out = steps, drop_out
        self.edge = edge
        self.norm, self.act = NORMS[norm](width), ACTIVATIONS[act]()

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """All steps."""
        edge = None if self.edge is None else self.edge(hop.edge)
        z = self.steps(replace(hop, edge=edge), h, memo)
        z = self.act(self.norm(z))
        return hop.drop(z, self.drop_out) if self.training else z


@dataclass(eq=False, repr=False)
class Coupled(Deep):
    """A deep network whose steps are layers of grouped additive coupling.

    Args:
        depth: L, layers. groups: C, groups of columns; 1 makes plain residual layers, h + f(h),
            which need keep_activations. keep_activations: keep what every layer computed for the
            backward pass, as plain autograd does, in place of computing it again: the same function
            and gradients, more memory, less time. Others: ``Deep``.

    Raises: UsageError if groups does not divide hidden, or for one group without keep_activations.
    """

    depth: Count = 28
    groups: Count = 2
    keep_activations: bool = False

    def distinct(self) -> int:
        """How many layers have weights of their own."""
        return self.depth

    def units(self) -> Sequence[Sequence[nn.Module]]:
        """Layers with weights of their own."""
        each, edge = self.hidden // self.groups, self.edges

        def unit() -> Unit:
            return Unit(self.kind.make(each, edge), each, self.norm, self.act)

        return [[unit() for _ in range(self.groups)] for _ in range(self.distinct())]

    def composite(self) -> nn.Module:
        """The coupling, a norm, an activation and dropout."""
        divisible("architecture.hidden", self.hidden, "architecture.groups", self.groups)
        if self.groups == 1 and not self.keep_activations:
            raise UsageError(
                "architecture.groups=1: h + f(h) has no inverse to recompute activations by; type "
                "architecture.groups=2, or architecture.keep_activations=true"
            )
        coupling = Coupling(self.units(), self.depth, self.dropout, self.keep_activations)
        edge = edge_encoder(self.shape, self.hidden) if self.edges else None
        return Composite(coupling, self.hidden, edge, self.norm, self.act, self.dropout)
