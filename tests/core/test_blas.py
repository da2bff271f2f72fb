import contextlib

import pytest
import torch
from threadpoolctl import threadpool_info

from gnnscale.core.ops import blas


def shapes_of(n, m):
    """Matrices [n, m] that lie in memory in every way."""
    draw = torch.Generator().manual_seed(n + m)
    yield torch.randn(n, m, generator=draw)
    yield torch.randn(m, n, generator=draw).T
    yield torch.randn(n, m + 3, generator=draw)[:, 2:-1]
    yield torch.randn(m + 3, n, generator=draw)[2:-1].T
    yield torch.randn(2 * n, m, generator=draw)[::2]
    yield torch.randn(n, 2 * m, generator=draw)[:, ::2]
    yield torch.randn(1, m, generator=draw).expand(n, m)
    yield torch.randn(n, 1, generator=draw).expand(n, m)


@pytest.mark.parametrize("sizes", [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1)])
@pytest.mark.parametrize("keep", [False, True])
def test_products_of_every_layout(library, sizes, keep):
    n, k, m = sizes
    for a in shapes_of(n, k):
        for b in shapes_of(k, m):
            out = torch.full((n, m), 2.0) if keep else torch.full((n, m), float("nan"))
            want = a.double() @ b.double() + (2.0 if keep else 0.0)
            got = blas.multiply(a, b, out, keep)
            assert got.data_ptr() == out.data_ptr()
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(0, 7, 3), (5, 0, 3), (5, 7, 0)])
def test_empty_products(library, sizes):
    n, k, m = sizes
    out = torch.full((n, m), 2.0)
    assert blas.multiply(torch.ones(n, k), torch.ones(k, m), out, keep=True).eq(2.0).all()
    assert not blas.multiply(torch.ones(n, k), torch.ones(k, m), out).any()


@pytest.mark.parametrize("keep", [False, True])
def test_sizes_that_do_not_fit_are_refused(library, keep):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        blas.multiply(torch.ones(5, 7), torch.ones(6, 3), torch.empty(5, 3), keep)
    with pytest.warns(UserWarning, match="was resized"), contextlib.suppress(RuntimeError):
        blas.multiply(torch.ones(5, 7), torch.ones(7, 3), torch.empty(4, 3), keep)


def test_other_kinds_are_torchs(library):
    a, b = torch.randn(5, 7, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    assert blas.multiply(a, b, torch.empty(5, 3, dtype=torch.float64)).equal(a @ b)


@pytest.mark.parametrize("library", ["openblas"], indirect=True)
def test_threads_are_torchs(library):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            blas.multiply(torch.ones(4, 4), torch.ones(4, 4), torch.empty(4, 4))
            found = {i["num_threads"] for i in threadpool_info() if i["internal_api"] == "openblas"}
            assert found == {threads}
    finally:
        torch.set_num_threads(before)


def test_the_processor_chooses(monkeypatch, tmp_path):
    for text, want in (("vendor_id : AuthenticAMD", True), ("vendor_id : GenuineIntel", False)):
        place = tmp_path / "cpuinfo"
        place.write_text(text)
        monkeypatch.setattr(blas, "Path", lambda _, place=place: place)
        blas.amd.cache_clear()
        assert blas.amd() is want
    blas.amd.cache_clear()
