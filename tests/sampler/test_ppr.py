from dataclasses import replace

import pytest
import torch
from compositions import quiet_metrics, toy, train

from gnnscale.architecture.pprgo import PPRGo
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.push import push
from gnnscale.graph.whole import training_graph
from gnnscale.sampler import ppr
from gnnscale.sampler.ppr import Ppr
from gnnscale.train.predict import Own

KEY, ONE, CPU = Key(0, "prepare"), Need(1), torch.device("cpu")
NORMS = ("row", "sym", "col")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(sixty):
    torch.manual_seed(0)
    return PPRGo(sixty.shape, hidden=8).double().eval()


def made(data, *arguments, need=ONE, **more):
    sampler = Ppr(*arguments, **more)
    sampler.prepare(data, need, KEY)
    return sampler


def operator(a, norm):
    d = a.sum(1)
    inverse = torch.where(d > 0, 1 / d.clamp(min=1e-300), 0)
    return {"row": inverse[:, None] * a, "col": a * inverse,
            "sym": inverse.sqrt()[:, None] * a * inverse.sqrt()}[norm]  # fmt: skip


def pagerank(a, norm, alpha):
    eye = torch.eye(len(a), dtype=a.dtype)
    return alpha * torch.linalg.inv(eye - (1 - alpha) * operator(a, norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_cut_is_the_dense_pagerank_of_the_mlp(norm, weighted, sixty, dense, model):
    """Training batches and predictions of both kinds: logits of PPNP for each operator."""
    half = torch.rand(60, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weight = (half + half.T)[sixty.graph.dst.long(), sixty.graph.indices.long()]
    data = sixty.with_(weight=weight if weighted else None)
    a = dense(data.graph, data.weight)
    want = pagerank(a, norm, 0.25) @ model.encode(data.x)[-1]
    options = {"eps": 1e-13, "top_k": 1000, "normalize": norm, "steps": 100}
    sampler = made(data, **options)
    index = data.splits["train"]
    torch.testing.assert_close(model(sampler.sample(index, KEY)).logits, want[index])
    rows = torch.tensor([59, 0, 31, 31, 2, 58])
    for predict in ("power", "push"):
        got = Own(made(data, **options, predict=predict))(model, data, rows, CPU)
        torch.testing.assert_close(got, want[rows], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_power_iteration_converges_at_the_rate_of_alpha(norm, sixty, dense, model):
    alpha = 0.25
    want = pagerank(dense(sixty.graph), norm, alpha) @ model.encode(sixty.x)[-1]
    d = sixty.graph.in_degree.double().clamp(min=1).unsqueeze(1)
    scale = {"sym": 1, "row": d.sqrt(), "col": 1 / d.sqrt()}[norm]  # all are S in these coordinates
    before = None
    for steps in range(12):
        sampler = made(sixty, alpha, normalize=norm, steps=steps)
        got = Own(sampler)(model, sixty, torch.arange(60), CPU)
        if steps == 0:
            torch.testing.assert_close(got, model.encode(sixty.x)[-1])  # it starts at H, not at 0
        error = (scale * (got - want)).norm()
        assert before is None or error <= (1 - alpha) * before + 1e-12
        before = error
    assert error > 1e-6, "the rate is seen, not the end"


def test_a_batch_is_its_rows_of_the_table(sixty):
    sampler = made(sixty, 0.25, 1e-3, 5, "row")
    index = sixty.splits["train"][[3, 0, 7]]
    batch = sampler.sample(index, Key(4, "sample", 2, 1))
    (hop,) = batch.hops
    ranks = push(sixty.graph, index, 0.25, 1e-3, 5)
    assert torch.equal(batch.nodes[batch.rows], index)
    assert torch.equal(batch.ids, index)
    assert torch.equal(batch.y, sixty.y[index])
    assert batch.labeled.all()
    assert batch.key == (4, 2, 1)
    assert torch.equal(batch.x, sixty.x[batch.nodes])
    assert hop.graph.n_dst == 3
    for i, r in enumerate(batch.rows.tolist()):
        a, b = hop.graph.indptr[r], hop.graph.indptr[r + 1]
        c, d = ranks.indptr[i], ranks.indptr[i + 1]
        assert torch.equal(batch.nodes[hop.graph.indices[a:b].long()], ranks.nodes[c:d].long())
        assert torch.equal(hop.weight[a:b], ranks.scores[c:d])
        assert b - a <= 5


def test_logits_do_not_depend_on_batch_mates(sixty, model):
    sampler = made(sixty)
    seeds = sixty.splits["train"]
    every = model(sampler.sample(seeds, KEY)).logits
    alone = torch.cat([model(sampler.sample(s, KEY)).logits for s in seeds.split(1)])
    torch.testing.assert_close(alone, every, rtol=1e-12, atol=1e-12)
    twice = model(sampler.sample(seeds[[2, 2, 0]], KEY)).logits
    torch.testing.assert_close(twice, every[[2, 2, 0]], rtol=1e-12, atol=1e-12)


def test_order_is_new_every_epoch_unless_told(sixty):
    seeds = sixty.splits["train"]
    for shuffle in (True, False):
        sampler = made(sixty, batch_size=8, shuffle=shuffle)
        a, b = (torch.cat(sampler.plan(seeds, Key(0, "plan", e))) for e in (0, 1))
        assert torch.equal(a.sort().values, seeds.sort().values)
        assert torch.equal(a, seeds) is not shuffle
        assert torch.equal(a, b) is not shuffle


def test_seeds_beyond_the_training_nodes_get_rows_when_planned(sixty, model):
    sampler = made(sixty)
    few = model(sampler.sample(sixty.splits["train"], KEY)).logits
    assert sampler.table.done.sum() == 20
    sampler.plan(torch.arange(60), KEY)
    assert sampler.table.done.all()
    torch.testing.assert_close(model(sampler.sample(sixty.splits["train"], KEY)).logits, few)
    fresh = made(sixty.with_(splits={**sixty.splits, "train": torch.arange(60)}))
    assert torch.equal(sampler.table.rows.indptr, fresh.table.rows.indptr)
    assert torch.equal(sampler.table.rows.indices, fresh.table.rows.indices)
    assert torch.equal(sampler.table.scores, fresh.table.scores)


def test_rows_are_kept_by_content_and_options(sixty, folder, monkeypatch):
    first = made(sixty)
    for more in ({"alpha": 0.3}, {"eps": 1e-3}, {"top_k": 4}):
        made(sixty, **more)
    made(sixty.with_(weight=torch.ones(sixty.graph.n_edges)))
    assert len(list(folder.iterdir())) == 5
    made(sixty, cache=False, alpha=0.7)
    assert len(list(folder.iterdir())) == 5
    monkeypatch.setattr(ppr, "push", lambda *a, **k: pytest.fail("pushed again"))
    again = made(sixty.with_())
    assert torch.equal(again.table.scores, first.table.scores)
    made(sixty, normalize="row")  # the norm is applied afterwards


def test_inductive_predictions_see_the_whole_graph_and_training_does_not(sixty, model, dense):
    inductive = replace(sixty, inductive=True)
    seen, ids = training_graph(inductive)
    a = dense(sixty.graph)
    h = model.encode(sixty.x)[-1]
    for predict in ("power", "push"):
        sampler = made(seen, eps=1e-13, top_k=99, steps=99, predict=predict)
        inside = pagerank(a[ids][:, ids], "sym", 0.25) @ h[ids]
        got = model(sampler.sample(torch.arange(20), KEY)).logits
        torch.testing.assert_close(got, inside, rtol=1e-10, atol=1e-10)
        whole = Own(sampler)(model, inductive, torch.arange(60), CPU)
        torch.testing.assert_close(whole, pagerank(a, "sym", 0.25) @ h, rtol=1e-9, atol=1e-9)


def test_no_edges_isolated_nodes_and_no_seeds(sixty, model):
    nothing = torch.empty(0, dtype=torch.int64)
    h = model.encode(sixty.x)[-1]
    bare = sixty.with_(graph=Adjacency.from_edges(nothing, nothing, 60))
    for data, nodes in ((bare, torch.arange(60)), (sixty, torch.tensor([58, 59]))):
        sampler = made(data)
        sampler.plan(nodes, KEY)
        torch.testing.assert_close(model(sampler.sample(nodes, KEY)).logits, 0.25 * h[nodes])
        want = 0.25 * h[nodes]
        got = Own(made(data, steps=1))(model, data, nodes, CPU)
        torch.testing.assert_close(got, want)
        assert model(sampler.sample(nothing, KEY)).logits.shape == (0, 4)
        for predict in ("power", "push"):
            own = Own(made(data, predict=predict))
            assert own(model, data, nothing, CPU).shape == (0, 4)


def test_a_model_without_hops_gets_the_seeds_alone(sixty):
    sampler = made(sixty, need=Need(0))
    batch = sampler.sample(torch.tensor([4, 2]), KEY)
    assert batch.hops == ()
    assert torch.equal(batch.x[batch.rows], sixty.x[[4, 2]])
    (part,) = sampler.batches(sixty, Need(0), torch.tensor([4, 2]))
    assert torch.equal(part.x[part.rows], sixty.x[[4, 2]])


def test_bad_values_are_refused(sixty):
    for alpha in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(UsageError, match=r"sampler\.alpha=.*0 < alpha < 1"):
            Ppr(alpha)
    with pytest.raises(UsageError, match="asks for 2 hops"):
        Ppr().check(Need(2))
    with pytest.raises(UsageError, match="must not be negative"):
        made(sixty.with_(weight=torch.full((sixty.graph.n_edges,), -1.0)))


@pytest.mark.parametrize(
    "chosen", [("ppr", "pprgo"), ("precompute", "sgc")], ids=lambda chosen: chosen[0]
)
def test_threads_that_sample_ahead_change_nothing(chosen, tmp_path):
    sampler, architecture = chosen
    for workers in (0, 2):
        changes = {"hardware": {"workers": workers}, "sampler": {"batch_size": 5}}
        train(toy(changes, sampler=sampler, architecture=architecture), tmp_path / str(workers))
    a, b = (quiet_metrics(tmp_path / w / "seed-0") for w in "02")
    assert a == b
