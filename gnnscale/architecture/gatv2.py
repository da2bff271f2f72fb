"""GATv2: graph attention whose ranking of the neighbours depends on the node."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import divisible, glorot
from gnnscale.architecture._stack import Act, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate

SLOPE = 0.2
"""Of LeakyReLU below zero, as in GAT."""


class GATv2Conv(nn.Module):
    """h_i' = concat_k sum_j a_ij^k l_j^k, the mean over heads where ``concat`` is false.

    a_ij = softmax_j a . LeakyReLU_0.2(l_j + r_i) over the neighbours and i itself, l = W_l h + b_l,
    r = W_r h + b_r. Brody, Alon & Yahav, ICLR 2022, arXiv:2105.14491, eq. 7; the biases are DGL's,
    there is none behind the sum unless ``out_bias``.

    Memory: scores are computed from l, r and a without a value per edge and column, in both passes;
    what edges hold is one number per head.

    Args:
        d_in, d_out, heads, concat, attention_dropout: as in ``GATConv``. share: r = l.
        bias: b_l and b_r. out_bias: one behind the sum.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(
        self, d_in: int, d_out: int, heads: int, concat: bool, attention_dropout: float,
        share: bool = False, bias: bool = True, out_bias: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.heads, self.concat, self.attention_dropout = heads, concat, attention_dropout
        self.size = d_out // heads if concat else d_out
        self.left = Dense(d_in, heads * self.size, bias)
        self.right = None if share else Dense(d_in, heads * self.size, bias, rows="dst")
        self.attention = glorot(heads, self.size)
        self.bias = nn.Parameter(torch.zeros(d_out)) if out_bias else None
        for made in (self.left, self.right):
            if made is not None:
                nn.init.xavier_uniform_(made.weight)
                if bias:
                    nn.init.zeros_(made.bias)
        self.q_message, self.q_vector = Site("message", "src"), Site("weight", of="attention")
        self.q_attention = Site("attention", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        n, shape = hop.graph.n_dst, (-1, self.heads, self.size)
        left = self.q_message(self.left(h, hop), hop).view(shape)  # [n_src, heads, D]
        right = first(left, n) if self.right is None else self.right(first(h, n), hop).view(shape)
        e = hop.scores(left, right, self.q_vector(self.attention), SLOPE)
        a = hop.softmax(self.q_attention(e, hop))  # [E, heads]
        a = dropout(a, self.attention_dropout) if self.training else a
        out = hop.reduce(lambda z: z, left, weight=a)  # [n_dst, heads, D]
        out = self.q_aggregate(out.flatten(1) if self.concat else out.mean(1), hop)
        return self.q_update(out if self.bias is None else out + self.bias, hop)


@dataclass(eq=False, repr=False)
class GATv2(Stack):
    """GATv2 (Brody, Alon & Yahav, ICLR 2022, arXiv:2105.14491).

    Sampled edges keep no correction: the softmax runs over the neighbours that are there.

    Args:
        heads: of hidden layers; hidden is the width of all of them together. out_heads: of the last
            layer without a stem, averaged. attention_dropout: rate on attention weights.
            share_weights: one map for both ends of an edge. bias: of the maps. out_bias: behind the
            aggregation. Others: ``Stack``.

    Raises: UsageError if heads does not divide hidden.
    """

    dropout: Rate = 0.6
    act: Act = "elu"
    heads: Count = 8
    out_heads: Count = 1
    attention_dropout: Rate = 0.6
    share_weights: bool = False
    bias: bool = True
    out_bias: bool = False

    gives = traits(Trait.LAYERS, Trait.SITES)

    def asks(self) -> Need:
        """A + I as edges, since the node itself is attended to."""
        divisible("architecture.hidden", self.hidden, "architecture.heads", self.heads)
        return Need(self.depth, loops="edges")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return GATv2Conv(
            d_in, d_out, self.out_heads if last else self.heads, not last, self.attention_dropout,
            self.share_weights, self.bias, self.out_bias,
        )  # fmt: skip
