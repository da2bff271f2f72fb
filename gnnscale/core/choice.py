"""A decision between options that gradients can make: gates that are nearly one-hot."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Memo
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop


class Choice(nn.Module):
    """g = softmax((theta + noise) / tau) over a list of options.

    With noise = -log(-log u), u uniform, a draw of the Gumbel-softmax (Jang, Gu & Poole, ICLR 2017,
    arXiv:1611.01144, eq. 2): theta are the logits of the options, and as tau falls to 0 draws
    become one-hot. Noise and temperature stay what they are until the next ``draw``, so every use
    of a choice in a step sees the same gates; without noise, until the first.

    Args:
        name: of what is chosen. options: whatever stands for each.
    """

    def __init__(self, name: str, options: Sequence[Any]):
        super().__init__()
        self.name, self.options, self.tau = name, tuple(options), 1.0
        self.theta = nn.Parameter(torch.zeros(len(self.options)))
        self.noise: Tensor
        self.register_buffer("noise", torch.zeros(len(self.options)), persistent=False)

    @property
    def gates(self) -> Tensor:
        """[options], non-negative, of sum 1."""
        return ((self.theta + self.noise) / self.tau).softmax(0)

    @property
    def probabilities(self) -> Tensor:
        """How often each option is the largest of a draw: softmax(theta), [options]."""
        return self.theta.detach().softmax(0)

    @property
    def told(self) -> list[tuple[Any, float]]:
        """(option, probability), for a file."""
        return list(zip(self.options, self.probabilities.tolist(), strict=True))

    @property
    def best(self) -> int:
        """Which option has the largest theta, the first of equals."""
        return int(self.theta.detach().argmax())

    def draw(self, tau: float, generator: torch.Generator) -> None:
        """New noise, at a temperature."""
        u = torch.rand(len(self.options), generator=generator).clamp(min=1e-20)
        self.tau = tau
        self.noise.copy_(-(-u.log()).clamp(min=1e-20).log())

    def mix(self, values: Sequence[Tensor]) -> Tensor:
        """sum_o g_o value_o."""
        first, *rest = (g * value for g, value in zip(self.gates, values, strict=True))
        return sum(rest, first)

    def extra_repr(self) -> str:
        """Name and options, for printing."""
        return f"{self.name}: {', '.join(map(str, self.options))}"


class MixedLayer(nn.Module):
    """sum_k g_k layer_k(hop, h, memo): a layer of a model that has not been decided on yet.

    Args:
        choice: gives the gates. options: the layers, with weights of their own.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].

    Raises: UsageError for layers whose outputs differ in width, or that leave something to the
        layers above beside their output, which of two would then be read.
    """

    def __init__(self, choice: Choice, options: Sequence[nn.Module]):
        super().__init__()
        self.choice, self.options = choice, nn.ModuleList(options)

    def forward(self, hop: Hop, h: Any, memo: Memo) -> Tensor:
        """All of them, mixed."""
        before = len(memo.kept)
        values = [layer(hop, h, memo) for layer in self.options]
        if len(memo.kept) != before:
            raise UsageError(
                f"space: {self.choice.name} leaves values to layers above beside its output, so "
                "layers can't be mixed; leave space empty, or choose another architecture"
            )
        widths = {value.shape[-1] for value in values}
        if len(widths) > 1:
            raise UsageError(
                f"space: the options of {self.choice.name} put out {sorted(widths)} columns; only "
                "options that leave the width alone can be mixed"
            )
        return self.choice.mix(values)


def choices(model: nn.Module) -> Iterator[Choice]:
    """Every choice in a model, once each, in order."""
    return (m for m in model.modules() if isinstance(m, Choice))
