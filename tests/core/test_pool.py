"""Blocks are used again when nobody holds them, and never before."""

import copy
import ctypes
import gc
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch

from gnnscale.architecture.egc import EGC
from gnnscale.architecture.gat import GAT
from gnnscale.architecture.gcn import GCN
from gnnscale.architecture.sage import SAGE
from gnnscale.core.ops import pool
from gnnscale.core.ops.pool import Pool
from gnnscale.core.ops.product import product, shifted, summed
from gnnscale.graph.whole import whole_batch


@pytest.fixture
def all_pooled(monkeypatch):
    """Matrices of any size come from the pool."""
    monkeypatch.setattr(pool, "LEAST", 1)


def test_a_block_that_nobody_holds_serves_the_next_matrix_of_its_size(all_pooled):
    mine = Pool()
    a = mine.empty(3, 4, dtype=torch.float32)
    place = a.data_ptr()
    b = mine.empty(3, 4, dtype=torch.float32)
    assert b.data_ptr() != place
    view = a[1:].t()
    del a
    assert mine.bytes == 0, "a view holds it"
    assert mine.empty(4, 3, dtype=torch.float32).data_ptr() not in (place, b.data_ptr())
    del view
    again = mine.empty(2, 3, dtype=torch.float64)
    assert again.data_ptr() == place, "48 bytes are 48 bytes"
    assert (again.shape, again.dtype) == ((2, 3), torch.float64)


def test_a_new_size_gives_back_what_has_waited_longest(all_pooled):
    mine = Pool()
    held = [mine.empty(n, dtype=torch.float32) for n in (10, 20, 30)]
    while held:
        del held[0]
    assert mine.bytes == 240
    big = mine.empty(25, dtype=torch.float32)
    assert sorted(mine.waiting) == [120], "40 and 80 bytes went for 100"
    del big
    assert mine.bytes == 220
    fits = mine.empty(30, dtype=torch.float32)
    assert len(fits) == 30
    assert sorted(mine.waiting) == [100]


def test_small_ones_and_other_kinds_are_torchs():
    mine = Pool()
    small = mine.empty(10, 10, dtype=torch.float32)
    codes = mine.empty(pool.LEAST, dtype=torch.int8)
    half = mine.empty(pool.LEAST, dtype=torch.bfloat16)
    del small, codes, half
    assert mine.bytes == 0


@pytest.mark.process
def test_what_is_held_is_never_written_by_others(all_pooled):
    mine, wrong = Pool(), []

    def work(number):
        draw = torch.Generator().manual_seed(number)
        held = []
        for step in range(80):
            size = int(torch.randint(1, 5, (), generator=draw))
            x = mine.empty(size, 7, dtype=torch.float32).fill_(1000 * number + step)
            held.append((1000 * number + step, x))
            if len(held) > 4:
                value, old = held.pop(int(torch.randint(0, 4, (), generator=draw)))
                wrong.extend([value] if not bool((old == value).all()) else [])
            if step % 40 == 0:
                gc.collect()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("onto", [None, "row", "matrix", "over", "leaf over", "row over"])
def test_products_and_their_gradients_are_torchs(all_pooled, onto):
    draw = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    x, w = leaf(6, 4), leaf(3, 4)
    z = None if onto is None else leaf(3) if onto.startswith("row") else leaf(6, 3)
    given = [t for t in (x, w, z) if t is not None]
    want = x @ w.T if z is None else z + x @ w.T
    onto_it = z * 1 if onto == "over" else z
    got = product(x, w.T, onto_it, over="over" in (onto or ""))
    assert type(got.grad_fn).__name__ == "_ProductBackward"
    assert (got is onto_it) == (onto == "over"), "neither a leaf nor a row is overwritten"
    torch.testing.assert_close(got, want)
    g = torch.randn(6, 3, generator=draw, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((t * g).sum(), given) for t in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    by = leaf(3)
    got, want = shifted(g, by), g + by
    assert torch.equal(got, want)
    assert torch.equal(*(torch.autograd.grad((t * g).sum(), by)[0] for t in (got, want)))


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("wide", [8, 600])
def test_a_sum_of_two_products_is_torchs(all_pooled, learns, wide):
    draw = torch.Generator().manual_seed(5)
    sizes = (9, 6), (6, 4), (9, wide), (wide, 4), (4,)
    given = [torch.randn(s, generator=draw, dtype=torch.float64) for s in sizes]
    x, w, other, v, by = (
        t.requires_grad_(learns or name not in ("x", "other"))
        for name, t in zip(("x", "w", "other", "v", "by"), given, strict=True)
    )
    learnt = [t for t in (x, w, other, v, by) if t.requires_grad]
    mine, wanted = summed(x, w, other, v, by), x @ w + other @ v + by
    beside = not learns and wide == 8
    assert mine.grad_fn.saved_tensors[0].shape[1] == (6 + wide if beside else wide)
    g = torch.randn(9, 4, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(mine, wanted)
    for a, b in zip(
        torch.autograd.grad(mine, learnt, g), torch.autograd.grad(wanted, learnt, g), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("make", [GCN, SAGE, GAT, EGC], ids=lambda m: m.__name__)
def test_training_on_the_pool_is_training(sixty, monkeypatch, make, autocast):
    torch.manual_seed(0)
    one = make(sixty.shape, hidden=16, depth=3, norm="batch", dropout=0.3)
    one.tapped = False
    kind = torch.float32 if autocast else torch.float64
    one.to(kind)
    other, batch = copy.deepcopy(one), whole_batch(sixty.with_(x=sixty.x.to(kind)), one.need)
    for model, least in ((one, pool.LEAST), (other, 1)):
        monkeypatch.setattr(pool, "LEAST", least)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            torch.manual_seed(step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model.train()(batch).logits
            torch.nn.functional.cross_entropy(logits.to(kind), batch.y).backward()
            optimizer.step()
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


FAULTS = """
import resource, sys
import torch
import gnnscale.core.hop
x = torch.randn(7500, 64)

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [x + 1 for _ in range(60)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(step(), step(), step())
"""


@pytest.mark.process
def test_what_a_step_frees_serves_the_next_one():
    """After the first, hardly a new page is asked for: 60 tensors are 28,000 pages."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    clean = {k: v for k, v in os.environ.items() if k not in pool.OWN}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=clean, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    first, *later = map(int, told.stdout.split())
    assert first > 5000
    assert max(later) < 3000, told.stdout


@pytest.mark.parametrize("name", pool.OWN)
def test_what_a_user_has_said_of_memory_is_left(name, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *a: pytest.fail("was told"))
    monkeypatch.setenv(name, "1")
    assert not pool.keep_freed()


def test_another_c_library_is_left_alone(monkeypatch):
    for name in pool.OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda *a: object())
    assert not pool.keep_freed()
