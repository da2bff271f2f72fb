import pytest
import torch
import torch.nn.functional as F
from compositions import plan, toy, train
from torch import nn

from gnnscale.architecture._subgraph import Readout
from gnnscale.architecture.shadow_gnn import GATLayer, GCNLayer, ShadowGNN
from gnnscale.core.batch import Batch
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.shadow import Shadow, ShadowKhop
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Full, Layerwise
from gnnscale.train.query import Query

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LAYERS = ("gcn", "sage", "gat")
PAPERS = Shape(128 + 7, 172, readout="max", codes=7)


def uneven(model):
    for name, p in model.named_parameters():
        if name.endswith(("bias", "norm.weight", "scale", "offset")):
            nn.init.uniform_(p, 0.2, 0.9)
    return model.double()


def normalised(z, scale, offset):
    centred = z - z.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-9).rsqrt() * scale + offset


def part(normed, z, act=torch.relu):
    z = act(z @ normed.map.weight.T + normed.map.bias)
    return normalised(z, normed.norm.weight, normed.norm.bias)


def dense_layer(conv, kind, a, h):
    """One layer by dense matrices; ``a`` is the plain adjacency."""
    loops = a + torch.eye(len(a), dtype=a.dtype)
    if kind == "gcn":
        d_in, d_out = loops.sum(1), loops.sum(0)
        return part(conv.part, (loops / (d_in.unsqueeze(1) * d_out).sqrt()) @ h)
    if kind == "sage":
        own, far = conv.parts
        return part(own, h) + part(far, a / a.sum(1, keepdim=True).clamp(min=1) @ h)
    z = (h @ conv.own.weight.T + conv.own.bias).relu()
    y = (h @ conv.far.weight.T + conv.far.bias).relu()
    size, found = conv.left.shape[1], []
    for k in range(conv.heads):
        z_k, y_k = (t[:, k * size : (k + 1) * size] for t in (z, y))
        e = F.leaky_relu(z_k @ conv.left[k], 0.2).unsqueeze(1) + F.leaky_relu(
            y_k @ conv.right[k], 0.2
        )
        y_k = torch.where(loops > 0, e, -torch.inf).softmax(1) @ y_k
        both = [
            normalised(t, conv.scale[i, k], conv.offset[i, k]) for i, t in enumerate((z_k, y_k))
        ]
        found.append((both[0] + both[1]) / 2)
    return torch.cat(found, 1)


def dense_logits(model, h):
    last = model.head.last
    z = F.normalize(h) @ last.map.weight.T + last.map.bias
    return normalised(z, last.norm.weight, last.norm.bias)


def test_published_count(parameters):
    """ogbn-papers100M's: 3 GAT layers of 800, hop codes, pool and residue max, PReLU."""
    model = ShadowGNN(PAPERS, hidden=800, layer="gat", residue="max", act="prelu")
    assert parameters(model) == 4_205_544


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("hidden", [4, 12])  # the product on either side of the aggregation
def test_network_equals_its_dense_algebra(kind, hidden, sixty, dense):
    torch.manual_seed(0)
    model = uneven(ShadowGNN(sixty.shape, hidden=hidden, layer=kind, heads=2)).eval()
    a, h = dense(sixty.graph), sixty.x
    for level in model.layers:
        h = dense_layer(level.conv, kind, a, h)
    out = model(whole_batch(sixty, model.need))
    torch.testing.assert_close(out.logits, dense_logits(model, h), **EXACT)
    torch.testing.assert_close(out.levels[-1], h, **EXACT)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_a_directed_graph(kind, six, dense, features, layer):
    torch.manual_seed(0)
    model = uneven(ShadowGNN(Shape(5, 3), hidden=6, depth=1, layer=kind, heads=3))
    conv = model.layers[0].conv
    want = dense_layer(conv, kind, dense(six), features)
    torch.testing.assert_close(layer(conv, model.need, features), want, **EXACT)


def test_gradients(check_gradient, features):
    for d_out in (4, 8):
        check_gradient(
            GCNLayer(5, d_out, "elu", "layer").double(), Need(1, "sym", "diag"), features
        )


def test_attention_gradient(six, features):
    """In the input and all parameters but ``left``, which cancels in the softmax."""
    from gnnscale.graph.norm import whole_hop

    torch.manual_seed(0)
    conv = GATLayer(5, 6, 3, "elu", "layer").double()
    hop = whole_hop(six, Need(1, "none", "edges"), torch.float64)
    assert torch.autograd.gradcheck(lambda h: conv(hop, h, None), (features.requires_grad_(),))
    conv(hop, features, None).square().sum().backward()
    for name, p in conv.named_parameters():
        assert (p.grad.abs().max() > 1e-9) == (name != "left"), name


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("residue", ["none", "max", "sum", "concat"])
def test_model(check_model, kind, residue):
    check_model(
        lambda shape: ShadowGNN(shape, hidden=9, layer=kind, heads=3, residue=residue, depth=2)
    )


@pytest.mark.parametrize("residue", ["none", "max", "sum", "concat"])
@pytest.mark.parametrize("readout", ["center", "mean", "max", "sum"])
def test_readout_by_its_formula(readout, residue, sixty):
    """Root by root: every layer's rows are pooled first, then the layers are combined."""
    sampler = Shadow(k=9, threshold=0.0, eps=1e-5, readout=readout)
    torch.manual_seed(0)
    model = uneven(ShadowGNN(sampler.shape(sixty), hidden=6, depth=3, residue=residue)).eval()
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    batch = sampler.sample(torch.arange(0, 60, 4), Key(0, "sample"))
    h, levels = batch.x, []
    for level in model.layers:
        h = level.conv(batch.hops[0], h, None)
        levels.append(h)
    levels = levels if residue != "none" else levels[-1:]
    pool = {"mean": lambda z: z.mean(0), "max": lambda z: z.amax(0), "sum": lambda z: z.sum(0)}
    join = {"max": lambda z: torch.stack(z).amax(0), "sum": sum, "concat": torch.cat,
            "none": lambda z: z[0]}  # fmt: skip
    rows = []
    for k, root in enumerate(batch.rows):
        inside = batch.segment == k
        both = [join[residue]([z[root] for z in levels])]
        if readout != "center":
            both.append(join[residue]([pool[readout](z[inside]) for z in levels]))
        rows.append(torch.cat(both))
    want = torch.stack(rows)
    if (readout, residue) == ("center", "none"):
        assert model.pool is None
    else:
        want = part(model.pool.map, want)
    torch.testing.assert_close(model(batch).logits, dense_logits(model, want), **EXACT)


def test_gradients_of_the_readout():
    torch.manual_seed(0)
    readout = Readout("mean", "sum", 2, 3, 0.0, "elu", "layer").double()
    h = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    nothing = torch.empty(0)
    batch = Batch(nothing, (), nothing, torch.tensor([0, 3]), nothing, nothing, nothing,
                  segment=torch.tensor([0, 0, 0, 1, 1, 1, 1]))  # fmt: skip
    assert torch.autograd.gradcheck(lambda h: readout(h, batch), (h,))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_map_of_the_distance_is_added_to_the_features(sparse, sixty):
    data = sixty.with_(x=sixty.x * (sixty.x > 0.4))
    given = data.with_(x=SparseRows.from_dense(data.x)) if sparse else data
    sampler, plain = (ShadowKhop(depth=2, budget=-1, hop_features=h) for h in (True, False))
    torch.manual_seed(0)
    model = uneven(ShadowGNN(sampler.shape(given), hidden=6)).eval()
    assert model.need == Need(3, "row", "none", stem=True)
    found = []
    for each, known in ((sampler, given), (plain, data)):
        each.prepare(known, model.need, Key(0, "prepare"))
        found.append(each.sample(torch.tensor([4, 9]), Key(0, "sample")))
    coded, batch = found
    x, c = (coded.x.dense() if sparse else coded.x).split([7, 7], 1)
    torch.testing.assert_close(x, batch.x)
    x = x + c @ model.encoder.map.weight.T + model.encoder.map.bias
    want = ShadowGNN(plain.shape(data), hidden=6).double().eval()
    want.load_state_dict({k: v for k, v in model.state_dict().items() if "encoder" not in k})
    torch.testing.assert_close(model(coded).logits, want(batch.__class__(**{**vars(batch), "x": x}))
                               .logits, **EXACT)  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_inference_by_layers_and_by_neighbourhood_is_the_whole_pass(kind, sixty):
    torch.manual_seed(0)
    model = ShadowGNN(sixty.shape, hidden=6, layer=kind, heads=2).double()
    rows, here = torch.tensor([3, 59, 17, 3]), torch.device("cpu")
    want = Full()(model, sixty, rows, here)
    for other in (Layerwise(chunk=13), Query(chunk=2)):
        torch.testing.assert_close(other(model, sixty, rows, here), want, **EXACT)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_scope_of_the_whole_graph_is_the_whole_pass(kind, sixty):
    torch.manual_seed(0)
    model = ShadowGNN(sixty.shape, hidden=6, layer=kind, heads=2, residue="sum").double().eval()
    sampler = ShadowKhop(depth=60, budget=-1)
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    batch = sampler.sample(torch.arange(60), Key(0, "sample"))
    want = model(whole_batch(sixty, model.need)).logits
    torch.testing.assert_close(model(batch).logits, want, **EXACT)


def test_dropout_stands_before_every_layer_and_in_the_readout_but_not_before_the_logits(sixty):
    model = ShadowGNN(sixty.shape, hidden=60, dropout=0.5, residue="sum").double()
    zeros = {}

    def watch(i):
        def hook(module, given):
            h = next(t for t in given if isinstance(t, torch.Tensor))
            zeros[i] = (h == 0).double().mean()

        return hook

    watched = [*(level.conv for level in model.layers), model.pool.map, model.head.last]
    for i, module in enumerate(watched):
        module.register_forward_pre_hook(watch(i))
    model(whole_batch(sixty, model.need))
    assert all(0.4 < zeros[i] < 0.6 for i in range(4))
    assert zeros[4] < 0.1


def test_all_of_a_pooled_model_learns(sixty):
    sampler = Shadow(k=10, readout="max", hop_features=True, drop_edge=0.2)
    torch.manual_seed(0)
    model = ShadowGNN(sampler.shape(sixty), hidden=8, layer="gat", heads=2, residue="max",
                      act="prelu").double()  # fmt: skip
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    batch = sampler.sample(sixty.splits["train"], Key(0, "sample"))
    Objective(sixty.task, {})(model(batch), batch).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert (p.grad.abs().max() > 1e-12) == (not name.endswith("left")), name


def test_traits_and_refusals():
    assert ShadowGNN.declare()[0] == ShadowGNN.gives
    assert ShadowGNN.gives - ShadowGNN.declare(layer="gat")[0] == {Trait.LINEAR}
    assert ShadowGNN.gives - ShadowGNN.declare(residue="max")[0] == {Trait.LAYERS}
    with pytest.raises(UsageError, match=r"architecture\.hidden=9: must be divisible"):
        ShadowGNN(Shape(5, 3), hidden=9, layer="gat", heads=2)
    assert ShadowGNN(Shape(5, 3), hidden=9, layer="sage", heads=2).need.depth == 3
    with pytest.raises(CompositionError, match="sampler=gas needs"):
        plan({"architecture": {"residue": "max"}}, sampler="gas", architecture="shadow_gnn")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sampler", ["shadow", "shadow_khop"])
def test_trains_and_is_scored_with_pool_codes_and_residue(sampler, kind, tmp_path):
    changes = {
        "sampler": {"readout": "max", "hop_features": True, "drop_edge": 0.1, "batch_size": 7},
        "architecture": {"hidden": 8, "layer": kind, "residue": "concat", "act": "prelu"},
    }
    (record,) = train(toy(changes, sampler=sampler, architecture="shadow_gnn"), tmp_path)
    assert 0 < record.metric["valid"] <= 1


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("sampler", ["neighbor", "saint", "cluster"])
def test_trains_under(sampler, kind, tmp_path):
    changes = {"architecture": {"hidden": 8, "layer": kind, "residue": "sum"}}
    (record,) = train(toy(changes, sampler=sampler, architecture="shadow_gnn"), tmp_path)
    assert 0 < record.metric["valid"] <= 1
