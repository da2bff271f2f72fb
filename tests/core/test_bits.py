import pytest
import torch
import torch.nn.functional as F

from gnnscale.core.ops.bits import Signs, pack, product, sign, unpack


def randn(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_the_sign_of_zero_is_plus_one():
    x = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 2.0, -2.0])
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1]
    assert torch.sign(x)[0] == 0, "torch's has no bit"
    assert pack(x.view(1, -1)).tolist() == [[0b010111]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_identity_inside_and_zero_outside(dtype):
    x = torch.tensor([-1.5, -1.0, -0.3, 0.0, 0.3, 1.0, 1.5], dtype=dtype, requires_grad=True)
    g = torch.arange(1.0, 8, dtype=dtype)
    sign(x).backward(g)
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("columns", [1, 5, 63, 64, 65, 127, 128, 200, 1433])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 3), (33, 64)])
def test_packed_products_are_float_products_bit_for_bit(columns, n, m):
    x, y = randn(n, columns), randn(m, columns, seed=1)
    x[:, ::3] = 0.0
    found = product(pack(x), pack(y), columns)
    assert found.dtype == torch.int32
    assert torch.equal(found.float(), sign(x) @ sign(y).T)


def test_padding_never_differs():
    x = -torch.ones(2, 70)
    assert pack(x).tolist() == [[0, 0], [0, 0]]
    assert product(pack(x), pack(-x), 70).tolist() == [[-70, -70], [-70, -70]]
    assert product(pack(x), pack(x), 70).tolist() == [[70, 70], [70, 70]]


@pytest.mark.process
def test_nothing_depends_on_threads(threads):
    x, y = randn(300, 100), randn(20, 100, seed=1)
    assert torch.equal(*threads(lambda: product(pack(x), pack(y), 100)))


def test_no_rows():
    assert product(pack(torch.zeros(0, 5)), pack(torch.ones(3, 5)), 5).shape == (0, 3)


@pytest.mark.parametrize("columns", [1, 64, 130])
def test_bits_come_back_as_signs(columns):
    x = randn(7, columns)
    assert torch.equal(unpack(pack(x), columns), sign(x))


def test_products_of_signs_are_those_of_floats_exactly():
    x, w, scale, bias = randn(9, 100), randn(5, 100, seed=1), 2.0 ** randn(5).round(), randn(5)
    left, right = Signs(pack(x), 100), Signs(pack(w), 100, scale)
    want = (sign(x) @ sign(w).T) * scale
    assert torch.equal(left @ right.T, want)
    assert torch.equal(F.linear(left, right), want)
    assert torch.equal(F.linear(left, right, bias), want + bias)
    assert torch.equal(left[:4] @ right.T, want[:4])
    assert torch.equal(left[torch.tensor([3, 0])] @ right.T, want[[3, 0]])
    assert left._values is None  # nothing was made float32
    assert right._values is None


def test_signs_are_their_values_elsewhere():
    x, w, scale = randn(6, 70), randn(5, 70, seed=1), randn(5).abs()
    left, right = Signs(pack(x), 70), Signs(pack(w), 70, scale)
    weight = sign(w) * scale.unsqueeze(1)
    assert left.shape == x.shape
    assert right.T.shape == (70, 5)
    assert len(right.T) == 70
    assert torch.equal(right.values(), weight)
    assert torch.equal(x @ right.T, x @ weight.T)  # real inputs of a first layer
    assert torch.equal(F.linear(x, right), F.linear(x, weight))
    for f in (lambda s: s * 2, lambda s: 1 + s, lambda s: s - 1, lambda s: s[:, :3],
              lambda s: torch.cat([s, s]), lambda s: s.view(-1, 10), lambda s: s + s):  # fmt: skip
        assert torch.equal(f(left), f(sign(x)))
