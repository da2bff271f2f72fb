import gc
import weakref

import pytest
import torch

from gnnscale.architecture._fixed_point import SOLVERS, Limits, fixed_point, solve

TIGHT = Limits(1e-12, 200)


def exactly(f, start, name="broyden", forward=TIGHT, backward=TIGHT, heard=None, memory=8):
    hear = (lambda *_: None) if heard is None else (lambda *said: heard.append(said))
    return fixed_point(f, start, lambda: SOLVERS[name](memory), forward, backward, hear)


def contraction(n=12, factor=0.9, seed=0):
    """A symmetric matrix of spectral norm ``factor``."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=draw, dtype=torch.float64)
    a = a + a.T
    return factor * a / torch.linalg.matrix_norm(a, 2)


# -- by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_two_nodes_by_hand(name):
    """z = z A / 2 + (1, 0), A the swap: z = (4, 2) / 3, and dz_1 / dx = (4, 2) / 3."""
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    z = exactly(lambda z: a * (swap @ z) + x, torch.zeros(2, dtype=torch.float64), name)
    torch.testing.assert_close(z, torch.tensor([4.0, 2.0], dtype=torch.float64) / 3)
    z[0].backward()
    torch.testing.assert_close(x.grad, torch.tensor([4.0, 2.0], dtype=torch.float64) / 3)
    # dz_1 / da = ((I - aA)^-1 A z)_1 = (4 * 2 + 2 * 4) / 9
    assert a.grad.item() == pytest.approx(16 / 9, rel=1e-10)


@pytest.mark.parametrize("name", SOLVERS)
def test_linear_maps_have_a_closed_form(name):
    """z = (I - A)^-1 x, dL/dx = (I - A)^-T g, dL/dA = u z^T."""
    a = contraction().requires_grad_()
    x = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = torch.linspace(-1, 1, 12, dtype=torch.float64)
    x.requires_grad_()
    z = exactly(lambda z: a @ z + x, torch.zeros(12, dtype=torch.float64), name)
    (z @ g).backward()
    inverse = torch.linalg.inv(torch.eye(12, dtype=torch.float64) - a.detach())
    u = inverse.T @ g
    torch.testing.assert_close(z, inverse @ x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x.grad, u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a.grad, torch.outer(u, inverse @ x.detach()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_linear_map_ends_after_finitely_many_evaluations(name):
    """With all differences kept; iteration alone would go on."""
    a = torch.tensor([[0.9, 0.3], [-0.2, 0.5]], dtype=torch.float64)
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    found = solve(lambda z: a @ z + x, zero, SOLVERS[name](8), Limits(1e-10, 50))
    # Anderson: n + 2; Broyden: 2 n + 1 (Gay, SIAM J. Numer. Anal. 16, 1979)
    assert found.iterations <= {"anderson": 4, "broyden": 5}[name]
    assert found.residual <= 1e-10


# -- the solvers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1, 3, 8])
@pytest.mark.parametrize("name", SOLVERS)
def test_any_memory_converges_on_a_contraction(name, memory):
    a = contraction(40, 0.7)
    f = lambda z: torch.tanh(a @ z + 1)  # noqa: E731
    found = solve(f, torch.zeros(40, dtype=torch.float64), SOLVERS[name](memory), TIGHT)
    assert found.residual <= 1e-12
    assert (f(found.z) - found.z).norm() <= 1e-12 * f(found.z).norm()
    plain, steps = torch.zeros(40, dtype=torch.float64), 0
    while (f(plain) - plain).norm() > 1e-12 * f(plain).norm():
        plain, steps = f(plain), steps + 1
    torch.testing.assert_close(found.z, plain, rtol=1e-10, atol=1e-10)
    assert found.iterations < steps or memory == 1


def test_memory_bounds_what_a_solver_keeps():
    a = contraction(30, 0.99)
    for name, make in SOLVERS.items():
        solver = make(4)
        solve(lambda z: a @ z + 1, torch.ones(30, dtype=torch.float64), solver, Limits(0, 40))
        kept = [v for v in vars(solver).values() if hasattr(v, "rows")]
        assert [k.rows.shape for k in kept] == [(4, 30), (4, 30)], name


@pytest.mark.parametrize("name", SOLVERS)
def test_a_map_without_a_fixed_point_gives_its_best_iterate(name):
    seen = []

    def f(z):
        seen.append(z)
        return z + 1 + z.square()

    found = solve(f, torch.full((3,), 2.0, dtype=torch.float64), SOLVERS[name](8), Limits(1e-6, 20))
    assert found.iterations == len(seen) <= 20
    tried = [z for z in list(seen) if torch.isfinite(f(z)).all()]
    residuals = [((f(z) - z).norm() / f(z).norm()).item() for z in tried]
    assert found.residual == pytest.approx(min(residuals), rel=1e-12)
    assert found.residual > 1e-6
    assert torch.isfinite(found.z).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_values_that_are_not_finite_end_a_solve(name):
    start = torch.ones(3)
    found = solve(lambda z: z * float("nan"), start, SOLVERS[name](8), Limits(1e-6, 20))
    assert (found.z is start, found.iterations, found.residual) == (True, 1, float("inf"))
    found = solve(lambda z: z * 1e30, start, SOLVERS[name](8), Limits(1e-6, 20))
    assert found.iterations < 20
    assert torch.isfinite(found.z).all()


def test_a_start_that_is_fixed_is_left_alone():
    found = solve(lambda z: z, torch.ones(3), SOLVERS["broyden"](8), Limits(0.0, 20))
    assert (found.iterations, found.residual) == (1, 0.0)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_gradients_are_those_of_200_unrolled_steps(name):
    a = contraction(20, 0.8).requires_grad_()
    x = torch.randn(20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_()
    zero = torch.zeros(20, dtype=torch.float64)
    f = lambda z: torch.tanh(a @ z + x)  # noqa: E731
    weight = torch.linspace(-1, 2, 20, dtype=torch.float64)
    mine = torch.autograd.grad((exactly(f, zero, name) * weight).sum(), [a, x])
    z = zero
    for _ in range(200):
        z = f(z)
    unrolled = torch.autograd.grad((z * weight).sum(), [a, x])
    for one, other in zip(mine, unrolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_unfinished_backward_solve_gives_its_best_iterate():
    """One product only: u = g, the gradient through the last evaluation alone."""
    a, x = contraction(), torch.ones(12, dtype=torch.float64, requires_grad=True)
    zero, heard = torch.zeros(12, dtype=torch.float64), []
    z = exactly(lambda z: a @ z + x, zero, backward=Limits(1e-12, 1), heard=heard)
    z.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert [which for which, _ in heard] == ["forward", "backward"]
    assert heard[1][1].residual > 1e-3


def test_gradients_can_be_taken_twice():
    a, x = contraction(), torch.ones(12, dtype=torch.float64, requires_grad=True)
    z = exactly(lambda z: a @ z + x, torch.zeros(12, dtype=torch.float64)).square().sum()
    first = torch.autograd.grad(z, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(z, x)[0])


def test_without_gradients_nothing_is_recorded():
    a, zero = contraction().requires_grad_(), torch.zeros(12, dtype=torch.float64)
    with torch.no_grad():
        z = exactly(lambda z: a @ z + 1, zero)
    assert not z.requires_grad
    assert torch.equal(z, exactly(lambda z: a @ z + 1, zero))


def test_nothing_outlives_the_backward_pass():
    a, kept = contraction().requires_grad_(), []

    def f(z):
        value = a @ z + 1
        kept.append(weakref.ref(value))
        return value

    gc.disable()
    try:
        z = exactly(f, torch.zeros(12, dtype=torch.float64))
        assert sum(ref() is not None for ref in kept) == 1
        z.sum().backward()
        del z
        assert not any(ref() for ref in kept)
    finally:
        gc.enable()
