"""The native tail of an S4D layer against the float64 reference: tiles, layouts, parts left out, extreme values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .block_checks import DTYPES, LAYOUTS, check_op, check_threads, compute_dtype, isa, layout, unrounded  # noqa: F401

ALL = ("bias", "mask", "residual")


def arguments(dtype, kind, batch, length, channels, parts=ALL, seed=0, scale=1.0):
    """y, weight, bias, mask, residual; lengths, cu_seqlens."""
    torch.manual_seed(seed)
    batch, length, lengths, cu_seqlens = layout(kind, batch, length)
    compute = compute_dtype(dtype)
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    dropout = torch.rand(sequences, channels) < 0.8
    inputs = [
        (scale * torch.randn(batch, length, channels)).to(dtype),
        torch.randn(2 * channels, channels, dtype=compute) / max(channels, 1) ** 0.5,
        torch.randn(2 * channels, dtype=compute) if "bias" in parts else None,
        dropout.to(compute) / 0.8 if "mask" in parts else None,
        torch.randn(batch, length, channels).to(dtype) if "residual" in parts else None,
    ]
    return inputs, [lengths, cu_seqlens], lengths


def check(*args, slack=1.0, **kwargs):
    check_op(
        "gelu_glu",
        *arguments(*args, **kwargs),
        activations=(0, 4),
        in_backward=4,
        differentiated=3,
        slack=slack,
        products=True,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_dtypes_and_layouts(isa, dtype, kind):  # noqa: F811
    check(dtype, kind, 3, 150, 20)


@pytest.mark.parametrize("parts", [(), ("bias",), ("mask",), ("residual",)])
def test_parts_left_out(parts):
    check(torch.float32, "padded", 3, 110, 12, parts=parts)


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 17, 32, 33, 64, 65, 150])
def test_channels_that_fit_no_vector(isa, channels):  # noqa: F811
    check(torch.float32, "dense", 2, 70, channels)


@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 95, 96, 97, 193])
def test_tile_boundaries(length):
    check(torch.float64, "padded", 2, length, 6)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length, channels", [(0, 5, 6), (2, 0, 6), (0, 0, 6), (2, 5, 0)])
def test_nothing(kind, batch, length, channels):
    check(torch.float32, kind, batch, length, channels)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data):
    draw = data.draw
    shape = (
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 260)),
        draw(st.integers(1, 70)),
    )
    options = {
        "parts": draw(st.sets(st.sampled_from(ALL))),
        "seed": draw(st.integers(0, 10**6)),
        "scale": draw(st.sampled_from([1e-3, 1.0, 10.0])),
    }
    with unrounded():
        check(*shape, **options, slack=50.0)


def pointwise(y, gate, dtype, slope=0.0):
    """The op on one channel, weights (1, slope), biases (0, gate): gelu(y) * sigmoid(slope * gelu(y) + gate)."""
    weight = torch.tensor([[1.0], [slope]], dtype=dtype)
    bias = torch.tensor([0.0, gate], dtype=dtype)
    return torch.ops.lyra.gelu_glu(y.reshape(1, -1, 1), weight, bias, None, None, None, None).flatten()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1.5e-7), (torch.float64, 8e-16)])
def test_gelu_everywhere(isa, dtype, tolerance):  # noqa: F811
    x = torch.cat([torch.linspace(-45, 45, 40001, dtype=torch.float64), 10.0 ** torch.arange(-40.0, 30.0)]).to(dtype)
    ours = pointwise(x, 100.0, dtype).double()
    value = x.double()
    truth = value * torch.special.erfc(-value * 0.5**0.5) / 2
    assert ((ours - truth).abs() <= tolerance * value.abs()).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-7), (torch.float64, 1e-15)])
def test_sigmoid_everywhere(isa, dtype, tolerance):  # noqa: F811
    y = torch.full((1,), 50.0, dtype=dtype)  # whose GELU is itself
    for gate in torch.linspace(-80, 80, 321, dtype=torch.float64).tolist() + [-1e30, 1e30, 0.0]:
        ours = pointwise(y, gate, dtype).item()
        truth = 50.0 * torch.sigmoid(torch.tensor(gate, dtype=torch.float64)).item()
        assert abs(ours - truth) <= tolerance * truth + 1e-36  # where a float would be denormal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinities_and_nan(isa, dtype):  # noqa: F811
    """As x Phi(x) has it. The gate follows the value: with a weight of 0 it would be NaN, 0 times infinity."""
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e30, -1e30], dtype=dtype)
    wanted = torch.tensor([torch.inf, torch.nan, torch.nan, 1e30, 0.0], dtype=dtype)
    torch.testing.assert_close(pointwise(x, 100.0, dtype, slope=1.0), wanted, equal_nan=True)


def test_same_bits_for_any_number_of_threads():
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 777, 24)
    check_threads("gelu_glu", inputs, rest, torch.randn(5, 777, 24), in_backward=4)
