"""What a model with choices is expected to cost, in bits, differentiable in the choices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnnscale.core.choice import Choice, MixedLayer
from gnnscale.core.data import GraphData
from gnnscale.core.site import Site, sites
from gnnscale.core.sparse import SparseRows
from gnnscale.train.loop import Run

Cost = Literal["size", "latency"]
Kind = Literal["weight", "activation"]


@dataclass(frozen=True)
class Within:
    """Option ``k`` of the choice between the layers at one place."""

    choice: Choice
    k: int


@dataclass(frozen=True)
class Item:
    """One tensor that is stored as codes or in float.

    name: of the parameter or the site, in the model that is chosen. kind: of the tensor.
    widths: bits of each option; choice: between them, None if there is one. stored, moved: entries
    kept in memory, and read or written in a pass over the graph. within: the layer that it is of,
    where that is chosen, too.
    """

    name: str
    kind: Kind
    widths: tuple[int, ...]
    choice: Choice | None
    stored: int
    moved: int
    within: Within | None

    def entries(self, cost: Cost) -> int:
        """What the bits are multiplied by."""
        return self.stored if cost == "size" else self.moved

    @property
    def width(self) -> Tensor:
        """Expected bits of an entry, a scalar."""
        widths = torch.tensor(self.widths, dtype=torch.float64)
        if self.choice is None:
            return widths[0]
        return self.choice.gates.double().cpu() @ widths

    @property
    def there(self) -> Tensor:
        """The gate of the layer that it is of, a scalar."""
        if self.within is None:
            return torch.ones((), dtype=torch.float64)
        return self.within.choice.gates.double().cpu()[self.within.k]

    def bits(self, cost: Cost) -> Tensor:
        """Expected bits, a scalar."""
        return self.there * self.width * self.entries(cost)

    @property
    def unit(self) -> str | None:
        """What its cost is weighed with, in a loss: the block that is decided on, at all options of
        the layer; None if nothing about it is open.
        """
        if self.choice is not None:
            return self.choice.name
        return None if self.within is None else f"{self.within.choice.name}, {self.kind}"


class Bill:
    """The items of a model.

    Weights: every parameter, at the width of its site, as ``model_bytes`` counts them. Activations:
    every other site that a pass of the run's inference over the graph goes through. It stores the
    largest tensor that the site sees in that pass (N x width, with ``inference=full``) and moves
    every tensor twice, written and read; the rows of messages are read once per edge in place of
    once. Weights are moved once. This is a proxy: a kernel that fuses two sites moves neither.

    Args:
        run: whose inference counts entries. model: with choices or without. data: the graph.
    """

    def __init__(self, run: Run, model: nn.Module, data: GraphData):
        places = dict(layers(model))
        self.items = [*weights(model, places), *activations(run, model, data, places)]

    def bits(self, kind: Kind, cost: Cost = "size") -> Tensor:
        """Expected bits of all tensors of a kind, a scalar."""
        chosen = [item.bits(cost) for item in self.items if item.kind == kind]
        return torch.stack(chosen).sum() if chosen else torch.zeros((), dtype=torch.float64)

    def width(self, kind: Kind) -> float:
        """Mean bits of an entry."""
        items = [item for item in self.items if item.kind == kind]
        entries = sum(item.there.item() * item.stored for item in items)
        return self.bits(kind).item() / entries if entries else 0.0

    def price(self, cost: Cost, per_block: bool) -> Tensor:
        """log of the expected cost of whatever is open, a scalar.

        per_block: the mean over blocks of each one's cost, relative to its dearest options; else
        the sum of all bits.
        """
        units: dict[str, list[Item]] = {}
        for item in self.items:
            if item.unit is not None:
                units.setdefault(item.unit, []).append(item)
        costs = []
        for items in units.values():
            own = torch.stack([item.bits(cost) for item in items]).sum()
            costs.append(own / dearest(items, cost) if per_block else own)
        if not costs:
            return torch.zeros((), dtype=torch.float64)
        return (torch.stack(costs).mean() if per_block else torch.stack(costs).sum()).log()


def dearest(items: Sequence[Item], cost: Cost) -> float:
    """The largest cost that items of one block can come to."""
    whole: dict[int | None, float] = {}
    for item in items:
        k = None if item.within is None else item.within.k
        whole[k] = whole.get(k, 0.0) + max(item.widths) * item.entries(cost)
    return max(whole.values()) or 1.0


# -- what there is -------------------------------------------------------------------------------


def layers(model: nn.Module) -> Iterator[tuple[str, MixedLayer]]:
    """The layers that are chosen between, by name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, MixedLayer))


def place(name: str) -> tuple[str, int | None]:
    """(name in the chosen model, option it is of) of what is called ``name`` in a mixed one."""
    steps = name.split(".")
    if len(steps) > 3 and steps[0] == "layers" and steps[2] == "options":
        return ".".join([*steps[:2], *steps[4:]]), int(steps[3])
    return name, None


def within(name: str, places: dict[str, MixedLayer]) -> Within | None:
    """The option that a name is in."""
    k = place(name)[1]
    layer = places.get(".".join(name.split(".")[:2]))
    return None if k is None or layer is None else Within(layer.choice, k)


def coded(site: Site, width: int) -> tuple[tuple[int, ...], Choice | None]:
    """(bits of each option, the choice between them) of a site; ``width`` without a quantizer."""
    quantizer: Any = site.quantizer
    choice = getattr(quantizer, "choice", None)
    if choice is not None:
        return tuple(quantizer.widths), choice
    return (getattr(quantizer, "bits", width),), None


def weights(model: nn.Module, places: dict[str, MixedLayer]) -> Iterator[Item]:
    """An item for every parameter but those of choices."""
    held = {}
    for name, site in sites(model):
        if site.role == "weight":
            owner = name.rpartition(".")[0]
            held[f"{owner}.{site.of}" if owner else site.of] = site
    mine = {id(m.theta) for m in model.modules() if isinstance(m, Choice)}
    for name, p in model.named_parameters():
        if id(p) in mine:
            continue
        width = 8 * p.element_size()
        widths, choice = coded(held[name], width) if name in held else ((width,), None)
        n = p.numel()
        yield Item(place(name)[0], "weight", widths, choice, n, n, within(name, places))


def activations(
    run: Run, model: nn.Module, data: GraphData, places: dict[str, MixedLayer]
) -> Iterator[Item]:
    """An item for every site of activations that a pass goes through."""
    stored: dict[str, int] = {}
    moved: dict[str, int] = {}

    def count(name: str, site: Site, given: tuple) -> None:
        value = given[0]
        n = (value.values if isinstance(value, SparseRows) else value).numel()
        reads = n
        if site.role == "message" and site.rows == "src" and given[1:] and given[1] is not None:
            reads = n // max(len(value), 1) * given[1].graph.n_edges
        stored[name] = max(stored.get(name, 0), n)
        moved[name] = moved.get(name, 0) + n + reads

    found = {name: site for name, site in sites(model) if site.role != "weight"}
    hooks = [
        site.register_forward_pre_hook(lambda site, given, name=name: count(name, site, given))
        for name, site in found.items()
    ]
    try:
        model.to(run.device)
        run.inference(model, data, torch.arange(data.items), run.device)
    finally:
        for hook in hooks:
            hook.remove()
    for name, site in found.items():
        if name in stored:
            widths, choice = coded(site, 32)
            yield Item(
                place(name)[0], "activation", widths, choice, stored[name], moved[name],
                within(name, places),
            )  # fmt: skip
