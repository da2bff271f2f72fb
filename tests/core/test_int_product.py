"""Products of codes against 64 bits, with and without the processor's step for pairs."""

import numba
import numpy as np
import pytest
import torch

from gnnscale.core.ops import int_product

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("pairs_at_once", [True, False])
def test_a_tile_is_exact_on_every_processor(pairs_at_once, monkeypatch):
    if pairs_at_once and not int_product.has_avx2():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(int_product, "has_avx2", lambda: pairs_at_once)
    tile = int_product._tile

    @numba.njit
    def run(x, w, column, out):
        tile(x, w, column, out)

    x = DRAW.integers(-128, 128, (4, 22)).astype(np.int16)
    w = DRAW.integers(-255, 256, (22, 48)).astype(np.int16)
    out = np.full((4, 48), 7, np.int32)
    run(x, int_product.paired(w), 16, out)
    want = x.astype(np.int64) @ w.astype(np.int64)
    assert (out[:, 16:32] == want[:, 16:32]).all()
    assert (out[:, :16] == 7).all()
    assert (out[:, 32:] == 7).all()


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 7, 3), (64, 2, 16), (131, 33, 40), (3, 0, 5)])
def test_products_are_those_of_64_bits(size):
    n, k, d = size
    q = DRAW.integers(-128, 128, (n, k)).astype(np.int8)
    w = DRAW.integers(-255, 256, (k, d)).astype(np.int16)
    pairs = int_product.paired(w)
    out = np.empty((n, pairs.shape[1]), np.int32)
    int_product.product(q, int_product.sums(pairs) * -77, pairs, out)
    assert (out[:, :d] == (q.astype(np.int64) + 77) @ w.astype(np.int64)).all()


def test_the_largest_sums_fit_32_bits():
    k = int_product.LIMIT
    q, w = np.full((1, k), 127, np.int8), np.full((k, 1), 255, np.int16)
    out = np.empty((1, 16), np.int32)
    pairs = int_product.paired(w)
    int_product.product(q, int_product.sums(pairs) * -128, pairs, out)
    assert out[0, 0] == k * 255 * 255


def test_threads_change_nothing(threads):
    q = torch.randint(-128, 128, (500, 30), dtype=torch.int8).numpy()
    w = DRAW.integers(-127, 128, (30, 20)).astype(np.int16)
    pairs = int_product.paired(w)

    def product():
        out = np.empty((500, 32), np.int32)
        int_product.product(q, int_product.sums(pairs) * 3, pairs, out)
        return out

    one, two = threads(product)
    assert (one == two).all()
    assert (two[:, :20] == (q.astype(np.int64) - 3) @ w.astype(np.int64)).all()
