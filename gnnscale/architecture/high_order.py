"""GraphSAINT's network: layers that propagate any number of times and keep every order.

Zeng et al., ICLR 2020, arXiv:1907.04931, sec. 5 and the authors' code.

Departs from them:
- The operator arrives on the hop, 1 / alpha and all, whatever the sampler. The paper's is D^-1 A
  without self-loops; the part of order 0 is a node's own.
- A layer of order k takes k hops. Between them its rows are [h || A h || .. || A^j h], so that
  samplers and inference that work layer by layer need to know nothing of it.
- Attention is that of the authors' TensorFlow code, but with one dropout mask for both parts
  (theirs: two) and the bias inside the activation (there in evaluation only).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import Model, divisible
from gnnscale.architecture._normed import Combine, Level, Normed, OrderConv, Unit
from gnnscale.architecture._readout import Pool
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate, Whole


class Gather(nn.Module):
    """[h_0 || .. || h_j] -> [h_0 || .. || h_j || A h_j]: one hop of a layer of a higher order.

    Args:
        width: of each of them.

    Shapes: [n_src, (j + 1) D] -> [n_dst, (j + 2) D].
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.q_message, self.q_aggregate = Site("message", "src"), Site("aggregate", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One hop; the message cuts the last order out, since histories hold all of them."""
        h = dense(h)
        z = hop.reduce(lambda h: self.q_message(h[:, -self.width :], hop), h)
        return torch.cat([first(h, hop.graph.n_dst), self.q_aggregate(z, hop)], 1)


class HighOrder(Model):
    """GraphSAINT's network (Zeng et al., ICLR 2020, arXiv:1907.04931), e.g. 1-0-1-0.

    Layer of order k: h' = || over o = 0..k of norm(act(A^o drop(h) W_o + b_o)). Then the rows are
    scaled to length 1 and classified linearly, behind a last dropout. Order 0 is a dense layer;
    those in front of the first propagation are the encoder.

    Args:
        shape: input and output sizes.
        hidden: width of each order's part. orders: k of every layer. combine: the parts side by
            side (concat), or their sum (the code's "mean"). heads: attention in layers of order 1;
            None: none. jumping: classify the outputs in front of every propagation and the last
            one together, norm(act([..] W + b)) (concat), or the last one (none). dropout: before
            every layer and the classifier. act, norm: of every part; norm behind act.

    Raises: UsageError if no layer propagates, if heads does not divide hidden, and for heads with
        orders above 1.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    @classmethod
    def declare(cls, **parameters: object):
        """Attention is not ``linear``; what jumps over layers can't be applied one at a time."""
        linear = parameters.get("heads") is None
        apart = parameters.get("jumping", "none") == "none"
        lacks = {t for t, keep in ((Trait.LINEAR, linear), (Trait.LAYERS, apart)) if not keep}
        return cls.gives - lacks, cls.needs

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 128,
        orders: list[Whole] = (1, 0, 1, 0),  # type: ignore[assignment]
        combine: Combine = "concat",
        heads: Count | None = None,
        jumping: Literal["none", "concat"] = "none",
        dropout: Rate = 0.1,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "layer"] = "layer",
    ):
        super().__init__()
        self.check(list(orders), hidden, heads)
        lead = next(i for i, order in enumerate(orders) if order)
        self.need = Need(sum(orders), operator="row", loops="none", stem=lead > 0)
        d, groups = shape.features, [i for i, order in enumerate(orders) if order]
        ends = [*groups[1:], len(orders)]

        def dense_layers(d: int, count: int) -> list[Normed]:
            return [Normed(hidden if i else d, hidden, act, norm) for i in range(count)]

        if lead:
            first = dense_layers(d, lead)
            self.encoder, d = Encoder(first, dropout), hidden
        widths = 0
        for number, (start, end) in enumerate(zip(groups, ends, strict=True)):
            order = orders[start]
            for step in range(order - 1):
                self.layers.append(Level(Gather(d), (), 0.0 if step else dropout, 0.0))
            conv = OrderConv(d, hidden, order, combine, act, norm, heads or 0)
            wide = hidden * (order + 1) if combine == "concat" else hidden
            after = dense_layers(wide, end - start - 1)
            d = hidden if after else wide
            jump = None
            if jumping == "concat":
                widths += d
                last = end == len(orders)
                jump = (number, Normed(widths, hidden, act, norm) if last else None)
                d = hidden if last else d
            self.layers.append(Level(conv, after, 0.0 if order > 1 else dropout, dropout, jump))
        if shape.readout != "center":
            self.pool = Pool(shape.readout, d, dropout, act, norm)
        self.head = Unit(d, shape.classes, dropout, "none")

    def check(self, orders: list[int], hidden: int, heads: int | None) -> None:
        """Refuse what can't be built."""
        said = f"architecture.orders={orders}".replace(" ", "")
        if not any(orders):
            raise UsageError(
                f"{said}: no layer propagates; give at least one order above 0, e.g. "
                "architecture.orders=[1,0,1,0], or choose architecture=mlp"
            )
        if heads is None:
            return
        divisible("architecture.hidden", hidden, "architecture.heads", heads)
        if max(orders) > 1:
            raise UsageError(
                f"{said}: attention is for layers of order 0 and 1; type architecture.heads=null "
                "or orders of at most 1"
            )


class Encoder(nn.Module):
    """Layers of order 0 in front of the first propagation, with dropout before each."""

    def __init__(self, layers: Sequence[Normed], drop: float):
        super().__init__()
        self.layers, self.p = nn.ModuleList(layers), drop

    def forward(self, x: Tensor | SparseRows) -> Tensor:
        """Shapes: [n, F] -> [n, D]."""
        for layer in self.layers:
            x = layer(dropout(x, self.p) if self.training else x)  # type: ignore[arg-type]
        return x  # type: ignore[return-value]
