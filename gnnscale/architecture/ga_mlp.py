"""GA-MLP: a perceptron on features that fixed operators have augmented."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import Model
from gnnscale.architecture._feed_forward import feed_forward, linear
from gnnscale.core.batch import Batch, Memo, Output
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops import full
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.core.traits import Trait, Traits, traits
from gnnscale.core.values import Count, Rate

BY_HOPS = {"depth": None, "operator": None, "self_loops": False, "norm": "none"}
"""Options that say how hops are made, at their defaults."""


class Augment(nn.Module):
    """h_i' = norm(sum_j w_ij h_j), or norm((8 I - H) h) with the Bethe Hessian of the hop's graph.

    H = (c - 1) I - sqrt(c) A + D, c the mean degree, so that 8 I - H = sqrt(c) A + (9 - c) I - D.
    The norm takes its statistics from the batch, in evaluation too, as in the authors' code.

    Args:
        width: F. bethe: whether it is the Hessian. normed: whether there is a norm.

    Shapes: h [n_src, F] -> [n_dst, F].
    """

    def __init__(self, width: int, bethe: bool, normed: bool):
        super().__init__()
        self.bethe = bethe
        self.norm: nn.Module = nn.Identity()
        if normed:
            self.norm = nn.BatchNorm1d(width, track_running_stats=False)
        self.q_message, self.q_aggregate = Site("message", "src"), Site("aggregate", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One operator over ``hop``."""
        z = hop.reduce(lambda h: self.q_message(h, hop), h)
        if self.bethe:
            n, graph = hop.graph.n_dst, hop.graph
            c = graph.n_edges / max(n, 1)
            own = (9 - c - graph.in_degree.double()).to(h.dtype)  # degrees and c of the same graph
            z = torch.addcmul(c**0.5 * z, first(h, n), own.unsqueeze(1))
        return self.norm(self.q_aggregate(z, hop))


class GAMLP(Model):
    """logits = MLP(X || w(A) X || .. || w^K(A) X).

    Chen, Chen & Bruna, ICLR 2021, arXiv:2010.15116, sec. 2.2; the perceptron is that of its code.
    Two ways to the same function: from a table of propagated features, whose operators are all the
    sampler's choice (any of precompute's); or hop by hop with an operator of its own. Only by hops
    can a norm stand behind every power, as in the authors' code: the next power is then that of the
    normalised one, w(A) norm(..), which is no fixed function of X and what keeps A^120 X finite.

    Args:
        shape: input and output sizes.
        hidden: width. maps: linear maps of the perceptron, ReLU between. dropout: rate before
            every map but the first, input_dropout: before that.
        depth, operator, self_loops, norm: by hops only: K, None: 2; ``none`` A (GA-MLP-A), ``sym``
            D^-1/2 A D^-1/2, ``row`` D^-1 A or ``bethe`` (GA-MLP-H), None: A; A + I for A; what
            stands behind every power.

    Shapes: x [n, F] or [n, R, F] -> logits [n_seed, C].
    Raises: UsageError if a table meets one of the latter, or bethe meets self-loops.
    """

    gives = traits(Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.STACK), traits(Trait.HOPS))

    @classmethod
    def declare(cls, **parameters: object) -> tuple[Traits, tuple[Traits, ...]]:
        """The Bethe Hessian is that of a graph, not of a block."""
        square = (Trait.SQUARE,) if parameters.get("operator") == "bethe" else ()
        return cls.gives, (traits(Trait.STACK), traits(Trait.HOPS, *square))

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 64,
        maps: Count = 2,
        dropout: Rate = 0.0,
        input_dropout: Rate = 0.0,
        depth: Count | None = None,
        operator: Literal["none", "sym", "row", "bethe"] | None = None,
        self_loops: bool = False,
        norm: Literal["none", "batch"] = "none",
    ):
        super().__init__()
        if shape.operators:
            _refuse_on_a_table(depth=depth, operator=operator, self_loops=self_loops, norm=norm)
        if operator == "bethe" and self_loops:
            raise UsageError(
                "architecture.self_loops=true: architecture.operator=bethe has none; type "
                "architecture.self_loops=false"
            )
        steps, bethe = 0 if shape.operators else depth or 2, operator == "bethe"
        kind = operator if operator in ("sym", "row") else "none"
        self.need = Need(steps, kind, "diag" if self_loops else "none")
        self.layers = nn.ModuleList(
            Augment(shape.features, bethe, norm == "batch") for _ in range(steps)
        )
        read = (shape.operators or 1 + steps) * shape.features
        widths = [read, *[hidden] * (maps - 1), shape.classes]
        *blocks, self.head = feed_forward(widths, input_dropout, dropout, "relu", "none")
        self.hidden = nn.ModuleList(blocks)

    def encode(self, x: Tensor | SparseRows) -> tuple[Tensor, ...]:
        """The features, all powers side by side where they are there already."""
        return (dense(x).flatten(1),)

    def forward(self, batch: Batch) -> Output:
        """Every power, side by side, then the perceptron on the seeds alone; of whole graphs its
        hidden levels on every node, its last map on what is read of them (sec. 2.2).
        """
        powers, memo = list(self.encode(batch.inputs)), Memo(batch)
        for layer, hop in zip(self.layers, batch.hops, strict=True):
            powers.append(layer(hop, hop.lift(powers[-1]), memo))
        wide = [full(h) if batch.readout else full(h)[batch.rows] for h in powers]
        levels = [torch.cat(wide, 1)]
        for layer in self.hidden:
            levels.append(layer(levels[-1]))
        rows = torch.arange(len(levels[-1]), device=levels[-1].device)
        if not batch.readout:
            return Output(full(self.head(levels[-1])), tuple(levels), rows)
        whole = self.readout(levels[-1], batch)
        return Output(full(self.head(whole)), tuple(levels), rows, pooled=whole)

    def first(self) -> list[nn.Parameter]:
        """The map that reads the features."""
        return list(linear(nn.ModuleList([*self.hidden, self.head])).parameters())


def _refuse_on_a_table(**options: object) -> None:
    """Raise UsageError for options that only say how hops are made."""
    for name, value in options.items():
        usual = BY_HOPS[name]
        if value != usual:
            raise UsageError(
                f"architecture.{name}={_typed(value)}: features that the sampler has propagated "
                f"are read as they are; type architecture.{name}={_typed(usual)} and choose by the "
                "sampler's keys, or take a sampler that gives hops, e.g. sampler=full"
            )


def _typed(value: object) -> str:
    return "null" if value is None else str(value).lower()
