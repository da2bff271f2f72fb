from dataclasses import replace

import pytest
import torch
from torch import nn

from gnnscale.architecture.appnp import APPNP
from gnnscale.architecture.cluster_gcn import ClusterGCN
from gnnscale.architecture.edgeconv import DGCNN
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gatv2 import GATv2
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gcnii import GCNII
from gnnscale.architecture.gen import GEN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.gine import GINE
from gnnscale.architecture.high_order import HighOrder
from gnnscale.architecture.lgcn import LGCN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.mpnn import MPNN
from gnnscale.architecture.ogb_gcn import OGBGCN
from gnnscale.architecture.pna import PNA
from gnnscale.architecture.sage import SAGE
from gnnscale.architecture.sgc import SGC
from gnnscale.architecture.shadow_gnn import ShadowGNN
from gnnscale.binding import resolve
from gnnscale.catalog import Catalog
from gnnscale.core.data import Shape
from gnnscale.core.hop import AGGREGATORS, Hop, Need
from gnnscale.core.traits import Trait
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.whole import whole_batch
from gnnscale.sampler._base import Sampler
from gnnscale.train.predict import Full, Layerwise, Own

CPU = torch.device("cpu")
EGC_M = ["symadd", "max", "mean"]
MODELS = {
    "mlp": lambda s: MLP(s, hidden=8, depth=3, norm="batch"),
    "gcn": lambda s: GCN(s, hidden=8, depth=3, norm="batch"),
    "gcn_stem": lambda s: GCN(s, hidden=8, stem=True, residual=True, norm="layer"),
    "lgcn": lambda s: LGCN(s, hidden=8),
    "edgeconv": lambda s: DGCNN(s, hidden=8),
    "sage_mean": lambda s: SAGE(s, hidden=8),
    "sage_max": lambda s: SAGE(s, hidden=8, aggr="max"),
    "sage_gcn": lambda s: SAGE(s, hidden=8, aggr="gcn"),
    "gat": lambda s: GAT(s, hidden=8, heads=4, out_heads=2, depth=3),
    "gin": lambda s: GIN(s, hidden=8),
    "sgc": lambda s: SGC(s, depth=3),
    "appnp": lambda s: APPNP(s, hidden=8, steps=3),
    "gatv2": lambda s: GATv2(s, hidden=8, heads=4),
    "gcnii": lambda s: GCNII(s, hidden=8, depth=3),
    "gen": lambda s: GEN(s, hidden=8),
    "gcn_pre": lambda s: GCN(s, hidden=8, stem=True, order="pre", norm="layer"),
    "gine": lambda s: GINE(s, hidden=8),
    "mpnn": lambda s: MPNN(s, hidden=8),
    "ogb_gcn": lambda s: OGBGCN(s, hidden=8),
    "pna": lambda s: PNA(s, hidden=8, towers=2),
    "high_order": lambda s: HighOrder(s, hidden=8, orders=[1, 0, 1]),
    "cluster_gcn": lambda s: ClusterGCN(s, hidden=8),
    "shadow_gnn": lambda s: ShadowGNN(s, hidden=8),
    "egc_s": lambda s: EGC(s, hidden=8, heads=4),
    "egc_m": lambda s: EGC(s, hidden=8, heads=4, bases=4, aggregators=EGC_M),
    "egc_all": lambda s: EGC(s, hidden=8, heads=2, aggregators=EGC_M, self_loops="all"),
    "egc_std": lambda s: EGC(s, hidden=8, heads=2, aggregators=["std", "min"]),
}


def trained(name, data) -> nn.Module:
    """A model whose batch statistics are not the initial ones, in training mode."""
    torch.manual_seed(0)
    model = MODELS[name](data.shape).double().train()
    model(whole_batch(data, model.need))
    return model


def test_every_architecture_of_layers_is_here():
    classes = [resolve(o.target, frozenset())
               for o in Catalog.load().options("architecture").values()]  # fmt: skip
    layered = {c.__module__ for c in classes if Trait.LAYERS in c.gives}
    listed = {type(make(Shape(7, 4))).__module__ for make in MODELS.values()}
    assert layered - listed == {"gnnscale.architecture.pprgo"} & layered
    assert listed - layered <= {"gnnscale.architecture.sgc"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [1, 7, 59, 60, 10_000])
def test_layerwise_equals_full(sixty, name, chunk):
    model = trained(name, sixty)
    rows = torch.arange(60)
    want = Full()(model, sixty, rows, CPU)
    got = Layerwise(chunk)(model, sixty, rows, CPU)
    assert want.shape == (60, 4)
    assert want.std() > 0.01
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
@pytest.mark.parametrize("name", ["mlp", "gcn", "gat", "gcn_stem"])
def test_rows_are_chosen_in_their_order(sixty, make, name):
    model, inference = trained(name, sixty), make()
    everyone = inference(model, sixty, torch.arange(60), CPU)
    rows = torch.tensor([59, 0, 31, 31, 2, 58, 7, 8, 9, 10])
    torch.testing.assert_close(inference(model, sixty, rows, CPU), everyone[rows])
    nobody = inference(model, sixty, torch.empty(0, dtype=torch.int64), CPU)
    assert nobody.shape == (0, 4)


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
@pytest.mark.parametrize("training", [True, False])
def test_evaluates_without_dropout_and_puts_the_mode_back(sixty, make, training):
    model = trained("gat", sixty).train(training)
    inference, rows = make(), torch.arange(60)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (inference(model, sixty, rows, CPU) for _ in range(2))
    assert torch.equal(a, b)
    assert model.training is training
    assert all(m.training is training for m in model.modules())
    assert not a.requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        want = model.eval()(whole_batch(sixty, model.need)).logits
    torch.testing.assert_close(a, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
def test_the_mode_is_put_back_after_an_error(sixty, make):
    model = trained("gcn", sixty)
    with pytest.raises(IndexError):
        make()(model, sixty, torch.tensor([60]), CPU)
    assert model.training


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
def test_one_inference_serves_other_models_and_other_graphs(sixty, make):
    inference, rows = make(), torch.arange(60)
    twice = sixty.with_(x=2 * sixty.x)
    for data in (sixty, twice, sixty):
        for name in ("gcn", "gat", "sage_mean", "gcn", "egc_m", "mlp"):
            model = trained(name, data)
            want = make()(model, data, rows, CPU)
            assert torch.equal(inference(model, data, rows, CPU), want), name


def test_the_batch_is_built_once_per_graph(sixty, monkeypatch):
    built = []

    def counted(*args):
        built.append(args)
        return whole_batch(*args)

    monkeypatch.setattr("gnnscale.train.predict.whole_batch", counted)
    model, inference = trained("gcn", sixty), Full()
    for _ in range(3):
        inference(model, sixty, torch.arange(60), CPU)
    assert len(built) == 1


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
@pytest.mark.parametrize("name", ["gat", "sage_max", "gin", "egc_m"])
def test_a_graph_that_was_inferred_on_first_can_be_trained_on(sixty, make, name):
    model = trained(name, sixty).eval()
    fresh = sixty.with_(graph=type(sixty.graph)(sixty.graph.indptr, sixty.graph.indices))
    make()(model, fresh, torch.arange(60), CPU)
    # whatever the graph keeps (destinations, transpose) must be fit for autograd
    hop = whole_hop(fresh.graph, Need(1), torch.float64)
    h = sixty.x.clone().requires_grad_()
    e = hop.edges(lambda a, b: (a * b).sum(1, keepdim=True), h, h)
    out = hop.reduce(lambda h: h.unsqueeze(1), h, weight=hop.softmax(e))
    (out.sum() + hop.reduce(lambda h: h, h, "max").sum()).backward()
    assert h.grad.abs().sum() > 0
    whole = whole_batch(fresh, model.need)
    model.train()(whole).logits.sum().backward()


@pytest.mark.parametrize("op", AGGREGATORS)
@pytest.mark.parametrize("loops", ["diag", "edges"])
def test_pieces_of_a_hop_with_every_part(sixty, op, loops):
    base = whole_hop(sixty.graph, Need(1, "sym", loops), torch.float64)
    draw = torch.Generator().manual_seed(0)
    hop = Hop(
        base.graph, base.src, base.dst, diag=base.diag, degree=base.degree,
        weight=torch.rand(base.graph.n_edges, generator=draw, dtype=torch.float64),
        edge=torch.arange(base.graph.n_edges), segment=torch.arange(60) // 10,
    )  # fmt: skip
    want = hop.reduce(lambda h: h, sixty.x, op)
    rows, edges = [], []
    for piece, src in Layerwise(7).pieces(hop):
        assert torch.equal(piece.segment, src // 10)
        assert torch.equal(piece.degree, base.degree[src])
        edges += piece.edge.tolist()
        rows.append(piece.reduce(lambda h: h, sixty.x[src], op))
    torch.testing.assert_close(torch.cat(rows), want, rtol=1e-12, atol=1e-12)
    assert edges == list(range(base.graph.n_edges))


def test_needs():
    assert Layerwise.needs == ({Trait.LAYERS},)
    assert Full.needs == ()


# -- levels shown, and predictions by extraction ---------------------------------------------------


class Noting(Hop):
    """A hop that notes what it reads."""

    drops = False

    def lift(self, h):
        self.seen.append(h)
        return h


@pytest.mark.parametrize("make", [Full, lambda: Layerwise(7)])
@pytest.mark.parametrize("name", ["gcn", "gcn_stem", "gat", "egc_m"])
def test_an_observer_sees_what_every_hop_reads(sixty, make, name):
    model, rows, shown = trained(name, sixty), torch.arange(60), []
    inference = make()
    want = inference(model, sixty, rows, CPU)
    got = inference.observed(model, sixty, rows, CPU, lambda *level: shown.append(level))
    assert torch.equal(got, want)
    assert inference.observe is None
    whole = whole_batch(sixty, model.need)
    seen, hops = [], []
    for hop in whole.hops:
        hops.append(Noting(**{f: getattr(hop, f) for f in hop.__dataclass_fields__}))
        object.__setattr__(hops[-1], "seen", seen)
    with torch.no_grad():
        model.eval()(replace(whole, hops=tuple(hops)))
    assert [level for level, _, _ in shown] == list(range(model.need.depth))
    for (_, ids, h), true in zip(shown, seen, strict=True):
        torch.testing.assert_close(h, true[ids], rtol=1e-10, atol=1e-10)
        assert len(h) == 60
        assert not h.requires_grad


class Extraction(Sampler):
    """The whole graph as every batch, seven seeds at a time."""

    def batches(self, data, need, rows):
        whole = whole_batch(data, need)
        for r in rows.split(7):
            yield replace(whole, rows=r, ids=r, y=whole.y[r], labeled=whole.labeled[r])


def test_own_inference_is_the_batches_of_the_sampler_in_order(sixty):
    model, rows = trained("gat", sixty), torch.randperm(60)
    torch.testing.assert_close(Own(Extraction())(model, sixty, rows, CPU),
                               Full()(model, sixty, rows, CPU))  # fmt: skip
    assert model.training
    assert Own(Extraction())(model, sixty, rows[:0], CPU).shape == (0, 4)
