"""Mixed precision: the width of every site's codes is found by a search, not given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnnscale.core.choice import Choice
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Bits, Percentile, Share
from gnnscale.quantization._base import Quantizer
from gnnscale.quantization._fake import Tracker
from gnnscale.quantization.qat import QAT, Activation

FLOAT = 32
Width = Bits | Literal[32]
"""Of a code, or float32."""


class Exact(nn.Module):
    """The option not to quantize."""

    takes_sparse = True
    bits = FLOAT

    def forward(self, x: Any, hop: Hop | None = None) -> Any:
        """``x`` itself."""
        return x


class MixedRows(SparseRows):
    """sum_o g_o X_o of sparse rows X_o in the same places, a product of which has gradients in g.

    Values of sparse rows have no gradients, so (sum_o g_o X_o) W is computed as sum_o g_o (X_o W).
    """

    options: Sequence[SparseRows]
    gates: Tensor

    @classmethod
    def mixed(cls, options: Sequence[SparseRows], gates: Tensor) -> "MixedRows":
        """Shapes: options [n, F] each, gates [options]."""
        each = zip(gates.detach(), options, strict=True)
        made = cls.of(options[0].rows, torch.stack([g * x.values for g, x in each]).sum(0))
        made.options, made.gates = options, gates
        return made  # type: ignore[return-value]

    def __matmul__(self, w: Tensor) -> Tensor:
        """Shapes: [n, F] @ [F, D] -> [n, D]."""
        each = zip(self.gates, self.options, strict=True)
        return torch.stack([g * (x @ w) for g, x in each]).sum(0)

    def dense(self) -> Tensor:
        """The same matrix as a tensor."""
        each = zip(self.gates, self.options, strict=True)
        return torch.stack([g * x.dense() for g, x in each]).sum(0)


class Mixture(nn.Module):
    """sum_o g_o fq_o(x): a site whose width has not been decided on yet.

    Every option tracks a range of its own.

    Args:
        choice: gives the gates; sites may share one. options: called as option(value, hop).
    """

    takes_sparse = True

    def __init__(self, choice: Choice, options: Sequence[nn.Module]):
        super().__init__()
        self.choice, self.options = choice, nn.ModuleList(options)

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each option."""
        return self.choice.options

    def forward(self, x: Any, hop: Hop | None = None) -> Any:
        """Shapes: any -> the same."""
        values = [option(x, hop) for option in self.options]
        if not isinstance(x, SparseRows):
            return self.choice.mix(values)
        gates = self.choice.gates
        mixed = MixedRows.mixed(values, gates)
        return mixed if gates.requires_grad else SparseRows.of(mixed.rows, mixed.values)


@dataclass(eq=False, repr=False)
class Mixed(Quantizer):
    """Every site has a list of widths; the stage ``search`` decides, after which it is ``QAT``.

    A stand-in of our own for the quantization half of LPGNAS (Zhao et al., EuroMLSys 2021,
    arXiv:2009.09232), whose tables of options, noise and penalty were not at hand and have no
    public code: while the search goes on, a site is a ``Mixture`` of fake quantizations at all of
    its widths. Where a list has one width there is nothing to decide and the site is QAT's.

    Args:
        weight_bits, activation_bits: widths to choose between, 32 for float32.
        attention_bits: of attention logits, which few bits flatten.
        bits: lists of sites by their names, with wildcards; later ones win: {layers.0.*: [4, 8]}.
        block: what is decided on at once: each ``site``, or the weights and the activations of each
            ``layer`` (those with equal lists).
        Others: ``QAT``.

    Raises: UsageError for an empty list, or one that names a width twice.
    """

    weight_bits: list[Width] = field(default_factory=lambda: [2, 4, 8])
    activation_bits: list[Width] = field(default_factory=lambda: [4, 8, 16])
    attention_bits: list[Width] = field(default_factory=lambda: [8, 16])
    bits: dict[str, list[Width]] = field(default_factory=dict)
    block: Literal["site", "layer"] = "site"
    symmetric_weights: bool = True
    per_channel: bool = True
    range: Tracker = "ema"
    momentum: Share = 0.01
    percentile: Percentile = 0.001
    gradient: Literal["clip", "straight"] = "clip"
    roles: list[Activation] = field(
        default_factory=lambda: ["input", "message", "attention", "aggregate", "update"]
    )

    gives = traits(Trait.OPTIONS)
    needs = (traits(Trait.SITES, Trait.SEARCH),)

    def __post_init__(self) -> None:
        named = {name: getattr(self, name) for name in
                 ("weight_bits", "activation_bits", "attention_bits")}  # fmt: skip
        for name, widths in (named | {f"bits.{p}": w for p, w in self.bits.items()}).items():
            if not widths or len(set(widths)) < len(widths):
                raise UsageError(
                    f"quantization.{name}={widths}: a list of different widths, 2 to 16, or 32 for "
                    f"float32, is wanted; e.g. quantization.{name}=[4,8]"
                )
        self.made: dict[tuple, Choice] = {}
        self.qat = QAT(
            symmetric_weights=self.symmetric_weights, per_channel=self.per_channel,
            range=self.range, momentum=self.momentum, percentile=self.percentile,
            gradient=self.gradient, roles=self.roles,
        )  # fmt: skip

    def widths(self, site: Site, name: str) -> list[int]:
        """What is chosen between at a site; [] for activations that are left alone."""
        if site.role != "weight" and site.role not in self.roles:
            return []
        lists = {"weight": self.weight_bits, "attention": self.attention_bits}
        found: Sequence[int] = lists.get(site.role, self.activation_bits)
        for pattern, widths in self.bits.items():
            found = widths if fnmatchcase(name, pattern) else found
        return list(found)

    def coded(
        self, site: Site, name: str, weight: nn.Parameter | None, bits: int
    ) -> nn.Module | None:
        """The module of a site at one width; None for float32."""
        if bits == FLOAT:
            return None
        return replace(self.qat, weight_bits=bits, activation_bits=bits).make(site, name, weight)

    def choice(self, site: Site, name: str, widths: Sequence[int]) -> Choice:
        """The choice that decides on a site."""
        if self.block == "site":
            return Choice(name, widths)
        steps = name.split(".")
        layer = ".".join(steps[: 2 if steps[0] == "layers" else 1])
        kind = "weights" if site.role == "weight" else "activations"
        key = (layer, kind, tuple(widths))
        if key not in self.made:
            told = "/".join(map(str, widths))
            self.made[key] = Choice(f"{layer} {kind} of {told} bits", widths)
        return self.made[key]

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """A mixture of a site's widths; the site at its width where it has one."""
        widths = self.widths(site, name)
        each = [self.coded(site, name, weight, bits) for bits in widths]
        if len(each) < 2:
            return each[0] if each else None
        return Mixture(self.choice(site, name, widths), [Exact() if m is None else m for m in each])

    def attach(self, model: nn.Module) -> None:
        """Fill every site of ``model``; choices are this model's own."""
        self.made = {}
        super().attach(model)

    def settled(self, bits: Mapping[str, int]) -> "Settled":
        """The same with every choice made."""
        return Settled(self, bits)


class Settled(Quantizer):
    """Sites at the widths that a search chose.

    A site that chose float32 keeps a module that does nothing, since messages beside one are summed
    in another order, and rounding is to be that of the search.

    Args:
        mixed: what was chosen from. bits: widths by the sites' names.
    """

    def __init__(self, mixed: Mixed, bits: Mapping[str, int]):
        self.mixed, self.bits = mixed, bits

    def make(self, site: Site, name: str, weight: nn.Parameter | None) -> nn.Module | None:
        """The module of a site."""
        if name not in self.bits:
            return self.mixed.make(site, name, weight)
        coded = self.mixed.coded(site, name, weight, self.bits[name])
        return Exact() if coded is None else coded
