import pytest
import torch

from gnnscale.core.ops.dropout import STEPS, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.6, 0.9])
def test_keep_rate_at_every_lane_and_exact_scale(p):
    torch.manual_seed(0)
    n = 400_000
    y = dropout(torch.ones(n), p)
    effective = round(p * STEPS) / STEPS
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - effective)).item()}
    for lane in range(4):
        kept = (y[lane::4] > 0).double().mean().item()
        assert abs(kept - (1 - effective)) < 4 * (p * (1 - p) / (n / 4)) ** 0.5


def test_neighbouring_entries_and_calls_are_independent():
    torch.manual_seed(1)
    a, b = (dropout(torch.ones(200_000), 0.5) > 0 for _ in range(2))
    for other in (b, a.roll(1), a.roll(2), a.roll(4), a.roll(1 << 16)):
        assert abs((a == other).double().mean().item() - 0.5) < 4 * 0.5 / 200_000**0.5


def test_gradient_uses_the_mask_of_the_forward_pass():
    torch.manual_seed(2)
    x = torch.randn(37, 5, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.3)
    g = torch.randn(37, 5, dtype=torch.float64)
    y.backward(g)
    mask = (y != 0) / (1 - round(0.3 * STEPS) / STEPS)
    torch.testing.assert_close(x.grad, g * mask)


def seeded(x):
    torch.manual_seed(3)
    return dropout(x, 0.5)


def test_mask_follows_the_seed():
    x = torch.ones(10_001)
    assert torch.equal(seeded(x), seeded(x))
    assert not torch.equal(seeded(x), dropout(x, 0.5))


@pytest.mark.process
def test_mask_does_not_follow_the_threads(threads):
    x = torch.ones(10_001)
    assert torch.equal(*threads(lambda: seeded(x)))


def test_rate_zero_and_non_contiguous_input():
    x = torch.randn(6, 4)
    assert dropout(x, 0.0) is x
    y = dropout(x.T, 0.5)
    assert ((y == 0) | torch.isclose(y, 2 * x.T)).all()
