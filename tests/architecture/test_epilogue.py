"""Norm, activation and dropout of a block in one pass are its modules, one after another."""

import copy

import pytest
import torch
from torch import nn

from gnnscale.architecture._epilogue import finished
from gnnscale.architecture.gcn import GCN
from gnnscale.core import hop, ops
from gnnscale.core.ops.dropout import dropout
from gnnscale.graph.whole import whole_batch

NORMS = {
    "batch": lambda: nn.BatchNorm1d(5),
    "slow": lambda: nn.BatchNorm1d(5, momentum=0.01),
    "mean": lambda: nn.BatchNorm1d(5, momentum=None),
    "untracked": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "layer": lambda: nn.LayerNorm(5),
    "none": nn.Identity,
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


@pytest.mark.parametrize(
    ("name", "act"), [(n, a) for n in NORMS for a in ACTS if (n, a) != ("none", "none")]
)
def test_training_and_evaluation_are_the_modules(name, act):
    mine, act = shaken(NORMS[name]()), ACTS[act]()
    theirs = copy.deepcopy(mine)
    for step, p in ((0, 0.4), (1, 0.0), (2, 0.4)):
        if name == "none" and p == 0:
            assert finished(mine, act, rows(step), p) is None  # one step is no pass to be saved
            continue
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
    if name != "none":
        torch.testing.assert_close(finished(mine, act, rows(3), 0.0), act(theirs(rows(3))))


def test_norms_of_bfloat16_rows_are_float32():
    norm, x = nn.BatchNorm1d(5), rows(0).detach().bfloat16()
    want = torch.relu(copy.deepcopy(norm)(x.float()))
    got = finished(norm, nn.ReLU(), x, 0.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("residual", [False, True])
def test_levels_that_nobody_reads_change_nothing(sixty, monkeypatch, norm, residual, order):
    """Dropout before a layer, done along with the end of the one below: the same bits."""
    alone = []
    monkeypatch.setattr(hop, "dropout", lambda h, p: [alone.append(p), dropout(h, p)][1])
    torch.manual_seed(0)
    model = GCN(
        sixty.shape, hidden=5, depth=4, norm=norm, residual=residual, order=order,
        stem=order == "pre",
    )  # fmt: skip
    other = copy.deepcopy(model.double())
    other.tapped = False
    batch = whole_batch(sixty, model.need)
    for step in range(2):
        found = []
        for each in (model, other):
            torch.manual_seed(step)
            alone.clear()
            out = each.train()(batch)
            grads = torch.autograd.grad(out.logits.square().sum(), list(each.parameters()))
            found.append((out.logits, *grads))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert out.levels == ()
    if order == "post" and not residual:
        assert len(alone) == 1  # that of the features
    for a, b in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.eval()(batch).logits, other.eval()(batch).logits)


@pytest.mark.parametrize(
    ("norm", "act", "x"),
    [
        (nn.BatchNorm1d(5), nn.GELU(), torch.randn(4, 5)),
        (nn.BatchNorm1d(5), nn.LeakyReLU(-0.1), torch.randn(4, 5)),
        (nn.BatchNorm1d(5, affine=False), nn.ReLU(), torch.randn(4, 5)),
        (nn.LayerNorm(5, bias=False), nn.ReLU(), torch.randn(4, 5)),
        (nn.Identity(), nn.Identity(), torch.randn(4, 5)),
        (nn.BatchNorm1d(5), nn.ReLU(), torch.randn(4, 5).half()),
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


class Around(nn.Module):
    """A layer that does something of its own with a block's output."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, hop, h, memo):
        return self.block(hop, h, memo) + 1


def test_a_block_within_another_layer_leaves_the_next_ones_dropout_to_it(sixty):
    torch.manual_seed(0)
    model = GCN(sixty.shape, hidden=5, depth=4, norm="batch").double()
    model.layers[1] = Around(model.layers[1])
    other, batch = copy.deepcopy(model), whole_batch(sixty, model.need)
    other.tapped = False
    found = []
    for each in (model, other):
        torch.manual_seed(0)
        found.append(each.train()(batch).logits)
    assert torch.equal(*found)
