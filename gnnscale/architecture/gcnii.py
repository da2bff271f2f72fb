"""GCNII: deep graph convolutions with initial residuals and identity maps."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Dropout, glorot
from gnnscale.architecture._stack import Stack
from gnnscale.core.batch import Memo
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.product import product
from gnnscale.core.site import Site
from gnnscale.core.values import Count, Positive, Rate, Share

Variant = Literal["none", "star", "dense"]


class GCNIIConv(nn.Module):
    """h' = ((1 - a) z + a h0) ((1 - b) I + b W), with z = S h and h0 the first level; no bias.

    Chen, Wei, Huang, Ding & Li, ICML 2020, arXiv:2007.02133, eq. 5, S given by the hop. Variants:
    ``star`` (GCNII*, eq. 15): (1 - b) ((1 - a) z + a h0) + b (z W_1 + h0 W_2), the products not
    scaled by a, as in the authors' code; ``dense``, their script for ogbn-arxiv: z (I + W_1) +
    h0 (a I + W_2), without b.

    Args:
        d: width. alpha: a. beta: b. variant: as above; star and dense have weights [2 d, d].

    Shapes: h [n_src, d] -> [n_dst, d].
    """

    def __init__(self, d: int, alpha: float, beta: float, variant: Variant = "none"):
        super().__init__()
        self.alpha, self.beta, self.variant = alpha, beta, variant
        if variant == "dense":
            self.weight = nn.Parameter(torch.cat([glorot(d, d), glorot(d, d)]).detach())
        else:
            bound, rows = d**-0.5, d if variant == "none" else 2 * d
            self.weight = nn.Parameter(torch.empty(rows, d).uniform_(-bound, bound))
        self.q_weight, self.q_message = Site("weight"), Site("message", "src", scaled=True)
        self.q_input, self.q_first = (Site("input", "dst", width=d) for _ in range(2))
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        first, w = memo.start(hop.graph.n_dst), self.q_weight(self.weight)
        z = self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)
        if self.variant == "none":
            mixed = torch.lerp(z, first.to(z.dtype), self.alpha)
            own = product(self.q_input(mixed, hop), w)
        else:
            one, other = w.chunk(2)
            own = product(self.q_input(z, hop), one)
            own = product(self.q_first(first, hop), other, own, over=True)
            if self.variant == "dense":
                return self.q_update(z + self.alpha * first + own, hop)
            mixed = torch.lerp(z, first.to(z.dtype), self.alpha)
        return self.q_update(torch.lerp(mixed, own.to(mixed.dtype), self.beta), hop)


@dataclass(eq=False, repr=False)
class GCNII(Stack):
    """A linear map, ``depth`` convolutions that all see its output, a linear map.

    Chen, Wei, Huang, Ding & Li, ICML 2020, arXiv:2007.02133. Dropout stands before every map, the
    first one's on the features, and an activation behind every one but the last. h0 is not dropped
    out. b = log(lambda / l + 1) in layer l, from 1.

    Histories (sampler=gas) are of the layers' outputs only: h0 is needed of the batch's own nodes,
    and is computed anew from their features.

    Args:
        alpha: share of the first level. lambda_: how fast W fades into the identity. variant: see
            ``GCNIIConv``. input_dropout: rate on the features; None: as dropout. Others: ``Stack``.

    Raises: UsageError without a stem, whose output h0 is.
    """

    depth: Count = 16
    dropout: Rate = 0.6
    stem: bool = True
    alpha: Share = 0.1
    lambda_: Positive = 0.5
    variant: Variant = "none"

    apart: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.stem:
            raise UsageError(
                "architecture.stem=false: the layers of gcnii read the encoder's output; type "
                "architecture.stem=true"
            )
        rate = self.dropout if self.input_dropout is None else self.input_dropout
        self.input_dropout = None
        super().__post_init__()
        ahead = [] if self.shape.categories else [Dropout(rate)]
        self.encoder = nn.Sequential(*ahead, self.encoder, ACTIVATIONS[self.act]())
        for layer in self.layers:
            block = getattr(layer, "block", layer)
            block.drop_in, block.drop_out = self.dropout, 0.0
        if self.order == "post":
            self.head = nn.Sequential(Dropout(self.dropout), self.head)

    def asks(self) -> Need:
        """S = D~^-1/2 (A + I) D~^-1/2."""
        return Need(self.depth, operator="sym", loops="diag")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        beta = math.log(self.lambda_ / (len(self.layers) + 1) + 1)
        return GCNIIConv(d_in, self.alpha, beta, self.variant)
