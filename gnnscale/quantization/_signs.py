"""Sites of integer models that hold signs: weights as bits, inputs that are made bits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.batch_norm import RowNorm
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.ops.bits import WORD, Signs, pack


class SignWeight(nn.Module):
    """A weight as one bit per entry and a factor for each output.

    Args:
        shape: of the weight, a matrix. channel: its axis of outputs. scaled: there are factors.
    """

    integer = True
    bits = 1

    def __init__(self, shape: torch.Size, channel: int, scaled: bool):
        super().__init__()
        self.shape, self.turned = shape, channel % 2 == 1
        rows, self.columns = shape[channel], shape.numel() // shape[channel]
        self.words: Tensor
        self.scale: Tensor | None
        words = torch.zeros(rows, -(-self.columns // WORD), dtype=torch.int64)
        self.register_buffer("words", words)
        self.register_buffer("scale", torch.ones(rows) if scaled else None)
        self._ready: Signs | None = None

    @property
    def entries(self) -> int:
        """How many weights and factors there are, also of factors that are means of weights."""
        return self.shape.numel() + (0 if self.scale is None else len(self.scale))

    def take(self, weight: Tensor, scale: Tensor | None) -> None:
        """Store the signs of a weight, and its factors."""
        self.words.copy_(pack(weight.T if self.turned else weight))
        if self.scale is not None and scale is not None:
            self.scale.copy_(scale)
        self._ready = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = None

    def forward(self, weight: Any = None, hop: Hop | None = None) -> Signs:
        """The stored weight, whatever is given."""
        if self._ready is None:
            self._ready = Signs(self.words, self.columns, self.scale, self.turned)
        return self._ready


class SignInput(nn.Module):
    """The signs of rows as bits, behind batch norm where training had one.

    Args:
        width: D, where rows are centred; None: they are not.
    """

    integer = True
    bits = 1
    takes_factor = False

    def __init__(self, width: int | None):
        super().__init__()
        self.center = None if width is None else RowNorm(width)

    def take(self, trained: Mapping[str, Tensor]) -> None:
        """Copy the norm."""
        if self.center is not None:
            own = self.center.state_dict()
            self.center.load_state_dict({name: trained[f"center.{name}"] for name in own})

    def forward(self, x: Any, hop: Hop | None = None) -> Any:
        """Shapes: [n, D] -> signs [n, D]; of other shapes their float32 values."""
        x = full(x) if self.center is None else self.center(x)
        if x.dim() == 2:
            return Signs(pack(x), x.shape[1])
        return Signs(pack(x.flatten(0, -2)), x.shape[-1]).values().view(x.shape)
