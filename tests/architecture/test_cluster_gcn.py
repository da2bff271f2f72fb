import pytest
import torch
from compositions import toy
from torch import nn

from gnnscale.architecture.cluster_gcn import ClusterConv, ClusterGCN
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler.cluster import Cluster
from gnnscale.sampler.gas import GAS
from gnnscale.sampler.vrgcn import VRGCN
from gnnscale.train.predict import Full, Layerwise
from gnnscale.train.query import Query

EXACT = {"rtol": 1e-10, "atol": 1e-10}
HERE = torch.device("cpu")


def uneven(model):
    for p in model.parameters():
        if p.dim() == 1:
            nn.init.uniform_(p, 0.2, 0.9)
    return model.double()


def layer_norm(z, norm):
    centred = z - z.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + 1e-9).rsqrt()
    return centred * scale * norm.weight + norm.bias


def dense_network(model, s, x, ahead=False):
    """The definition by dense matrices; ``ahead``: x is [A X || X]."""
    h = x
    if ahead:
        h = layer_norm(h @ model.encoder.map.weight.T, model.encoder.norm).relu()
    for i, block in enumerate(model.layers):
        h = torch.cat([s @ h, h], 1) @ block.conv.map.weight.T
        if i + 1 < len(model.layers):
            h = layer_norm(h, block.norm).relu()
    return h


def operator(a, loops, extra=0.0):
    a = a + torch.eye(len(a), dtype=a.dtype) if loops else a
    a = a / a.sum(1, keepdim=True).clamp(min=1)
    return a + extra * a.diagonal().diag()


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_network_equals_its_dense_algebra(depth, loops, sixty, dense):
    torch.manual_seed(0)
    model = uneven(ClusterGCN(sixty.shape, hidden=6, depth=depth, self_loops=loops)).eval()
    assert model.need == Need(depth, "row", "diag" if loops else "none")
    want = dense_network(model, operator(dense(sixty.graph), loops), sixty.x)
    torch.testing.assert_close(model(whole_batch(sixty, model.need)).logits, want, **EXACT)


@pytest.mark.parametrize("extra", [0.0, 1.0, 1e-4])
def test_the_papers_network_under_its_sampler(extra, sixty, dense):
    """[A X || X] first, without a hop; the batch's own operator, its diagonal enhanced, above."""
    torch.manual_seed(0)
    sampler = Cluster(6, 2, diagonal=extra, precalc=True)
    model = uneven(ClusterGCN(sampler.shape(sixty), hidden=6, depth=3)).eval()
    model.need = sampler.refine(model.need)
    assert model.need == Need(2, "row", "diag", stem=True, diagonal=extra)
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    a = dense(sixty.graph)
    for index in sampler.plan(torch.arange(60), Key(0, "plan")):
        part = sampler.sample(index, Key(0, "sample"))
        n = part.nodes
        s = operator(a[n][:, n], True, extra)
        x = torch.cat([(a @ sixty.x)[n], sixty.x[n]], 1)  # layer 0 has lost no edge
        torch.testing.assert_close(model(part).logits, dense_network(model, s, x, True), **EXACT)
    inference = Full()
    inference.view = sampler.view
    x = torch.cat([a @ sixty.x, sixty.x], 1)
    want = dense_network(model, operator(a, True, extra), x, True)
    torch.testing.assert_close(inference(model, sixty, torch.arange(60), HERE), want, **EXACT)


@pytest.mark.parametrize("d_out", [2, 9])
def test_layer_gradient(check_gradient, features, d_out):
    check_gradient(ClusterConv(5, d_out, 0.0).double(), Need(1, "row", "diag"), features)


def test_six_nodes_by_hand(layer, six):
    x = torch.tensor([[1.0], [10], [100], [1000], [10000], [7]], dtype=torch.float64)
    conv = ClusterConv(1, 1, 0.0).double()
    conv.map.weight.data = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    got = layer(conv, Need(1, "row", "diag"), x).squeeze(1)
    # in-neighbours: 0 <- 1 2 4, 1 <- 0, 2 <- 0 1 3 4, 3 <- 2, 4 <- 3, 5 alone
    means = [10111 / 4, 11 / 2, 11111 / 5, 1100 / 2, 11000 / 2, 7]
    torch.testing.assert_close(got, 2 * torch.tensor(means, dtype=torch.float64) - x.squeeze(1))


@pytest.mark.parametrize(
    "options", [{}, {"depth": 2, "norm": "none"}, {"self_loops": False, "act": "elu"}], ids=str
)
def test_model(check_model, options):
    check_model(lambda shape: ClusterGCN(shape, hidden=9, **options))


def test_sparse_features_are_dense_ones(sixty):
    data = sixty.with_(x=sixty.x * (sixty.x > 0.4))
    sparse = data.with_(x=SparseRows.from_dense(data.x))
    for precalc in (False, True):
        sampler = Cluster(6, 2, precalc=precalc)
        torch.manual_seed(0)
        model = ClusterGCN(sampler.shape(data), hidden=6, depth=2).double()
        said = []
        for given in (data, sparse):
            inference = Full()
            inference.view = sampler.view
            said.append(inference(model, given, torch.arange(60), HERE))
        torch.testing.assert_close(*said)


def test_inference_by_layers_and_by_neighbourhood_is_the_whole_pass(sixty):
    sampler = Cluster(6, 2, diagonal=0.7, precalc=True)
    torch.manual_seed(0)
    model = ClusterGCN(sampler.shape(sixty), hidden=6, depth=3).double()
    model.need, rows, said = sampler.refine(model.need), torch.tensor([3, 59, 17, 3]), []
    for inference in (Full(), Layerwise(chunk=13), Query(chunk=2)):
        inference.view = sampler.view
        said.append(inference(model, sixty, rows, HERE))
    torch.testing.assert_close(said[1], said[0], **EXACT)
    torch.testing.assert_close(said[2], said[0], **EXACT)


def test_dropout_stands_on_a_node_beside_its_neighbourhood(sixty):
    sampler = Cluster(2, 2, precalc=True)
    model = ClusterGCN(sampler.shape(sixty), hidden=40, depth=3, dropout=0.5).double()
    sampler.prepare(sixty, model.need, Key(0, "prepare"))
    shares = []
    for module in (model.encoder.map, *(block.conv.map for block in model.layers)):
        module.register_forward_pre_hook(
            lambda module, given: shares.append((given[0] == 0).double().mean().item())
        )
    with torch.no_grad():
        batch = sampler.sample(torch.tensor([0, 1]), Key(0, "sample"))
        model(batch)
        assert all(0.4 < share < 0.9 for share in shares)
        shares.clear()
        model.eval()(batch)
    assert len(shares) == 3
    assert shares[0] < 0.1


def test_dropout_within_a_layer_reaches_neither_histories_nor_the_quiet_channel(sixty):
    torch.manual_seed(0)
    model = ClusterGCN(sixty.shape, hidden=6, depth=3, dropout=0.4).double()
    gas = GAS(parts=6, batch_parts=2)
    gas.prepare(sixty, model.need, Key(0, "prepare"))
    batch = gas.sample(torch.tensor([0, 3]), Key(0, "sample"))
    out = model.train()(gas.bind(batch, HERE, write=True))
    gas.commit()
    torch.testing.assert_close(gas.kept.pull(1, batch.ids), out.levels[1].detach(), **EXACT)
    vr = VRGCN(fanouts=-1, batch_size=60, mode="cvd", preprocess="never")
    vr.prepare(sixty, model.need, Key(0, "prepare"))
    batch = vr.bind(vr.sample(sixty.splits["train"], Key(0, "sample")), HERE, write=False)
    want = Full()(model, sixty, batch.ids, HERE)
    mu = model.train()(batch.__class__(**{**vars(batch), "rows": batch.rows + 1})).logits
    torch.testing.assert_close(mu, want, **EXACT)


def test_count_of_the_papers_networks_by_the_formula(parameters):
    """PPI's: no biases; offset and scale of every norm, which the last layer lacks."""
    maps = 2 * 50 * 2048 + 3 * 2 * 2048 * 2048 + 2 * 2048 * 121
    for shape in (Shape(50, 121), Shape(100, 121, aggregated=True)):
        model = ClusterGCN(shape, hidden=2048, depth=5)
        assert parameters(model) == maps + 4 * 2 * 2048
        assert len(model.layers) == 5 - shape.aggregated
        assert sum(p.numel() for p in model.first()) == 2 * 50 * 2048 + 2 * 2048


def test_traits_and_refusals():
    assert ClusterGCN.declare() == (
        {Trait.LAYERS, Trait.LINEAR, Trait.SITES}, ({Trait.HOPS},)
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"architecture\.depth=1: with sampler\.precalc=true"):
        ClusterGCN(Shape(8, 3, aggregated=True), depth=1)
    changes = {"sampler": {"precalc": True}, "architecture": {"depth": 1}}
    with pytest.raises(CompositionError, match=r"architecture\.depth=2 or more"):
        toy(changes, sampler="cluster", architecture="cluster_gcn")
    changes = {"sampler": {"diagonal": 1.0}, "architecture": {"self_loops": False}}
    with pytest.raises(CompositionError, match=r"sampler\.diagonal=1: .*no diagonal"):
        toy(changes, sampler="cluster", architecture="cluster_gcn")
