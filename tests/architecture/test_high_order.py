from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from compositions import silenced, toy, train
from torch import nn

from gnnscale.architecture._normed import OrderConv
from gnnscale.architecture.high_order import HighOrder
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.gas import GAS
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.sampler.saint import SaintWalk
from gnnscale.sampler.vrgcn import VRGCN
from gnnscale.train.predict import Full, Layerwise
from gnnscale.train.query import Query

ROW = Need(1, "row", "none")
PATTERNS = [[1, 0, 1, 0], [1, 1, 0], [2, 0, 1], [0, 1], [0, 0, 3, 0, 0], [1]]
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def normed(part, z):
    """norm(act(z W + b)) in its own words, rows of constant value included."""
    z = (z @ part.map.weight.T + part.map.bias).relu()
    centred = z - z.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + 1e-9).rsqrt()
    return centred * scale * part.norm.weight + part.norm.bias


def uneven(model):
    """Biases, scales and offsets that show where they are."""
    for p in model.parameters():
        if p.dim() == 1:
            nn.init.uniform_(p, 0.2, 0.9)
    return model


def dense_network(model, orders, a, x, combine="concat", jumping="none"):
    """The definition by dense matrices; parts are taken from the model in order."""
    maps = iter(m for m in model.modules() if type(m).__name__ == "Normed")
    maps = iter([m for m in maps if m is not model.head.last])
    h, kept = x, []
    for i, order in enumerate(orders):
        powers = [h]
        for _ in range(order):
            powers.append(a @ powers[-1])
        found = [normed(next(maps), z) for z in powers]
        h = torch.cat(found, 1) if combine == "concat" else sum(found)
        if i + 1 == len(orders) or (orders[i + 1] and any(orders[: i + 1])):
            kept.append(h)
    if jumping == "concat":
        h = normed(next(maps), torch.cat(kept, 1))
    assert next(maps, None) is None
    length = h.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return h / length @ model.head.last.map.weight.T + model.head.last.map.bias


def row_normalised(a):
    return a / a.sum(1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize("orders", PATTERNS, ids=lambda o: "-".join(map(str, o)))
@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("jumping", ["none", "concat"])
def test_network_equals_its_dense_algebra(orders, combine, jumping, sixty, dense):
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=6, orders=orders, combine=combine, jumping=jumping)
    model = uneven(model.double()).eval()
    assert model.need == Need(sum(orders), "row", "none", stem=orders[0] == 0)
    got = model(whole_batch(sixty, model.need)).logits
    a = row_normalised(dense(sixty.graph))
    want = dense_network(model, orders, a, sixty.x, combine, jumping)
    torch.testing.assert_close(got, want, **EXACT)


def test_saints_own_hop_weights_are_the_operator(sixty, dense):
    """One layer on a sampled subgraph: every part by the corrected matrix of the batch."""
    torch.manual_seed(0)
    orders = [2, 1, 0]
    model = uneven(HighOrder(sixty.shape, hidden=5, orders=orders).double()).eval()
    sampler = SaintWalk(roots=9, length=2, coverage=6.0)
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    for k in range(3):
        batch = sampler.sample(torch.tensor([k]), Key(0, "sample", 0, k))
        eye = torch.eye(len(batch.nodes), dtype=torch.float64)
        a = batch.hops[0].reduce(lambda h: h, eye)
        whole = row_normalised(dense(sixty.graph))[batch.nodes][:, batch.nodes]
        assert not torch.allclose(a, whole)  # 1 / alpha is in it
        want = dense_network(model, orders, a, batch.x)
        torch.testing.assert_close(model(batch).logits, want, **EXACT)


@pytest.mark.parametrize("d_in", [3, 9])
@pytest.mark.parametrize("order", [1, 2])
def test_layer_gradient(check_gradient, order, d_in):
    h = torch.randn(6, order * d_in, dtype=torch.float64)
    check_gradient(OrderConv(d_in, 4, order, "concat", "elu", "layer", 0).double(), ROW, h)


def test_attention_equals_a_loop_over_heads(layer, six, dense, features):
    torch.manual_seed(0)
    conv = uneven(OrderConv(5, 6, 1, "concat", "relu", "layer", 3).double())
    a, (own, far) = row_normalised(dense(six)), conv.parts
    w, parts = (features @ far.map.weight.T).view(6, 3, 2), []
    for head in range(3):
        z = w[:, head]
        score = torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                e = conv.left[head] @ z[j] + conv.right[head] @ z[i] + conv.shift[head]
                score[i, j] = e.relu()
        parts.append((a * score) @ z)
    z = (torch.cat(parts, 1) + far.map.bias).relu()
    want = torch.cat([normed(own, features), F.layer_norm(z, (6,), far.norm.weight,
                      far.norm.bias, 1e-9)], 1)  # fmt: skip
    torch.testing.assert_close(layer(conv, ROW, features), want, **EXACT)


def test_attention_gradient(check_gradient, features):
    check_gradient(OrderConv(5, 6, 1, "sum", "elu", "layer", 3).double(), ROW, features)


@pytest.mark.parametrize(
    "options",
    [{}, {"orders": [1, 1, 0], "norm": "none"}, {"orders": [0, 2, 1], "act": "elu"},
     {"heads": 3, "combine": "sum"}, {"jumping": "concat"}],
    ids=str,
)  # fmt: skip
def test_model(check_model, options):
    check_model(lambda shape: HighOrder(shape, hidden=9, **options))


def test_sparse_features_are_dense_ones(sixty):
    x = sixty.x * (sixty.x > 0.4)
    for orders in ([1, 0], [2], [0, 1]):
        for hidden in (4, 12):  # the product on either side of the aggregation
            torch.manual_seed(0)
            model = HighOrder(sixty.shape, hidden=hidden, orders=orders).double().eval()
            said = [model(whole_batch(sixty.with_(x=rows), model.need)).logits
                    for rows in (x, SparseRows.from_dense(x))]  # fmt: skip
            torch.testing.assert_close(*said)


@pytest.mark.parametrize("orders", [[1, 0, 1, 0], [2, 0, 1], [0, 2]], ids=str)
def test_inference_by_layers_and_by_neighbourhood_is_the_whole_pass(orders, sixty):
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=6, orders=orders).double()
    rows, here = torch.tensor([3, 59, 17, 3]), torch.device("cpu")
    want = Full()(model, sixty, rows, here)
    for other in (Layerwise(chunk=13), Query(chunk=2)):
        torch.testing.assert_close(other(model, sixty, rows, here), want, **EXACT)


@pytest.mark.parametrize("jumping", ["none", "concat"])
def test_blocks_of_all_neighbours_give_the_whole_pass(jumping, sixty):
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=6, orders=[1, 0, 2], jumping=jumping).double().eval()
    sampler = Neighbor(fanouts=-1, batch_size=60)
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    batch = sampler.sample(sixty.splits["train"], Key(0, "sample"))
    want = model(whole_batch(sixty, model.need)).logits[batch.ids]
    torch.testing.assert_close(model(batch).logits, want, **EXACT)


def test_exact_histories_give_the_whole_pass_and_hold_undropped_outputs(sixty):
    """Dropout inside a layer is not taken for one behind it: rows that are pushed are outputs."""
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=6, orders=[1, 0, 2], dropout=0.4).double()
    sampler = GAS(parts=6, batch_parts=2)
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    Full().observed(model, sixty, torch.arange(2), torch.device("cpu"), sampler.refresh)
    model.eval()
    batch = sampler.sample(torch.tensor([0, 3]), Key(0, "sample"))
    bound = sampler.bind(batch, torch.device("cpu"), write=False)
    want = model(whole_batch(sixty, model.need)).logits[batch.ids]
    torch.testing.assert_close(model(bound).logits, want, **EXACT)
    model.train()
    out = model(sampler.bind(batch, torch.device("cpu"), write=True))
    sampler.commit()
    pushed = sampler.kept.pull(1, batch.ids)
    torch.testing.assert_close(pushed, out.levels[1].detach(), **EXACT)


def test_the_channel_without_noise_stays_without_under_control_variates(sixty):
    """VR-GCN's mu: dropout inside a layer, too, spares it, so it is what evaluation computes."""
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=6, orders=[1, 0, 2], dropout=0.4).double()
    sampler = VRGCN(fanouts=-1, batch_size=60, mode="cvd", preprocess="never")
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    batch = sampler.sample(sixty.splits["train"], Key(0, "sample"))
    batch = sampler.bind(batch, torch.device("cpu"), write=False)
    want = model.eval()(whole_batch(sixty, model.need)).logits[batch.ids]
    model.train()
    model.head.drop.p = 0.0  # reads both channels alike
    noisy, mu = (model(replace(batch, rows=batch.rows + k)).logits for k in (0, 1))
    torch.testing.assert_close(mu, want, **EXACT)
    assert not torch.allclose(noisy, want, atol=1e-3)


@pytest.mark.parametrize(
    ("data", "hidden", "orders", "widths"),
    [
        (Shape(50, 121), 512, [1, 0, 1, 0], [(2, 50), (1, 1024), (2, 512), (1, 1024)]),  # PPI
        (Shape(500, 7), 256, [1, 1, 0], [(2, 500), (2, 512), (1, 512)]),  # Flickr
        (Shape(602, 41), 128, [1, 0, 1, 0], [(2, 602), (1, 256), (2, 128), (1, 256)]),  # Reddit
    ],
)
def test_count_of_the_papers_networks_by_the_formula(parameters, data, hidden, orders, widths):
    """Each part: W, b, offset and scale; the classifier: W and b."""
    want = sum(parts * (d + 3) * hidden for parts, d in widths) + (hidden + 1) * data.classes
    assert parameters(HighOrder(data, hidden=hidden, orders=orders)) == want


def test_dropout_stands_before_every_layer_and_the_classifier(sixty):
    torch.manual_seed(0)
    model = HighOrder(sixty.shape, hidden=40, orders=[0, 1, 0, 2], dropout=0.5).double()
    shares = {}

    def share(name):
        def hook(module, given):
            h = given[0] if isinstance(given[0], torch.Tensor) else given[1]
            shares.setdefault(name, (h == 0).double().mean().item())

        return hook

    watched = [model.encoder.layers[0], model.layers[0].conv, model.layers[0].after[0],
               model.layers[1].conv, model.layers[2].conv, model.head.last]  # fmt: skip
    for i, module in enumerate(watched):
        module.register_forward_pre_hook(share(i))
    model(whole_batch(sixty, model.need))
    for i in (0, 1, 2, 3, 5):
        assert 0.4 < shares[i] < 0.75, (i, shares)
    silenced(model)
    shares.clear()
    first = model(whole_batch(sixty, model.need)).logits
    assert max(shares.values()) < 0.1
    torch.testing.assert_close(first, model.eval()(whole_batch(sixty, model.need)).logits)


def test_an_embedding_has_length_one_before_the_classifier(sixty):
    model = uneven(HighOrder(sixty.shape, hidden=6).double()).eval()
    seen = []
    model.head.last.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    out = model(replace(whole_batch(sixty, model.need), rows=torch.arange(50)))
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert len(out.levels) == 3


def test_traits():
    assert HighOrder.declare()[0] == HighOrder.gives
    assert HighOrder.gives - HighOrder.declare(heads=2)[0] == {Trait.LINEAR}
    assert HighOrder.gives - HighOrder.declare(jumping="concat")[0] == {Trait.LAYERS}
    assert HighOrder.declare()[1] == ({Trait.HOPS},)


def test_refusals():
    for orders in ([], [0, 0]):
        with pytest.raises(UsageError, match=r"architecture\.orders=\[.*no layer propagates"):
            HighOrder(Shape(5, 3), orders=orders)
    with pytest.raises(UsageError, match=r"architecture\.orders=\[2,1\]: attention is for"):
        HighOrder(Shape(5, 3), hidden=8, orders=[2, 1], heads=2)
    with pytest.raises(UsageError, match=r"architecture\.hidden=9: must be divisible"):
        HighOrder(Shape(5, 3), hidden=9, heads=2)


@pytest.mark.parametrize(
    ("sampler", "change"),
    [
        ("saint_edge", {"heads": 2}),
        pytest.param("shadow", {"jumping": "concat"}, marks=pytest.mark.process),
        ("neighbor", {"orders": [2, 0]}),
        pytest.param("gttf", {"heads": 2}, marks=pytest.mark.process),
    ],
    ids=str,
)
def test_trains_under(sampler, change, tmp_path):
    pool = {"readout": "max"} if sampler == "shadow" else {}
    (record,) = train(
        toy({"architecture": {"hidden": 8, **change}, "sampler": pool}, sampler=sampler,
            architecture="high_order"), tmp_path,
    )  # fmt: skip
    assert 0 <= record.metric["valid"] <= 1


@pytest.mark.parametrize("sampler", ["gas", "vrgcn", "ladies"])
def test_layers_of_order_two_train_under(sampler, tmp_path):
    changes = {"architecture": {"hidden": 8, "orders": [0, 2, 0, 1]}}
    (record,) = train(toy(changes, sampler=sampler, architecture="high_order"), tmp_path)
    assert 0 <= record.metric["valid"] <= 1
