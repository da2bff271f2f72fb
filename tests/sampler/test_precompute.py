from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import CATALOG, toy, train

from gnnscale import finished
from gnnscale.core.errors import CompositionError, UsageError
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.core.sparse import SparseRows
from gnnscale.graph.whole import training_graph
from gnnscale.sampler import precompute
from gnnscale.sampler.precompute import Precompute, PrecomputeDirected, PrecomputeSign

KEY, NOTHING = Key(0, "prepare"), Need(0)
KINDS = {"powers": Precompute, "directed": PrecomputeDirected,
         "sign": lambda **more: PrecomputeSign(2, 1, 1, **more)}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GNNSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(data, sampler):
    sampler.prepare(data, NOTHING, KEY)
    return sampler


def predicted(data, sampler, rows):
    return torch.cat([b.x for b in sampler.batches(data, NOTHING, rows)])


def sym(a, loops=True):
    a = a + loops * torch.eye(len(a), dtype=a.dtype)
    root = torch.where(a.sum(1) > 0, a.sum(1).clamp(min=1e-300).rsqrt(), 0)
    return root[:, None] * a * root


def row(a):
    return a / a.sum(1, keepdim=True).clamp(min=1)


def test_rows_are_dense_powers(sixty, dense):
    s = sym(dense(sixty.graph))
    want = torch.stack([torch.matrix_power(s, k) @ sixty.x for k in range(4)], 1)
    sampler = made(sixty, Precompute(3))
    index = torch.tensor([59, 4, 4, 0])
    batch = sampler.sample(index, Key(3, "sample", 2, 1))
    torch.testing.assert_close(batch.x, want[index], rtol=1e-12, atol=1e-12)
    assert sampler.operators == sampler.shape(sixty).operators == 4
    assert batch.hops == ()
    assert batch.key == (3, 2, 1)
    assert torch.equal(batch.ids, index)
    assert torch.equal(batch.nodes[batch.rows], index)
    assert torch.equal(batch.y, sixty.y[index])
    assert torch.equal(batch.labeled, sixty.mask("train")[index])
    last = made(sixty, Precompute(3, keep="last"))
    assert torch.equal(last.sample(index, KEY).x, batch.x[:, 3:])


def test_families_of_ga_mlp(sixty, dense):
    a, eye = dense(sixty.graph), torch.eye(60, dtype=torch.float64)
    c = a.sum() / 60
    t = a * (a @ a)
    operators = {
        "none": a,
        "bethe": (9 - c) * eye + c.sqrt() * a - torch.diag(a.sum(1)),
        "min_triangle": (a @ a > 0).double(),
        "motif_triangle": t / t.sum(1, keepdim=True).clamp(min=1),
    }
    for name, m in operators.items():
        want = torch.stack([sixty.x, m @ sixty.x, m @ m @ sixty.x], 1)
        sampler = made(sixty, Precompute(2, name, self_loops=False))
        got = sampler.sample(torch.arange(60), KEY).x
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_sign_is_powers_diffusions_and_triangles(sixty, dense):
    a = dense(sixty.graph)
    s, eye = sym(a), torch.eye(60, dtype=a.dtype)
    p = 0.3 * torch.linalg.inv(eye - 0.7 * s)
    t = a * (a @ a)
    t = torch.where(t.sum(1, keepdim=True) > 0, t / t.sum(1, keepdim=True).clamp(min=1), 0)
    want = torch.stack([m @ sixty.x for m in (eye, s, s @ s, p, p @ p, t, t @ t)], 1)
    sampler = made(sixty, PrecomputeSign(2, 2, 2, alpha=0.3, tolerance=1e-14))
    assert sampler.operators == 7
    got = sampler.sample(torch.arange(60), KEY).x
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    alone = made(sixty, PrecomputeSign(0, 0, 0))
    assert torch.equal(alone.sample(torch.arange(60), KEY).x, sixty.x.unsqueeze(1))


def test_directed_is_both_directions_and_their_union(sixty, six, dense):
    data = sixty.with_(graph=six, x=sixty.x[:6], y=sixty.y[:6], splits={"train": torch.arange(3)})
    a = dense(six)
    f, b, u = row(a), row(a.T), sym(((a + a.T) > 0).double())
    eye = torch.eye(6, dtype=a.dtype)
    want = torch.stack([m @ data.x for m in (eye, f, f @ f, b, b @ b, u)], 1)
    got = made(data, PrecomputeDirected(2, 1)).sample(torch.arange(6), KEY).x
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_disk_is_memory_bit_for_bit_and_found_again(kind, sixty, folder, monkeypatch):
    memory, disk = made(sixty, KINDS[kind]()), made(sixty, KINDS[kind](storage="disk"))
    index = torch.randperm(60)
    assert isinstance(disk.table(sixty), np.memmap)
    assert torch.equal(memory.sample(index, KEY).x, disk.sample(index, KEY).x)
    assert len(list(folder.glob("sixty-stack-*"))) == 1
    monkeypatch.setattr(precompute.propagate, "fill", lambda *a, **k: pytest.fail("made again"))
    again = made(sixty.with_(name="sixty"), KINDS[kind](storage="disk"))
    assert torch.equal(again.sample(index, KEY).x, memory.sample(index, KEY).x)


def test_another_graph_feature_weight_or_option_is_another_table(sixty, folder):
    weight = torch.rand(sixty.graph.n_edges)
    fewer = Adjacency(sixty.graph.indptr.clamp(max=9), sixty.graph.indices[:9])
    for data in (sixty, sixty.with_(x=sixty.x + 1), sixty.with_(weight=weight),
                 sixty.with_(graph=fewer)):  # fmt: skip
        made(data, Precompute(storage="disk"))
    for more in ({"powers": 1}, {"operator": "row"}, {"self_loops": False}, {"keep": "last"},
                 {"dtype": "float32"}):  # fmt: skip
        made(sixty, Precompute(storage="disk", **more))
    made(sixty, PrecomputeSign(storage="disk"))
    assert len(list(folder.glob("sixty-stack-*"))) == 10


def test_only_the_rows_asked_for_are_read(sixty, monkeypatch):
    sampler, read = made(sixty, Precompute(storage="disk")), []

    def counted(table, at, axis):
        read.append(at.tolist())
        return real(table, at, axis=axis)

    real = np.take
    monkeypatch.setattr(precompute.np, "take", counted)
    index = torch.tensor([31, 2, 17])
    x = sampler.sample(index, KEY).x
    assert [2, 17, 31] in read, "in the order of the disk"
    assert not any(len(at) > 3 for at in read)
    assert x.shape == (3, 3, 7)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_float16_is_within_its_rounding(storage, sixty):
    exact = made(sixty, Precompute()).sample(torch.arange(60), KEY).x
    sampler = made(sixty, Precompute(dtype="float16", storage=storage))
    batch = sampler.sample(torch.arange(60), KEY)
    assert batch.x.dtype == torch.float16
    assert torch.equal(batch.x, exact.half())
    bound = sampler.bind(batch, torch.device("cpu"), True)
    assert bound.x.dtype == torch.float64
    assert ((bound.x - exact).abs() <= exact.abs() * 2**-11 + 2**-25).all()
    assert torch.equal(predicted(sixty, sampler, torch.arange(60)), bound.x)


def test_float16_that_overflows_is_refused(sixty):
    data = sixty.with_(x=sixty.x * 1e5)
    with pytest.raises(UsageError, match=r"sampler\.dtype=float16: .*type sampler\.dtype=float32"):
        made(data, Precompute(dtype="float16"))


def test_every_seed_once_in_an_order_of_the_epoch(sixty):
    sampler, seeds = made(sixty, Precompute(batch_size=7)), torch.arange(20)
    a, b = (sampler.plan(seeds, Key(0, "plan", epoch)) for epoch in (0, 1))
    assert [len(i) for i in a] == [7, 7, 6]
    assert torch.equal(torch.cat(a).sort().values, seeds)
    assert not torch.equal(torch.cat(a), torch.cat(b))
    (every,) = made(sixty, Precompute(batch_size=None)).plan(seeds, KEY)
    assert len(every) == 20


def test_predictions_are_rows_of_the_graph_they_are_about(sixty, dense, monkeypatch):
    """Inductive: training reads the training graph's table, predictions the whole graph's."""
    inductive = replace(sixty, inductive=True)
    seen, ids = training_graph(inductive)
    sampler = made(seen, Precompute(2))
    a = dense(sixty.graph)
    inside, whole = sym(a[ids][:, ids]), sym(a)
    got = sampler.sample(torch.arange(20), KEY).x[:, 2]
    torch.testing.assert_close(got, inside @ inside @ sixty.x[ids], rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(precompute, "PREDICTED", 7)
    rows = torch.tensor([59, 0, 31, 31, 2, 58, 7, 8, 9, 10])
    full = predicted(inductive, sampler, rows)[:, 2]
    torch.testing.assert_close(full, (whole @ whole @ sixty.x)[rows], rtol=1e-12, atol=1e-12)
    assert (whole @ whole @ sixty.x)[ids].sub(inside @ inside @ sixty.x[ids]).abs().max() > 0.1
    assert len(sampler.tables) == 2
    again = sampler.sample(torch.arange(20), KEY).x[:, 2]
    assert torch.equal(again, got)
    assert predicted(inductive, sampler, rows[:0]).shape == (0, 3, 7)


def test_sparse_features_give_the_dense_table(sixty):
    x = sixty.x.masked_fill(sixty.x.abs() < 1, 0)
    a, b = (made(sixty.with_(x=f), Precompute()).sample(torch.arange(60), KEY).x
            for f in (x, SparseRows.from_dense(x)))  # fmt: skip
    assert torch.equal(a, b)
    assert torch.equal(a[:, 0], x)


@pytest.mark.parametrize("kind", KINDS)
def test_no_edges_and_no_seeds(kind, sixty):
    nothing = torch.empty(0, dtype=torch.int64)
    bare = sixty.with_(graph=Adjacency.from_edges(nothing, nothing, 60))
    sampler = made(bare, KINDS[kind]())
    assert torch.isfinite(sampler.sample(torch.arange(60), KEY).x).all()
    for index in sampler.plan(nothing, KEY):
        assert sampler.sample(index, KEY).x.shape == (0, sampler.operators, 7)


def test_a_model_that_asks_for_another_operator_is_refused():
    Precompute(2).check(Need(2, "sym", "diag"))
    Precompute(9, "row").check(NOTHING)
    for need in (Need(3, "sym", "diag"), Need(2, "row", "diag"), Need(2, "sym", "none")):
        with pytest.raises(UsageError, match=f"change to sampler.powers={need.depth} sampler"):
            Precompute(2).check(need)
    with pytest.raises(UsageError, match="change to sampler=precompute"):
        PrecomputeSign().check(Need(2, "sym", "diag"))


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_too_large_a_table_is_refused_before_it_is_made(storage, sixty, monkeypatch):
    sampler = Precompute(storage=storage, max_gib=1e-6)
    said = rf"sampler.storage={storage}: .*60 nodes x 3 operators x 7 features x 8 bytes.*max_gib"
    with pytest.raises(UsageError, match=said + r".*sampler\.dtype=float16 or sampler\.keep=last"):
        made(sixty, sampler)
    wide = sixty.with_(x=sixty.x[:, :1].expand(60, 10**15))  # no machine has room for that
    with pytest.raises(UsageError, match="is free"):
        made(wide, Precompute(storage=storage))


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.0, 1e-6), (1.0, 1e-6), (0.2, 0.0), (0.2, 1.0)])
def test_values_out_of_range_are_refused(alpha, tolerance):
    with pytest.raises(UsageError, match=r"sampler\.(alpha|tolerance)="):
        PrecomputeSign(alpha=alpha, tolerance=tolerance)


def test_a_model_that_reads_no_table_is_refused():
    with pytest.raises(CompositionError, match=r"architecture=mlp: .*sampler=precompute.*change"):
        toy({}, sampler="precompute", architecture="mlp")


def test_a_finished_run_predicts_from_a_table(tmp_path):
    train(toy({}, sampler="precompute", architecture="sgc"), tmp_path)
    out = finished.predict(tmp_path, [], None, None, CATALOG, frozenset())
    assert len(out.read_text().splitlines()) == 61
