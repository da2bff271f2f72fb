"""Reversible layers: grouped additive coupling whose activations are recomputed, never kept.

Li, Mueller, Ghanem & Koltun, "Training Graph Neural Networks with 1000 Layers", ICML 2021,
arXiv:2106.07476 (after Gomez et al., NeurIPS 2017). Departs from the authors' code:

- One autograd function spans all layers and keeps the last output alone; no storage is freed
  behind autograd's back, so the input stays what it was, also without gradients.
- In the backward pass each f is evaluated once, with gradients: its value inverts the layer and its
  graph differentiates it (theirs: once for either).
- Whatever an f draws or remembers is put back before it is evaluated again: the states of torch's
  generators, and buffers (batch-norm statistics, ranges of quantizers), which move once per step.
- The f of different groups start from weights of their own (theirs: from copies).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gnnscale.architecture._base import ACTIVATIONS, NORMS
from gnnscale.architecture._replay import Held, forked, generators, put
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.ops.dropout import dropout

STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that the seeds of a pass's evaluations differ."""


class Unit(nn.Module):
    """f(u) = conv(m * act(norm(u))), with m a dropout mask: the order of RevGNN.

    Args:
        conv: called as conv(hop, u, memo). width: of u. norm, act: names in ``NORMS`` and
            ``ACTIVATIONS``.

    Shapes: u, mask [N, d] -> [N, d], on a square hop.
    """

    def __init__(self, conv: nn.Module, width: int, norm: str, act: str):
        super().__init__()
        self.norm, self.act, self.conv = NORMS[norm](width), ACTIVATIONS[act](), conv

    def forward(self, hop: Hop, u: Tensor, mask: Tensor | None, memo: Memo) -> Tensor:
        """One evaluation."""
        z = self.act(self.norm(u))
        return full(self.conv(hop, z if mask is None else z * mask, memo))


class Coupling(nn.Module):
    """Layers of grouped additive coupling: X'_0 = sum_{i>1} X_i, X'_i = f_i(X'_{i-1}) + X_i.

    The C groups X_i are consecutive columns. Inverse: X_i = X'_i - f_i(X'_{i-1}) for i = C .. 2,
    then X_1 = X'_1 - f_1(X'_0). One dropout mask [N, D] serves all layers
    of a pass, cut into groups. With one group X' = X + f(X), a plain residual layer, which has no
    such inverse.

    Args:
        units: the f of each layer, a list of C modules like ``Unit`` per layer. They are gone
            through in turn until ``depth`` layers are done, so fewer lists than that are tied.
        depth: layers. p: rate of the mask. keep: keep all activations, by plain autograd; the same
            function. thin: makes the hop that all groups of a layer read, drawing from torch's
            generator; None: all layers read the hop as it is.

    Shapes: x [N, D] -> [N, D] float32 or float64, on a square hop.
    """

    def __init__(
        self,
        units: Sequence[Sequence[nn.Module]],
        depth: int,
        p: float = 0.0,
        keep: bool = False,
        thin: Callable[[Hop], Hop] | None = None,
    ):
        super().__init__()
        self.units = nn.ModuleList(nn.ModuleList(each) for each in units)
        self.groups, self.depth, self.p = len(units[0]), depth, p
        self.keep, self.thin = keep, thin

    def forward(self, hop: Hop, x: Tensor, memo: Memo) -> Tensor:
        """All layers."""
        run = Pass(self, hop, x, memo)
        if self.keep:
            return run.forward(x, hop.edge)
        return _Reversed.apply(run, x, hop.edge, *run.parameters)


class Pass:
    """One forward pass: what it draws is fixed here, so that all of it can be evaluated again.

    Args:
        coupling: the layers. hop, x, memo: what they are given; of x, only its shape is read.
    """

    def __init__(self, coupling: Coupling, hop: Hop, x: Tensor, memo: Memo):
        assert hop.graph.n_src == hop.graph.n_dst == len(x)
        self.coupling, self.hop, self.memo = coupling, hop, memo
        self.units = [[Held(unit) for unit in each] for each in coupling.units]  # type: ignore
        self.groups, self.training = coupling.groups, coupling.training
        every = [held for each in self.units for held in each]
        self.parameters = list({id(p): p for held in every for p in held.weights}.values())
        self.buffers = [b for held in every for b in held.buffers]
        self.generators = generators(x.device)
        self.precision = {
            "device_type": x.device.type,
            "dtype": torch.get_autocast_dtype(x.device.type),
            "enabled": torch.is_autocast_enabled(x.device.type),
        }
        self.before: dict[tuple[int, int], list[Tensor]] = {}
        self.thinned: tuple[int, Hop] | None = None
        self.masks: Sequence[Tensor | None] = [None] * self.groups
        if self.training:
            self.word = int(torch.randint(2**62, ()))
            if coupling.p:
                mask = dropout(torch.ones_like(x, dtype=full(x).dtype), coupling.p)
                self.masks = self.split(mask)

    def split(self, x: Tensor) -> list[Tensor]:
        """The groups of columns, each contiguous. [N, D] -> C times [N, D / C]."""
        return [part.contiguous() for part in full(x).chunk(self.groups, 1)]

    def unit(self, layer: int, group: int) -> "Held":
        """f of a group of a layer."""
        return self.units[layer % len(self.units)][group]

    # -- one evaluation ---------------------------------------------------------------------------

    def seed(self, layer: int, group: int) -> None:
        """Seed torch's generators for one evaluation; group C: for what a layer's groups share."""
        place = layer * (self.groups + 1) + group
        for generator in self.generators:
            generator.manual_seed((self.word + place * STRIDE) % 2**63)

    def hop_of(self, layer: int, hop: Hop) -> Hop:
        """The hop that a layer reads."""
        if not self.training or self.coupling.thin is None:
            return hop
        if self.thinned is None or self.thinned[0] != layer:
            self.seed(layer, self.groups)
            self.thinned = (layer, self.coupling.thin(hop))
        return replace(self.thinned[1], edge=hop.edge)

    def value(self, layer: int, group: int, u: Tensor, hop: Hop) -> Tensor:
        """f(u), with what f draws and remembers as it was when it was first evaluated."""
        unit, place = self.unit(layer, group), (layer, group)
        here = self.hop_of(layer, hop)
        if self.training:
            if place not in self.before:
                self.before[place] = [b.clone() for b in unit.buffers]
            else:
                put(unit.buffers, self.before[place])
            self.seed(layer, group)
        return unit.module(here, u, self.masks[group], self.memo)

    @contextmanager
    def again(self) -> Iterator[None]:
        """A second evaluation, after which buffers are what they were before it."""
        state = [b.clone() for b in self.buffers] if self.training else []
        with torch.no_grad(), forked(self.generators):
            try:
                with torch.autocast(**self.precision, cache_enabled=False):
                    yield
            finally:
                if self.training:
                    put(self.buffers, state)

    # -- all layers -------------------------------------------------------------------------------

    def source(self, xs: Sequence[Tensor]) -> Tensor:
        """X'_0."""
        return sum(xs[2:], xs[1]) if len(xs) > 1 else xs[0]

    def forward(self, x: Tensor, edge: Tensor | None) -> Tensor:
        """The last output. Shapes: x [N, D], edge [E, D_e] -> [N, D]."""
        hop, xs = replace(self.hop, edge=edge), self.split(x)
        with forked(self.generators):
            for layer in range(self.coupling.depth):
                u = self.source(xs)
                for i in range(self.groups):
                    xs[i] = u = xs[i] + self.value(layer, i, u, hop)
        return torch.cat(xs, 1)

    def inverse(self, y: Tensor) -> Tensor:
        """The input whose output is ``y``. Shapes: [N, D] -> [N, D]."""
        assert self.groups > 1
        xs = self.split(y)
        with self.again():
            for layer in reversed(range(self.coupling.depth)):
                for i in reversed(range(1, self.groups)):
                    xs[i] = xs[i] - self.value(layer, i, xs[i - 1], self.hop)
                xs[0] = xs[0] - self.value(layer, 0, self.source(xs), self.hop)
        return torch.cat(xs, 1)

    def backward(self, y: Tensor, edge: Tensor | None, g: Tensor) -> "Gradients":
        """Gradients of the input, the edges and every parameter, from those of the output.

        Shapes: y, g [N, D], edge [E, D_e].
        """
        xs, gs, found = self.split(y), self.split(g), Gradients()
        leaf = None if edge is None else edge.detach().requires_grad_()
        hop = replace(self.hop, edge=leaf)
        extra = [] if leaf is None else [leaf]
        with self.again():
            for layer in reversed(range(self.coupling.depth)):
                for i in reversed(range(self.groups)):
                    u = xs[i - 1] if i else self.source(xs)
                    u = u.detach().requires_grad_()
                    with torch.enable_grad():
                        z = self.value(layer, i, u, hop)
                    xs[i] = xs[i] - z.detach()
                    inputs = [u, *extra, *self.unit(layer, i).weights]
                    own, *rest = torch.autograd.grad(z, inputs, gs[i], allow_unused=True)
                    found.add(inputs[1:], rest)
                    if own is None:
                        continue
                    for k in (i - 1,) if i else range(1, self.groups):
                        gs[k] = gs[k] + own
        found.x = torch.cat(gs, 1)
        found.edge = None if leaf is None else found.of.get(id(leaf))
        return found


class Gradients:
    """Gradients by the tensors that they are of, summed."""

    def __init__(self) -> None:
        self.of: dict[int, Tensor] = {}
        self.x: Tensor | None = None
        self.edge: Tensor | None = None

    def add(self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Add what was found of each tensor."""
        for tensor, grad in zip(tensors, grads, strict=True):
            if grad is not None:
                old = self.of.get(id(tensor))
                self.of[id(tensor)] = grad if old is None else old + grad


class _Reversed(torch.autograd.Function):
    """The whole coupling; parameters are inputs, so that hooks on their gradients fire."""

    @staticmethod
    def forward(ctx: Any, run: Pass, x: Tensor, edge: Tensor | None, *parameters: Tensor):
        y = run.forward(x.detach(), edge)
        ctx.run, ctx.dtype = run, x.dtype
        ctx.versions = [p._version for p in parameters]
        ctx.save_for_backward(y, edge)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor):
        run, (y, edge) = ctx.run, ctx.saved_tensors
        if ctx.versions != [p._version for p in run.parameters]:
            raise RuntimeError("parameters were changed between the forward and the backward pass")
        found = run.backward(y, edge, g)
        each = [found.of.get(id(p)) for p in run.parameters]
        assert found.x is not None
        return None, found.x.to(ctx.dtype), found.edge, *each
