import copy

import pytest
import torch
import torch.nn.functional as F
from compositions import plan, toy, train

from gnnscale import session
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gcnii import GCNII
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.pna import PNA
from gnnscale.architecture.sage import SAGE
from gnnscale.core.batch_norm import RowNorm
from gnnscale.core.errors import CompositionError
from gnnscale.core.ops.bits import pack, product, sign
from gnnscale.core.site import sites
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import whole_batch
from gnnscale.quantization.binary import Binary, BinaryInput, BinaryWeight
from gnnscale.stage.evaluate import model_bytes

MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=16, depth=3, stem=True),
    "sage": lambda shape: SAGE(shape, hidden=16, depth=3, stem=True),
    "gat": lambda shape: GAT(shape, hidden=16, heads=4, depth=3),
    "pna": lambda shape: PNA(shape, hidden=16, towers=2, depth=3),
    "pna_whole": lambda shape: PNA(shape, hidden=16, towers=2, divide=False, depth=3),
    "gcnii": lambda shape: GCNII(shape, hidden=16, depth=3, variant="star"),
    "mlp": lambda shape: MLP(shape, hidden=16, depth=3),
}


@pytest.fixture
def data(sixty):
    return sixty.with_(x=sixty.x.float())


def filled(model, **options):
    made = copy.deepcopy(model)
    Binary(**options).attach(made)
    return made


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


# -- which sites ---------------------------------------------------------------------------------


def coded(model):
    return {name: s.quantizer for name, s in sites(model) if s.quantizer is not None}


def test_the_ends_stay_real_unless_asked_for(data):
    model = SAGE(data.shape, hidden=16, depth=3)
    convs = {name: name.split(".")[1] for name in coded(filled(model)) if "q_weight" in name}
    assert set(convs.values()) == {"0", "1"}, "the last layer's weights are real"
    inputs = {name.split(".")[1] for name in coded(filled(model)) if "q_input" in name}
    assert inputs == {"1"}, "and the first one's inputs"
    every = coded(filled(model, first="binary", last="binary"))
    assert {n.split(".")[1] for n in every if "q_input" in n} == {"0", "1", "2"}
    assert {n.split(".")[1] for n in every if "q_weight" in n} == {"0", "1", "2"}
    assert not any("aggregate" in n or "update" in n or "message" in n for n in every)


def test_of_a_chain_the_first_and_the_last_map_are_the_ends(data):
    names = coded(filled(MODELS["mlp"](data.shape)))
    assert set(names) == {"hidden.0.1.q_weight", "hidden.1.1.q_weight", "hidden.1.1.q_input"}
    model = GCN(data.shape, hidden=16, stem=True, head_widths=[8])
    heads = [n for n in coded(filled(model)) if n.startswith("head")]
    assert heads == ["head.0.q_input", "head.0.q_weight"]


def test_attention_stays_real(data):
    names = coded(filled(MODELS["gat"](data.shape)))
    assert "layers.1.conv.q_weight" in names
    assert not any("left" in n or "right" in n or "attention" in n for n in names)


def test_messages_only_if_asked_for(data):
    model = filled(MODELS["gcn"](data.shape), roles=["message"])
    names = [n for n, q in coded(model).items() if isinstance(q, BinaryInput)]
    assert names == [f"layers.{i}.conv.q_message" for i in range(3)]
    assert all(q.center is None for q in coded(model).values() if isinstance(q, BinaryInput))


def test_a_message_keeps_the_factor_of_its_source(data):
    model = filled(MODELS["gcn"](data.shape), roles=["message"]).eval()
    batch = whole_batch(data, model.need)
    hop, conv, h = batch.hops[0], model.layers[0].conv, randn(60, 16)
    got = conv(hop, h, None)
    m = sign(h @ conv.q_weight(conv.weight))
    torch.testing.assert_close(got, hop.reduce(lambda m: m, m) + conv.bias)


# -- arithmetic ----------------------------------------------------------------------------------


def test_latent_weights_are_clamped_while_training_alone():
    weight = torch.nn.Parameter(torch.tensor([[-3.0, 0.5], [0.0, 1.5]]))
    module = BinaryWeight(weight, 0, "none").eval()
    assert module(weight).tolist() == [[-1, 1], [1, 1]]
    assert weight.abs().max() == 3
    module.train()
    module(weight).backward(torch.ones(2, 2))
    assert weight.tolist() == [[-1.0, 0.5], [0.0, 1.0]]
    assert weight.grad.tolist() == [[1, 1], [1, 1]], "what is at the bound can come back"
    module.binary = False
    weight.data *= 2
    assert torch.equal(module(weight), weight), "real weights are not clamped"


def test_scales_by_hand():
    weight = torch.nn.Parameter(randn(3, 4) / 4)
    learned = BinaryWeight(weight, 0, "learned")
    assert learned.scale.tolist() == [1, 1, 1]
    learned.scale.data = torch.tensor([2.0, 3.0, 4.0])
    assert torch.equal(learned(weight), sign(weight) * torch.tensor([[2.0], [3.0], [4.0]]))
    mean = BinaryWeight(weight, -1, "mean")
    assert list(mean.parameters()) == []
    torch.testing.assert_close(mean(weight), sign(weight) * weight.abs().mean(0))
    # the closest s sign(w) of a channel (XNOR-Net, eq. 6)
    near = (mean(weight) - weight).square().sum(0)
    for other in (0.9, 1.1):
        assert (near <= (other * mean(weight) - weight).square().sum(0)).all()


@pytest.mark.parametrize("name", MODELS)
def test_linear_maps_of_signs_are_packed_products_bit_for_bit(data, name):
    """Every binary map with a binary input, whatever its layer, as the model itself calls it."""
    torch.manual_seed(0)
    model = filled(MODELS[name](data.shape)).train()  # behind ReLU, untracked means are above all
    seen = {}

    def note(site):
        quantize, owner = site.quantizer.forward, site_owner[site]
        site.quantizer.forward = lambda x, hop=None: seen.setdefault(owner, quantize(x, hop))

    site_owner = {s: n.rpartition(".")[0] for n, s in sites(model)}
    inputs = [s for _, s in sites(model) if isinstance(s.quantizer, BinaryInput)]
    assert inputs
    for site in inputs:
        note(site)
    model(whole_batch(data, model.need))
    assert len(seen) == len({site_owner[site] for site in inputs})
    for owner, x in seen.items():
        part = model.get_submodule(owner)
        w = part.q_weight(part.weight)
        assert set(x.unique().tolist()) == {-1.0, 1.0} == set(w.unique().tolist())
        w = w if part.q_weight.channel == 0 else w.transpose(-1, -2)
        for matrix in w.view(-1, *w.shape[-2:]):  # one per tower
            width = min(x.shape[1], matrix.shape[1])  # a map of two inputs: that of the first
            rows, matrix = x[:, :width], matrix[:, :width].contiguous()
            want = product(pack(rows), pack(matrix), width)
            assert torch.equal((rows @ matrix.T), want.float())


def test_a_binary_map_by_hand(data):
    """y = s (sign(bn(x)) sign(W)^T) + b."""
    torch.manual_seed(0)
    model = filled(SAGE(data.shape, hidden=16, stem=True)).train()
    dense = model.layers[1].conv.self
    dense.q_weight.quantizer.scale.data = randn(16).abs()
    x = 3 * randn(60, 16) + 1
    signs = sign((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())
    want = product(pack(signs), pack(dense.weight), 16) * dense.q_weight.quantizer.scale
    torch.testing.assert_close(dense(x), want)


def test_tanh_and_real_inputs():
    x = randn(20, 3)
    module = BinaryInput("tanh", 3, 0.1).train()
    torch.testing.assert_close(module(x), F.batch_norm(x, None, None, training=True).tanh())
    assert torch.equal(BinaryInput("tanh", None, 0.1)(x), x.tanh())
    assert torch.equal(BinaryInput("real", None, 0.1)(x), x)


def test_sparse_features_become_signs_only_where_asked(data):
    rows = SparseRows.from_dense(data.x * (data.x > 1))
    for first, want in (("real", False), ("binary", True)):
        model = filled(MODELS["gcn"](data.shape), first=first).eval()
        assert (model.encoder.q_input.quantizer is not None) == want
        sparse, dense = model.encoder(rows), model.encoder(rows.dense())
        torch.testing.assert_close(sparse, dense)


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_without_a_variance_are_normalised_by_what_was_tracked(rows):
    norm, plain = RowNorm(4).train(), torch.nn.BatchNorm1d(4).train()
    for each in (norm, plain):
        each(randn(30, 4) * 3 + 1)
    x = randn(rows, 4)
    state = copy.deepcopy(norm.state_dict())
    assert torch.equal(norm(x), plain.eval()(x))
    assert all(torch.equal(v, state[k]) for k, v in norm.state_dict().items())
    stacked = randn(5, 2, 4)
    torch.testing.assert_close(norm(stacked), plain.train()(stacked.view(-1, 4)).view(5, 2, 4))


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_everything(data, name):
    torch.manual_seed(0)
    model = filled(MODELS[name](data.shape)).train()
    F.cross_entropy(model(whole_batch(data, model.need)).logits, data.y).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert torch.isfinite(p.grad).all(), key
    scales = [q.scale for q in coded(model).values() if isinstance(q, BinaryWeight)]
    assert scales
    assert all(s.grad.abs().max() > 0 for s in scales)


def test_training_learns_and_more_than_its_scales(data):
    losses = {}
    for frozen in (False, True):
        torch.manual_seed(0)
        model = filled(SAGE(data.shape, hidden=32, dropout=0.0, stem=True)).train()
        before = {n: sign(p.detach()) for n, p in model.named_parameters() if p.dim() == 2}
        moving = [p for n, p in model.named_parameters() if not (frozen and p.dim() == 2)]
        batch, optimizer = whole_batch(data, model.need), torch.optim.Adam(moving, lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch).logits, data.y)
            loss.backward()
            optimizer.step()
        losses[frozen] = loss.item()
        weights = dict(model.named_parameters())
        flipped = [(sign(weights[n]) != b).float().mean().item() for n, b in before.items()]
        assert (max(flipped) > 0.02) != frozen
    assert losses[False] < 0.2 < 1.0
    assert losses[False] < losses[True]


def test_parameters_are_saved_and_restored(tmp_path):
    checked = toy({"architecture": {"stem": True}}, architecture="sage", quantization="binary")
    (record,) = train(checked, tmp_path)
    run = session.reopened(checked, 0, tmp_path)
    found = coded(run.model)
    scales = [q.scale for q in found.values() if isinstance(q, BinaryWeight)]
    assert any((s != 1).any() for s in scales), "they were trained"
    test = run.data.splits["test"]
    logits = run.inference(run.model, run.data, test, run.device)
    assert run.data.task.score(logits, run.data.y[test]) == record.metric["test"]
    assert record.model_bytes == model_bytes(run.model)
    assert any("fake quantization" in note for note in record.notes)


def test_model_bytes_by_hand(data):
    model = GCN(data.shape, hidden=16, depth=2, stem=True)  # 7 -> 16, twice 16 -> 16, 16 -> 4
    binary, biases, head = 7 * 16 + 2 * 16 * 16, 3 * 16 + 4, 16 * 4
    centres = 2 * 2 * 16  # a factor and a shift for each column of two inputs
    scales = 3 * 16
    assert model_bytes(model) == 4 * (binary + biases + head)
    by_hand = binary / 8 + 4 * (biases + head + centres + scales)
    assert model_bytes(filled(model)) == by_hand
    assert model_bytes(filled(model, rescale="mean")) == by_hand, "means are stored, too"
    assert model_bytes(filled(model, rescale="none")) == by_hand - 4 * scales
    assert model_bytes(filled(model, center=False)) == by_hand - 4 * centres
    real = filled(model, weights="real")
    assert model_bytes(real) == by_hand - binary / 8 + 4 * binary


def test_relaxed_is_what_other_options_give(data):
    torch.manual_seed(0)
    model = MODELS["sage"](data.shape)
    batch, quantizer = whole_batch(data, model.need), Binary()
    quantizer.attach(binary := copy.deepcopy(model))
    for weights, inputs in (("real", "tanh"), ("real", "sign"), ("binary", "sign")):
        quantizer.relax(binary, weights, inputs)
        other = filled(model, weights=weights, inputs=inputs)
        assert torch.equal(binary.eval()(batch).logits, other.eval()(batch).logits)


def test_models_of_one_map_are_refused():
    for name in ("sgc", "appnp"):
        changes = {"architecture": {"depth": 1}}
        with pytest.raises(CompositionError, match=r"change to quantization\.last=binary"):
            plan(changes, architecture=name, quantization="binary")
        plan({**changes, "quantization": {"last": "binary"}}, architecture=name,
             quantization="binary")  # fmt: skip


def test_wrong_values_are_refused():
    for key, value in (("weights", "ternary"), ("roles", ["update"]), ("momentum", 2.0)):
        with pytest.raises(CompositionError, match=rf"quantization\.{key}"):
            plan({"quantization": {key: value}}, architecture="gcn", quantization="binary")
