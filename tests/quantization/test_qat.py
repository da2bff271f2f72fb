import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.sage import SAGE
from gnnscale.core.site import Dense, Site, sites
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization._fake import Coding, FakeQuant
from gnnscale.quantization.qat import QAT
from gnnscale.stage.evaluate import model_bytes

MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=16, depth=3, norm="batch"),
    "sage": lambda shape: SAGE(shape, hidden=16),
    "sage_max": lambda shape: SAGE(shape, hidden=16, aggr="max"),
    "gat": lambda shape: GAT(shape, hidden=16, heads=4),
    "gin": lambda shape: GIN(shape, hidden=16),
    "egc": lambda shape: EGC(shape, hidden=16, heads=4, aggregators=["symadd", "max"]),
    "mlp": lambda shape: MLP(shape, hidden=16, depth=3),
}


def randn(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


AFFINE = {"symmetric_weights": False, "per_channel": False}
"""One affine scale per weight, as in Degree-Quant's baseline."""


def quant(bits, momentum, **how) -> FakeQuant:
    """A quantizer with a moving average; without a momentum, that of a weight."""
    range_ = "ema" if momentum is not None else None
    return FakeQuant(Coding(bits, False, range_, momentum or 0.0, **how))


def fixed(bits, low, high) -> FakeQuant:
    """A quantizer in eval mode whose range is [low, high]."""
    quantizer = quant(bits, 0.1).train()
    quantizer(torch.tensor([low, high]))
    return quantizer.eval()


def step(quantizer) -> float:
    return ((quantizer.high - quantizer.low) / (2**quantizer.bits - 1)).item()


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_at_most_two_to_the_bits_values(bits, dtype):
    # also far outside the range: saturated values must be codes like the others
    quantizer = fixed(bits, -1.3, 2.1)
    x = torch.cat([10 * randn(20_000, dtype=dtype), torch.linspace(-2, 3, 5001, dtype=dtype)])
    y = quantizer(x)
    assert y.dtype == dtype
    values = y.unique()
    assert len(values) == 2**bits
    # they are equally spaced, and the ends are near the ends of the range
    torch.testing.assert_close(
        values.diff(), torch.full_like(values[1:], step(quantizer)), rtol=1e-4, atol=1e-7
    )
    assert abs(values[0] + 1.3) <= step(quantizer) / 2 + 1e-6
    assert abs(values[-1] - 2.1) <= step(quantizer) / 2 + 1e-6


def test_error_is_half_a_step_inside_the_range_and_falls_with_bits():
    x = torch.linspace(-1.3, 2.1, 10_001, dtype=torch.float64)
    worst = []
    for bits in range(2, 13):
        quantizer = fixed(bits, -1.3, 2.1)
        worst.append((quantizer(x) - x).abs().max().item())
        assert worst[-1] <= step(quantizer) / 2 * (1 + 1e-4)
        assert worst[-1] > step(quantizer) / 4
    assert all(fine < 0.7 * coarse for coarse, fine in pairwise(worst))


def test_saturates_outside_the_range():
    quantizer = fixed(4, -1.0, 2.0)
    ends = quantizer(torch.tensor([-1.0, 2.0]))
    far = quantizer(torch.tensor([-1e6, 1e6, -float("inf"), float("inf")]))
    assert far.tolist() == [*ends.tolist(), *ends.tolist()]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_idempotent_monotone_and_zero_is_exact(bits):
    quantizer = fixed(bits, -0.7, 1.9)
    x = (2 * randn(5000)).sort().values
    y = quantizer(x)
    assert torch.equal(quantizer(y), y)
    assert (y.diff() >= 0).all()
    assert y[-1] > y[0]
    assert quantizer(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-2.0, -0.5), (0.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_range_always_includes_zero(low, high, dtype):
    quantizer = quant(4, 0.1).train()
    quantizer(torch.tensor([low, high], dtype=dtype))
    assert quantizer.low <= 0 <= quantizer.high
    assert quantizer.eval()(torch.zeros(3, dtype=dtype)).tolist() == [0.0] * 3
    got = quantizer(torch.tensor([low, high], dtype=dtype))
    assert torch.isfinite(got).all()
    want = torch.tensor([low, high], dtype=dtype)
    torch.testing.assert_close(got, want, rtol=0, atol=step(quantizer) / 2 + 1e-6)


def test_order_of_rows_does_not_matter():
    x = randn(200, 5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    a, b = quant(4, 0.1).train(), quant(4, 0.1).train()
    assert torch.equal(a(x)[order], b(x[order]))


@pytest.mark.filterwarnings("ignore")  # torch: quantised tensors will be removed
@pytest.mark.parametrize("zero", [0, 37, 128, 255])
@pytest.mark.parametrize("exponent", [-7, 0, 3])
def test_codes_are_torchs_for_power_of_two_scales(zero, exponent):
    scale = 2.0**exponent
    quantizer = fixed(8, -zero * scale, (255 - zero) * scale)
    assert step(quantizer) == scale
    ties = (torch.arange(-400, 400) + 0.5) * scale
    x = torch.cat([ties, 100 * scale * randn(20_000)])
    codes = torch.quantize_per_tensor(x, scale, zero, torch.quint8).int_repr()
    assert torch.equal(quantizer(x) / scale + zero, codes.float())


def test_sixteen_bits_are_nearly_float():
    x = randn(10_000)
    y = quant(16, 0.1).train()(x)
    assert 0 < (y - x).abs().max() < 1e-4


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_tensor_changes_nothing(momentum):
    quantizer = quant(8, momentum).train()
    assert quantizer(torch.empty(0, 3)).shape == (0, 3)
    assert not quantizer.seen


# -- gradients -----------------------------------------------------------------------------------


def test_gradient_is_one_inside_and_zero_outside():
    quantizer = fixed(4, -1.0, 2.0)
    x = torch.tensor([-5.0, -1.2, -0.99, -0.3, 0.0, 0.04, 1.99, 2.2, 9.0], requires_grad=True)
    g = torch.arange(1.0, 10.0)
    quantizer(x).backward(g)
    inside = torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 0, 0])
    assert torch.equal(x.grad, g * inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_tensor_inside_its_own_range_gets_all_of_its_gradient(dtype, momentum):
    x = randn(500, dtype=dtype).requires_grad_()
    quant(4, momentum).train()(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# -- ranges --------------------------------------------------------------------------------------


def test_activation_ranges_move_in_training_only():
    quantizer = quant(8, 0.25)
    x = torch.tensor([-1.0, 3.0])
    y = quantizer.eval()(x)
    assert y is not None
    assert torch.equal(y, x), "no range yet: nothing to quantize by"
    assert not quantizer.seen
    quantizer.train()(x)  # the first tensor sets the range
    assert (quantizer.low.item(), quantizer.high.item()) == (-1.0, 3.0)
    quantizer(torch.tensor([-3.0, 1.0]))  # then the moving average: 0.75 old + 0.25 new
    assert (quantizer.low.item(), quantizer.high.item()) == (-1.5, 2.5)
    quantizer.eval()(torch.tensor([-100.0, 100.0]))
    assert (quantizer.low.item(), quantizer.high.item()) == (-1.5, 2.5)


def test_momentum_one_is_still_an_activation():
    quantizer = quant(8, 1.0).train()
    quantizer(torch.tensor([-1.0, 3.0]))
    quantizer(torch.tensor([-2.0, 1.0]))
    assert (quantizer.low.item(), quantizer.high.item()) == (-2.0, 1.0)
    quantizer.eval()(torch.tensor([-9.0, 9.0]))
    assert (quantizer.low.item(), quantizer.high.item()) == (-2.0, 1.0)


def test_a_weights_range_is_always_its_own():
    quantizer = quant(8, None)
    for training in (True, False):
        quantizer.train(training)
        for w in (torch.tensor([-1.0, 3.0]), torch.tensor([-0.25, 0.125])):
            quantizer(w)
            assert (quantizer.low.item(), quantizer.high.item()) == tuple(w.tolist())


def test_state_loads_into_a_fresh_quantizer():
    quantizer = fixed(8, -1.0, 3.0)
    fresh = quant(8, 0.1).eval()
    fresh.load_state_dict(quantizer.state_dict())
    x = randn(100)
    assert torch.equal(fresh(x), quantizer(x))
    assert fresh.seen
    assert list(fresh.parameters()) == []


# -- models --------------------------------------------------------------------------------------


@pytest.fixture
def data(sixty):
    return sixty.with_(x=sixty.x.float())


@pytest.mark.parametrize("name", MODELS)
def test_every_site_is_filled_and_the_model_runs(data, name):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    assert Trait.SITES in type(model).gives
    QAT(weight_bits=4, activation_bits=6).attach(model)
    found = list(sites(model))
    assert len(found) >= 4
    for where, site in found:
        assert isinstance(site.quantizer, FakeQuant), where
        assert site.quantizer.bits == (4 if site.role == "weight" else 6), where
        assert (site.quantizer.coding.range is None) == (site.role == "weight"), where
    batch = whole_batch(data, model.need)
    loss = F.cross_entropy(model.train()(batch).logits, data.y)
    loss.backward()
    for where, p in model.named_parameters():
        assert p.grad is not None, where
        assert torch.isfinite(p.grad).all(), where
    # every site was on the way: each has a range now, and eval leaves it where it is
    ranges = {}
    for where, site in sites(model):
        assert site.quantizer.seen, where
        ranges[where] = (site.quantizer.low.tolist(), site.quantizer.high.tolist())
    other = whole_batch(data.with_(x=100 * data.x), model.need)
    model.eval()(other)
    for where, site in sites(model):
        assert (site.quantizer.low.tolist(), site.quantizer.high.tolist()) == ranges[where], where


@pytest.mark.parametrize("name", MODELS)
def test_more_bits_come_closer_to_float(data, name):
    torch.manual_seed(0)
    model = MODELS[name](data.shape)
    batch = whole_batch(data, model.need)
    model.train()(batch)  # batch statistics
    errors = []
    with torch.no_grad():
        exact = model.eval()(batch).logits
        for bits in (4, 8, 16):
            coded = copy.deepcopy(model)
            QAT(bits, bits).attach(coded)
            for _, site in sites(coded):
                site.quantizer.train()  # set ranges without dropout and batch statistics
            coded(batch)
            coded.eval()
            errors.append((coded(batch).logits - exact).abs().max().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0
    assert errors[2] < 1e-3 * exact.abs().max()


def test_roles_choose_activations_and_weights_are_always_coded(data):
    model = GAT(data.shape, hidden=16, heads=4)
    QAT(roles=["message", "attention"]).attach(model)
    filled = {site.role for _, site in sites(model) if site.quantizer is not None}
    empty = {site.role for _, site in sites(model) if site.quantizer is None}
    assert filled == {"weight", "message", "attention"}
    assert empty == {"input", "aggregate", "update"}


def test_weights_only_is_a_model_with_coded_weights(data):
    torch.manual_seed(0)
    model = GCN(data.shape, hidden=16)
    coded = copy.deepcopy(model)
    QAT(weight_bits=3, roles=[], **AFFINE).attach(coded)
    batch = whole_batch(data, model.need)
    by_hand = copy.deepcopy(model)
    for block in by_hand.layers:
        w = block.conv.weight.data
        block.conv.weight.data = quant(3, None)(w).detach()
        assert len(block.conv.weight.unique()) <= 8 < len(w.unique())
    assert torch.equal(coded.eval()(batch).logits, by_hand.eval()(batch).logits)
    assert not torch.equal(coded(batch).logits, model.eval()(batch).logits)


def test_attached_again_replaces_the_quantizers(data):
    model = GCN(data.shape, hidden=16)
    QAT(8, 8).attach(model)
    QAT(4, 4, roles=["input"]).attach(model)
    bits = {s.role: None if s.quantizer is None else s.quantizer.bits for _, s in sites(model)}
    assert bits == {"input": 4, "weight": 4, "message": None, "aggregate": None, "update": None}


def test_no_parameters_are_added(data):
    plain, coded = GCN(data.shape), GCN(data.shape)
    QAT().attach(coded)
    assert [n for n, _ in coded.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_model_bytes_by_hand(data):
    model = GCN(data.shape, hidden=16, norm="batch")
    weights, others = 7 * 16 + 16 * 4, 16 + 4 + 2 * 16
    assert model_bytes(model) == 4 * (weights + others)
    for bits in (8, 4, 3):
        QAT(weight_bits=bits).attach(model)
        assert model_bytes(model) == -(-(weights * bits + 32 * others) // 8)


@pytest.mark.parametrize("name", MODELS)
def test_model_bytes_shrink_by_the_matrices_alone(data, name):
    model = MODELS[name](data.shape)
    float_bytes = model_bytes(model)
    assert float_bytes == 4 * sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    QAT(weight_bits=8).attach(model)
    assert model_bytes(model) == float_bytes - 3 * matrices


def test_dense_equals_integer_arithmetic_bit_for_bit():
    # scales are powers of two and sums stay below 2^24, so that float32 is exact
    dense = Dense(64, 8, bias=False).eval()
    QAT(8, 8, **AFFINE).attach(dense)
    w = torch.randint(0, 256, (8, 64), generator=torch.Generator().manual_seed(0))
    w[0, 0], w[0, 1] = 0, 255
    zero_w, zero_x, s_w, s_x = 100, 37, 2.0**-6, 2.0**-4
    dense.weight.data = (w - zero_w) * s_w
    dense.q_input.quantizer = fixed(8, -zero_x * s_x, (255 - zero_x) * s_x)
    x = 5 * randn(50, 64)
    codes = (x / s_x + zero_x).round().clamp(0, 255).long()
    want = (codes - zero_x) @ (w - zero_w).T
    assert want.abs().max() < 2**24
    assert torch.equal(dense(x), want.float() * (s_x * s_w))


def test_training_through_eight_bits_learns_as_float_does(data):
    last = []
    for quantizer in (None, QAT(8, 8, momentum=0.5), QAT(2, 2, momentum=0.5)):
        torch.manual_seed(0)
        model = GCN(data.shape, hidden=32, dropout=0.0).train()
        if quantizer is not None:
            quantizer.attach(model)
        batch = whole_batch(data, model.need)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(model(batch).logits, data.y))
            losses[-1].backward()
            optimizer.step()
        last.append((losses[-1] / losses[0]).item())
    float_, eight, two = last
    assert float_ < 0.7
    assert abs(eight - float_) < 0.03
    assert two > float_ + 0.05, "two bits must cost something, or nothing is quantized"


def test_a_site_gets_what_its_role_asks_for():
    quantizer = QAT(weight_bits=5, activation_bits=7, momentum=0.2, roles=["input"])
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    weight = quantizer.make(Site("weight"), "a.q_weight", parameter)
    entry = quantizer.make(Site("input"), "a.q_input", None)
    assert isinstance(weight, FakeQuant)
    assert (weight.bits, weight.coding.range, weight.coding.symmetric) == (5, None, True)
    assert weight.low.shape == (4,), "one range per output"
    assert (entry.bits, entry.coding.range, entry.coding.momentum) == (7, "ema", 0.2)
    assert quantizer.make(Site("update"), "a.q_update", None) is None


def test_widths_by_name_win_over_roles():
    quantizer = QAT(8, 8, bits={"layers.0.*": 4, "*.q_weight": 3, "layers.1.conv.q_weight": 2})
    widths = {
        name: quantizer.width(Site(role), name)
        for name, role in (("layers.0.conv.q_input", "input"), ("layers.0.conv.q_weight", "weight"),
                           ("layers.1.conv.q_input", "input"), ("layers.1.conv.q_weight", "weight"))
    }  # fmt: skip
    assert list(widths.values()) == [4, 3, 8, 2]


def test_scales_per_output_are_those_of_each_output_alone():
    w = randn(6, 4) * torch.tensor([0.1, 1.0, 5.0, 40.0])
    for symmetric in (False, True):
        whole = FakeQuant(Coding(4, symmetric), channels=4)(w)
        for c in range(4):
            alone = FakeQuant(Coding(4, symmetric))(w[:, c].contiguous())
            assert torch.equal(whole[:, c], alone)
        one = FakeQuant(Coding(4, symmetric))(w)
        assert (whole - w).abs().max() < (one - w).abs().max() * 1.01
        assert (whole[:, 0] - w[:, 0]).abs().max() < 0.1 * (one[:, 0] - w[:, 0]).abs().max()
        rows = FakeQuant(Coding(4, symmetric), channels=6, axis=0)(w)
        torch.testing.assert_close(rows[2], FakeQuant(Coding(4, symmetric))(w[2]), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_codes_are_signed_around_zero(bits):
    quantizer = FakeQuant(Coding(bits, symmetric=True))
    x = randn(1000)
    y = quantizer(x)
    scale, zero, first, last = quantizer.grid
    assert (zero, first, last) == (0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert scale == 2 * x.abs().max() / (2**bits - 1)
    codes = (y / scale).round()
    assert codes.min() >= first
    assert codes.max() <= last
    assert quantizer(torch.zeros(2)).tolist() == [0.0, 0.0]
    assert (y - x).abs().max() <= scale / 2 * 1.001


def test_straight_gradients_pass_where_codes_are_cut_off():
    x = torch.tensor([-9.0, 0.5, 9.0], requires_grad=True)
    quantizer = quant(4, 0.1, straight=True).train()
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer.eval()(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_minmax_ranges_only_grow():
    quantizer = FakeQuant(Coding(8, range="minmax")).train()
    for values, range_ in (([-1.0, 3.0], (-1, 3)), ([0.0, 1.0], (-1, 3)), ([-2.0, 5.0], (-2, 5))):
        quantizer(torch.tensor(values))
        assert (quantizer.low.item(), quantizer.high.item()) == range_


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.2])
def test_percentiles_are_order_statistics(share):
    x = randn(5000)
    quantizer = FakeQuant(Coding(8, range="percentile", percentile=share)).train()
    quantizer(x)
    k = max(1, int(share * 5000))
    ordered = x.sort().values
    assert quantizer.low == ordered[k - 1]
    assert quantizer.high == ordered[-k]
    quantizer(0.5 * x)  # the extremes of percentiles stay
    assert quantizer.low == ordered[k - 1]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_percentiles_of_what_is_mostly_zero_are_its_extremes(kind):
    x = torch.zeros(100, 10)
    x[3, 4], x[7, 1] = 2.0, -1.0
    coder = FakeQuant(Coding(4, False, "percentile", percentile=0.01))
    coder.train()(x if kind == "dense" else SparseRows.from_dense(x))
    assert (coder.low, coder.high) == (-1, 2)
    x[:, 0] = 1.0  # a tenth of the entries: no longer nothing
    coder = FakeQuant(Coding(4, False, "percentile", percentile=0.01))
    coder.train()(x)
    assert (coder.low, coder.high) == (0, 1)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_ranges_of_percentiles_are_the_widest_of_sorted_entries(kind, share):
    draw = torch.Generator().manual_seed(2)
    low, high, moves = torch.zeros(()), torch.zeros(()), 0
    quantizer = FakeQuant(Coding(8, range="percentile", percentile=share)).train()
    for step in range(40):  # few of them reach beyond the others: what is known then is kept
        x = torch.randn(30, 20, generator=draw) + (0, 0, 3, -3)[step % 4]
        x = x * (torch.rand(30, 20, generator=draw) < (1.0, 0.4, 0.01)[step % 3])
        quantizer(x if kind == "dense" else SparseRows.from_dense(x))
        k, ordered = max(1, int(share * 600)), x.flatten().sort().values
        ends = ordered[k - 1], ordered[-k]
        ends = (ordered[0], ordered[-1]) if ends == (0, 0) else ends
        moves += bool(ends[0] < low or ends[1] > high)
        low, high = torch.minimum(low, ends[0]), torch.maximum(high, ends[1])
        assert (quantizer.low, quantizer.high) == (low, high)
    assert 1 < moves < 39


@pytest.mark.parametrize("shape", [(300, 40), (20000, 50), (9000, 5, 20)])
def test_chosen_rows_have_the_range_that_they_have_alone(shape):
    x, rows = randn(*shape), torch.arange(0, shape[0], 3)
    some, alone = (FakeQuant(Coding(8, range="percentile")).train() for _ in "ab")
    some.track(x, rows)
    alone.track(x[rows])
    assert (some.low, some.high) == (alone.low, alone.high)


def test_percentiles_of_many_entries_are_close():
    x = randn(1_000_000)
    quantizer = FakeQuant(Coding(8, range="percentile", percentile=0.01)).train()
    quantizer(x)
    exact = x.sort().values
    assert abs(quantizer.low - exact[10_000]) < 0.05
    assert abs(quantizer.high - exact[-10_000]) < 0.05


@pytest.mark.parametrize("range_", ["ema", "minmax", "percentile"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_sparse_rows_are_quantized_as_the_matrix_they_are(range_, share):
    x = randn(50, 40) * (torch.rand(50, 40, generator=torch.Generator().manual_seed(1)) < 0.3)
    for sign in (1, -1, 0):
        given = x if sign == 0 else sign * x.abs()
        rows = SparseRows.from_dense(given)
        made = [FakeQuant(Coding(5, range=range_, percentile=share)).train() for _ in "ab"]
        dense_, sparse = made[0](given), made[1](rows)
        assert isinstance(sparse, SparseRows)
        assert torch.equal(sparse.dense(), dense_)
        assert (made[0].low, made[0].high) == (made[1].low, made[1].high)


def test_a_scaled_message_is_the_product_with_its_factor(data):
    model = GCN(data.shape, hidden=16, dropout=0.0).train()
    QAT(8, 8).attach(model)
    batch = whole_batch(data, model.need)
    model(batch)
    hop, conv = batch.hops[1], model.layers[1].conv
    site = conv.q_message.quantizer
    m = randn(60, 4)
    model.eval()
    scaled = conv.q_message(m, hop)
    assert torch.equal(scaled.rows, site(m * hop.src[:, None]))
    got = hop.reduce(lambda m: scaled, m)
    want = hop.reduce(lambda m: scaled.rows / hop.src[:, None], m)
    torch.testing.assert_close(got, want)
