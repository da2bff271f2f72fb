"""Named places in a layer where a quantizer may act; the identity until one does."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from gnnscale.core.sparse import SparseRows, dense

if TYPE_CHECKING:
    from gnnscale.core.hop import Hop

Role = Literal["input", "weight", "message", "attention", "aggregate", "update"]
Rows = Literal["src", "dst", "edges", "none"]


class Site(nn.Module):
    """One tensor of a layer that integer inference would store as codes.

    Args:
        role: what the tensor is; weights are parameters, the rest are activations.
        rows: whose rows the tensor holds, so that a quantizer can protect some of them.
        of: for a weight, the name of the parameter in the module that owns the site.
    """

    def __init__(self, role: Role, rows: Rows = "none", of: str = "weight"):
        super().__init__()
        self.role, self.rows, self.of = role, rows, of
        self.quantizer: nn.Module | None = None

    def forward(self, value: Tensor, hop: "Hop | None" = None) -> Tensor:
        """The value as the quantizer leaves it; the value itself if there is none."""
        return value if self.quantizer is None else self.quantizer(dense(value), hop)

    def extra_repr(self) -> str:
        """Role and rows, for printing."""
        return f"{self.role}, rows={self.rows}"


class Dense(nn.Linear):
    """``nn.Linear`` with sites for its input and its weight: y = q(x) q(W)^T + b."""

    def __init__(self, d_in: int, d_out: int, bias: bool = True, rows: Rows = "src"):
        super().__init__(d_in, d_out, bias)
        self.q_input = Site("input", rows)
        self.q_weight = Site("weight")

    def forward(self, x: Tensor, hop: "Hop | None" = None) -> Tensor:
        """Shapes: [n, d_in], dense or sparse rows -> [n, d_out]."""
        x, w = self.q_input(x, hop), self.q_weight(self.weight)
        return (
            nn.functional.linear(x, w, self.bias)
            if isinstance(x, Tensor)
            else _sparse(x, w, self.bias)
        )


def _sparse(x: SparseRows, w: Tensor, bias: Tensor | None) -> Tensor:
    z = x @ w.T
    return z if bias is None else z + bias


def sites(model: nn.Module) -> Iterator[tuple[str, Site]]:
    """Every site of a model with its dotted name, in order."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Site))
