"""Principal neighbourhood aggregation: several aggregators, scaled by functions of the degree."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import divisible
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.architecture._towers import Message, Towers, share
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.values import Count, Rate

Aggregator = Literal["mean", "max", "min", "std", "var", "add"]
Scaler = Literal["identity", "amplification", "attenuation"]


class PNAConv(nn.Module):
    """h_i' = mix(U [h_i || s_1 z_i || .. || s_S z_i]), z_i = [aggr_j m_ij for each aggregator].

    m_ij = M [h_i || h_j || e_ij]; with d the degree and delta the mean of log(d + 1) over training
    nodes, s is 1, log(d + 1) / delta or delta / log(d + 1) (0 for d = 0); M and U are linear, one
    per tower, mix is a linear map and LeakyReLU. Corso, Cavalleri, Beaini, Lio & Velickovic,
    NeurIPS 2020, arXiv:2004.05718, eq. 5-8. ``simple``: U [s_1 z_i || .. || s_S z_i] with
    z_i = [aggr_j h_j], neither messages, towers nor mix (the authors' network for ogbg-molhiv).

    Nodes without neighbours have z = 0, in std, too. Since rows are scaled, s_k (z U_k) is s_k z
    times U_k: the A S blocks never stand side by side.

    d is the degree in the whole graph where the hop knows it, so that a sample is scaled as its
    node will be.

    Args:
        d_in, d_out: sizes. aggregators, scalers: names. delta: as above. towers: of equal width.
        divide: each reads its share of h; else all of it. simple: as above. shape: what edges
        carry; None: they are not read.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(
        self, d_in: int, d_out: int, aggregators: tuple[str, ...], scalers: tuple[str, ...],
        delta: float, towers: int = 1, divide: bool = True, simple: bool = False,
        shape: Shape | None = None,
    ):  # fmt: skip
        super().__init__()
        self.aggregators, self.scalers = aggregators, scalers
        # with the weights: a graph that is only predicted has a mean of its own
        self.register_buffer("delta", torch.tensor(float(delta or 1.0)))
        self.towers, self.simple = towers, simple
        width, size, kinds = share(d_in, towers, divide), d_out // towers, len(scalers)
        fan = (len(aggregators) * kinds + (not simple)) * width
        self.message = None if simple else Message(towers, width, width, not divide, shape)
        self.own = None if simple else Towers(towers, width, size, not divide, False, fan)
        self.update = Towers(towers, len(aggregators) * width, kinds * size, False, False, fan)
        self.bias = nn.Parameter(torch.empty(d_out).uniform_(-(fan**-0.5), fan**-0.5))
        self.mix = None if simple else Dense(d_out, d_out, rows="dst")
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        n, t, kinds = hop.graph.n_dst, self.towers, len(self.scalers)
        z = self.q_aggregate(self.aggregated(hop, h), hop)  # [n_dst, T * A * width]
        parts = self.update(z, hop).view(n, t, kinds, -1).unbind(2)  # S times [n_dst, T, d_out / T]
        scales = self.scales(hop, z.dtype).view(n, 1, 1, kinds).unbind(3)
        scaled = [part * s for part, s in zip(parts, scales, strict=True)]
        y = torch.stack(scaled).sum(0).reshape(n, -1) + self.bias
        if self.mix is not None:
            assert self.own is not None
            y = y + self.own(first(h, n), hop)
            y = nn.functional.leaky_relu(self.mix(y, hop))
        return self.q_update(y, hop)

    def aggregated(self, hop: Hop, h: Tensor) -> Tensor:
        """z: tower by tower, its aggregates side by side. [n_dst, T A width]."""
        if self.message is None:
            found = hop.reduce(lambda h: self.q_message(h, hop), h, self.aggregators)
        else:
            found = self.message(hop, h, self.aggregators)
        there = (hop.graph.in_degree > 0).unsqueeze(1)
        found = [torch.where(there, z, 0.0) if name == "std" else z
                 for name, z in zip(self.aggregators, found, strict=True)]  # fmt: skip
        if self.towers == 1:
            return torch.cat(found, 1)
        n, t = hop.graph.n_dst, self.towers
        return torch.cat([z.view(n, t, -1) for z in found], 2).view(n, -1)

    def scales(self, hop: Hop, dtype: torch.dtype) -> Tensor:
        """[n_dst, S]."""
        n = hop.graph.n_dst
        degree = hop.graph.in_degree if hop.degree is None else hop.degree[:n]
        log = degree.to(dtype).log1p()
        made = {
            "identity": lambda: torch.ones_like(log),
            "amplification": lambda: log / self.delta,
            "attenuation": lambda: torch.where(log > 0, self.delta / log, 0.0),
        }
        return torch.stack([made[name]() for name in self.scalers], 1)


@dataclass(eq=False, repr=False)
class PNA(Stack):
    """A stack of them (Corso et al., NeurIPS 2020, arXiv:2004.05718).

    Departs from the authors' code: norm and dropout stand behind the layer, not in every tower; M
    and U are single maps (theirs by default, too).

    Args:
        aggregators: of mean, max, min, std, var, add. scalers: of identity, amplification,
            attenuation. towers: must divide hidden; 1 in the last layer without a stem. divide:
            towers share the input out. simple: no messages, towers, mix. edges: messages read
            edge features where batches carry them, at the cost of a value per edge and column.
            Others: ``Stack``.

    Raises: UsageError for an empty or repeated choice, sizes that towers do not divide, and simple
    with what it has not got.
    """

    depth: Count = 4
    dropout: Rate = 0.0
    norm: Norm = "batch"
    residual: bool = True
    stem: bool = True
    aggregators: list[Aggregator] = field(default_factory=lambda: ["mean", "max", "min", "std"])
    scalers: list[Scaler] = field(
        default_factory=lambda: ["identity", "amplification", "attenuation"]
    )
    towers: Count = 4
    divide: bool = True
    simple: bool = False
    edges: bool = False

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """Only if every aggregator is."""
        return set(parameters.get("aggregators", ["max"])) <= {"mean", "add"}  # type: ignore[call-overload]

    def asks(self) -> Need:
        """A."""
        for key in ("aggregators", "scalers"):
            names = getattr(self, key)
            if not names or len(set(names)) < len(names):
                raise UsageError(
                    f"architecture.{key}={list(names)}: give at least one and none twice, e.g. "
                    f"architecture.{key}=[{'mean,max' if key == 'aggregators' else 'identity'}]"
                )
        if self.simple and self.edges:
            raise UsageError(
                "architecture.edges=true: the simple layer has no messages that could read them; "
                "type architecture.simple=false or architecture.edges=false"
            )
        if not self.simple:
            divisible("architecture.hidden", self.hidden, "architecture.towers", self.towers)
        return Need(self.depth)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return PNAConv(
            d_in, d_out, tuple(self.aggregators), tuple(self.scalers), self.shape.log_degree,
            1 if last or self.simple else self.towers, self.divide, self.simple,
            self.shape if self.edges else None,
        )  # fmt: skip
