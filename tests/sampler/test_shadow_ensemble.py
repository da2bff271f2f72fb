from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from compositions import CATALOG, plan, toy, train

from gnnscale import compose, finished
from gnnscale.architecture._subgraph import Ensemble
from gnnscale.architecture.shadow_gnn import ShadowGNN
from gnnscale.core.data import Shape
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.random import Key
from gnnscale.graph.whole import training_graph
from gnnscale.sampler.shadow import Shadow, ShadowKhop
from gnnscale.sampler.shadow_ensemble import ShadowEnsemble
from gnnscale.train.predict import Own

EXACT = {"rtol": 1e-10, "atol": 1e-10}
BRANCHES = [{"ppr": {"k": 9, "threshold": 0.0}}, {"khop": {"depth": 2, "budget": 3}},
            {"khop": {"depth": 2, "budget": 3}}]  # fmt: skip
KEY = Key(0, "sample", 1, 2)


def network(sampler, data, **options):
    torch.manual_seed(0)
    model = ShadowGNN(sampler.shape(data), hidden=6, depth=2, **options).double()
    sampler.prepare(data, model.need, Key(0, "prepare"))
    return model


def test_views_are_what_each_extractor_gives_alone(sixty):
    sampler = ShadowEnsemble(BRANCHES, hop_features=True)
    model, roots = network(sampler, sixty), torch.arange(0, 60, 7)
    batch = sampler.sample(roots, KEY)
    alone = [Shadow(k=9, threshold=0.0, hop_features=True),
             *(ShadowKhop(depth=2, budget=3, hop_features=True) for _ in range(2))]  # fmt: skip
    assert len(batch.views) == 2
    for number, (extractor, view) in enumerate(zip(alone, (batch, *batch.views), strict=True)):
        extractor.purpose = f"shadow {number}"
        extractor.prepare(sixty, model.need, Key(0, "prepare"))
        want = extractor.sample(roots, KEY)
        assert torch.equal(view.nodes, want.nodes)
        assert torch.equal(view.x, want.x)
        assert torch.equal(view.hops[0].graph.indices, want.hops[0].graph.indices)
        assert torch.equal(view.nodes[view.rows], roots)
        assert torch.equal(view.ids, roots)
    # two extractors that are alike draw differently
    assert not torch.equal(batch.views[0].nodes, batch.views[1].nodes)


def test_the_ensemble_by_its_formula():
    """Y = sum_i w_i X_i, w = softmax_i of q . act(W X_i + b); one root and branch at a time."""
    torch.manual_seed(0)
    ensemble = Ensemble(4).double()
    torch.nn.init.uniform_(ensemble.q)
    branches = [torch.randn(5, 4, dtype=torch.float64) for _ in range(3)]
    got, w = ensemble(branches), ensemble.weights(torch.stack(branches, 1))
    torch.testing.assert_close(w.sum(1), torch.ones(5, dtype=torch.float64))
    for v in range(5):
        score = []
        for x in branches:
            z = ensemble.map.weight @ x[v] + ensemble.map.bias
            score.append(ensemble.q @ torch.where(z > 0, z, 0.2 * z))
        e = torch.stack(score).exp()
        want = sum(e[i] / e.sum() * branches[i][v] for i in range(3))
        torch.testing.assert_close(got[v], want, **EXACT)
    leaves = [x.requires_grad_() for x in branches]
    assert torch.autograd.gradcheck(lambda *x: ensemble(list(x)), leaves)


@pytest.mark.parametrize("readout", ["center", "max"])
def test_logits_are_the_classified_ensemble_of_the_branches(readout, sixty):
    sampler = ShadowEnsemble(BRANCHES, hop_features=True, readout=readout)
    model = network(sampler, sixty, residue="sum").eval()
    batch = sampler.sample(torch.arange(0, 60, 7), KEY)
    alone = ShadowGNN(replace(sampler.shape(sixty), views=0), hidden=6, depth=2, residue="sum")
    alone, found = alone.double().eval(), []
    alone.head = torch.nn.Identity()
    own = {k: v for k, v in model.state_dict().items()
           if k.split(".")[0] not in ("branches", "ensemble", "head")}  # fmt: skip
    states = [own, *(b.state_dict() for b in model.branches)]
    for state, view in zip(states, (batch, *batch.views), strict=True):
        alone.load_state_dict(state)
        found.append(F.normalize(alone(replace(view, views=())).logits))
    want = model.head.last(model.ensemble(found))
    torch.testing.assert_close(model(batch).logits, want, **EXACT)


def test_branches_that_are_one_are_that_one(sixty):
    """The same subgraph twice with the same weights: the ensemble is the mean of equals."""
    twice = [{"ppr": {"k": 9}}, {"ppr": {"k": 9}}]
    sampler = ShadowEnsemble(twice)
    model = network(sampler, sixty).eval()
    batch = sampler.sample(torch.arange(60), KEY)
    assert torch.equal(batch.nodes, batch.views[0].nodes)
    (branch,) = model.branches
    branch.layers.load_state_dict(model.layers.state_dict())
    one = ShadowGNN(sixty.shape, hidden=6, depth=2).double().eval()
    one.layers.load_state_dict(model.layers.state_dict())
    one.head.load_state_dict(model.head.state_dict())
    want = one(replace(batch, views=())).logits
    torch.testing.assert_close(model(batch).logits, want, **EXACT)


def test_batch_mates_do_not_change_a_root_and_evaluation_is_the_same_at_every_call(sixty):
    sampler = ShadowEnsemble(BRANCHES, batch_size=7)
    model = network(sampler, sixty).eval()
    whole = model(sampler.sample(torch.arange(60), KEY)).logits
    torch.testing.assert_close(model(sampler.sample(torch.tensor([31, 4]), KEY)).logits,
                               whole[[31, 4]], **EXACT)  # fmt: skip
    inference, here = Own(sampler), torch.device("cpu")
    rows = torch.tensor([9, 9, 58, 0, 1, 2, 3, 4])
    said = inference(model, sixty, rows, here)
    assert torch.equal(said, inference(model, sixty, rows, here))
    torch.testing.assert_close(said[0], said[1])


def test_every_branch_and_the_ensemble_learn(sixty):
    sampler = ShadowEnsemble(BRANCHES, readout="mean", hop_features=True, drop_edge=0.2)
    model = network(sampler, sixty)
    out = model(sampler.sample(sixty.splits["train"], KEY))
    F.cross_entropy(out.logits, sixty.y[sixty.splits["train"]]).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_training_extracts_from_the_training_graph(sixty):
    seen, ids = training_graph(replace(sixty, inductive=True))
    sampler = ShadowEnsemble(BRANCHES)
    network(sampler, seen)
    batch = sampler.sample(torch.arange(20), KEY)
    for view in (batch, *batch.views):
        assert torch.equal(view.x, sixty.x[ids[view.nodes]])


def test_a_run_from_training_to_predictions(tmp_path):
    changes = {
        "sampler": {"branches": BRANCHES, "readout": "max", "hop_features": True, "batch_size": 7},
        "architecture": {"hidden": 8, "depth": 2, "layer": "gat", "residue": "max"},
    }
    checked = toy(changes, sampler="shadow_ensemble", architecture="shadow_gnn")
    (record,) = train(checked, tmp_path / "run")
    assert 0 < record.metric["valid"] <= 1
    out = finished.predict(
        tmp_path / "run", [], None, tmp_path / "p.csv", CATALOG, frozenset()
    )  # fmt: skip
    assert len(out.read_text().splitlines()) == 61
    run = compose.build(checked, 0, tmp_path / "other")
    assert len(run.model.branches) == 2
    shape = run.sampler.shape(run.data)
    d = run.data.shape.log_degree
    assert shape == Shape(15, 3, readout="max", codes=7, views=2, log_degree=d, nodes=60)


@pytest.mark.parametrize("architecture", ["gcn", "gat", "mlp", "high_order"])
def test_models_of_one_view_are_refused(architecture):
    text = rf"architecture={architecture}: reads one view .*gives 2; change to architecture=shadow"
    with pytest.raises(CompositionError, match=text):
        plan(sampler="shadow_ensemble", architecture=architecture)


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        ([{"ppr": {}}], "two or more"),
        ([{"ppr": {}}, {}], "each with one extractor"),
        ([{"ppr": {}, "khop": {}}, {"khop": {}}], "each with one extractor"),
        ([{"ppr": {}}, {"walk": {}}], "extra inputs are not permitted"),
        ([{"ppr": {"depth": 2}}, {"khop": {}}], "extra inputs are not permitted"),
        ([{"ppr": {"threshold": 2.0}}, {"khop": {}}], "less than or equal to 1"),
        ([{"ppr": {}}, {"khop": {"budget": 0}}], r"sampler\.budget=0: no number"),
    ],
)
def test_branches_that_are_no_ensemble(branches, said):
    with pytest.raises(CompositionError, match=said):
        plan({"sampler": {"branches": branches}}, sampler="shadow_ensemble",
             architecture="shadow_gnn")  # fmt: skip


def test_one_branch_is_refused_by_the_class_itself():
    with pytest.raises(UsageError, match=r"sampler\.branches=\[.*or choose sampler=shadow"):
        ShadowEnsemble([{"ppr": {}}])
