"""The student of CPF: label propagation with learned weights, mixed with a perceptron per node."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import Dropout, Model
from gnnscale.architecture._feed_forward import feed_forward
from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate

Of = Literal["nodes", "features"]


class PerNode(nn.Module):
    """One number per node: a parameter of each, or a linear map of its features, [n, F] -> [n, 1].

    Args:
        of: ``nodes`` or ``features``. shape: sizes. drop: rate on the features, or on the numbers.
            start: ``zero``, or ``normal``: Xavier's of gain sqrt(2), as the authors' code.
    """

    def __init__(self, of: Of, shape: Shape, width: int, drop: float, start: str):
        super().__init__()
        self.drop, zero = Dropout(drop), start == "zero"
        self.own = nn.Parameter(torch.zeros(shape.nodes, 1)) if of == "nodes" else None
        if self.own is None:
            self.map = Dense(width, 1, bias=zero, rows="src")
            nn.init.zeros_(self.map.weight)
            if self.map.bias is not None:
                nn.init.zeros_(self.map.bias)
        if not zero:
            nn.init.xavier_normal_(self.map.weight if self.own is None else self.own, math.sqrt(2))

    def forward(self, x: Tensor | SparseRows, nodes: Tensor, hop: Hop) -> Tensor:
        """The numbers of ``nodes``, whose features are ``x``."""
        if self.own is not None:
            return self.drop(self.own[nodes])
        return self.map(self.drop(x), hop)


class Propagation(nn.Module):
    """f_i' = relu(sigmoid(a_i) sum_j w_ij f_j + sigmoid(-a_i) m_i), w_ij = softmax_j e_j over the
    in-neighbours and i itself, then rows whose label is given are set back to it.

    Args:
        score, gate: give e and a of a node. perceptron: gives m. attention_dropout: rate on w.

    Shapes: f [n, C] -> [n, C], on a square hop with loops.
    """

    def __init__(
        self, score: PerNode, gate: PerNode, perceptron: nn.Module, attention_dropout: float
    ):
        super().__init__()
        self.score, self.gate, self.perceptron = score, gate, perceptron
        self.attention_dropout = attention_dropout
        self.q_message, self.q_attention = Site("message", "src"), Site("attention", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def parts(self, hop: Hop, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """w, a and m of one step; without dropout those of every step."""
        e = hop.sources(self.score(batch.x, batch.nodes, hop))  # [E, 1]
        w = hop.softmax(self.q_attention(e, hop))
        w = dropout(w, self.attention_dropout) if self.training else w
        return w, self.gate(batch.x, batch.nodes, hop), self.perceptron(batch.x)

    def forward(
        self, hop: Hop, f: Tensor, batch: Batch, parts: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """One step with these parts."""
        w, a, own = parts
        near = hop.reduce(lambda f: self.q_message(f, hop), f.unsqueeze(1), weight=w).squeeze(1)
        mixed = torch.sigmoid(a) * self.q_aggregate(near, hop) + torch.sigmoid(-a) * own
        given = batch.extra["given"].unsqueeze(1)
        return torch.where(given, batch.extra["labels"], self.q_update(mixed.relu(), hop))


@dataclass(eq=False, repr=False)
class PLP(Model):
    """Parameterised label propagation beside a feature transform; logits are f after K steps.

    Yang, Liu & Shi, WWW 2021, arXiv:2103.02885, eq. 2-8, and the authors' code: f starts as the
    one-hot label where that is given and 1 / C elsewhere; all steps share one ``Propagation``, each
    drawing dropout of its own. Labels come as input (sampler=labels), never from the loss's rows.
    "Transductive" is attention=nodes, "inductive" attention=features; both have a mixing weight of
    each node, so that neither says anything of a node that training did not have: that takes
    gate=features, a linear map in its place, which the paper has not.

    Args:
        shape: input and output sizes, labels among the features. hidden: width of the perceptron.
        depth: K. mlp_depth: its linear maps. dropout: rate before each of them and on what scores
            read. attention_dropout: on w. attention: e is a number of each node, or a linear map of
            features. gate: a, likewise, 0 at first.

    Raises: UsageError for parameters of nodes on data whose training graph is not the whole.
    """

    shape: Shape
    hidden: Count = 64
    depth: Count = 8
    mlp_depth: Count = 2
    dropout: Rate = 0.8
    attention_dropout: Rate = 0.2
    attention: Of = "features"
    gate: Of = "nodes"

    labels: ClassVar[bool] = True
    gives = traits(Trait.SITES)
    needs = (traits(Trait.HOPS, Trait.SQUARE),)

    def __post_init__(self) -> None:
        super().__init__()
        shape, width = self.shape, self.shape.features - self.shape.classes
        if "nodes" in (self.attention, self.gate) and not shape.nodes:
            raise UsageError(
                "architecture=plp: has parameters of every node, and here training does not see "
                "every node that is predicted; type architecture.attention=features "
                "architecture.gate=features"
            )
        self.need = Need(1, loops="edges")
        widths = [width, *[self.hidden] * (self.mlp_depth - 1), shape.classes]
        perceptron = nn.Sequential(
            *feed_forward(widths, self.dropout, self.dropout, "relu", "none")
        )
        score = PerNode(self.attention, shape, width, self.dropout, "normal")
        gate = PerNode(self.gate, shape, width, 0.0, "zero")
        self.layers.append(Propagation(score, gate, perceptron, self.attention_dropout))

    def forward(self, batch: Batch) -> Output:
        """K steps; hidden levels are f before and after each."""
        labels, given = batch.extra["labels"], batch.extra["given"].unsqueeze(1)
        f = torch.where(given, labels, 1 / self.shape.classes)
        levels, hop, step = [f], batch.hops[0], self.layers[0]
        parts = None if self.training else step.parts(hop, batch)
        for _ in range(self.depth):
            f = step(hop, f, batch, parts or step.parts(hop, batch))
            levels.append(f)
        return Output(f[batch.rows], tuple(levels), batch.rows)
