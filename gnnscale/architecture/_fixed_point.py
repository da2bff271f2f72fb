"""Fixed points z = f(z): two root finders, and gradients by the implicit function theorem."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Limits:
    """When a solve ends: at a relative residual of ``tolerance``, or after ``iterations``."""

    tolerance: float
    iterations: int


@dataclass(frozen=True)
class Solution:
    """The iterate with the least residual, that residual, and how often the map was evaluated.

    residual: ||f(z) - z|| / ||f(z)||; infinite if no iterate had a finite one.
    """

    z: Tensor
    residual: float
    iterations: int


class Solver(Protocol):
    """Proposes the next iterate from the last one."""

    def next(self, z: Tensor, value: Tensor) -> Tensor:
        """After f(z) = ``value``. Shapes: [n], [n] -> [n]."""


class Recent:
    """The last rows that were pushed, [memory, n] in one block, in no particular order.

    Args:
        memory: most rows that are kept.
    """

    def __init__(self, memory: int):
        self.memory, self.pushed = memory, 0
        self.block: Tensor | None = None

    def push(self, row: Tensor) -> None:
        """Keep a row [n] in place of the oldest."""
        if self.block is None:
            self.block = row.new_empty(self.memory, len(row))
        self.block[self.pushed % self.memory] = row
        self.pushed += 1

    @property
    def rows(self) -> Tensor:
        """Those that are kept, [k, n]; only after a push."""
        assert self.block is not None
        return self.block[: min(self.pushed, self.memory)]


class Anderson:
    """z' = f(z) - sum_i c_i dF_i, with c the minimiser of ||g - sum_i c_i dG_i||.

    g = f(z) - z; dG_i and dF_i are differences of successive g and f(z). Anderson, J. ACM 12,
    1965, in the form of Walker & Ni, SIAM J. Numer. Anal. 49, 2011, without damping. The normal
    equations are those of at most ``memory`` unknowns and bear a ridge at rounding level.

    Args:
        memory: differences that are kept.
    """

    def __init__(self, memory: int):
        self.dg, self.df = Recent(memory), Recent(memory)
        self.last: tuple[Tensor, Tensor] | None = None

    def next(self, z: Tensor, value: Tensor) -> Tensor:
        """One step; the first is f(z)."""
        g = value - z
        last, self.last = self.last, (g, value)
        if last is None:
            return value
        self.dg.push(g - last[0])
        self.df.push(value - last[1])
        rows = self.dg.rows
        gram, right = (rows @ rows.T).double(), (rows @ g).double()
        ridge = torch.finfo(z.dtype).eps * gram.trace() + torch.finfo(gram.dtype).tiny
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        c, _ = torch.linalg.solve_ex(gram + ridge * eye, right)  # infinite entries pass through
        return value - c.to(z.dtype) @ self.df.rows


class Broyden:
    """z' = z - H g, H = -I + sum_i u_i v_i^T, an approximation of the inverse Jacobian of g.

    g = f(z) - z. H is corrected after every step, so that H dg = dz, by a matrix of rank one
    (Broyden, Math. Comp. 19, 1965, "good" method, by Sherman & Morrison's formula); the newest
    ``memory`` of these are kept. Bai, Kolter & Koltun, NeurIPS 2019, arXiv:1909.01377, whose
    solver stops correcting once its memory is full.

    Args:
        memory: corrections that are kept.
    """

    def __init__(self, memory: int):
        self.u, self.v = Recent(memory), Recent(memory)
        self.last: tuple[Tensor, Tensor] | None = None

    def times(self, x: Tensor) -> Tensor:
        """H x."""
        return (self.v.rows @ x) @ self.u.rows - x if self.u.pushed else -x

    def before(self, x: Tensor) -> Tensor:
        """H^T x."""
        return (self.u.rows @ x) @ self.v.rows - x if self.u.pushed else -x

    def next(self, z: Tensor, value: Tensor) -> Tensor:
        """One step; the first is f(z)."""
        g = value - z
        if self.last is not None:
            dz, dg = z - self.last[0], g - self.last[1]
            v = self.before(dz)
            scale = v @ dg
            if scale.abs() > torch.finfo(z.dtype).eps * v.norm() * dg.norm():
                u = (dz - self.times(dg)) / scale
                self.u.push(u)
                self.v.push(v)
        self.last = (z, g)
        return z - self.times(g)


SOLVERS: Mapping[str, Callable[[int], Solver]] = {"anderson": Anderson, "broyden": Broyden}


def solve(f: Map, start: Tensor, solver: Solver, limits: Limits) -> Solution:
    """The best iterate of a solver; never raises, whatever f gives.

    A value that is not finite ends the solve. Shapes: start [...], of which f makes the same.
    """
    z, best, used = start, Solution(start, math.inf, 0), 0
    while used < limits.iterations:
        value = f(z)
        used += 1
        distance = torch.stack([(value - z).norm(), value.norm()]).tolist()
        residual = distance[0] / max(distance[1], torch.finfo(z.dtype).tiny)
        if not math.isfinite(residual):
            break
        if residual < best.residual:
            best = Solution(z, residual, used)
        if residual <= limits.tolerance:
            break
        if used < limits.iterations:
            z = solver.next(z.flatten(), value.flatten()).view_as(start)
    return Solution(best.z, best.residual, used)


def fixed_point(
    f: Map,
    start: Tensor,
    solver: Callable[[], Solver],
    forward: Limits,
    backward: Limits,
    hear: Callable[[str, Solution], None],
) -> Tensor:
    """f(z*) with z* = f(z*), differentiable in whatever f reads, without what the solve computed.

    z* is found without gradients; f is evaluated once more with them. In the backward pass the
    incoming gradient g becomes the solution of u = J^T u + g, J = df/dz at z*, so that
    dL/dtheta = u^T df/dtheta: the implicit function theorem. Where a solve does not converge, z*
    or u is its best iterate; of u, g itself is the first.

    Args:
        f: the map. start: first iterate. solver: makes one. forward, backward: limits of the two
            solves. hear: told of each solve, ("forward" or "backward", its solution).

    Shapes: start [...] -> the same.
    """
    with torch.no_grad():
        found = solve(f, start, solver(), forward)
    hear("forward", found)
    z = found.z.detach()
    if not torch.is_grad_enabled():
        return f(z)
    z = z.clone().requires_grad_()
    value = f(z)
    out = value.view_as(value)  # the hook is not that of what is differentiated inside it

    def implicit(g: Tensor) -> Tensor:
        def back(u: Tensor) -> Tensor:
            (own,) = torch.autograd.grad(value, z, u, retain_graph=True, allow_unused=True)
            return g if own is None else own + g

        with torch.no_grad():
            solution = solve(back, g, solver(), backward)
        hear("backward", solution)
        return solution.z

    out.register_hook(implicit)
    return out
