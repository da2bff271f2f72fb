"""Graph attention network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import divisible, glorot
from gnnscale.architecture._stack import Act, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.product import product, shifted
from gnnscale.core.site import Site
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class GATConv(nn.Module):
    """h_i' = concat_k sum_j a_ij^k W^k h_j + b, the mean over heads where ``concat`` is false.

    a_ij = softmax_j LeakyReLU_0.2(l . W h_j + r . W h_i) over the neighbours and i itself.
    Velickovic et al., ICLR 2018, arXiv:1710.10903, eq. 1-6.

    Args:
        d_in: input size. d_out: output size (of all heads together if they are concatenated).
        heads: attention heads. concat: concatenate or average. attention_dropout: rate on a.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(self, d_in: int, d_out: int, heads: int, concat: bool, attention_dropout: float):
        super().__init__()
        self.heads, self.concat, self.attention_dropout = heads, concat, attention_dropout
        self.size = d_out // heads if concat else d_out
        self.weight = glorot(d_in, heads * self.size)
        self.left, self.right = glorot(heads, self.size), glorot(heads, self.size)
        self.bias = nn.Parameter(torch.zeros(d_out))
        self.q_input, self.q_weight = Site("input", "src"), Site("weight")
        self.q_message = Site("message", "src")
        self.q_left, self.q_right = Site("weight", of="left"), Site("weight", of="right")
        self.q_attention = Site("attention", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        z = product(self.q_input(h, hop), self.q_weight(self.weight))
        z = self.q_message(z, hop).view(len(h), self.heads, self.size)  # [n_src, heads, D]
        out = hop.attend(  # [n_dst, heads, D]
            z, self.q_left(self.left), self.q_right(self.right), 0.2,
            self.attention_dropout if self.training else 0.0, self.q_attention.within(hop),
        )  # fmt: skip
        out = out.flatten(1) if self.concat else out.mean(1)
        return self.q_update(shifted(self.q_aggregate(out, hop), self.bias), hop)


@dataclass(eq=False, repr=False)
class GAT(Stack):
    """Graph attention network (Velickovic et al., ICLR 2018, arXiv:1710.10903).

    The paper's "8 heads of 8" is hidden=64, heads=8. Sampled edges keep no correction: the softmax
    runs over the neighbours that are there.

    Args:
        heads: of hidden layers; hidden is the width of all of them together. out_heads: of the last
            layer without a stem, averaged. attention_dropout: rate on attention weights. Others:
            ``Stack``.

    Raises: UsageError if heads does not divide hidden.
    """

    dropout: Rate = 0.6
    act: Act = "elu"
    heads: Count = 8
    out_heads: Count = 1
    attention_dropout: Rate = 0.6

    gives = traits(Trait.LAYERS, Trait.SITES)

    def asks(self) -> Need:
        """A + I as edges, since the node itself is attended to."""
        divisible("architecture.hidden", self.hidden, "architecture.heads", self.heads)
        return Need(self.depth, loops="edges")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        heads = self.out_heads if last else self.heads
        return GATConv(d_in, d_out, heads, not last, self.attention_dropout)
