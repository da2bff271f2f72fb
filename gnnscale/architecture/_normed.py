"""Layers whose norm stands behind the activation, as in GraphSAINT and shaDow-GNN."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Dropout, glorot
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop
from gnnscale.core.ops.product import product, shifted
from gnnscale.core.site import Dense, Rows, Site
from gnnscale.core.sparse import SparseRows, dense

Combine = Literal["concat", "sum"]

EPS = 1e-9
"""Beside the variance in the norm, of both papers' code."""


class Normed(nn.Module):
    """y = norm(act(h W + b)); norm: (z - mean) / sqrt(var + 1e-9) * scale + offset over a row.

    Args:
        d_in, d_out: sizes. act: a name in ``ACTIVATIONS``. norm: ``layer`` or ``none``. rows: whose
            rows the map reads, for quantizers.

    Shapes: h [n, d_in], dense or sparse rows -> [n, d_out].
    """

    def __init__(self, d_in: int, d_out: int, act: str, norm: str, rows: Rows = "dst"):
        super().__init__()
        self.map = Dense(d_in, d_out, rows=rows)
        nn.init.xavier_uniform_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.act = ACTIVATIONS[act]()
        self.norm = nn.LayerNorm(d_out, EPS) if norm == "layer" else nn.Identity()

    def forward(self, h: Tensor | SparseRows, hop: Hop | None = None) -> Tensor:
        """The whole map."""
        return self.finish(self.map(h, hop))

    def finish(self, z: Tensor) -> Tensor:
        """What follows the product: norm(act(z))."""
        return self.norm(self.act(z))


class Unit(nn.Module):
    """Logits of rows scaled to length 1: y = norm(dropout(h / ||h||_2) W + b).

    Args:
        d_in: width. classes: C. drop: rate. norm: ``layer`` or ``none``. scale: false for rows
            that are not to be scaled.

    Shapes: h [n, d_in] -> [n, C].
    """

    def __init__(self, d_in: int, classes: int, drop: float, norm: str, scale: bool = True):
        super().__init__()
        self.drop, self.last = Dropout(drop), Normed(d_in, classes, "none", norm)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """Shapes: [n, d_in] -> [n, C]."""
        return self.last(self.drop(F.normalize(h) if self.scale else h))


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
            return self.attended(hop, product(last.q_input(h, hop), last.q_weight(last.weight).T))
        if self.first or isinstance(h, SparseRows):
            w = last.q_weight(last.weight).T
            z = hop.reduce(
                lambda h: self.q_message(product(last.q_input(_last(h, d), hop), w), hop), h
            )  # fmt: skip
            return shifted(self.q_aggregate(z, hop), last.bias)
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
            level among those that are kept, the map of all kept ones side by side or None); None:
            not kept.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(
        self,
        conv: nn.Module,
        after: Sequence[Normed],
        drop: float,
        inner: float,
        jump: tuple[int, nn.Module | None] | None = None,
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
        return z if self.jump is None else self.jump(torch.cat(kept, 1))
