"""SIGN: linear maps of several propagated features, side by side, then a classifier."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Model
from gnnscale.architecture._feed_forward import feed_forward, linear
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class Usual(NamedTuple):
    """What a head has where the configuration leaves it open."""

    depth: int
    act: str
    norm: str


HEADS = {
    "paper": Usual(1, "prelu", "none"),
    "ffn": Usual(2, "prelu", "none"),
    "mlp": Usual(3, "relu", "batch"),
}


class SIGN(Model):
    """logits = F(act(F_0(X) || F_1(A_1 X) || .. || F_r(A_r X))), the A_k X being read from a table.

    Frasca et al., 2020, arXiv:2004.11198, eq. 4 and 5. Which operators A_k there are is the
    sampler's choice (precompute, precompute_sign, precompute_directed). Three heads go by this
    name:

    - ``paper``: every F_k and F is one linear map.
    - ``ffn``: every F_k and F is feed-forward, with one activation of its own (DGL's example).
    - ``mlp``: the F_k and act are identities, F is a perceptron on all features side by side (the
      authors' code for ogbn-papers100M).

    Args:
        shape: input and output sizes.
        head: see above.
        hidden: width. depth: linear maps of F, and in ``ffn`` of each F_k; None: 1, 2, 3 by head.
        dropout: rate before every map but those that read features, input_dropout: before those.
        act: None: PReLU, in ``mlp`` ReLU. norm: before the activations of F in ``mlp``; None:
            batch, where there is one.

    Shapes: x [n, R, F] -> logits [n_seed, C].
    Raises: UsageError for several maps in the paper's head, or a norm in one that has none.
    """

    gives = traits(Trait.SITES)
    needs = (traits(Trait.STACK),)

    def __init__(
        self,
        shape: Shape,
        head: Literal["paper", "ffn", "mlp"] = "paper",
        hidden: Count = 512,
        depth: Count | None = None,
        dropout: Rate = 0.5,
        input_dropout: Rate = 0.0,
        act: Literal["prelu", "relu", "elu", "gelu", "none"] | None = None,
        norm: Literal["none", "batch", "layer"] | None = None,
    ):
        super().__init__()
        usual = HEADS[head]
        depth, act, norm = depth or usual.depth, act or usual.act, norm or usual.norm
        if head == "paper" and depth > 1:
            raise UsageError(
                f"architecture.depth={depth}: with architecture.head=paper every part is one "
                "linear map; type architecture.head=ffn, or architecture.depth=null"
            )
        if head != "mlp" and norm != "none":
            raise UsageError(
                f"architecture.norm={norm}: architecture.head={head} has no norm; type "
                "architecture.head=mlp, or architecture.norm=null"
            )
        self.need = Need(depth=0)
        apart, r = head != "mlp", shape.operators
        widths = [shape.features, *[hidden] * depth]
        self.parts = nn.ModuleList(
            nn.Sequential(*feed_forward(widths, input_dropout, dropout, act, norm))
            for _ in range(r if apart else 0)
        )
        self.act = ACTIVATIONS[act if apart else "none"]()
        widths = [r * (hidden if apart else shape.features), *[hidden] * (depth - 1), shape.classes]
        *blocks, self.head = feed_forward(
            widths, dropout if apart else input_dropout, dropout, act, norm
        )
        self.hidden = nn.ModuleList(blocks)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """act(F_0 || .. || F_r), then the hidden levels of F."""
        if len(self.parts):
            x = torch.cat([part(x[:, k]) for k, part in enumerate(self.parts)], 1)
        levels = [self.act(x.flatten(1))]
        for layer in self.hidden:
            levels.append(layer(levels[-1]))
        return tuple(levels)

    def first(self) -> list[nn.Parameter]:
        """The linear maps that read features."""
        readers = self.parts if len(self.parts) else [*self.hidden, self.head][:1]
        return [p for part in readers for p in linear(part).parameters()]
