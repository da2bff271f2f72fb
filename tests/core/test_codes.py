"""Codes are torch's own, to the last tie, and their values are exact."""

import warnings

import numba
import pytest
import torch

from gnnscale.core.ops.codes import Grid, centred, decode, encode, fake, rectified


def grid(scale, zero, first=0, last=255, dtype=torch.float32):
    return Grid(torch.tensor(scale, dtype=dtype), torch.tensor(zero, dtype=dtype), first, last)


def hard(scale, n=1 << 16):
    """Random values, ties between codes, and their neighbours among the floats."""
    draw = torch.Generator().manual_seed(0)
    half = torch.randint(-300, 300, (n,), generator=draw).double() + 0.5
    ties = (half * float(torch.tensor(scale, dtype=torch.float32))).float()
    up = 2.0 * torch.randint(0, 2, (n,), generator=draw) - 1
    near = torch.nextafter(ties, ties + up * ties.abs().clamp(min=1e-3))
    return torch.cat([torch.randn(n, generator=draw) * 100 * scale, ties, near])


@pytest.mark.parametrize("zero", [0, 37, 128, 255])
@pytest.mark.parametrize("scale", [0.0173, 0.1, 1 / 3, 0.731, 2.0**-5, 4.0])
def test_codes_are_those_of_quantize_per_tensor(scale, zero):
    x = hard(scale)
    assert len(x) % 64 == 0  # its remainder loop divides by the scale, and so differs at some ties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: quantised tensors will be removed
        codes = torch.quantize_per_tensor(x, scale, zero, torch.quint8).int_repr()
    assert torch.equal(encode(x, grid(scale, zero)), codes.float())


@pytest.mark.parametrize("scale", [0.0173, 2.0**-5])
def test_signed_codes_are_those_of_quantize_per_tensor(scale):
    x = hard(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codes = torch.quantize_per_tensor(x, scale, 0, torch.qint8).int_repr()
    assert torch.equal(encode(x, grid(scale, 0, -128, 127)), codes.float())


def test_codes_per_channel_are_those_of_each_channel():
    x, scale, zero = (
        hard(0.1, 1024).view(4, -1),
        torch.tensor([0.1, 0.2, 0.3, 0.4]),
        torch.arange(4.0),
    )
    whole = Grid(scale, zero, 0, 255)
    for axis, given in ((0, x), (1, x.T), (-1, x.T.contiguous())):
        codes = encode(given, whole, axis)
        values = fake(given, whole, axis)
        assert torch.equal(decode(codes, whole, axis), values)
        for c in range(4):
            alone = encode(x[c], grid(scale[c].item(), float(c)))
            assert torch.equal(codes.movedim(axis, 0)[c], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_the_codes(dtype):
    x = hard(0.1).to(dtype)
    made = grid(0.1, 37, dtype=dtype)
    codes = encode(x, made)
    assert codes.dtype == dtype
    assert torch.equal(codes, codes.round())
    assert torch.equal(fake(x, made), (codes - 37) * made.scale)
    assert torch.equal(fake(x, made), decode(codes, made))


def test_nan_stays_nan_and_infinities_are_cut_off():
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    codes = encode(x, grid(0.1, 37))
    assert codes[0].isnan()
    assert codes[1:].tolist() == [255, 0]


def test_no_order_and_no_layout_of_the_entries_matters():
    x = hard(0.1, 1 << 12).view(64, -1)
    made = grid(0.1, 37)
    assert torch.equal(encode(x.T, made), encode(x, made).T)
    assert torch.equal(encode(x[:, ::3], made), encode(x, made)[:, ::3])
    assert encode(x[:0], made).shape == (0, x.shape[1])


def test_gradient_is_of_the_codes_that_are_not_cut_off():
    x = torch.tensor([-0.06, -0.04, 0.0, 25.54, 25.56, 99.0], requires_grad=True)
    fake(x, grid(0.1, 0)).backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0, 0.0]
    # per channel, along a leading axis of another layout
    y = torch.stack([x.detach(), 10 * x.detach()], 1).requires_grad_()
    fake(y, Grid(torch.tensor([0.1, 1.0]), torch.zeros(2), 0, 255), 1).sum().backward()
    assert torch.equal(y.grad[:, 0], y.grad[:, 1])
    assert y.grad[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.process
def test_the_threads_number_changes_nothing(threads):
    x = hard(0.1)
    assert torch.equal(*threads(lambda: encode(x, grid(0.1, 37))))


@numba.njit
def _rectify(v):
    for i in range(len(v)):
        v[i] = rectified(v[i])


def test_rectified_is_relu():
    given = torch.tensor(
        [-3.5, -0.0, 0.0, 1e-45, -1e-45, 2.5, torch.inf, -torch.inf, torch.nan] * 5
    )
    want, found = given.relu(), given.clone().numpy()
    _rectify(found)
    torch.testing.assert_close(torch.from_numpy(found), want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("zero", [0.0, 100.0, 255.0])
def test_centred_codes_are_codes_less_the_code_of_0(zero):
    to = grid(0.037, zero)
    x = hard(0.037, n=1 << 12)
    got = centred(x, to)
    assert got.dtype == torch.int16
    assert torch.equal(got, (encode(x, to) - zero).to(torch.int16))
