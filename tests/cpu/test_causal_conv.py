"""The native direct convolution against the float64 reference: blocks, taps, layouts, instruction sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .block_checks import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    check_op,
    check_threads,
    compute_dtype,
    isa,
    layout,
    on_some_isa,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def arguments(dtype, kind, batch, length, channels, taps, reverse_taps=None, skip=True):
    batch, length, lengths, cu_seqlens = layout(kind, batch, length)
    compute = compute_dtype(dtype)
    inputs = [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, taps, dtype=compute),
        None if reverse_taps is None else torch.randn(channels, reverse_taps, dtype=compute),
        torch.randn(channels, dtype=compute) if skip else None,
    ]
    return inputs, [lengths, cu_seqlens], lengths


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "both-ways"])
def test_dtypes_and_layouts(isa, dtype, kind, reverse):  # noqa: F811
    inputs, rest, lengths = arguments(dtype, kind, 3, 90, 20, 90, 90 if reverse else None, skip=reverse)
    check_op("causal_conv", inputs, rest, lengths)


@pytest.mark.parametrize("taps", [0, 1, 2, 7, 8, 9, 16, 17, 64, 65, 66, 200])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 64, 65])
def test_taps_and_block_boundaries(taps, length):
    for reverse_taps in (None, 0, 1, 8, 9, taps):
        inputs, rest, lengths = arguments(torch.float32, "padded", 2, length, 5, taps, reverse_taps)
        check_op("causal_conv", inputs, rest, lengths)


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 15, 16, 17, 33, 100])
def test_channels_that_fit_no_vector(isa, channels):  # noqa: F811
    inputs, rest, lengths = arguments(torch.float32, "dense", 2, 30, channels, 30, 30)
    check_op("causal_conv", inputs, rest, lengths)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length", [(0, 5), (2, 0), (0, 0)])
def test_nothing(kind, batch, length):
    inputs, rest, lengths = arguments(torch.float32, kind, batch, length, 6, 5, 3)
    check_op("causal_conv", inputs, rest, lengths)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(LAYOUTS),
    batch=st.integers(1, 4),
    length=st.integers(1, 120),
    channels=st.integers(0, 40),
    taps=st.integers(0, 150),
    reverse_taps=st.one_of(st.none(), st.integers(0, 150)),
    skip=st.booleans(),
    isa_index=st.integers(0, 7),
)
def test_odd_shapes(kind, batch, length, channels, taps, reverse_taps, skip, isa_index):
    with on_some_isa(isa_index):
        inputs, rest, lengths = arguments(torch.float32, kind, batch, length, channels, taps, reverse_taps, skip)
        check_op("causal_conv", inputs, rest, lengths)


def test_more_sequences_than_shares():
    inputs, rest, lengths = arguments(torch.float32, "padded", 150, 11, 33, 11, 11)
    check_op("causal_conv", inputs, rest, lengths)


def test_causal_output_ignores_the_future():
    inputs, rest, _ = arguments(torch.float32, "dense", 1, 60, 8, 60)
    before = torch.ops.lyra.causal_conv(*inputs, *rest)
    inputs[0][:, 43:] = torch.nan
    after = torch.ops.lyra.causal_conv(*inputs, *rest)
    assert torch.equal(before[:, :43], after[:, :43])
    assert after[:, 43:].isnan().all()


def test_same_bits_for_any_number_of_threads():
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 200, 24, 200, 100)
    check_threads("causal_conv", inputs, rest, torch.randn(5, 200, 24))


def test_a_wrong_call_of_the_op_raises():
    u, kernel, reverse, D = arguments(torch.float32, "dense", 2, 10, 4, 5, 5)[0]
    for wrong, message in [
        ((u, kernel[:3].contiguous(), reverse, D, None, None), "kernel has size 3"),
        ((u, kernel, reverse.double(), D, None, None), "reverse_kernel has the wrong dtype"),
        ((u, kernel, reverse, D[:2].contiguous(), None, None), "D has size 2"),
        ((u, kernel, reverse, D, torch.tensor([11, 1]), None), "lengths"),
        ((u, kernel, reverse, D, None, torch.tensor([0, 10])), "packed"),
        ((u.transpose(0, 1), kernel, reverse, D, None, None), "contiguous"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.lyra.causal_conv(*wrong)
