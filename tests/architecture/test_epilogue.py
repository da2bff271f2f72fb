"""Norm, activation and dropout of a block in one pass are its modules, one after another."""

import copy

import pytest
import torch
from torch import nn

from gnnscale.architecture._epilogue import finished
from gnnscale.core import ops
from gnnscale.core.ops.dropout import dropout

NORMS = {
    "batch": lambda: nn.BatchNorm1d(5),
    "slow": lambda: nn.BatchNorm1d(5, momentum=0.01),
    "mean": lambda: nn.BatchNorm1d(5, momentum=None),
    "untracked": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "layer": lambda: nn.LayerNorm(5),
}
ACTS = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "none": nn.Identity}


def shaken(norm):
    """Factors and offsets other than 1 and 0."""
    norm = norm.double()
    torch.manual_seed(1)
    for p in norm.parameters():
        nn.init.normal_(p)
    return norm


def rows(seed):
    draw = torch.Generator().manual_seed(seed)
    return (2 + torch.randn(40, 5, generator=draw, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", NORMS)
def test_training_and_evaluation_are_the_modules(name, act):
    mine, act = shaken(NORMS[name]()), ACTS[act]()
    theirs = copy.deepcopy(mine)
    for step, p in ((0, 0.4), (1, 0.0), (2, 0.4)):
        x, y = rows(step), rows(step)
        torch.manual_seed(step)
        got = finished(mine, act, x, p)
        torch.manual_seed(step)
        want = dropout(act(theirs(y)), p)
        torch.testing.assert_close(got, want)
        of = torch.autograd.grad(got.square().sum(), [x, *mine.parameters()])
        expected = torch.autograd.grad(want.square().sum(), [y, *theirs.parameters()])
        for a, b in zip(of, expected, strict=True):
            torch.testing.assert_close(a, b)
    for (key, a), b in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    mine.eval()
    theirs.eval()
    torch.testing.assert_close(finished(mine, act, rows(3), 0.0), act(theirs(rows(3))))


@pytest.mark.parametrize(
    ("norm", "act", "x"),
    [
        (nn.BatchNorm1d(5), nn.GELU(), torch.randn(4, 5)),
        (nn.BatchNorm1d(5), nn.LeakyReLU(-0.1), torch.randn(4, 5)),
        (nn.BatchNorm1d(5, affine=False), nn.ReLU(), torch.randn(4, 5)),
        (nn.LayerNorm(5, bias=False), nn.ReLU(), torch.randn(4, 5)),
        (nn.Identity(), nn.ReLU(), torch.randn(4, 5)),
        (nn.BatchNorm1d(5), nn.ReLU(), torch.randn(4, 5).bfloat16()),
        (nn.BatchNorm1d(5), nn.ReLU(), torch.randn(1, 5)),
        (nn.LayerNorm(5), nn.ReLU(), torch.randn(2, 4, 5)),
    ],
)
def test_whatever_has_no_such_pass_is_left_to_the_modules(norm, act, x):
    before = copy.deepcopy(norm.state_dict())
    assert finished(norm, act, x, 0.5) is None
    assert all(torch.equal(a, b) for a, b in
               zip(before.values(), norm.state_dict().values(), strict=True))  # fmt: skip


def test_modules_that_are_listened_to_are_called():
    norm, heard = nn.BatchNorm1d(5), []
    handle = norm.register_forward_pre_hook(lambda module, given: heard.append(given))
    assert finished(norm, nn.ReLU(), torch.randn(4, 5), 0.0) is None
    handle.remove()
    assert finished(norm, nn.ReLU(), torch.randn(4, 5), 0.0) is not None


def test_other_backends_take_the_steps():
    ops.select("torch")
    try:
        assert finished(nn.LayerNorm(5), nn.ReLU(), torch.randn(4, 5), 0.0) is None
    finally:
        ops.select("auto")
