"""RevGAT: reversible graph attention between two plain attention layers."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import Dropout, Model, divisible, glorot
from gnnscale.architecture._coupling import Coupling, Unit
from gnnscale.architecture._deep import Act, Composite, Norm
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.ops.product import product
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate

GONE = -1e30
"""The score of a dropped edge: its share of a softmax with any other edge is exactly 0."""


@dataclass(frozen=True)
class Thinned(Hop):
    """A hop whose softmax runs over the edges that are kept and is 0 on the others.

    Shapes: kept [E] bool.
    """

    kept: Tensor | None = None

    attends = False

    def softmax(self, e: Tensor) -> Tensor:
        """Over the kept in-edges of each destination, [E, heads] -> [E, heads]."""
        assert self.kept is not None
        gone = ~self.kept.unsqueeze(1)
        return super().softmax(e.masked_fill(gone, GONE)).masked_fill(gone, 0.0)


class Thin(nn.Module):
    """Drops each edge of a hop with probability ``p``, by torch's generator of its device.

    The authors drop exactly int(p E) of them.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, hop: Hop) -> Hop:
        """The hop in training mode; itself at rate 0 and in evaluation."""
        if not self.p or not self.training:
            return hop
        kept = torch.rand(hop.graph.n_edges, device=hop.graph.device) >= self.p
        return Thinned(**hop.parts(), kept=kept)


class SourceGATConv(nn.Module):
    """h_i' = d_in(i)^1/2 agg_k sum_j a_ij^k W^k h_j d_out(j)^-1/2 + V h_i [+ b].

    a_ij = softmax_j LeakyReLU_0.2(l . W h_j d_out(j)^-1/2): scores are of sources alone. Degrees
    are those of the hop's graph, self-loops and dropped edges included. ``agg`` concatenates the
    heads, or averages them where ``concat`` is false. GATConv of the authors' script for ogbn-arxiv
    (no-attn-dst, symmetric norm, linear residual).

    Args:
        d_in: input size. d_out: output size (of all heads together if they are concatenated).
        heads: attention heads. concat: see above. attention_dropout: rate on a. bias: add b.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        heads: int,
        concat: bool = True,
        attention_dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        self.heads, self.concat, self.attention_dropout = heads, concat, attention_dropout
        size = d_out // heads if concat else d_out
        self.weight, self.left = glorot(d_in, heads * size), glorot(heads, size)
        self.residual = Dense(d_in, heads * size, bias=False, rows="dst")
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.q_input, self.q_weight = Site("input", "src"), Site("weight")
        self.q_message, self.q_left = Site("message", "src"), Site("weight", of="left")
        self.q_attention = Site("attention", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        graph = hop.graph
        z = product(self.q_input(h, hop), self.q_weight(self.weight))
        z = z * graph.out_degree.clamp(min=1).to(z.dtype).rsqrt().unsqueeze(1)
        z = self.q_message(z, hop).view(len(h), self.heads, -1)  # [n_src, heads, D]
        score = F.leaky_relu((z * self.q_left(self.left)).sum(-1), 0.2)  # [n_src, heads]
        e = self.q_attention(hop.sources(score), hop)  # [E, heads]
        a = hop.softmax(e)
        a = dropout(a, self.attention_dropout) if self.training else a
        out = hop.reduce(lambda z: z, z, weight=a).flatten(1)  # [n_dst, heads * D]
        out = out * graph.in_degree.clamp(min=1).to(out.dtype).sqrt().unsqueeze(1)
        out = self.q_aggregate(out, hop) + self.residual(first(h, graph.n_dst), hop)
        if not self.concat:
            out = out.view(len(out), self.heads, -1).mean(1)
        return self.q_update(out if self.bias is None else out + self.bias, hop)


class End(nn.Module):
    """A convolution on a hop that has lost some edges in training.

    Args:
        conv: called as conv(hop, h, memo). p: rate.
    """

    def __init__(self, conv: nn.Module, p: float):
        super().__init__()
        self.conv, self.thin = conv, Thin(p)

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution."""
        return self.conv(self.thin(hop), h, memo)


@dataclass(eq=False, repr=False)
class RevGAT(Model):
    """Attention, L - 2 reversible layers of it, norm, activation, dropout, attention.

    Li, Mueller, Ghanem & Koltun, ICML 2021, arXiv:2106.07476, sec. 4.2 and their script for
    ogbn-arxiv: f = conv(mask * relu(norm)) with conv ``SourceGATConv``; edges are dropped anew in
    each layer, the same ones for all groups and whenever an activation is computed again. The
    paper's "3 heads of 256" is hidden=768, heads=3. All layers read one and the same square hop, so
    a sampler sees three steps: the first layer, all that is reversible, the last one.

    Args:
        shape: input and output sizes.
        hidden: D, width, of all heads together. depth: L, layers in all, at least 3. heads: of all
            layers but the last, which has one. groups: C, groups of columns.
        norm, act: in front of every middle layer and of the last. dropout: rate of the mask that
            the middle layers share, and before the last. input_dropout: on the features.
            edge_dropout: on edges. attention_dropout: on attention weights.
        keep_activations: by plain autograd; the same function, more memory, less time.

    Raises: UsageError if groups * heads does not divide hidden, for fewer than 3 layers or 2
        groups, or for features that are codes.
    """

    shape: Shape
    hidden: Count = 64
    depth: Count = 5
    heads: Count = 2
    groups: Count = 2
    norm: Norm = "batch"
    act: Act = "relu"
    dropout: Rate = 0.5
    input_dropout: Rate = 0.1
    edge_dropout: Rate = 0.3
    attention_dropout: Rate = 0.0
    keep_activations: bool = False

    gives = traits(Trait.SITES)
    needs = (traits(Trait.HOPS, Trait.SQUARE),)

    def __post_init__(self) -> None:
        super().__init__()
        self._check()
        self.need = Need(3, loops="edges")
        shape, width, gone = self.shape, self.hidden, self.edge_dropout
        if self.input_dropout:
            self.encoder = Dropout(self.input_dropout)
        each = width // self.groups

        def conv(d_in: int, d_out: int) -> SourceGATConv:
            return SourceGATConv(d_in, d_out, self.heads, True, self.attention_dropout)

        units = [
            [Unit(conv(each, each), each, self.norm, self.act) for _ in range(self.groups)]
            for _ in range(self.depth - 2)
        ]
        coupling = Coupling(
            units, self.depth - 2, self.dropout, self.keep_activations, Thin(gone) if gone else None
        )
        last = SourceGATConv(width, shape.classes, 1, False, self.attention_dropout, bias=True)
        self.layers.extend(
            [
                End(conv(shape.features, width), gone),
                Composite(coupling, width, None, self.norm, self.act, self.dropout),
                End(last, gone),
            ]
        )

    def _check(self) -> None:
        if self.shape.categories:
            raise UsageError(
                "architecture=revgat: reads features that are numbers, not codes; choose one with "
                "an encoder, e.g. architecture=reversible"
            )
        if self.depth < 3:
            raise UsageError(
                f"architecture.depth={self.depth}: two layers are plain and at least one is "
                "reversible; type architecture.depth=3 or more"
            )
        if self.groups < 2 and not self.keep_activations:
            raise UsageError(
                f"architecture.groups={self.groups}: h + f(h) has no inverse; type "
                "architecture.groups=2, or architecture.keep_activations=true"
            )
        parts = self.groups * self.heads
        divisible("architecture.hidden", self.hidden, "architecture.groups * heads", parts)
