"""Which parameters decay: weight decay of the optimizer, and the same penalty in the loss."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.train.trainer import Trainer


def decayed(model: nn.Module, which: str) -> list[nn.Parameter]:
    """The model's parameters that trainer.decay names, unless it is "all"."""
    levels: Any = model
    if which == "first":
        return list(levels.first())
    last = {id(p) for p in levels.last()}
    return [p for p in model.parameters() if id(p) not in last]


def groups(
    model: nn.Module, terms: nn.Module, which: str, weight_decay: float | None
) -> list[dict]:
    """Parameters of the model and the terms, split where weight decay differs.

    weight_decay: of the optimizer; None if it has none.
    """
    everything = [p for part in (model, terms) for p in part.parameters() if p.requires_grad]
    if which == "all" or weight_decay is None:
        return [{"params": everything}]
    chosen = {id(p) for p in decayed(model, which)}
    return [
        {"params": [p for p in everything if id(p) in chosen]},
        {"params": [p for p in everything if id(p) not in chosen], "weight_decay": 0.0},
    ]


def penalty(model: nn.Module, trained: Iterable[nn.Parameter], trainer: Trainer) -> Tensor:
    """trainer.l2 / 2 times the squared norm of the parameters that trainer.decay names.

    trained: all parameters that the optimizer has.
    """
    chosen = trained if trainer.decay == "all" else decayed(model, trainer.decay)
    return trainer.l2 / 2 * torch.stack([p.square().sum() for p in chosen]).sum()
