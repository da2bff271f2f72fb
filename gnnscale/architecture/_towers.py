"""Towers: several narrow maps side by side, and the message of both ends of an edge."""

import torch
from torch import Tensor, nn

from gnnscale.architecture._encoder import edge_encoder
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, first
from gnnscale.core.ops.product import product
from gnnscale.core.site import Rows, Site


class Towers(nn.Module):
    """y_t = x_t W_t + b_t for each tower t, side by side.

    Args:
        towers: T. d_in, d_out: sizes of one. whole: every tower reads all of x. bias: b. fan: what
            initial values are scaled by, U(+-fan^-1/2); None: d_in, as nn.Linear's. rows: whose
            rows are read.

    Shapes: x [n, T d_in], or [n, d_in] if whole -> [n, T d_out].
    """

    def __init__(
        self, towers: int, d_in: int, d_out: int, whole: bool = False, bias: bool = True,
        fan: int | None = None, rows: Rows = "dst",
    ):  # fmt: skip
        super().__init__()
        self.whole, bound = whole, (fan or d_in) ** -0.5
        self.weight = nn.Parameter(torch.empty(towers, d_in, d_out).uniform_(-bound, bound))
        start = torch.empty(towers * d_out).uniform_(-bound, bound)
        self.bias = nn.Parameter(start) if bias else None
        width = d_in if whole else towers * d_in
        self.q_input, self.q_weight = Site("input", rows, width=width), Site("weight")

    def forward(self, x: Tensor, hop: Hop | None = None) -> Tensor:
        """All maps at once."""
        x, w = self.q_input(x, hop), self.q_weight(self.weight)
        towers, d_in, d_out = w.shape
        if self.whole or towers == 1:
            y = product(x, w.transpose(0, 1).reshape(d_in, towers * d_out))
        else:
            y = torch.bmm(x.view(-1, towers, d_in).transpose(0, 1), w)  # [T, n, d_out]
            y = y.transpose(0, 1).reshape(-1, towers * d_out)
        return y if self.bias is None else y + self.bias


class Message(nn.Module):
    """m_ij = W [h_i || h_j || e_ij] + b in every tower, aggregated without a value per edge.

    W = [A || B || C] makes m_ij = (A h_i + b) + B h_j (+ C e_ij), of which only the terms of j are
    to be aggregated: the mean, maximum and minimum over j shift by the term of i, the sum by its
    multiple, var and std not at all. With e_ij there is a value per edge and column.

    Args:
        towers, d_in, d_out, whole: as in ``Towers``. shape: what edges carry; None: they are not
            read.

    Shapes: h [n_src, T d_in] (or [n_src, d_in] if whole) -> [n_dst, T d_out] per aggregator.
    """

    def __init__(self, towers: int, d_in: int, d_out: int, whole: bool, shape: Shape | None):
        super().__init__()
        fan = 2 * d_in
        self.own = Towers(towers, d_in, d_out, whole, True, fan)
        self.other = Towers(towers, d_in, d_out, whole, False, fan, "src")
        self.edge = None if shape is None else edge_encoder(shape, towers * d_out)
        self.q_message = Site("message", "src" if self.edge is None else "edges")

    def forward(self, hop: Hop, h: Tensor, names: tuple[str, ...]) -> list[Tensor]:
        """One result per aggregator; 0 where there are no edges, but std's root of its epsilon."""
        own = self.own(first(h, hop.graph.n_dst), hop)
        there = (hop.graph.in_degree > 0).unsqueeze(1)
        found = []
        for name, z in zip(names, self.others(hop, h, names), strict=True):
            if name in ("sum", "add"):
                z = torch.addcmul(z, self.weights(hop, h, name).to(z.dtype), own.to(z.dtype))
            elif name not in ("var", "std"):
                z = torch.where(there, z + own, 0.0)
            found.append(z)
        return found

    def others(self, hop: Hop, h: Tensor, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        """Aggregates of B h_j + C e_ij."""
        if self.edge is None:
            return hop.reduce(lambda h: self.q_message(self.other(h, hop), hop), h, names)
        m = hop.sources(self.other(h, hop)) + self.edge(hop.edge)  # [E, T d]
        m = self.q_message(m, hop)
        return hop.collect(m, tuple("add" if name == "sum" else name for name in names))

    def weights(self, hop: Hop, h: Tensor, name: str) -> Tensor:
        """What a sum multiplies a constant by: the degree, or a sampler's estimate. [n_dst, 1]."""
        if self.edge is not None:
            return hop.graph.in_degree.unsqueeze(1)
        return hop.reduce(lambda h: h.new_ones(len(h), 1), h, name)


def share(d_in: int, towers: int, divide: bool) -> int:
    """What one tower reads of ``d_in`` columns.

    Raises: UsageError if they are to be divided and can't be.
    """
    if not divide:
        return d_in
    if d_in % towers:
        raise UsageError(
            f"architecture.towers={towers}: the first layer reads {d_in} columns, which can't be "
            "divided among them; type architecture.stem=true or architecture.divide=false"
        )
    return d_in // towers
