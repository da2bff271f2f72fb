import numba
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


def test_mask_follows_the_seed_not_the_threads():
    x = torch.ones(10_001)
    drawn = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        torch.manual_seed(3)
        drawn.append(dropout(x, 0.5))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], dropout(x, 0.5))


def test_rate_zero_and_non_contiguous_input():
    x = torch.randn(6, 4)
    assert dropout(x, 0.0) is x
    y = dropout(x.T, 0.5)
    assert ((y == 0) | torch.isclose(y, 2 * x.T)).all()
