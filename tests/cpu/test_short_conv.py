"""The native short convolution against the float64 reference: taps, tiles, both ways to lie, instruction sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .block_checks import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    SUMMED,
    check_op,
    check_threads,
    compute_dtype,
    error,
    isa,
    layout,
    on_some_isa,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def first(x):
    """The same numbers, lying as (batch, channels, length)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def arguments(dtype, kind, batch, length, channels, width, bias=True, state=True, silu=True):
    batch, length, lengths, cu_seqlens = layout(kind, batch, length)
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    compute = compute_dtype(dtype)
    inputs = [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, width, dtype=compute),
        torch.randn(channels, dtype=compute) if bias else None,
        torch.randn(sequences, width - 1, channels, dtype=compute) if state else None,
    ]
    return inputs, [lengths, cu_seqlens, silu], lengths


def check_channels_first(inputs, rest):
    """Bits of every mixture of ways to lie: those of the sums depend on the way of u, the rest on none."""
    u, *others = inputs
    op, backward = torch.ops.lyra.short_conv, torch.ops.lyra.short_conv_backward
    grad = torch.randn(u.shape).to(u.dtype)
    y, plain = op(u, *others, *rest), backward(grad, u, *others, *rest)
    found = op(first(u), *others, *rest)
    assert found.stride() == torch.empty_like(first(u)).stride()
    torch.testing.assert_close(found, y, rtol=1e-6 if u.dtype == torch.float32 else 1e-2, atol=1e-6, equal_nan=True)
    limit = 4 * SUMMED[u.dtype]
    mixed = {
        (a, b): backward(a(grad), b(u), *others, *rest) for a in (first, torch.clone) for b in (first, torch.clone)
    }
    for (_, b), gradients in mixed.items():
        assert gradients[0].stride() == torch.empty_like(b(u)).stride()
        for i, (one, other) in enumerate(zip(gradients, plain, strict=True)):
            small = limit if i or u.dtype in (torch.float32, torch.float64) else 1e-2
            assert one.shape == other.shape and error(one, other) <= small, f"gradient {i}"
    for b in (first, torch.clone):
        assert all(torch.equal(x, y) for x, y in zip(mixed[first, b], mixed[torch.clone, b], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("silu", [False, True], ids=["linear", "silu"])
def test_dtypes_and_layouts(isa, dtype, kind, silu):  # noqa: F811
    inputs, rest, lengths = arguments(dtype, kind, 3, 90, 20, 4, silu=silu)
    check_op("short_conv", inputs, rest, lengths)
    check_channels_first(inputs, rest)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 19, 70])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 65])
def test_widths_and_lengths(width, length):
    for bias, state in ((True, True), (False, True), (True, False)):
        inputs, rest, lengths = arguments(torch.float32, "padded", 3, length, 5, width, bias, state)
        check_op("short_conv", inputs, rest, lengths, slack=4.0)
    check_channels_first(inputs, rest)


@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 17, 33, 100])
def test_channels_that_fit_no_vector(isa, channels):  # noqa: F811
    inputs, rest, lengths = arguments(torch.float32, "packed", 4, 150, channels, 4)
    check_op("short_conv", inputs, rest, lengths)
    check_channels_first(inputs, rest)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("width", [2, 4, 9])
def test_across_tiles(kind, width):
    inputs, rest, lengths = arguments(torch.float64, kind, 2, 2300, 3, width)
    check_op("short_conv", inputs, rest, lengths)
    check_channels_first(inputs, rest)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length, channels", [(0, 5, 6), (2, 0, 6), (0, 0, 6), (2, 5, 0)])
def test_nothing(kind, batch, length, channels):
    inputs, rest, lengths = arguments(torch.float32, kind, batch, length, channels, 3)
    check_op("short_conv", inputs, rest, lengths)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(LAYOUTS),
    batch=st.integers(1, 4),
    length=st.integers(1, 120),
    channels=st.integers(1, 40),
    width=st.integers(1, 12),
    bias=st.booleans(),
    state=st.booleans(),
    silu=st.booleans(),
    isa_index=st.integers(0, 7),
)
def test_odd_shapes(kind, batch, length, channels, width, bias, state, silu, isa_index):
    with on_some_isa(isa_index):
        inputs, rest, lengths = arguments(torch.float32, kind, batch, length, channels, width, bias, state, silu)
        check_op("short_conv", inputs, rest, lengths, slack=4.0)
        check_channels_first(inputs, rest)


@pytest.mark.parametrize("lie", [torch.clone, first], ids=["contiguous", "channels first"])
def test_nothing_of_the_padding_nor_of_the_future(lie):
    inputs, _, _ = arguments(torch.float32, "dense", 2, 60, 5, 4)
    rest = [torch.tensor([60, 31]), None, True]
    y = torch.ops.lyra.short_conv(lie(inputs[0]), *inputs[1:], *rest)
    gradients = torch.ops.lyra.short_conv_backward(lie(torch.ones_like(y)), lie(inputs[0]), *inputs[1:], *rest)
    spoiled, grad = inputs[0].clone(), torch.ones_like(y)
    spoiled[1, 31:] = grad[1, 31:] = torch.nan
    after = torch.ops.lyra.short_conv_backward(lie(grad), lie(spoiled), *inputs[1:], *rest)
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    spoiled[0, 43:] = torch.inf
    after = torch.ops.lyra.short_conv(lie(spoiled), *inputs[1:], *rest)
    assert torch.equal(y[:, :43], after[:, :43]) and not after[1, 31:].any() and not after[0, 43:].isfinite().any()


@pytest.mark.parametrize("lie", [torch.clone, first], ids=["contiguous", "channels first"])
def test_same_bits_for_any_number_of_threads(lie):
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 1100, 24, 4)
    check_threads("short_conv", [lie(inputs[0]), *inputs[1:]], rest, torch.randn(5, 1100, 24))


def test_a_wrong_call_of_the_op_raises():
    u, weight, bias, state = arguments(torch.float32, "dense", 2, 10, 4, 3)[0]
    for wrong, message in [
        ((u, weight[:3].contiguous(), bias, state, None, None, True), "weight has size 3"),
        ((u, weight[:, :0].contiguous(), bias, None, None, None, True), "a tap at least"),
        ((u, weight, bias.double(), state, None, None, True), "bias has the wrong dtype"),
        ((u, weight, bias, state[:1].contiguous(), None, None, True), "initial_state has size 1"),
        ((u, weight, bias, state, torch.tensor([11, 1]), None, True), "lengths"),
        ((u, weight, bias, state, None, torch.tensor([0, 10]), True), "packed"),
        ((u.transpose(0, 1), weight, bias, state, None, None, True), "contiguous"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.lyra.short_conv(*wrong)
