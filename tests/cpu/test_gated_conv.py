"""The native gated convolution against the float64 reference: tile boundaries, halos, layouts, instruction sets."""

from __future__ import annotations

import pytest
import torch

from .block_checks import DTYPES, LAYOUTS, check_op, check_threads, compute_dtype, isa, layout  # noqa: F401


def arguments(dtype, kind, batch, length, channels, width, causal=False, norm=True, bias=True):
    torch.manual_seed(0)
    batch, length, lengths, cu_seqlens = layout(kind, batch, length)
    compute = compute_dtype(dtype)
    inputs = [
        torch.randn(batch, length, 2 * channels).to(dtype),
        torch.randn(channels, 1, width, dtype=compute),
        torch.randn(channels, dtype=compute) if bias else None,
        1 + torch.randn(2 * channels, dtype=compute) / 2 if norm else None,
    ]
    return inputs, [lengths, cu_seqlens, 1e-8, causal], lengths


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no-norm"])
def test_dtypes_and_layouts(isa, dtype, kind, norm):  # noqa: F811
    inputs, rest, lengths = arguments(dtype, kind, 3, 150, 20, 3, norm=norm, bias=norm)
    check_op("gated_conv", inputs, rest, lengths)


@pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9, 31, 80])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 129, 400])
def test_widths_and_tile_boundaries(causal, width, length):
    inputs, rest, lengths = arguments(torch.float32, "padded", 2, length, 5, width, causal)
    check_op("gated_conv", inputs, rest, lengths)


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 15, 16, 17, 33, 100])
def test_channels_that_fit_no_vector(isa, channels):  # noqa: F811
    inputs, rest, lengths = arguments(torch.float32, "dense", 2, 70, channels, 3)
    check_op("gated_conv", inputs, rest, lengths)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length", [(0, 5), (2, 0), (0, 0)])
def test_nothing(kind, batch, length):
    inputs, rest, lengths = arguments(torch.float32, kind, batch, length, 6, 3)
    check_op("gated_conv", inputs, rest, lengths)


def test_sequences_do_not_see_each_other():
    inputs, _, _ = arguments(torch.float32, "dense", 1, 150, 8, 5)
    cu_seqlens = torch.tensor([0, 1, 70, 150])
    whole = torch.ops.lyra.gated_conv(*inputs, None, cu_seqlens, 1e-8, False)
    for begin, end in [(0, 1), (1, 70), (70, 150)]:
        piece = [inputs[0][:, begin:end].contiguous(), *inputs[1:]]
        alone = torch.ops.lyra.gated_conv(*piece, None, None, 1e-8, False)
        torch.testing.assert_close(whole[:, begin:end], alone, rtol=1e-6, atol=1e-6)


def test_causal_output_ignores_the_future():
    inputs, rest, _ = arguments(torch.float32, "dense", 1, 130, 8, 4, causal=True)
    before = torch.ops.lyra.gated_conv(*inputs, *rest)
    inputs[0][:, 100:] = torch.nan
    after = torch.ops.lyra.gated_conv(*inputs, *rest)
    assert torch.equal(before[:, :100], after[:, :100])
    assert after[:, 100:].isnan().all()


def test_same_bits_for_any_number_of_threads():
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 777, 24, 7)
    check_threads("gated_conv", inputs, rest, torch.randn(5, 777, 24))
