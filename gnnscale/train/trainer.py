"""How long to train, and what is kept: the options of one training."""

from dataclasses import dataclass, field
from typing import Literal

from gnnscale.core.traits import Component
from gnnscale.core.values import Count, NonNegative, Positive


@dataclass(frozen=True)
class Trainer(Component):
    """How long to train, and what is kept.

    epochs: at most. patience: stop after this many evaluations without a gain of more than
    min_delta on the validation split (None: never). monitor: what a gain is, and which weights are
    the best: score, tied, loss, both or ranked (``Patience``). time_budget_s: stop after the epoch
    in which this many seconds of training were reached. clip: largest norm of all gradients.
    evaluate_every, checkpoint_every: in epochs (None: as often as takes little of the time,
    ``checkpoint.Cadence``). selection: the best weights, or those of the last epoch. decay:
    optimizer.weight_decay and l2 on all parameters, on the first layer's only (Kipf & Welling 2017,
    sec. 5.2), or on all of the model's but the last layer's (GNNAutoScale). l2: adds l2 / 2 ||w||^2
    to the loss, the same gradient as Adam's and SGD's weight_decay; for optimizers that have none
    (L-BFGS). decay_of: weight decay of the model's encoder, layers or head, in place of what decay
    and optimizer.weight_decay say; None: as they say. log_eps: eps of log(eps + l) - log(eps) in
    place of the loss l of a row, in training only (``Objective``).
    """

    epochs: Count = 200
    patience: Count | None = None
    min_delta: NonNegative = 0.0
    monitor: Literal["score", "tied", "loss", "both", "ranked"] = "score"
    time_budget_s: Positive | None = None
    clip: Positive | None = None
    evaluate_every: Count = 1
    checkpoint_every: Count | None = None
    selection: Literal["best", "last"] = "best"
    decay: Literal["all", "first", "not_last"] = "all"
    l2: NonNegative = 0.0
    decay_of: dict[Literal["encoder", "layers", "head"], NonNegative | None] = field(
        default_factory=dict
    )
    log_eps: Positive | None = None
