import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import quiet_metrics, silenced, toy, train

from gnnscale import compose
from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.gin import GIN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.data import GraphData, Task
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows, dense
from gnnscale.graph.drawn import relabel
from gnnscale.graph.propagate import propagated
from gnnscale.graph.whole import training_graph, whole_batch
from gnnscale.sampler import vrgcn
from gnnscale.sampler._channels import Read, doubled
from gnnscale.sampler.neighbor import Neighbor
from gnnscale.sampler.vrgcn import VRGCN
from gnnscale.train.predict import Full, Layerwise

CPU = torch.device("cpu")
NEEDS = [Need(2, o, loops) for o in ("row", "sym", "none") for loops in ("none", "diag")]
needs = pytest.mark.parametrize("need", NEEDS, ids=lambda n: f"{n.operator}-{n.loops}")
modes = pytest.mark.parametrize("mode", ["cv", "cvd"])
MODELS = {
    "gcn": lambda shape: GCN(shape, hidden=9, depth=3, norm="layer"),
    "gcn widening": lambda shape: GCN(shape, hidden=3, depth=2),
    "sage": lambda shape: SAGE(shape, hidden=5, residual=True, depth=3),
    "sage gcn": lambda shape: SAGE(shape, aggr="gcn", hidden=8),
    "sage narrowing": lambda shape: SAGE(shape, hidden=2, depth=2),
    "gin": lambda shape: GIN(shape, hidden=6, norm="none", mlp_norm="layer"),
    "gin narrowing": lambda shape: GIN(shape, hidden=2, norm="none", mlp_norm="none"),
    "egc": lambda shape: EGC(shape, hidden=8, heads=2, bases=3, norm="layer"),
    "egc sets": lambda shape: EGC(
        shape, hidden=8, heads=2, bases=2, norm="none", aggregators=["add", "mean", "symadd"]
    ),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def made(data, need, **options):
    sampler = VRGCN(**options)
    sampler.prepare(data, need, Key(3, "prepare"))
    return sampler


def batch(sampler, seeds, step=0, write=True):
    part = sampler.sample(torch.as_tensor(seeds), Key(3, "sample", 0, step))
    return sampler.bind(part, CPU, write)


def model_of(make, data):
    torch.manual_seed(0)
    model = make(data.shape).double()
    silenced(model)
    return model


def fill(sampler, model, data, noise=0.0):
    """Exact histories, and noise on top of them."""
    draw = torch.Generator().manual_seed(8)

    def refresh(level, ids, h):
        error = torch.randn(h.shape, generator=draw, dtype=torch.float64)
        sampler.refresh(level, ids, dense(h) + noise * error)

    Full().observed(model, data, torch.arange(0), CPU, refresh)


def one_hop(data, need, history, seeds, step=0, **options):
    """A one-layer sampler's batch whose history is given."""
    sampler = made(data, replace(need, depth=1), preprocess="never", **options)
    sampler.refresh(0, torch.arange(data.nodes), history)
    return batch(sampler, seeds, step)


# -- exact ----------------------------------------------------------------------------------------


@models
@modes
@pytest.mark.parametrize("preprocess", ["auto", "never"])
def test_with_exact_histories_any_fanout_is_exact(make, mode, preprocess, sixty):
    model, seeds = model_of(make, sixty).train(), [5, 58, 0, 17, 33]
    sampler = made(sixty, model.need, fanouts=1, mode=mode, preprocess=preprocess)
    fill(sampler, model, sixty)
    expected = model(whole_batch(sixty, model.need)).logits[seeds]
    for step in range(3):
        out = model(batch(sampler, seeds, step)).logits
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    plain = Neighbor(1)
    plain.prepare(sixty, model.need, Key(3, "prepare"))
    off = model(plain.sample(torch.tensor(seeds), Key(3, "sample"))).logits - expected
    assert off.abs().max() > 1e-2, "what the histories repair"


@models
@modes
@pytest.mark.parametrize("fanouts", [-1, 100])
@pytest.mark.parametrize("preprocess", ["auto", "never"])
def test_all_neighbours_are_full_batch_in_logits_loss_and_gradients(
    make, mode, fanouts, preprocess, sixty
):
    model, seeds = model_of(make, sixty).train(), torch.tensor([5, 58, 0, 17, 33])
    sampler = made(sixty, model.need, fanouts=fanouts, mode=mode, preprocess=preprocess)
    fill(sampler, model, sixty, noise=1.0)
    part = batch(sampler, seeds)
    assert torch.equal(part.y, sixty.y[seeds])
    assert torch.equal(part.labeled, sixty.mask("train")[seeds])
    found = []
    for logits in (model(part).logits, model(whole_batch(sixty, model.need)).logits[seeds]):
        loss = sixty.task.losses(logits, sixty.y[seeds]).mean()
        parameters = [p for p in model.parameters() if p.requires_grad]
        found.append([logits, loss, *torch.autograd.grad(loss, parameters)])
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


@models
def test_a_batch_of_every_node_is_exact_though_histories_are_not(make, sixty):
    model = model_of(make, sixty).train()
    sampler = made(sixty, model.need, fanouts=-1, preprocess="never")
    fill(sampler, model, sixty, noise=1.0)
    out = model(batch(sampler, torch.arange(60))).logits
    torch.testing.assert_close(out, model(whole_batch(sixty, model.need)).logits)


@pytest.fixture
def all_subsets(monkeypatch):
    """Lets a test choose the drawn edges of every row, in place of the compiled draw."""

    def use(chosen):
        def drawn(indptr, indices, targets, fanout, replace, loop, word, local):
            rows = [[indptr[t] + k for k in chosen.get(int(t), ())] for t in targets]
            starts = np.cumsum([0, *map(len, rows)])
            edges = np.array(list(itertools.chain(*rows)), np.int64)
            columns, sources = relabel(indices, targets, starts, edges, local)
            d = np.diff(indptr)[targets]
            return starts, columns, edges, sources, d / np.maximum(np.diff(starts), 1)

        monkeypatch.setattr(vrgcn, "neighbors", drawn)

    return use


@needs
@modes
@pytest.mark.parametrize("size", [1, 2])
def test_the_mean_over_all_subsets_is_exact(need, mode, size, six, all_subsets):
    draw = torch.Generator().manual_seed(2)
    x, old, w = (
        torch.randn(n, d, generator=draw, dtype=torch.float64) for n, d in ((6, 3), (6, 3), (3, 4))
    )
    data = toy_data(six, x)
    found = []
    for two in itertools.combinations(range(4), size):  # of node 2's four neighbours
        for zero in itertools.combinations(range(3), size):  # of node 0's three
            all_subsets({2: two, 0: zero})
            part = one_hop(data, need, old, [2, 0], mode=mode, fanouts=size)
            out = part.hops[0].reduce(lambda h: h @ w, part.hops[0].lift(part.x))
            found.append(out[part.rows])
    found = torch.stack(found)
    whole = whole_batch(data, replace(need, depth=1))
    exact = (whole.hops[0].reduce(lambda h: h, x) @ w)[[2, 0]]
    torch.testing.assert_close(found.mean(0), exact, rtol=0, atol=1e-12)
    assert found.std(0).min() > 1e-3


def toy_data(graph, x):
    n = graph.n_dst
    none = torch.arange(0)
    return GraphData("toy", graph, x, torch.arange(n) % 2,
                     {"train": torch.arange(n), "valid": none, "test": none}, Task())  # fmt: skip


def test_six_nodes_by_hand(six, all_subsets):
    # 2 <- 0 1 3 4; row operator with own entry: every factor 1 / 5
    x = torch.tensor([[1.0], [10], [100], [1000], [10000], [7]])
    old = torch.tensor([[2.0], [20], [50], [900], [9000], [5]])
    all_subsets({2: (1, 3)})  # nodes 1 and 4 are drawn
    part = one_hop(toy_data(six, x), Need(1, "row", "diag"), old, [2], mode="cv", fanouts=2)
    hop = part.hops[0]
    assert part.nodes.tolist() == [2, 1, 4]
    assert hop.ids.tolist() == [2, 0, 1, 3, 4]
    assert hop.ids[hop.place].tolist() == [2, 1, 4]
    assert hop.ratio.tolist() == [2]
    corrected = 4 / 2 * ((10 - 20) + (10000 - 9000))
    expected = (corrected + (2 + 20 + 900 + 9000) + 100) / 5
    assert hop.reduce(lambda h: h, part.x).tolist() == [[pytest.approx(expected)]]


# -- histories ------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("preprocess", ["auto", "never"])
@pytest.mark.parametrize("name", ["gcn", "sage", "egc"])
def test_sweeps_with_fixed_weights_make_histories_exact(name, mode, preprocess, sixty):
    model = model_of(MODELS[name], sixty).train()
    sampler = made(sixty, model.need, fanouts=1, mode=mode, preprocess=preprocess)
    depth, first = model.need.depth, int(sampler.reads)
    assert first == (preprocess == "auto" and name != "egc")
    exact = {}
    Full().observed(
        model, sixty, torch.arange(0), CPU, lambda level, ids, h: exact.update({level: dense(h)})
    )
    wanted = model(whole_batch(sixty, model.need)).logits
    for sweep in range(depth - first):
        out = model(batch(sampler, torch.arange(60), sweep)).logits
        assert (out - wanted).abs().max() > 1e-3
        sampler.commit()
        level = first + sweep
        torch.testing.assert_close(sampler.tables[level].table, exact[level], rtol=0, atol=1e-10)
    out = model(batch(sampler, torch.arange(60), depth)).logits
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-10)


@modes
def test_histories_are_written_after_the_step_and_in_training_only(mode, sixty):
    model = model_of(MODELS["gcn"], sixty)
    sampler = made(sixty, model.need, fanouts=2, mode=mode)
    model(batch(sampler, [1, 2], write=False))
    sampler.commit()
    assert all(table.table is None for table in sampler.tables)
    part = batch(sampler, [1, 2])
    model(part)
    assert all(table.table is None for table in sampler.tables), "not before the step"
    sampler.commit()
    assert sampler.tables[0].table is None, "the first aggregation was computed beforehand"
    for level in (1, 2):
        hop, table = part.hops[level], sampler.tables[level].table
        written = torch.zeros(60, dtype=torch.bool)
        written[hop.nodes] = True
        assert (table[written].abs().sum(1) > 0).all()
        assert (table[~written] == 0).all()
    before = sampler.tables[1].table.clone()
    sampler.commit()
    assert torch.equal(sampler.tables[1].table, before), "nothing is written twice"


def test_cv_keeps_what_the_model_had_and_cvd_what_it_had_without_dropout(sixty):
    for mode, same in (("cv", False), ("cvd", True)):
        model = model_of(lambda shape: GCN(shape, hidden=5, depth=3), sixty).train()
        quiet = made(sixty, model.need, fanouts=-1, mode=mode)
        model(batch(quiet, torch.arange(60)))
        quiet.commit()
        for layer in model.layers:
            layer.drop_in = 0.5
        noisy = made(sixty, model.need, fanouts=-1, mode=mode)
        model(batch(noisy, torch.arange(60)))
        noisy.commit()
        for a, b in zip(quiet.tables[1:], noisy.tables[1:], strict=True):
            assert torch.allclose(a.table, b.table, rtol=0, atol=1e-12) is same


def test_fill_exact_asks_for_histories_and_zero_does_not():
    assert VRGCN(fill="exact").histories
    assert not VRGCN(fill="zero").histories


# -- the two channels -----------------------------------------------------------------------------


@models
@pytest.mark.parametrize("preprocess", ["auto", "never"])
def test_cvd_without_dropout_is_cv(make, preprocess, sixty):
    model, seeds = model_of(make, sixty).train(), torch.tensor([5, 58, 0, 17, 33])
    found = []
    for mode in ("cv", "cvd"):
        sampler = made(sixty, model.need, fanouts=2, mode=mode, preprocess=preprocess,
                       through_mu=True)  # fmt: skip
        fill(sampler, model, sixty, noise=0.5)
        logits = model(batch(sampler, seeds)).logits
        loss = sixty.task.losses(logits, sixty.y[seeds]).mean()
        parameters = [p for p in model.parameters() if p.requires_grad]
        found.append([logits, *torch.autograd.grad(loss, parameters)])
        sampler.commit()
        found[-1] += [table.table for table in sampler.tables if table.table is not None]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_authors_gradient_stops_at_mu(sixty):
    """d z / d h of a drawn neighbour is (n / D)^1/2 P_ij, and n / D P_ij with gradients of mu."""
    seeds, need = [0, 7, 12], Need(1, "row")
    for through in (False, True):
        part = one_hop(sixty, need, sixty.x * 0, seeds, fanouts=2, through_mu=through)
        hop, h = part.hops[0], part.x.clone().requires_grad_()
        out = hop.reduce(lambda h: h, hop.lift(h))[part.rows]
        (g,) = torch.autograd.grad(out.sum(), h)
        power = 1.0 if through else 0.5
        entry = (hop.ratio**power / hop.whole.graph.in_degree).clamp(max=1)
        wanted = torch.zeros(hop.graph.n_src // 2, dtype=torch.float64)
        single = sampled_graph(hop.graph)
        wanted.index_add_(0, single[0], entry[single[1]])
        total = g.view(-1, 2, 7).sum(1)
        torch.testing.assert_close(total, wanted.unsqueeze(1).expand(-1, 7))
        assert bool(g[1::2].abs().max() > 0) is through


def sampled_graph(graph):
    """(sources, destinations) of the undoubled block."""
    keep = graph.dst % 2 == 0
    return graph.indices[keep].long() // 2, graph.dst[keep].long() // 2


def test_two_copies_of_a_block(sixty, dense):
    part = one_hop(sixty, Need(1), sixty.x, [3, 58, 20], mode="cv", fanouts=3)
    graph = part.hops[0].graph
    twice = doubled(graph)
    wanted = torch.kron(dense(graph), torch.eye(2, dtype=torch.float64))
    assert torch.equal(dense(twice), wanted)
    assert twice.edges.tolist() != graph.edges.tolist()
    nodes = part.nodes[twice.indices.long() // 2]
    assert torch.equal(sixty.graph.indices[twice.edges].long(), nodes)


def test_dropout_leaves_mu_alone_dense_and_sparse(sixty):
    part = one_hop(sixty, Need(1), sixty.x, torch.arange(60))
    hop = part.hops[0]
    for x in (part.x, SparseRows.from_dense(part.x)):
        out = dense_of(hop.drop(x, 0.5))
        assert torch.equal(out[1::2], part.x[1::2])
        kept = out[::2] != 0
        assert 0.4 < kept.double().mean() < 0.6
        torch.testing.assert_close(out[::2][kept], 2 * part.x[::2][kept])
        assert hop.drop(x, 0.0) is x


def dense_of(x):
    return x.dense() if isinstance(x, SparseRows) else x


# -- chance ---------------------------------------------------------------------------------------


@needs
def test_the_error_of_cv_is_proportional_to_the_age_of_the_history(need, sixty):
    draw = torch.Generator().manual_seed(6)
    delta = torch.randn(60, 7, generator=draw, dtype=torch.float64)
    whole = whole_batch(sixty, replace(need, depth=1))
    exact = whole.hops[0].reduce(lambda h: h, sixty.x)
    variance = []
    for age in (0.0, 0.1, 1.0):
        errors = []
        for step in range(100):
            part = one_hop(sixty, need, sixty.x - age * delta, torch.arange(60), step, mode="cv")
            errors.append(part.hops[0].reduce(lambda h: h, part.x) - exact)
        variance.append(torch.stack(errors).var(0).mean())
    assert variance[0] < 1e-20
    assert variance[2] > 1e-3
    torch.testing.assert_close(variance[1] * 100, variance[2], rtol=1e-10, atol=0)


def test_the_noise_of_dropout_has_the_variance_of_the_exact_sum():
    """8 neighbours, 2 drawn, 300 masks per draw: the mean square over 400 draws, within 4.5 s.e."""
    star = Adjacency.from_edges(torch.arange(1, 9), torch.zeros(8, dtype=torch.int64), 9)
    value = torch.arange(9, dtype=torch.float64) / 4 + 1
    x, p = value.unsqueeze(1).expand(9, 300).contiguous(), 0.4
    data, squares = toy_data(star, x), []
    wanted = (value[1:] / 8).square().sum() * p / (1 - p)
    exact = value[1:].mean()
    torch.manual_seed(0)
    for step in range(400):
        part = one_hop(data, Need(1, "row"), x, [0], step, fanouts=2)
        hop = part.hops[0]
        out = hop.reduce(lambda h: h, hop.drop(part.x, p))
        torch.testing.assert_close(out[1], exact.expand(300), rtol=0, atol=1e-12)
        squares.append((out[0] - exact).square().mean())
    squares = torch.stack(squares)
    error = squares.std() / 400**0.5
    assert abs(squares.mean() - wanted) < 4.5 * error
    assert 4 * wanted - squares.mean() > 20 * error, "n / D would be told apart"


# -- preprocessing --------------------------------------------------------------------------------


@needs
def test_propagated_features_dense_sparse_and_weighted(need, sixty):
    draw = torch.Generator().manual_seed(4)
    weight = torch.rand(sixty.graph.n_edges, generator=draw, dtype=torch.float64) + 0.1
    x = sixty.x.masked_fill(sixty.x < 0.5, 0)
    for data in (sixty.with_(x=x), sixty.with_(x=x, weight=weight)):
        whole = whole_batch(data, replace(need, depth=1))
        exact = whole.hops[0].reduce(lambda h: h, x)
        torch.testing.assert_close(propagated(data, need), exact, rtol=0, atol=1e-14)
        found = propagated(data.with_(x=SparseRows.from_dense(x)), need)
        assert isinstance(found, SparseRows)
        torch.testing.assert_close(found.dense(), exact, rtol=0, atol=1e-14)


def test_a_depth_l_model_has_l_minus_one_sampled_layers(sixty):
    sampler = made(sixty, Need(3, "sym", "diag"), fanouts=2, mode="cv")
    part = batch(sampler, [3, 4])
    first = part.hops[0]
    assert isinstance(first, Read)
    n = first.graph.n_dst
    assert len(part.x) == len(part.nodes) == first.graph.n_src == 2 * n
    assert n == part.hops[1].graph.n_src, "no neighbour of the first layer is in the batch"
    assert torch.equal(part.x[:n], sixty.x[part.nodes[:n]])
    assert torch.equal(first.degree, sixty.graph.in_degree[part.nodes])


@pytest.mark.parametrize("inference", [Full, Layerwise])
@modes
def test_sparse_features_train_and_predict_as_dense_ones(inference, mode, sixty):
    x = sixty.x.masked_fill(sixty.x < 0.5, 0)
    found = []
    for data in (sixty.with_(x=x), sixty.with_(x=SparseRows.from_dense(x))):
        for preprocess in ("auto", "never"):
            model = model_of(MODELS["gcn"], data).train()
            sampler = made(data, model.need, fanouts=-1, mode=mode, preprocess=preprocess)
            found.append(model(batch(sampler, torch.arange(60))).logits)
        found.append(inference()(model, data, torch.arange(60), CPU))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-10)


def test_an_encoder_that_nobody_declared_is_found_out(sixty):
    model = model_of(lambda shape: EGC(shape, hidden=8, heads=2), sixty)
    part = batch(made(sixty, replace(model.need, stem=False)), [1, 2])
    with pytest.raises(UsageError, match=r"encoder's rows.*sampler\.preprocess=never"):
        model(part)


def test_only_the_operator_was_applied_beforehand(sixty):
    model = model_of(lambda shape: EGC(shape, hidden=8, heads=2, stem=False, residual=False,
                                       aggregators=["symadd", "add"]), sixty)  # fmt: skip
    with pytest.raises(UsageError, match=r"aggregates by 'add'.*sampler\.preprocess=never"):
        model(batch(made(sixty, model.need), [1, 2]))
    model(batch(made(sixty, model.need, preprocess="never"), [1, 2]))


# -- the run --------------------------------------------------------------------------------------


def run_of(folder, **options):
    changes = {"sampler": {"batch_size": 7, **options}, "trainer": {"epochs": 4}}
    run = compose.build(toy(changes, sampler="vrgcn"), 0, folder)
    run.prepare()
    run.start()
    return run


def epochs(run, n):
    for _ in range(n):
        run.model.train()
        for part in run.batches(run.epoch):
            run.step(part)
        run.close_epoch(0.0)


@modes
@pytest.mark.parametrize("fill", ["zero", "exact"])
def test_a_resumed_run_is_bit_identical(tmp_path, mode, fill):
    whole = run_of(tmp_path / "whole", mode=mode, fill=fill)
    epochs(whole, 4)
    epochs(run_of(tmp_path / "parts", mode=mode, fill=fill), 2)
    resumed = run_of(tmp_path / "parts", mode=mode, fill=fill)
    assert resumed.epoch == 2
    assert resumed.sampler.tables[1].table is not None
    epochs(resumed, 2)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.sampler.tables[1].table, resumed.sampler.tables[1].table)


def test_workers_do_not_matter(tmp_path):
    found = []
    for workers in (0, 1, 2):
        changes = {"hardware": {"workers": workers}, "sampler": {"batch_size": 5, "fanouts": 1}}
        train(toy(changes, sampler="vrgcn"), tmp_path / str(workers))
        found.append(quiet_metrics(tmp_path / str(workers) / "seed-0"))
    assert found[0] == found[1] == found[2]


def test_inductive_data_shows_only_training_nodes(sixty):
    x = sixty.x.clone()
    x[~sixty.mask("train")] = torch.nan
    seen, ids = training_graph(replace(sixty, x=x, inductive=True))
    model = model_of(MODELS["gcn"], sixty)
    for preprocess in ("auto", "never"):
        sampler = made(seen, model.need, preprocess=preprocess)
        for index in sampler.plan(seen.splits["train"], Key(3, "plan")):
            part = batch(sampler, index)
            assert torch.isfinite(model(part).logits).all()
            assert torch.equal(
                part.x[: len(part.nodes) // 2], sixty.x[ids[part.nodes]][: len(part.nodes) // 2]
            )
            sampler.commit()


@needs
@modes
def test_a_graph_without_edges(need, mode):
    none = torch.empty(0, dtype=torch.int64)
    x = torch.randn(4, 2, dtype=torch.float64)
    data = toy_data(Adjacency.from_edges(none, none, 4), x)
    for preprocess in ("auto", "never"):
        part = batch(made(data, need, mode=mode, preprocess=preprocess), [3, 1])
        h = part.x
        for hop in part.hops:
            h = hop.reduce(lambda h: h, hop.lift(h))
        expected = torch.zeros(2, 2) if need.loops == "none" else x[[3, 1]]
        torch.testing.assert_close(h[part.rows], expected.double())


def test_self_loops_and_parallel_edges_are_edges(dense):
    src = torch.tensor([0, 1, 1, 2, 2, 2, 0])
    dst = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    graph = Adjacency.from_edges(src, dst, 3)
    x = torch.randn(3, 4, dtype=torch.float64)
    for need in (Need(1, "row", "diag"), Need(1, "sym", "none")):
        whole = whole_batch(toy_data(graph, x), need)
        exact = whole.hops[0].reduce(lambda h: h, x)
        for mode, fanout in itertools.product(("cv", "cvd"), (1, -1)):
            old = x if fanout == 1 else x * 0
            part = one_hop(toy_data(graph, x), need, old, [0, 1, 2], mode=mode, fanouts=fanout)
            out = part.hops[0].reduce(lambda h: h, part.x)[part.rows]
            torch.testing.assert_close(out, exact)


# -- refusals -------------------------------------------------------------------------------------


def test_what_can_not_be_estimated_is_refused():
    for architecture, changes in (("gat", {}), ("sage", {"aggr": "max"}), ("egc_m", {})):
        with pytest.raises(CompositionError, match=r"sampler=vrgcn needs .*'linear'"):
            toy({"architecture": changes}, sampler="vrgcn", architecture=architecture)
    with pytest.raises(CompositionError, match=r"architecture\.self_loops=symadd"):
        toy({"architecture": {"self_loops": "all"}}, sampler="vrgcn", architecture="egc")
    with pytest.raises(CompositionError, match=r"preprocess=always.*architecture\.stem=false"):
        toy({"sampler": {"preprocess": "always"}}, sampler="vrgcn", architecture="egc")
    toy({"sampler": {"preprocess": "always"}}, sampler="vrgcn", architecture="gcn")


def test_attention_and_set_aggregators_never_reach_the_hop(sixty):
    part = one_hop(sixty, Need(1), sixty.x, [1], mode="cv")
    with pytest.raises(ValueError, match="linear, not max"):
        part.hops[0].reduce(lambda h: h, part.x, "max")
    with pytest.raises(ValueError, match="linear"):
        part.hops[0].reduce(lambda h: h, part.x, weight=torch.ones(1, 1))
    assert isinstance(part.hops[0], Hop)


@pytest.mark.parametrize("fanouts", [0, -2, [3, 0]])
def test_fanouts_that_are_no_number_of_neighbours(fanouts):
    with pytest.raises(UsageError, match=r"sampler\.fanouts=.*-1 for all"):
        VRGCN(fanouts)
