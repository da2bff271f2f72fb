"""Simple graph convolution: a linear model on propagated features."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import Model
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Whole


class Propagate(nn.Module):
    """h_i' = sum_j w_ij h_j: one step of the hop's operator, without parameters.

    Shapes: h [n_src, D] -> [n_dst, D].
    """

    def __init__(self) -> None:
        super().__init__()
        self.q_message, self.q_aggregate = (
            Site("message", "src", scaled=True),
            Site("aggregate", "dst"),
        )

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One step over ``hop``."""
        return self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)


class Bias(nn.Module):
    """y = h + b. Shapes: [n, d] -> [n, d]."""

    def __init__(self, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, h: Tensor) -> Tensor:
        """The shifted rows."""
        return h + self.bias


class SGC(Model):
    """logits = S^K X W + b.

    Wu et al., ICML 2019, arXiv:1902.07153, eq. 8. Two ways to the same function: from a table of
    propagated features (sampler=precompute) its last column is S^K X; with hops, K steps follow the
    product with W, S^K (X W), which costs C columns per step instead of F and leaves sparse
    features sparse. The same parameters serve both, so a model may change from one to the other.

    Args:
        shape: input and output sizes.
        depth: K. operator, self_loops: S; the paper's is sym with self-loops.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.STACK), traits(Trait.HOPS))

    def __init__(
        self,
        shape: Shape,
        depth: Whole = 2,
        operator: Literal["sym", "row"] = "sym",
        self_loops: bool = True,
    ):
        super().__init__()
        self.need = Need(depth, operator, "diag" if self_loops else "none", stem=depth > 0)
        self.encoder = Dense(shape.features, shape.classes, bias=False)
        bound = shape.features**-0.5  # nn.Linear's own initial bias
        self.head = Bias(torch.empty(shape.classes).uniform_(-bound, bound))
        steps = 0 if shape.operators else depth
        self.layers = nn.ModuleList(Propagate() for _ in range(steps))

    def encode(self, x: Tensor | SparseRows) -> tuple[Tensor, ...]:
        """X W, or S^K X W from a table [n, R, F]."""
        if x.dim() == 3:
            assert isinstance(x, Tensor)
            x = x[:, -1]
        return (self.encoder(x),)

    def first(self) -> list[nn.Parameter]:
        """W and b: there is one linear map."""
        return list(self.parameters())
