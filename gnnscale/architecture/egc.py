"""Efficient graph convolution: shared bases, mixed per node and head."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import divisible, glorot
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.product import product
from gnnscale.core.site import Dense, Site
from gnnscale.core.values import Count, Rate

Aggregator = Literal["symadd", "add", "mean", "max", "min", "var", "std"]


class EGConv(nn.Module):
    """y_ih = sum_a sum_b w_ihba agg_a{T_jb : j in N(i)}, heads concatenated, plus a bias.

    T = X [Theta_1 .. Theta_B] are the bases, w = X Phi^T + b_w the mixing weights, without an
    activation. Tailor, Opolka, Lio & Lane, ICLR 2022, arXiv:2104.01481, eq. 3 and 4. "symadd" is
    the sum with symmetric normalisation; with ``self_loops="symadd"`` only it includes i itself
    (the layer that made the paper's tables), with "all" every aggregator does (eq. 3).

    Parameters: F L B + F H B A + H B A + F', with L = F' / H and A aggregators.

    Args:
        d_in, d_out: feature sizes. heads: H. bases: B. aggregators: names, in order.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(self, d_in: int, d_out: int, heads: int, bases: int, aggregators: tuple[str, ...]):
        super().__init__()
        self.heads, self.bases, self.size = heads, bases, d_out // heads
        self.ops = tuple("sum" if a == "symadd" else a for a in aggregators)
        self.weight = glorot(d_in, bases * self.size)
        self.mix = Dense(d_in, heads * bases * len(aggregators), rows="dst")
        self.bias = nn.Parameter(torch.zeros(d_out))
        self.q_input, self.q_weight = Site("input", "src"), Site("weight")
        self.q_message = Site("message", "src", scaled=self.ops == ("sum",))
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        n, weight = hop.graph.n_dst, self.q_weight(self.weight)
        w = self.mix(first(h, n), hop).view(n, self.heads, -1)  # [n_dst, H, A * B]

        def message(h: Tensor) -> Tensor:
            return self.q_message(product(self.q_input(h, hop), weight), hop)

        within = self.q_aggregate.within(hop)  # of [n_dst, A * B * L]
        return self.q_update(hop.mixed(message, h, self.ops, w, self.bias, within), hop)


@dataclass(eq=False, repr=False)
class EGC(Stack):
    """EGC-S (one aggregator) and EGC-M (several) networks.

    Tailor, Opolka, Lio & Lane, "Do We Need Anisotropic Graph Neural Networks?", ICLR 2022,
    arXiv:2104.01481. The paper's network: linear stem, blocks x + dropout(relu(bn(conv(x)))), head.

    Args:
        heads: H, must divide hidden. out_heads: those of a last layer that gives the logits itself
            (``stem=False``), concatenated as all others are. bases: B. aggregators: of symadd, add,
            mean, max, min, var, std. self_loops: symadd or all. Others: ``Stack``.

    Raises: UsageError if heads does not divide hidden or out_heads the classes, or if aggregators
        is empty or repeats one.
    """

    depth: Count = 3
    dropout: Rate = 0.2
    norm: Norm = "batch"
    residual: bool = True
    stem: bool = True
    heads: Count = 8
    out_heads: Count = 1
    bases: Count = 4
    aggregators: list[Aggregator] = field(default_factory=lambda: ["symadd"])
    self_loops: Literal["symadd", "all"] = "symadd"

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """Only if every aggregator is."""
        chosen = set(parameters.get("aggregators", ["symadd"]))  # type: ignore[call-overload]
        return chosen <= {"symadd", "add", "mean"}

    def asks(self) -> Need:
        """S for symadd, A for the others."""
        names = self.aggregators
        if not names or len(set(names)) < len(names):
            raise UsageError(
                f"architecture.aggregators={list(names)}: give at least one and none twice, "
                "e.g. architecture.aggregators=[symadd,max,mean]"
            )
        divisible("architecture.hidden", self.hidden, "architecture.heads", self.heads)
        classes = self.shape.classes
        if not self.stem and not self.shape.toy and classes % self.out_heads:
            fit = [str(h) for h in range(1, classes + 1) if classes % h == 0]
            raise UsageError(
                f"architecture.out_heads={self.out_heads}: must divide the {classes} classes; "
                f"valid: {', '.join(fit)}"
            )
        operator: Literal["sym", "none"] = "sym" if "symadd" in names else "none"
        loops: Literal["diag", "edges", "none"] = "diag" if operator == "sym" else "none"
        return Need(self.depth, operator, "edges" if self.self_loops == "all" else loops)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        heads = self.out_heads if last else self.heads
        return EGConv(d_in, d_out, heads, self.bases, tuple(self.aggregators))
