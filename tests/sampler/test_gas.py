import copy
from dataclasses import replace

import pytest
import torch
from compositions import quiet_metrics, toy, train
from torch import nn

from gnnscale import compose
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.mlp import MLP
from gnnscale.architecture.sage import SAGE
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler.gas import GAS
from gnnscale.train import checkpoint
from gnnscale.train.objective import Objective
from gnnscale.train.predict import Full as Inference
from gnnscale.train.predict import Layerwise

KEY, CPU = Key(3, "prepare"), torch.device("cpu")
MAKE = {
    "gcn": lambda s, depth=3: GCN(s, depth=depth, hidden=6),
    "sage": lambda s, depth=3: SAGE(s, depth=depth, hidden=6),
    "gat": lambda s, depth=3: GAT(s, depth=depth, hidden=6, heads=2),
    "gin": lambda s, depth=3: GIN(s, depth=depth, hidden=6),
    "egc": lambda s, depth=3: EGC(s, depth=depth, hidden=8, heads=2),
    "egc_m": lambda s, depth=3: EGC(
        s, depth=depth, hidden=8, heads=2, aggregators=["symadd", "max", "mean"], self_loops="all"
    ),
    "sage_max": lambda s, depth=3: SAGE(s, depth=depth, hidden=6, aggr="max"),
    "gcn_stem": lambda s, depth=3: GCN(
        s, depth=depth, hidden=6, stem=True, residual=True, norm="batch"
    ),
}
every = pytest.mark.parametrize("name", MAKE)
changes = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


def data_of(sixty, weighted):
    if not weighted:
        return sixty
    draw = torch.Generator().manual_seed(4)
    return sixty.with_(weight=torch.rand(sixty.graph.n_edges, generator=draw).double() * 3 + 0.1)


def model_of(name, data, depth=3):
    torch.manual_seed(0)
    return MAKE[name](data.shape, depth).double()


def made(data, model, *arguments, **more):
    sampler = GAS(*arguments, **more)
    sampler.prepare(data, model.need, KEY)
    return sampler


def bound(sampler, parts, write=True):
    part = sampler.sample(torch.as_tensor(parts), Key(3, "sample", 1, 2))
    return sampler.bind(part, CPU, write)


def sweep(sampler, model, everyone):
    """One pass over all parts: logits [60, C], nothing trained."""
    logits = torch.empty(60, 4, dtype=torch.float64)
    with torch.no_grad():
        for index in sampler.plan(everyone, Key(3, "plan")):
            part = bound(sampler, index)
            logits[part.ids] = model(part).logits
            sampler.commit()
    return logits


def exact(model, data):
    model.eval()
    with torch.no_grad():
        return model(whole_batch(data, model.need)).logits


def refreshed(sampler, model, data, inference=None):
    inference = inference or Inference()
    inference.observed(model, data, torch.arange(0), CPU, sampler.refresh)


# -- the limits -----------------------------------------------------------------------------------


@every
@changes
@pytest.mark.parametrize("count", [1, 4])
def test_all_parts_are_full_batch_in_logits_loss_and_gradients(
    name, weighted, count, sixty, silence
):
    data = data_of(sixty, weighted)
    model, objective = model_of(name, data), Objective(data.task, {})
    silence(model)
    sampler = made(data, model, count, count)
    (index,) = sampler.plan(data.splits["train"], Key(3, "plan"))
    results = []
    for part in (whole_batch(data, model.need), bound(sampler, index)):
        out = model.train()(part)
        loss = objective(out, part)
        gradients = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        logits = torch.empty(60, 4, dtype=torch.float64)
        logits[part.ids] = out.logits
        results.append((logits, loss, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@every
@changes
def test_with_frozen_weights_every_sweep_makes_one_more_level_exact(name, weighted, sixty):
    data = data_of(sixty, weighted)
    model, everyone = model_of(name, data), torch.arange(60)
    wanted = exact(model, data)
    sampler = made(data, model, 6, 1, "random")
    found = [sweep(sampler, model, everyone) for _ in range(4)]
    for off in found[:2]:  # the last level reads histories that are not yet exact
        assert (off - wanted).abs().max() > 1e-4
    for right in found[2:]:
        torch.testing.assert_close(right, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gcn", "gat", "gin", "sage_max"])
def test_one_layer_is_exact_for_any_division(name, sixty):
    model = model_of(name, sixty, depth=1)
    for method in ("metis", "random"):
        sampler = made(sixty, model, 15, 2, method)
        found = sweep(sampler, model.eval(), torch.arange(60))
        torch.testing.assert_close(found, exact(model, sixty), rtol=1e-10, atol=1e-12)
        assert sampler.kept.tables == {}


@every
@pytest.mark.parametrize("inference", [Inference, lambda: Layerwise(chunk=17)])
def test_exact_histories_make_the_forward_exact_and_not_the_gradients(
    name, inference, sixty, silence
):
    model = model_of(name, sixty)
    silence(model)
    sampler = made(sixty, model, 5, 2)
    model.eval()
    refreshed(sampler, model, sixty, inference())
    assert sorted(sampler.kept.tables) == [1, 2]  # L - 1 of them
    whole, part = model(whole_batch(sixty, model.need)), bound(sampler, [0, 3])
    out = model(part)
    torch.testing.assert_close(out.logits, whole.logits[part.ids], rtol=1e-10, atol=1e-12)
    for level in (1, 2):
        torch.testing.assert_close(sampler.kept.tables[level], whole.levels[level].detach())
    parameters = [p for p in model.parameters() if p.requires_grad]
    both = [torch.autograd.grad(z.square().sum(), parameters)
            for z in (out.logits, whole.logits[part.ids])]  # fmt: skip
    assert any((a - b).abs().max() > 1e-6 for a, b in zip(*both, strict=True))


def test_halo_rows_get_no_gradient_and_are_neighbours_of_the_batch(sixty, dense):
    model = model_of("gcn", sixty)
    sampler = made(sixty, model, 6, 1)
    part = bound(sampler, [2])
    hop, n = part.hops[1], len(part.rows)
    a = dense(sixty.graph)
    around = (a[part.ids].sum(0) > 0).nonzero().squeeze(1).tolist()
    assert set(part.nodes[n:].tolist()) == set(around) - set(part.ids.tolist())
    assert torch.equal(part.nodes[:n], part.ids)
    h = torch.randn(n, 6, dtype=torch.float64, requires_grad=True)
    part.hops[0].lift(part.x)
    lifted = hop.lift(h)
    assert lifted.shape == (len(part.nodes), 6)
    assert (lifted[n:] == 0).all()  # never written
    (g,) = torch.autograd.grad(lifted.sum(), h)
    assert torch.equal(g, torch.ones_like(h))
    # the operator is that of the whole graph
    d = sixty.graph.in_degree.double() + 1
    assert torch.equal(hop.dst, d[part.ids].pow(-0.5))
    assert torch.equal(hop.src, d[part.nodes].pow(-0.5))


# -- what is written, and when --------------------------------------------------------------------


def test_rows_are_written_after_the_step_and_only_when_asked(sixty):
    model = model_of("gcn", sixty)
    sampler = made(sixty, model, 6, 1)
    model(bound(sampler, [1], write=False))
    sampler.commit()
    assert all((t == 0).all() for t in sampler.kept.tables.values())
    part = bound(sampler, [1])
    out = model.eval()(part)
    assert all((t == 0).all() for t in sampler.kept.tables.values())
    sampler.commit()
    for level in (1, 2):
        table = sampler.kept.tables[level]
        assert torch.equal(table[part.ids], out.levels[level].detach())
        others = torch.ones(60, dtype=torch.bool)
        others[part.ids] = False
        assert (table[others] == 0).all()


@pytest.mark.parametrize("stem", [False, True])
def test_the_push_precedes_the_dropout(stem, sixty):
    """With one layer below, what is pushed is the level as it is without that layer's dropout."""
    torch.manual_seed(0)
    model = GCN(sixty.shape, depth=2, hidden=32, dropout=0.5, stem=stem, residual=stem).double()
    if not stem:
        model.layers[0].drop_in = 0.0  # that one stands on the features, below the level
    sampler = made(sixty, model, 3, 1)
    model(bound(sampler, [1]))
    sampler.commit()
    with torch.no_grad():
        clean = model.eval()(bound(sampler, [1], write=False))
    ids = bound(sampler, [1]).ids
    table = sampler.kept.tables[1]
    torch.testing.assert_close(table[ids], clean.levels[1], rtol=1e-12, atol=1e-12)
    assert (table[ids] != 0).float().mean() > 0.4


@every
def test_normalisation_sees_batch_rows_only(name, sixty):
    model = model_of(name, sixty)
    sampler = made(sixty, model, 6, 1)
    part, seen = bound(sampler, [2]), []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.register_forward_pre_hook(lambda m, given: seen.append(len(given[0])))
    model.train()(part)
    assert len(part.nodes) > len(part.rows)
    assert set(seen) <= {len(part.rows)}
    assert bool(seen) == (name in ("gin", "egc", "egc_m", "gcn_stem"))


def test_half_precision_and_mapped_histories(sixty, tmp_path):
    model = model_of("gcn", sixty).eval()
    refs = made(sixty, model, 5, 2)
    refreshed(refs, model, sixty)
    for store in ("memory", "disk"):
        half, same = (GAS(5, 2, store=store, dtype=d) for d in ("float16", "full"))
        for sampler in (half, same):
            sampler.folder = tmp_path
            sampler.prepare(sixty, model.need, KEY)
            refreshed(sampler, model, sixty)
        for level in (1, 2):
            true = refs.kept.tables[level]
            assert half.kept.tables[level].dtype == torch.float16
            assert torch.equal(same.kept.tables[level], true)
            torch.testing.assert_close(
                half.kept.tables[level].double(), true, rtol=2**-11, atol=2**-24
            )
        wanted = model(bound(refs, [0, 1])).logits
        assert torch.equal(model(bound(same, [0, 1])).logits, wanted)
        off = (model(bound(half, [0, 1])).logits - wanted).abs().max()
        assert 0 < off < 2**-9 * wanted.abs().max()
    assert list(tmp_path.iterdir()) == []  # mapped files have no name


# -- runs -----------------------------------------------------------------------------------------

RUN = {"trainer": {"epochs": 6, "evaluate_every": 3}, "sampler": {"parts": 6, "batch_parts": 1},
       "dataset": {"nodes": 120}, "hardware": {"threads": 1},
       "architecture": {"depth": 3}}  # fmt: skip


def cut_short(folder, plan, epochs):
    """Train some epochs as a run that is killed then, in the middle of the next one."""
    run = compose.build(plan, 0, folder / "seed-0")
    run.prepare()
    run.start()
    run.model.train()
    for epoch in range(epochs + 1):
        for batch in run.batches(epoch):
            run.step(batch)
            if epoch == epochs:
                return
        run.close_epoch(0.0)


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("dtype", ["full", "float16"])
def test_a_killed_run_goes_on_bit_for_bit(store, dtype, tmp_path):
    """Epoch 2 starts from histories that training pushed, not from refreshed ones."""
    changes = copy.deepcopy(RUN)
    changes["sampler"] |= {"store": store, "dtype": dtype}
    plan = toy(changes, sampler="gas", architecture="gcn")
    (record,) = train(plan, tmp_path / "whole")
    cut_short(tmp_path / "cut", plan, 2)
    train(plan, tmp_path / "cut")
    one, other = tmp_path / "whole/seed-0", tmp_path / "cut/seed-0"
    assert quiet_metrics(one) == quiet_metrics(other)
    a, b = (checkpoint.load(p / "checkpoint.pt") for p in (one, other))
    assert sorted(a["sampler"]["levels"]) == [1, 2]
    for level, table in a["sampler"]["levels"].items():
        assert torch.equal(table, b["sampler"]["levels"][level])
        assert table.abs().max() > 0
    assert all(torch.equal(v, b["model"][k]) for k, v in a["model"].items())
    assert any(note.startswith("partition: metis, 6 parts of ") for note in record.notes)


def test_workers_change_nothing(tmp_path):
    found = []
    for workers in (0, 1, 2):
        plan = toy(
            RUN | {"hardware": {"workers": workers, "threads": 1}},
            sampler="gas",
            architecture="gat",
        )
        train(plan, tmp_path / str(workers))
        found.append(checkpoint.load(tmp_path / str(workers) / "seed-0/checkpoint.pt"))
    for other in found[1:]:
        assert all(torch.equal(v, other["model"][k]) for k, v in found[0]["model"].items())
        for level, table in found[0]["sampler"]["levels"].items():
            assert torch.equal(table, other["sampler"]["levels"][level])


# -- limits and refusals --------------------------------------------------------------------------


def test_steps_without_a_seed_and_beyond_max_steps_are_left_out(sixty):
    model, train_ = model_of("gcn", sixty), sixty.splits["train"]
    sampler = made(sixty, model, 30, 1)
    plan = sampler.plan(train_, Key(3, "plan"))
    steps = [bound(sampler, index) for index in plan]
    assert len(steps) < 30
    assert all(part.labeled.any() for part in steps)
    seen = torch.cat([part.ids[part.labeled] for part in steps])
    assert torch.equal(seen.sort().values, train_.sort().values)
    few = made(sixty, model, 30, 1, max_steps=4).plan(train_, Key(3, "plan"))
    assert torch.equal(torch.cat(few), torch.cat(plan)[:4])


@pytest.mark.parametrize("name", ["gcn", "gat", "sage", "gin"])
def test_a_graph_without_edges(name, sixty):
    none = torch.empty(0, dtype=torch.int64)
    data = sixty.with_(graph=Adjacency.from_edges(none, none, 60))
    model = model_of(name, data)
    wanted = exact(model, data)
    sampler = made(data, model, 7, 2)
    found = sweep(sampler, model, torch.arange(60))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(found).all()


def test_a_model_without_hops(sixty):
    model = MLP(sixty.shape).double()
    part = bound(made(sixty, model, 5, 2), [0, 1])
    assert part.hops == ()
    assert len(part.nodes) == len(part.rows) == len(part.x)
    assert torch.equal(part.x, sixty.x[part.nodes])


def test_inductive_data_shows_only_training_nodes(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    model = model_of("sage", seen)
    sampler = made(seen, model, 4, 1)
    for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
        part = bound(sampler, index)
        assert torch.isfinite(model(part).logits).all()
        assert torch.equal(part.x, sixty.x[ids[part.nodes]])
    with pytest.raises(UsageError, match=r"sampler\.parts=21: .* 20 nodes; valid: 1 to 20"):
        made(seen, model, 21, 1)


def test_refusals(sixty):
    with pytest.raises(UsageError, match=r"sampler\.batch_parts=9: .*sampler\.parts=8; valid"):
        GAS(8, 9)
    with pytest.raises(CompositionError, match=r"sampler\.dtype=int8"):
        toy({"sampler": {"dtype": "int8"}}, sampler="gas", architecture="gcn")
    with pytest.raises(CompositionError, match=r"sampler\.max_steps=0"):
        toy({"sampler": {"max_steps": 0}}, sampler="gas", architecture="gcn")
