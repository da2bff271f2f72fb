"""Multi-layer perceptron: the baseline that never looks at the graph."""

from typing import Literal

from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Dropout, Model
from gnnscale.core.data import Shape
from gnnscale.core.hop import Need
from gnnscale.core.site import Dense
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class MLP(Model):
    """Linear, norm, activation, dropout, repeated; the last linear map gives the logits.

    OGB's baseline (Hu et al., NeurIPS 2020, arXiv:2005.00687). It needs no hops, so every sampler
    that yields seeds trains it.

    Args:
        shape: input and output sizes.
        hidden: width of hidden layers. depth: number of linear maps.
        dropout: rate before every linear map but the first. input_dropout: rate on the features.
        act, norm: activation and normalisation of hidden layers.

    Shapes: x [n, F] -> logits [n_seed, C].
    """

    gives = traits(Trait.LAYERS, Trait.SITES)

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 64,
        depth: Count = 2,
        dropout: Rate = 0.5,
        input_dropout: Rate = 0.0,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "batch", "layer"] = "none",
    ):
        super().__init__()
        self.need = Need(depth=0)
        widths = [shape.features, *[hidden] * (depth - 1)]
        self.hidden = nn.ModuleList(
            nn.Sequential(
                Dropout(dropout if i else input_dropout),
                Dense(d_in, hidden),
                NORMS[norm](hidden),
                ACTIVATIONS[act](),
            )
            for i, d_in in enumerate(widths[:-1])
        )
        self.head = nn.Sequential(
            Dropout(dropout if depth > 1 else input_dropout), Dense(widths[-1], shape.classes)
        )

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The hidden layers, row by row."""
        levels = [x]
        for layer in self.hidden:
            levels.append(layer(levels[-1]))
        return tuple(levels)

    def first(self) -> list[nn.Parameter]:
        """Parameters of the first linear map."""
        parts = [*self.hidden.modules(), *self.head.modules()]
        return list(next(m for m in parts if isinstance(m, Dense)).parameters())
