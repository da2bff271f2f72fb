"""Which parameters decay: weight decay of the optimizer, and the same penalty in the loss."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.errors import UsageError
from gnnscale.train.trainer import Trainer


def decayed(model: nn.Module, which: str) -> list[nn.Parameter]:
    """The model's parameters that trainer.decay names, unless it is "all"."""
    levels: Any = model
    if which == "first":
        return list(levels.first())
    last = {id(p) for p in levels.last()}
    return [p for p in model.parameters() if id(p) not in last]


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of a model by part; whatever is neither layer nor head is the encoder's."""
    whole: Any = model
    layers = list(whole.layers.parameters())
    head = [p for m in (whole.head, whole.pool) if m is not None for p in m.parameters()]
    above = {id(p) for p in [*layers, *head]}
    encoder = [p for p in model.parameters() if id(p) not in above]
    return {"encoder": encoder, "layers": layers, "head": head}


def groups(
    model: nn.Module,
    terms: nn.Module,
    which: str,
    weight_decay: float | None,
    of: Mapping[Any, float | None] | None = None,
) -> list[dict]:
    """Parameters of the model and the terms, split where weight decay differs.

    weight_decay: of the optimizer; None if it has none. of: trainer.decay_of.

    Raises: UsageError for values in ``of`` where the optimizer has no weight decay.
    """
    everything = [p for part in (model, terms) for p in part.parameters() if p.requires_grad]
    given = {name: value for name, value in (of or {}).items() if value is not None}
    if weight_decay is None and given:
        said = ",".join(f"{name}:{value}" for name, value in given.items())
        raise UsageError(
            f"trainer.decay_of={{{said}}}: the optimizer has no weight decay; leave it out, or "
            "choose one that has, e.g. optimizer=adam"
        )
    value: dict[int, float | None] = dict.fromkeys(map(id, everything))  # None: the optimizer's
    if which != "all" and weight_decay is not None:
        chosen = {id(p) for p in decayed(model, which)}
        value.update((key, 0.0) for key in value if key not in chosen)
    named = parts(model) if given else {}
    value.update((id(p), decay) for name, decay in given.items() for p in named[name])
    found: dict[float | None, list[nn.Parameter]] = {}
    for p in everything:
        found.setdefault(value[id(p)], []).append(p)
    return [
        {"params": chosen, **({} if decay is None else {"weight_decay": decay})}
        for decay, chosen in found.items()
    ]


def penalty(model: nn.Module, trained: Iterable[nn.Parameter], trainer: Trainer) -> Tensor:
    """trainer.l2 / 2 times the squared norm of the parameters that trainer.decay names.

    trained: all parameters that the optimizer has.
    """
    chosen = trained if trainer.decay == "all" else decayed(model, trainer.decay)
    return trainer.l2 / 2 * torch.stack([p.square().sum() for p in chosen]).sum()
