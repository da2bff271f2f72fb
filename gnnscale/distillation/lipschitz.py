"""Local Lipschitz regularisation: what bounds the error of stale histories."""

from typing import Any

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.ops import full
from gnnscale.core.teacher import Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import NonNegative, Positive
from gnnscale.distillation._base import Term


class Lipschitz(Term):
    """weight / (L - 1) * sum over the layers l after the first of
    mean_v ||f_l(h)_v - f_l(h + radius e)_v||_2, e ~ N(0, I) drawn anew in every step.

    Fey, Lenssen, Weichert & Leskovec, ICML 2021, arXiv:2106.05609: the error of histories grows
    with the layers' Lipschitz constants. f_l is the convolution's ``mlp`` where it has one, as in
    the authors' script for GIN; else it is the whole convolution, the noise being on all of its
    source rows. Both passes draw the same dropout masks, and the second leaves the statistics of
    batch normalisation alone. There is no teacher; any recipe will do.

    Args:
        weight: of the term; the authors' is 1. radius: of the noise; the authors' is 0.1.
    """

    needs = (traits(Trait.HOPS),)

    def __init__(self, weight: NonNegative = 1.0, radius: Positive = 0.1):
        super().__init__()
        self.weight, self.radius, self.layers = weight, radius, 1
        self.found: dict[int, Tensor] = {}

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Listen to every layer after the first."""
        layers: Any = model.layers
        self.layers = max(len(layers) - 1, 1)
        for level, layer in enumerate(layers[1:]):
            Probe(self.radius, self.found, level).listen(getattr(layer, "conv", layer))

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The term of a batch, a scalar; 0 for a model of one layer."""
        total = sum(self.found.values(), out.logits.sum() * 0)
        self.found.clear()
        return self.weight / self.layers * total


class Probe:
    """Runs one module again on perturbed input and keeps how far its output moved.

    Args:
        radius: of the noise. found: where the mean distance is put, under ``level``.
    """

    def __init__(self, radius: float, found: dict[int, Tensor], level: int):
        self.radius, self.found, self.level = radius, found, level
        self.again = False
        self.state: tuple[Tensor, Tensor | None] | None = None

    def listen(self, conv: nn.Module) -> None:
        """Hook the convolution's ``mlp``, called as mlp(h), or itself, as conv(hop, h, memo)."""
        part = getattr(conv, "mlp", conv)
        self.at = 1 if part is conv else 0
        part.register_forward_pre_hook(self.before)
        part.register_forward_hook(self.after)

    def before(self, module: nn.Module, given: tuple) -> None:
        """Note where the generators stand."""
        if module.training and not self.again:
            h = given[self.at]
            gpu = torch.cuda.get_rng_state(h.device) if h.device.type == "cuda" else None
            self.state = (torch.get_rng_state(), gpu)

    def after(self, module: nn.Module, given: tuple, out: Tensor) -> None:
        """The second pass, in training only."""
        if not module.training or self.again or not torch.is_grad_enabled():
            return
        assert self.state is not None
        h = given[self.at]
        perturbed = [*given]
        perturbed[self.at] = h + self.radius * torch.randn_like(h)
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]
        tracked = [m.track_running_stats for m in norms]
        with torch.random.fork_rng([h.device] if h.device.type == "cuda" else []):
            torch.set_rng_state(self.state[0])
            if self.state[1] is not None:
                torch.cuda.set_rng_state(self.state[1], h.device)
            self.again = True
            try:
                for norm in norms:
                    norm.track_running_stats = False
                moved = module(*perturbed)
            finally:
                self.again = False
                for norm, was in zip(norms, tracked, strict=True):
                    norm.track_running_stats = was
        self.found[self.level] = (full(out) - full(moved)).norm(dim=1).mean()
