"""Norm and activation in one pass: beside torch's formula in float64, whatever the type, the size and the chunks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from biosegkit.kernels import normalise as kernel
from biosegkit.kernels.normalise import normalise, normalise_backward
from biosegkit.nets.blocks import ConvBlock
from biosegkit.nets.instance_norm import InstanceNorm

EPS = 1e-5


def truth(x, dy, weight, bias, slope):
    """Result and gradients of (B, N, C) arrays by the formula, in float64; the gradients are torch's."""
    x, weight, bias = (torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, weight, bias))
    z = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + EPS).sqrt()
    y = F.leaky_relu(weight * z + bias, slope)
    y.backward(torch.from_numpy(dy.astype(np.float64)))
    return [a.detach().numpy() for a in (y, x.grad, weight.grad, bias.grad)]


def ours(x, dy, weight, bias, slope):
    y, dx = np.empty_like(x), np.empty_like(x)
    statistics = normalise(x, weight, bias, slope, EPS, y)
    return [y, dx, *normalise_backward(x, dy, weight, bias, slope, statistics, dx)]


def numbers(shape, dtype=np.float64, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(1, 0.5, shape[-1]), rng.normal(0, 0.5, shape[-1])
    return [a.astype(dtype) for a in (rng.normal(mean, 1, shape), rng.normal(size=shape), weight, bias)]


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 3, 1), (1, 5, 7), (3, 103, 12), (2, 64, 16)])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("chunk", [1, 64, 32768])
def test_result_and_gradients_are_those_of_torch(monkeypatch, shape, slope, chunk):
    monkeypatch.setattr(kernel, "CHUNK", chunk)
    given = numbers(shape)
    for found, wanted in zip(ours(*given, slope), truth(*given, slope), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_float32_keeps_its_digits_far_from_zero(mean):
    """Plain sums of squares would lose them: at 300 the square of the mean is 90 000 times the variance.

    Without activation, as at its bend the gradient of a number jumps whose sign is lost in rounding.
    """
    given = numbers((2, 40_000, 5), np.float32, mean=mean)
    exact = truth(*given, 1.0)
    for found, wanted in zip(ours(*given, 1.0), exact, strict=True):
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_constant_channel_is_its_bias():
    x = np.full((1, 50, 2), 7.0, np.float32)
    y, weight, bias = np.empty_like(x), np.ones(2, np.float32), np.array([0.5, -0.5], np.float32)
    normalise(x, weight, bias, 0.1, EPS, y)
    assert y[0, :, 0] == pytest.approx(0.5)
    assert y[0, :, 1] == pytest.approx(-0.05)


def test_bits_of_bfloat16_are_rounded_as_torch_rounds():
    """All 16-bit patterns of finite numbers, normalised with statistics that change nothing but the last digits."""
    x = torch.arange(-30, 30, dtype=torch.float32).div(7).to(torch.bfloat16).reshape(1, -1, 1)
    y = torch.empty_like(x)
    one = np.ones(1, np.float32)
    mean, rstd = normalise(x.view(torch.uint16).numpy(), one, 0 * one, 1.0, EPS, y.view(torch.uint16).numpy())
    scale = np.float32(one[0] * rstd[0, 0])
    wanted = (x.float() * float(scale) + float(np.float32(-mean[0, 0] * scale))).to(torch.bfloat16)
    assert (y == wanted).float().mean() > 0.95  # a fused multiplication may round the other way where it is a tie
    assert torch.allclose(y.float(), wanted.float(), rtol=2**-7, atol=2**-7)


def test_the_result_may_take_the_place_of_the_input():
    x, dy, weight, bias = numbers((2, 33, 6), np.float32)
    y, dx, _, _ = ours(x, dy, weight, bias, 0.01)
    there, gradient = x.copy(), dy.copy()
    statistics = normalise(there, weight, bias, 0.01, EPS, there)
    normalise_backward(x, gradient, weight, bias, 0.01, statistics, gradient)
    assert np.array_equal(there, y)
    assert np.array_equal(gradient, dx)


def test_whatever_is_not_finite_stays_so():
    x = np.zeros((1, 8, 2), np.float32)
    x[0, 3, 0] = np.nan
    y, one = np.empty_like(x), np.ones(2, np.float32)
    normalise(x, one, one, 0.01, EPS, y)
    assert np.isnan(y[..., 0]).all()
    assert np.isfinite(y[..., 1]).all()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_is_the_same_in_every_memory_format(ndim, dtype):
    """Channels-last goes through the kernel, the other through torch: outputs and gradients agree."""
    torch.manual_seed(0)
    block = ConvBlock(ndim, 3, 6, (3,) * ndim).to(dtype)
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.norm.bias)
    layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
    x = torch.randn(2, 3, *(9, 8, 7)[:ndim], dtype=dtype)
    found = []
    for form in (torch.contiguous_format, layout):
        block = block.to(memory_format=form)
        block.zero_grad()
        image = x.clone(memory_format=torch.preserve_format).to(memory_format=form).requires_grad_()
        y = block(image)
        y.square().sum().backward()
        with torch.no_grad():
            assert torch.allclose(block(image), y, atol=1e-6)
        found.append([y.detach(), image.grad, *(p.grad.clone() for p in block.parameters())])
    digits = 1e-3 if dtype == torch.float32 else 1e-9
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=digits * max(1.0, float(a.abs().max())))


def test_prediction_in_place_spares_a_copy_and_leaves_inputs_alone():
    norm, given = InstanceNorm(4, slope=0.1), torch.randn(1, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    before = given.clone()
    with torch.no_grad():
        y = norm(given)
        assert torch.equal(given, before)
        norm.inplace = True
        there = norm(given)
    assert there.data_ptr() == given.data_ptr()
    assert torch.equal(there, y)


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads_gives_the_same_bytes(monkeypatch, threads):
    monkeypatch.setattr(kernel, "MANY", 0)
    monkeypatch.setattr(kernel, "SEVERAL", 1)
    x, dy, weight, bias = numbers((3, 5000, 16), np.float32)
    found = []
    for workers in (1, threads):
        y, dx = np.empty_like(x), np.empty_like(x)
        statistics = normalise(x, weight, bias, 0.01, EPS, y, workers)
        found.append([y, *statistics, *normalise_backward(x, dy, weight, bias, 0.01, statistics, dx, workers), dx])
    for one, several in zip(*found, strict=True):
        assert one.tobytes() == several.tobytes()
