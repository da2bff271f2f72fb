import copy
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gnnscale.architecture._convolution import Convolution
from gnnscale.architecture._coupling import Coupling, Pass, Unit
from gnnscale.core.batch import Memo
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop

MEMO = Memo(None)
CONVS = ("gcn", "sage", "gat", "gin", "egc", "gen")


def coupling(
    conv="gcn", depth=4, width=16, groups=2, norm="layer", rate=0.3, distinct=None, dtype=None,
    **options,
) -> Coupling:  # fmt: skip
    kind, each = Convolution(conv, **options), width // groups
    units = [
        [Unit(kind.make(each), each, norm, "relu") for _ in range(groups)]
        for _ in range(distinct or depth)
    ]
    return Coupling(units, depth, rate).to(dtype or torch.float64)


def made(sixty, conv="gcn", seed=0, **options):
    """(coupling, hop, x) on the random graph."""
    torch.manual_seed(seed)
    steps = coupling(conv, **options)
    own = {k: v for k, v in options.items() if k in Convolution.__dataclass_fields__}
    dtype = next(steps.parameters()).dtype
    hop = whole_hop(sixty.graph, Convolution(conv, **own).need(1), dtype)
    return steps, hop, torch.randn(60, options.get("width", 16), dtype=dtype)


def grads(steps, hop, x, seed=5):
    """(output, gradient of the input, gradients of the parameters) of one training pass."""
    x = x.clone().requires_grad_()
    steps.zero_grad()
    torch.manual_seed(seed)
    y = steps(hop, x, MEMO)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    (y * weight).sum().backward()
    return y.detach(), x.grad, [p.grad for p in steps.parameters()]


def agree(mine, plain, tolerance=1e-10):
    torch.testing.assert_close(mine[0], plain[0], rtol=0, atol=0)
    torch.testing.assert_close(mine[1], plain[1], rtol=tolerance, atol=tolerance)
    for a, b in zip(mine[2], plain[2], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- inverse ---------------------------------------------------------------------------------------

ROUND_TRIP = {1: 4e-7, 10: 1e-6, 112: 9e-6, 1000: 1e-4}
"""Largest relative error ||x' - x|| / ||x|| in float32 by depth; 2e-13 in float64 at 1000."""


@pytest.mark.parametrize(
    ("conv", "depth", "dtype"),
    [(conv, depth, torch.float32) for conv in ("gcn", "gen") for depth in (1, 10, 112)]
    + [
        pytest.param("gen", 1000, dtype, marks=pytest.mark.process)
        for dtype in (torch.float32, torch.float64)
    ]
    + [("gcn", 112, torch.float64)],
)
def test_inverse_of_forward_is_the_input(conv, depth, dtype, sixty):
    width = 16 if depth == 1000 else 64
    steps, hop, x = made(sixty, conv, depth=depth, width=width, dtype=dtype)
    with torch.no_grad():
        run = Pass(steps, hop, x, MEMO)
        y = run.forward(x, None)
        error = (run.inverse(y) - x).norm() / x.norm()
    assert (y - x).abs().max() > 0.1
    assert error <= (ROUND_TRIP[depth] if dtype == torch.float32 else 2e-13)


EACH = [(conv, norm) for conv in CONVS for norm in ("batch", "layer")] + [("gcn", "none")]


@pytest.mark.parametrize(("conv", "norm"), EACH)
@pytest.mark.parametrize("groups", [2, 4])
def test_inverse_with_every_convolution(conv, groups, norm, sixty):
    options = {"attention_dropout": 0.4} if conv == "gat" else {}
    steps, hop, x = made(sixty, conv, groups=groups, norm=norm, **options)
    for training in (True, False):
        steps.train(training)
        with torch.no_grad():
            run = Pass(steps, hop, x, MEMO)
            torch.testing.assert_close(run.inverse(run.forward(x, None)), x, rtol=0, atol=1e-11)


def test_forward_by_the_formula(sixty):
    """X'_0 = X_2 + .. + X_C, X'_i = f_i(X'_{i-1}) + X_i, each f with its share of the one mask."""
    steps, hop, x = made(sixty, groups=4, depth=2)
    torch.manual_seed(3)
    run = Pass(steps, hop, x, MEMO)
    torch.manual_seed(3)
    got = steps(hop, x, MEMO)
    xs = list(x.split(4, 1))
    for each in steps.units:
        before = xs[1] + xs[2] + xs[3]
        for i, f in enumerate(each):
            z = nn.functional.layer_norm(before, (4,), f.norm.weight, f.norm.bias).relu()
            before = xs[i] = f.conv(hop, z * run.masks[i], MEMO) + xs[i]
    torch.testing.assert_close(got, torch.cat(xs, 1), rtol=1e-13, atol=1e-13)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("conv", "norm"), EACH)
@pytest.mark.parametrize("groups", [2, 4])
def test_gradients_are_those_of_plain_autograd(conv, groups, norm, sixty):
    """Of every parameter and the input, with the shared mask and random convolutions."""
    options = {"attention_dropout": 0.4} if conv == "gat" else {}
    steps, hop, x = made(sixty, conv, groups=groups, norm=norm, **options)
    plain = copy.deepcopy(steps)
    plain.keep = True
    mine, theirs = grads(steps, hop, x), grads(plain, hop, x)
    agree(mine, theirs)
    assert all(g.abs().max() > 0 for g in mine[2])
    for a, b in zip(steps.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)  # running statistics moved once, as in the plain pass


def test_gradients_of_edge_features(sixty):
    """They enter every layer; their gradient is the sum over all of them."""
    torch.manual_seed(0)
    units = [
        [Unit(Convolution("gen").make(8, 3), 8, "layer", "relu") for _ in range(2)]
        for _ in range(3)
    ]
    steps, x = Coupling(units, 3, 0.3).double(), torch.randn(60, 16, dtype=torch.float64)
    hop = whole_hop(sixty.graph, Convolution("gen").need(1), torch.float64)
    found = []
    for keep in (False, True):
        steps.keep = keep
        edge = torch.linspace(-1, 1, hop.graph.n_edges * 3, dtype=torch.float64).view(-1, 3)
        edge.requires_grad_()
        agree_on = grads(steps, hop.__class__(graph=hop.graph, edge=edge), x)
        found.append((agree_on[0], agree_on[1], [*agree_on[2], edge.grad]))
    agree(*found)
    assert found[0][2][-1].abs().max() > 0


def test_tied_gradient_is_the_sum_of_the_untied_ones(sixty):
    steps, hop, x = made(sixty, depth=6, distinct=2)
    apart = Coupling([copy.deepcopy(list(steps.units[k % 2])) for k in range(6)], 6, 0.3).double()
    mine, untied = grads(steps, hop, x), grads(apart, hop, x)
    per_layer = len(mine[2]) // 2
    want = [
        sum(untied[2][layer * per_layer + k] for layer in range(start, 6, 2))
        for start in range(2) for k in range(per_layer)
    ]  # fmt: skip
    agree(mine, (untied[0], untied[1], want))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_tied_gradients_are_those_of_plain_autograd(norm, sixty):
    """Also with running statistics that every application of a shared layer moves."""
    steps, hop, x = made(sixty, "gat", depth=6, distinct=2, norm=norm, attention_dropout=0.4)
    plain = copy.deepcopy(steps)
    plain.keep = True
    agree(grads(steps, hop, x), grads(plain, hop, x))
    for a, b in zip(steps.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


def test_one_group_is_a_plain_residual_network(sixty):
    steps, hop, x = made(sixty, groups=1, depth=3, rate=0.0)
    steps.keep = True
    h = x
    for (f,) in steps.units:
        h = h + f(hop, h, None, MEMO)
    torch.testing.assert_close(steps(hop, x, MEMO), h)


def test_gradient_reaches_what_lies_before_and_skips_what_is_frozen(sixty):
    steps, hop, x = made(sixty)
    steps.units[1][0].conv.weight.requires_grad_(False)
    encoder = nn.Linear(16, 16).double()
    steps(hop, encoder(x), MEMO).sum().backward()
    assert encoder.weight.grad.abs().max() > 0
    assert steps.units[1][0].conv.weight.grad is None
    assert steps.units[1][1].conv.weight.grad is not None


def test_gradients_can_be_taken_twice(sixty):
    steps, hop, x = made(sixty)
    y = steps(hop, x.requires_grad_(), MEMO).sum()
    first = torch.autograd.grad(y, [x, *steps.parameters()], retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(y, [x, *steps.parameters()]), strict=True):
        assert torch.equal(a, b)


# -- what is drawn and remembered ------------------------------------------------------------------


def test_statistics_move_once_per_step(sixty):
    steps, hop, x = made(sixty, norm="batch")
    first = [f.norm.running_mean.clone() for each in steps.units for f in each]
    grads(steps, hop, x)
    for f, before in zip((f for each in steps.units for f in each), first, strict=True):
        assert f.norm.num_batches_tracked == 1
        assert not torch.equal(f.norm.running_mean, before)
    assert torch.allclose(
        steps.units[0][0].norm.running_mean, 0.1 * x[:, 8:].mean(0), rtol=1e-12
    )  # fmt: skip


def test_all_layers_share_one_mask_and_every_pass_draws_its_own(sixty):
    steps, hop, x = made(sixty, norm="none", groups=2)
    seen: list[tuple[int, torch.Tensor]] = []
    for each in steps.units:
        for i, f in enumerate(each):
            f.act = nn.Identity()  # nothing but the mask makes zeros
            f.conv.register_forward_pre_hook(lambda _, given, i=i: seen.append((i, given[1] == 0)))
    masks = []
    for _ in range(2):
        seen.clear()
        steps(hop, x.requires_grad_(), MEMO).sum().backward()
        assert len(seen) == 2 * 4 * 2  # once forward, once backward
        first = {i: next(m for k, m in seen if k == i) for i in (0, 1)}
        assert all(torch.equal(m, first[i]) for i, m in seen)
        assert not torch.equal(first[0], first[1])
        both = torch.cat([first[0], first[1]], 1)
        assert both.double().mean() == pytest.approx(0.3, abs=4 * (0.21 / both.numel()) ** 0.5)
        masks.append(both)
    assert not torch.equal(*masks)
    seen.clear()
    steps.eval()(hop, x, MEMO)
    assert not any(m.any() for _, m in seen)


def test_generators_go_on_as_if_only_the_mask_had_been_drawn(sixty):
    steps, hop, x = made(sixty, "gat", attention_dropout=0.4)
    after = []
    for keep, depth in ((False, 4), (True, 4), (False, 2)):
        steps.keep, steps.depth = keep, depth
        torch.manual_seed(0)
        y = steps(hop, x.requires_grad_(), MEMO)
        after.append(torch.rand(3))
        y.sum().backward()
        after.append(torch.get_rng_state())
    assert torch.equal(after[0], after[2])
    assert torch.equal(after[0], after[4])
    assert torch.equal(after[1], after[3])


def test_each_f_is_evaluated_once_in_either_direction(sixty):
    steps, hop, x = made(sixty, depth=5)
    calls = []
    for each in steps.units:
        for f in each:
            f.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    y = steps(hop, x.requires_grad_(), MEMO)
    assert calls == [False] * 10
    y.sum().backward()
    assert calls == [False] * 10 + [True] * 10


@pytest.mark.parametrize("training", [True, False])
def test_input_survives_without_gradients(training, sixty):
    steps, hop, x = made(sixty)
    kept = x.clone()
    with torch.no_grad():
        y = steps.train(training)(hop, x, MEMO)
    assert torch.equal(x, kept)
    assert x.untyped_storage().nbytes() == kept.untyped_storage().nbytes()
    assert not y.requires_grad
    assert not torch.equal(y, x)


def test_a_parameter_changed_before_the_backward_pass_is_refused(sixty):
    steps, hop, x = made(sixty)
    y = steps(hop, x.requires_grad_(), MEMO).sum()
    with torch.no_grad():
        steps.units[0][0].conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed between"):
        y.backward()


def test_hooks_of_every_parameter_fire_once(sixty):
    """What DistributedDataParallel reduces gradients by."""
    steps, hop, x = made(sixty)
    fired = []
    for p in steps.parameters():
        p.register_post_accumulate_grad_hook(fired.append)
    steps(hop, x, MEMO).sum().backward()
    assert sorted(map(id, fired)) == sorted(map(id, steps.parameters()))


def test_groups_and_layers_start_apart(sixty):
    steps, _, _ = made(sixty, depth=3)
    weights = [f.conv.weight for each in steps.units for f in each]
    assert all(not torch.equal(a, b) for k, a in enumerate(weights) for b in weights[:k])


def test_autocast_is_that_of_the_forward_pass_again(sixty):
    steps, hop, x = made(sixty, dtype=torch.float32, depth=4)
    seen = []
    steps.units[0][0].conv.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    found = []
    for keep in (False, True):
        steps.keep = keep
        torch.manual_seed(1)
        start = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = steps(hop, start.bfloat16(), MEMO)
        assert y.dtype == torch.float32  # the stream is not rounded at every layer
        y.square().mean().backward()
        found.append(start.grad)
    assert seen == [True, True, True]
    torch.testing.assert_close(*found, rtol=0.02, atol=1e-4)


# -- memory ----------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """Bytes of all tensor storages made inside that are still alive, and the most there were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = {}

    def gone(self, key, size):
        self.now -= size
        del self.known[key]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        older = {t.untyped_storage()._cdata for t in given if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.known and key not in older:  # views of older ones are not made
                    self.known[key] = weakref.finalize(storage, self.gone, key, size)
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out


def ring(nodes=1500, degree=4):
    src = torch.arange(nodes).repeat_interleave(degree)
    dst = (src + 1 + torch.arange(degree).repeat(nodes)) % nodes
    return Adjacency.from_edges(src, dst, nodes)


def peak(depth: int, keep: bool, saved: list[int] | None = None) -> int:
    """Peak bytes of a step at this depth beyond those of the gradients it leaves."""
    torch.manual_seed(0)
    steps = coupling("gcn", depth=depth, width=32, dtype=torch.float32)
    steps.keep = keep
    hop = whole_hop(ring(), Convolution("gcn").need(1))
    x = torch.randn(1500, 32, requires_grad=True)
    own = {p.untyped_storage()._cdata for p in steps.parameters()}

    def pack(t):
        if saved is not None and t.untyped_storage()._cdata not in own:
            saved.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), Live() as live:
        steps(hop, x, MEMO).sum().backward()
    left = sum(p.grad.untyped_storage().nbytes() for p in steps.parameters())
    return live.peak - left


@pytest.mark.process
def test_activation_memory_does_not_grow_with_depth():
    saved: dict[int, list[int]] = {8: [], 64: [], 512: []}
    found = {depth: peak(depth, False, kept) for depth, kept in saved.items()}
    assert max(found.values()) <= 1.01 * min(found.values()), found
    # what autograd holds is the output, and what one f holds at a time on the way back
    level = 1500 * 32 * 4
    assert found[512] < 8 * level
    assert all(kept[0] == level for kept in saved.values())
    plain = {depth: peak(depth, True) for depth in (8, 64)}
    assert plain[64] > 6 * plain[8] > 6 * found[8], (plain, found)
