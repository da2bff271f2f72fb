"""Norm, activation and dropout in one pass are torch's, one after another."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from gnnscale.core.ops import epilogue
from gnnscale.core.ops.dropout import dropout

SIZES = [(1, 1), (2, 3), (33, 7), (300, 40)]
SLOPES = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.01}


def randn(*size, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (3 + 2 * torch.randn(*size, generator=draw, dtype=dtype)).requires_grad_()


def leaves(n, width, dtype=torch.float64):
    return randn(n, width, dtype=dtype), *(randn(width, seed=k, dtype=dtype) for k in (1, 2))


def agree(mine, theirs, of, rtol=1e-10):
    torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol)
    by = torch.randn(mine.shape, generator=torch.Generator().manual_seed(3), dtype=mine.dtype)
    for a, b in zip(
        torch.autograd.grad(mine, of, by), torch.autograd.grad(theirs, of, by), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("size", SIZES)
def test_moments(size):
    x = randn(*size).detach()
    mean, var = epilogue.moments(x)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(var, x.var(0, correction=0), rtol=1e-12, atol=1e-12)


def test_moments_of_numbers_far_from_zero():
    x = 1e4 + torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    _, var = epilogue.moments(x)
    torch.testing.assert_close(var, x.double().var(0, correction=0).float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
def test_by_column_with_its_own_statistics_is_batch_norm(size, slope):
    x, gamma, beta = leaves(*size)
    own = epilogue.by_column(x, gamma, beta, *epilogue.moments(x.detach()), 1e-5, slope, 0.0, True)
    theirs = F.leaky_relu(F.batch_norm(x, None, None, gamma, beta, training=True), slope)
    agree(own, theirs, (x, gamma, beta))


@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
def test_by_column_with_given_statistics_is_batch_norm_of_evaluation(slope):
    x, gamma, beta = leaves(33, 7)
    mean, var = randn(7, seed=5).detach(), randn(7, seed=6).detach().abs()
    mine = epilogue.by_column(x, gamma, beta, mean, var, 1e-5, slope, 0.0, False)
    theirs = F.leaky_relu(F.batch_norm(x, mean, var, gamma, beta), slope)
    agree(mine, theirs, (x, gamma, beta))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
def test_by_row_is_layer_norm(size, slope):
    x, gamma, beta = leaves(*size)
    theirs = F.leaky_relu(F.layer_norm(x, x.shape[1:], gamma, beta), slope)
    agree(epilogue.by_row(x, gamma, beta, 1e-5, slope, 0.0), theirs, (x, gamma, beta), 1e-8)


def in_turn(x, gamma, beta, p, kind):
    torch.manual_seed(7)
    if kind == "row":
        return epilogue.by_row(x, gamma, beta, 1e-5, 0.0, p)
    return epilogue.by_column(x, gamma, beta, *epilogue.moments(x.detach()), 1e-5, 0.0, p, True)


@pytest.mark.parametrize("kind", ["column", "row"])
def test_dropout_multiplies_by_one_mask_both_ways(kind):
    given = leaves(300, 40)
    dropped, kept = in_turn(*given, 0.4, kind), in_turn(*given, 0.0, kind)
    mask = torch.where(kept == 0, torch.zeros_like(kept), dropped / kept).detach()
    torch.testing.assert_close(mask[mask > 0], torch.full_like(mask[mask > 0], 1 / 0.6))
    agree(dropped, kept * mask, given)


@pytest.mark.parametrize("kind", ["column", "row"])
def test_the_mask_is_that_of_dropout(kind):
    given = leaves(300, 40)
    mine, plain = in_turn(*given, 0.4, kind), in_turn(*given, 0.0, kind)
    torch.manual_seed(7)
    assert torch.equal(mine, dropout(plain, 0.4))


@pytest.mark.parametrize("kind", ["column", "row"])
def test_the_rate_is_right_in_every_row_and_column(kind):
    n, width, p = 2000, 64, 0.3
    x, one, zero = torch.randn(n, width), torch.zeros(width), torch.ones(width)
    out = in_turn(x, one, zero, p, kind)  # gamma 0 and beta 1: every entry is 1 before
    kept = (out != 0).double()
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - p)]))
    for axis, size in ((0, n), (1, width)):
        off = (kept.mean(axis) - (1 - p)) / (p * (1 - p) / size) ** 0.5
        assert off.abs().max() < 5
    assert abs(float(kept.mean()) - (1 - p)) < 5 * (p * (1 - p) / kept.numel()) ** 0.5


@pytest.mark.parametrize("kind", ["column", "row"])
def test_gradcheck(kind):
    assert gradcheck(lambda *given: in_turn(*given, 0.3, kind), leaves(6, 4))


@pytest.mark.parametrize("kind", ["column", "row"])
def test_what_is_not_finite_is_what_torch_makes_of_it(kind):
    x = torch.tensor([[1.0, 2.0], [float("nan"), -3.0], [0.5, float("-inf")], [2.0, 1.0]])
    given = x, torch.ones(2), torch.zeros(2)
    norm = F.layer_norm(x, (2,)) if kind == "row" else F.batch_norm(x, None, None, training=True)
    assert torch.equal(in_turn(*given, 0.0, kind).isnan(), F.relu(norm).isnan())


@pytest.mark.process
@pytest.mark.parametrize("kind", ["column", "row"])
def test_the_same_bits_under_one_and_two_threads(kind, threads):
    given = leaves(999, 33, torch.float32)

    def everything():
        out = in_turn(*given, 0.5, kind)
        return [out, *torch.autograd.grad(out.square().sum(), given)]

    for a, b in zip(*threads(everything), strict=True):
        assert torch.equal(a, b)
