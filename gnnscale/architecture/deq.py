"""DEQ-GNN: the layer that a network of any depth would converge to, solved for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS
from gnnscale.architecture._deep import Composite, Deep
from gnnscale.architecture._encoder import edge_encoder
from gnnscale.architecture._fixed_point import SOLVERS, Limits, Map, Solution, fixed_point
from gnnscale.architecture._replay import Held, forked, generators, put
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.values import Count, NonNegative


class Cell(nn.Module):
    """f(z, x): z' = conv_1(z), z'' = conv_2(m * act(norm_1(z' + x))), norm_2(act(z'' + z')).

    Args:
        first, second: the convolutions, called as conv(hop, z, memo). width: D. norm, act: names
            in ``NORMS`` and ``ACTIVATIONS``.

    Shapes: z, x, mask [N, D] -> [N, D], on a square hop.
    """

    def __init__(self, first: nn.Module, second: nn.Module, width: int, norm: str, act: str):
        super().__init__()
        self.first, self.second = first, second
        self.inner, self.outer = NORMS[norm](width), NORMS[norm](width)
        self.act = ACTIVATIONS[act]()

    def forward(self, hop: Hop, z: Tensor, x: Tensor, mask: Tensor | None, memo: Memo) -> Tensor:
        """One evaluation."""
        z = full(self.first(hop, z, memo))
        u = self.act(self.inner(z + x))
        u = full(self.second(hop, u if mask is None else u * mask, memo))
        return full(self.outer(self.act(u + z)))


class Equilibrium(nn.Module):
    """z* = f(z*, x), from z = 0; one evaluation's activations are kept, whatever the iterations.

    What f draws (its dropout mask and, for random convolutions, the states of torch's generators)
    and what it remembers (statistics, ranges of quantizers) is the same in every evaluation of a
    pass, so that f is one function; buffers move once per pass.

    Args:
        cell: f. p: rate of the mask. solver: a name in ``SOLVERS``. memory: of the solver.
            forward, backward: limits of the two solves. standardise: f reads the rows of x with
            mean 0 and variance 1.

    Shapes: x [N, D] -> [N, D], on a square hop.
    """

    def __init__(
        self,
        cell: Cell,
        p: float,
        solver: str,
        memory: int,
        forward: Limits,
        backward: Limits,
        standardise: bool = False,
    ):
        super().__init__()
        self.cell, self.p, self.standardise = cell, p, standardise
        self.solver, self.ahead, self.back = partial(SOLVERS[solver], memory), forward, backward
        self.solves: dict[str, float] = {}

    def forward(self, hop: Hop, x: Tensor, memo: Memo) -> Tensor:
        """The fixed point."""
        x = full(x)
        if self.standardise:
            x = full(F.layer_norm(x, x.shape[1:]))
        if not self.training:
            return self.solved(lambda z: self.cell(hop, z, x, None, memo), x)
        mask = dropout(torch.ones_like(x), self.p) if self.p else None
        drawing, word = generators(x.device), int(torch.randint(2**62, ()))
        buffers = Held(self.cell).buffers
        before = [b.clone() for b in buffers]

        def f(z: Tensor) -> Tensor:
            put(buffers, before)
            for generator in drawing:
                generator.manual_seed(word)
            return self.cell(hop, z, x, mask, memo)

        with forked(drawing):
            return self.solved(f, x)

    def solved(self, f: Map, x: Tensor) -> Tensor:
        """The fixed point of ``f``."""
        start = torch.zeros_like(x)
        return fixed_point(f, start, self.solver, self.ahead, self.back, self.hear)

    def hear(self, which: str, found: Solution) -> None:
        """Keep what a solve of a training step needed, and how far it came."""
        if self.training:
            self.solves[f"{which}_iterations"] = float(found.iterations)
            self.solves[f"{which}_residual"] = found.residual


@dataclass(eq=False, repr=False)
class DEQ(Deep):
    """DEQ-GNN: Z* = f(Z*, X), in the memory of two convolutions.

    Li, Mueller, Ghanem & Koltun, ICML 2021, arXiv:2106.07476, sec. 3.4, after Bai, Kolter & Koltun,
    NeurIPS 2019, arXiv:1909.01377. f = ``Cell``: two convolutions of full width, the encoded
    features X added between them; Z* by a root finder, gradients by the implicit function theorem.
    A solve that ends above its tolerance is no error: its best iterate is used, and the metrics of
    the epoch say so (``forward_residual``, ``backward_residual`` and the iterations, means over its
    steps).

    The authors' code of it is not public. Departs from the paper: nothing is trained unrolled
    beforehand; rows of X are standardised, since beside rows of Z, which a norm has scaled, those
    of features like Cora's would be next to nothing (standardise=false: as they are); Z* goes to
    the head through dropout only, since f ends with a norm; solvers and limits are ours. The
    species of ogbn-proteins as in ``Reversible``.

    Args:
        standardise: rows of X with mean 0 and variance 1, without parameters.
        solver: root finder of both passes. memory: differences or corrections that it keeps.
        tolerance, iterations: of the forward solve, relative residual and evaluations of f.
            backward_tolerance, backward_iterations: of the backward one. Others: ``Deep``.
    """

    standardise: bool = True
    solver: Literal["anderson", "broyden"] = "broyden"
    memory: Count = 8
    tolerance: NonNegative = 1e-4
    iterations: Count = 50
    backward_tolerance: NonNegative = 1e-4
    backward_iterations: Count = 50

    def composite(self) -> nn.Module:
        """The equilibrium and dropout."""
        width, edges = self.hidden, self.edges
        first, second = self.kind.make(width, edges), self.kind.make(width, edges)
        steps = Equilibrium(
            Cell(first, second, width, self.norm, self.act), self.dropout, self.solver,
            self.memory, Limits(self.tolerance, self.iterations),
            Limits(self.backward_tolerance, self.backward_iterations), self.standardise,
        )  # fmt: skip
        edge = edge_encoder(self.shape, width) if edges else None
        return Composite(steps, width, edge, "none", "none", self.dropout)

    def measured(self) -> Mapping[str, float]:
        """Iterations and residuals of the last training step's two solves."""
        return self.layers[0].steps.solves
