"""GraphSAINT's network: layers that propagate any number of times and keep every order.

Zeng et al., ICLR 2020, arXiv:1907.04931, sec. 5 and the authors' code.

Departs from them:
- The operator arrives on the hop, 1 / alpha and all, whatever the sampler. The paper's is D^-1 A
  without self-loops; the part of order 0 is a node's own.
- A layer of order k takes k hops. Between them its rows are [h || A h || .. || A^j h], so that
  samplers and inference that work layer by layer need to know nothing of it.
- Attention as in the authors' TensorFlow code, which states no other source: one dropout mask for
  both parts (theirs: two), and the bias inside the activation (there so in evaluation only).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import Model, Pool, divisible, glorot
from gnnscale.architecture._normed import Normed, Unit
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate, Whole

Combine = Literal["concat", "sum"]


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
        return torch.cat([h[: hop.graph.n_dst], self.q_aggregate(z, hop)], 1)


class OrderConv(nn.Module):
    """The last hop of a layer of order k: over o = 0..k, norm(act(A^o h W_o + b_o)) combined.

    With heads, W = W_1 cut into heads and e = relu(l . W h_j + b_l + r . W h_i + b_r), the part of
    order 1 is norm(act(sum_j A_ij e_ij W h_j + b)): attention without a softmax, since the
    neighbours that would normalise it are not all there.

    Args:
        d_in: width of h. width: of each part. order: k >= 1. combine: side by side, or their sum.
        act, norm: as in ``Normed``. heads: of attention, for order 1; 0: none.

    Shapes: [h || .. || A^(k-1) h] [n_src, k d_in] -> [n_dst, (k + 1) width], or [n_dst, width].
    """

    def __init__(
        self, d_in: int, width: int, order: int, combine: Combine, act: str, norm: str, heads: int
    ):
        super().__init__()
        self.d_in, self.order, self.combine, self.heads = d_in, order, combine, heads
        self.first = heads > 0 or d_in > width  # the product on the narrower side
        self.parts = nn.ModuleList(
            Normed(d_in, width, act, norm, "src" if o == order and self.first else "dst")
            for o in range(order + 1)
        )
        if heads:
            self.left, self.right = glorot(heads, width // heads), glorot(heads, width // heads)
            self.shift = nn.Parameter(torch.zeros(heads))  # b_l + b_r
            self.q_left, self.q_right = Site("weight", of="left"), Site("weight", of="right")
            self.q_attention = Site("attention", "edges")
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One hop, then all parts."""
        n, d = hop.graph.n_dst, self.d_in
        own = (h[:n],) if self.order == 1 else dense(h)[:n].split(d, 1)
        found = [part(z, hop) for part, z in zip(self.parts, own, strict=False)]
        found.append(self.parts[-1].finish(self.propagated(hop, h)))  # type: ignore[operator]
        out = torch.cat(found, 1) if self.combine == "concat" else torch.stack(found).sum(0)
        return self.q_update(out, hop)

    def propagated(self, hop: Hop, h: Tensor | SparseRows) -> Tensor:
        """A^k h W_k + b_k. [n_src, k d_in] -> [n_dst, width]."""
        last, d = self.parts[-1].map, self.d_in
        if self.heads:
            return self.attended(hop, last.q_input(h, hop) @ last.q_weight(last.weight).T)
        if self.first or isinstance(h, SparseRows):
            w = last.q_weight(last.weight).T
            z = hop.reduce(
                lambda h: self.q_message(last.q_input(_last(h, d), hop) @ w, hop), h
            )  # fmt: skip
            return self.q_aggregate(z, hop) + last.bias
        z = hop.reduce(lambda h: self.q_message(_last(h, d), hop), h)
        return last(self.q_aggregate(z, hop), hop)

    def attended(self, hop: Hop, z: Tensor) -> Tensor:
        """The same with attention on the operator's entries. [n_src, width] -> [n_dst, width]."""
        z = self.q_message(z, hop).view(len(z), self.heads, -1)  # [n_src, heads, D]
        left = (z * self.q_left(self.left)).sum(-1) + self.shift  # [n_src, heads]
        right = (z[: hop.graph.n_dst] * self.q_right(self.right)).sum(-1)  # [n_dst, heads]
        e = F.relu(self.q_attention(hop.edges(torch.add, left, right), hop))  # [E, heads]
        entries = hop.entries(e.dtype).unsqueeze(1)
        out = hop.reduce(lambda z: z, z, weight=e * entries).flatten(1)
        return self.q_aggregate(out, hop) + self.parts[-1].map.bias


def _last(h: Tensor | SparseRows, d: int) -> Tensor | SparseRows:
    """The last ``d`` columns; sparse rows are raw features, of one order only."""
    return h if isinstance(h, SparseRows) or h.shape[1] == d else h[:, -d:]


class Level(nn.Module):
    """What one hop does: dropout, its convolution, then the layers of order 0 that follow.

    Args:
        conv: ``Gather`` or ``OrderConv``. after: maps of order 0. drop: rate before the convolution
            (0 in the midst of a layer). inner: rate before each map. jump: as (number of this
            level among those that are kept, the map of all kept ones or None); None: not kept.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(
        self,
        conv: nn.Module,
        after: Sequence[Normed],
        drop: float,
        inner: float,
        jump: tuple[int, Normed | None] | None = None,
    ):
        super().__init__()
        self.conv, self.after = conv, nn.ModuleList(after)
        self.drop_in, self.drop_out = drop, inner
        self.number, self.jump = jump or (None, None)

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One hop and the maps behind it."""
        z = self.conv(hop, hop.drop(h, self.drop_in) if self.training else h, memo)
        for layer in self.after:
            z = layer(hop.drop(z, self.drop_out, inside=True) if self.training else z, hop)
        if self.number is None:
            return z
        kept = [memo.once(f"jump {i}", lambda: z)[: len(z)] for i in range(self.number + 1)]
        return z if self.jump is None else self.jump(torch.cat(kept, 1), hop)


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
