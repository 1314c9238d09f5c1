"""short_conv against float64: both ways to lie, states, layouts, taps fewer and more than tokens, dtypes."""

from __future__ import annotations

import pytest
import torch

from .support import channels_first, check, guarded, padding

WRT = range(4)


def _arguments(batch, length, channels, width, sequences=None, bias=True, state=True, dtype=torch.float32):
    return [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, width),
        torch.randn(channels) if bias else None,
        torch.randn(batch if sequences is None else sequences, width - 1, channels) if state else None,
    ]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("lying", [(guarded, guarded), (channels_first, channels_first), (channels_first, guarded),
                                   (guarded, channels_first)])  # fmt: skip
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "bias", "state"),
    [(2, 37, 3, 4, True, True), (1, 1, 1, 1, False, False), (2, 150, 5, 3, False, True), (1, 2, 70, 5, True, False)],
)
def test_dense(silu, lying, batch, length, channels, width, bias, state, device):
    arguments = _arguments(batch, length, channels, width, None, bias, state)
    check("short_conv", [*arguments, None, None, silu], WRT, device, lying=lying)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("lie", [guarded, channels_first])
def test_padded(silu, lie, device):
    lengths = torch.tensor([70, 0, 33, 2])
    arguments = [*_arguments(4, 70, 2, 4), lengths, None, silu]
    check("short_conv", arguments, WRT, device, hide=padding(lengths, 70), lying=(lie, lie))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("lie", [guarded, channels_first])
def test_packed(silu, lie, device):
    cu_seqlens = torch.tensor([0, 1, 1, 70, 90])
    check("short_conv", [*_arguments(1, 90, 2, 4, 4), None, cu_seqlens, silu], WRT, device, lying=(lie, lie))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check("short_conv", [*_arguments(2, 33, 2, 4, dtype=dtype), None, None, True], WRT, device)


@pytest.mark.parametrize("shape", [(0, 5, 2, 3), (2, 0, 2, 3), (2, 5, 2, 9)])
@pytest.mark.parametrize("lie", [guarded, channels_first])
def test_where_there_is_no_kernel(shape, lie, device):
    check("short_conv", [*_arguments(*shape), None, None, True], WRT, device, lying=(lie, lie))
