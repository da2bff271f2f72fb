"""Named places in a layer where a quantizer may act; the identity until one does."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch import Tensor, nn

from gnnscale.core.hop import Hop, Scaled
from gnnscale.core.ops.product import product
from gnnscale.core.sparse import dense

Role = Literal["input", "weight", "message", "attention", "aggregate", "update"]
Rows = Literal["src", "dst", "edges", "none"]


class Site(nn.Module):
    """One tensor of a layer that integer inference would store as codes.

    Args:
        role: what the tensor is; weights are parameters, the rest are activations.
        rows: whose rows the tensor holds, so that a quantizer can protect some of them.
        of: for a weight, the name of the parameter in the module that owns the site.
        channel: for a weight, the axis of its outputs; by default the last one of a matrix and the
            first one, heads, of others.
        width: columns of the tensor, where the owner's weight does not tell them of its input.
        scaled: for messages that only the operator "sum" reads: quantize them with the hop's factor
            of their source, where it has such factors.
    """

    def __init__(
        self, role: Role, rows: Rows = "none", of: str = "weight", channel: int | None = None,
        scaled: bool = False, width: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.role, self.rows, self.of, self.scaled, self.width = role, rows, of, scaled, width
        self.channel = channel if channel is not None else -1 if of == "weight" else 0
        self.quantizer: nn.Module | None = None

    def forward(self, value: Any, hop: Hop | None = None) -> Any:
        """The value as the quantizer leaves it; the value itself if there is none."""
        if self.quantizer is None:
            return value
        if not getattr(self.quantizer, "takes_sparse", False):
            value = dense(value)
        factor = self.scaled and getattr(self.quantizer, "takes_factor", True)
        if factor and hop is not None and hop.scales and hop.src is not None:
            return Scaled(self.quantizer(dense(value) * hop.src.unsqueeze(1), hop))
        return self.quantizer(value, hop)

    def within(self, hop: Hop) -> Callable[[Any], Any] | None:
        """Itself on values that are made within a product; None without a quantizer."""
        return None if self.quantizer is None else lambda value: self(value, hop)

    def extra_repr(self) -> str:
        """Role and rows, for printing."""
        return f"{self.role}, rows={self.rows}"


class Dense(nn.Linear):
    """``nn.Linear`` with sites for its input and its weight: y = q(x) q(W)^T + b."""

    def __init__(self, d_in: int, d_out: int, bias: bool = True, rows: Rows = "src"):
        super().__init__(d_in, d_out, bias)
        self.q_input = Site("input", rows)
        self.q_weight = Site("weight", channel=0)

    def forward(self, x: Tensor, hop: Hop | None = None) -> Tensor:
        """Shapes: [n, d_in], dense or sparse rows -> [n, d_out]."""
        return product(self.q_input(x, hop), self.q_weight(self.weight).T, self.bias)


def fake(model: nn.Module) -> bool:
    """Whether float kernels stand in for the integers of some site: then no time is the model's."""
    filled = (site.quantizer for _, site in sites(model) if site.quantizer is not None)
    return any(not getattr(quantizer, "integer", False) for quantizer in filled)


def free(*places: Site) -> bool:
    """Whether no quantizer stands at any of these places, so that maps across them commute."""
    return all(site.quantizer is None for site in places)


def sites(model: nn.Module) -> Iterator[tuple[str, Site]]:
    """Every site of a model with its dotted name, in order."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Site))
