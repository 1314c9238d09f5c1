"""The convolution by FFT on CPUs against the float64 reference: transforms, taps, gates, layouts, few channels."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lyra_kernels.backends.cpu import fft_conv as cpu_fft

from .block_checks import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    STORED,
    check_op,
    check_threads,
    error,
    isa,
    on_some_isa,
    poisoned_outputs,
)
from .test_causal_conv import arguments


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def has_small_factors(n: int) -> bool:
    for factor in (2, 3, 5, 7):
        while n % factor == 0:
            n //= factor
    return n == 1


def test_transform_lengths_are_the_smallest_even_ones_with_small_factors():
    good = [n for n in range(2, 6000, 2) if has_small_factors(n)]
    for least in range(5000):
        assert cpu_fft.good_length(least) == next(n for n in good if n >= least)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "both-ways"])
def test_dtypes_and_layouts(isa, dtype, kind, channels, reverse):  # noqa: F811
    inputs, rest, lengths = arguments(dtype, kind, 3, 150, channels, 150, 150 if reverse else None, skip=reverse)
    check_op("fft_conv", inputs, rest, lengths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("points", [r << m for r in (1, 3, 5) for m in range(2, 9)])
def test_every_kind_of_transform(isa, points, dtype):  # noqa: F811
    """Of so many complex points: just filled, so that one lag more would wrap around, and one token too long for it."""
    for length in (points, points + 1):
        for reverse_taps in (None, length):
            inputs, rest, lengths = arguments(dtype, "dense", 1, length, 5, length, reverse_taps)
            # The reference's transforms of 2 points + 1, which may be a prime, are off by 1.3e-14.
            check_op("fft_conv", inputs, rest, lengths, slack=2.0, bilinear=True)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8, 15, 16, 17, 33])
def test_channels_that_fill_no_vector(isa, channels):  # noqa: F811
    inputs, rest, lengths = gated(torch.float32, "padded", 3, 40, channels, 40, 9, gates=(True, True))
    check_op("gated_fft_conv", inputs, rest, lengths, activations=(0, 4, 5))


@pytest.mark.full
@pytest.mark.parametrize("length", [40_000, 1 << 20])
def test_transforms_that_no_cache_holds(length):
    u, kernel = torch.randn(2, length, 5), torch.randn(5, length)
    spectrum = torch.fft.rfft(u.double(), n=2 * length, dim=1) * torch.fft.rfft(kernel.double(), n=2 * length).t()
    wanted = torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length]
    assert error(torch.ops.lyra.fft_conv(u, kernel, None, None, None, None), wanted) < STORED[torch.float32]


def gated(dtype, kind, *shape, gates, **options):
    """Arguments of gated_fft_conv with some gates."""
    inputs, rest, lengths = arguments(dtype, kind, *shape, **options)
    return inputs + [torch.randn_like(inputs[0]) if there else None for there in gates], rest, lengths


GATES = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize("channels", [2, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("gates", GATES, ids=["both", "before", "behind", "none"])
def test_gates(dtype, kind, gates, channels):
    inputs, rest, lengths = gated(dtype, kind, 3, 61, channels, 61, 5, gates=gates)
    check_op("gated_fft_conv", inputs, rest, lengths, activations=(0, 4, 5), bilinear=True)


@pytest.mark.parametrize("channels", [3, 7])
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_activation_may_lie_either_way(kind, dtype, channels):
    """Outputs and gradients lie as what they belong to, and have the bits that they have otherwise."""

    def channels_first(x):
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    inputs, rest, _ = gated(dtype, kind, 3, 300, channels, 300, 5, gates=(True, True))
    grad = torch.randn_like(inputs[0])
    op, backward = torch.ops.lyra.gated_fft_conv, torch.ops.lyra.gated_fft_conv_backward
    wanted = [op(*inputs, *rest), *backward(grad, *inputs, *rest)]
    for u, pregate, postgate, gradient in itertools.product((False, True), repeat=4):
        given = [channels_first(x) if i in (0, 4, 5) and (u, 0, 0, 0, pregate, postgate)[i] else x
                 for i, x in enumerate(inputs)]  # fmt: skip
        with poisoned_outputs():
            y = op(*given, *rest)
            gradients = backward(channels_first(grad) if gradient else grad, *given, *rest)
        for a, b in zip((y, *gradients), wanted, strict=True):
            assert torch.equal(a, b)
        for found, like in ((y, 0), (gradients[0], 0), (gradients[4], 4), (gradients[5], 5)):
            assert found.stride() == given[like].stride()


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_few_long_rows(monkeypatch, kind, dtype, batch):
    monkeypatch.setattr(cpu_fft, "LONG", 50)
    for reverse_taps, gates in itertools.product((None, 5, 70), GATES):
        # The gradient of one D is one number, which may cancel: in float64 its error is relative to its terms.
        skip = dtype == torch.float64
        inputs, rest, lengths = gated(dtype, kind, batch, 70, 1, 70, reverse_taps, gates=gates, skip=skip)
        check_op("gated_fft_conv", inputs, rest, lengths, activations=(0, 4, 5), slack=2.0, bilinear=True)


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
    torch.manual_seed(0)  # an example is the same, whatever was drawn before it
    with on_some_isa(isa_index):
        inputs, rest, lengths = arguments(torch.float64, kind, batch, length, channels, taps, reverse_taps, skip)
        check_op("fft_conv", inputs, rest, lengths, bilinear=True)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length", [(0, 5), (2, 0), (0, 0)])
def test_nothing(monkeypatch, kind, batch, length):
    monkeypatch.setattr(cpu_fft, "LONG", 3)
    for channels in (0, 1, 2, 6):
        inputs, rest, lengths = arguments(torch.float32, kind, batch, length, channels, 5, 3)
        check_op("fft_conv", inputs, rest, lengths)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_bad_number_stays_in_its_sequence_and_channel(channels):
    inputs, rest, _ = arguments(torch.float32, "dense", 2, 60, channels, 60)
    inputs[0][0, 30, 1] = torch.nan
    y = torch.ops.lyra.fft_conv(*inputs, *rest)
    others = [c for c in range(channels) if c != 1]
    assert y[1].isfinite().all() and y[0][:, others].isfinite().all()
    assert not y[0, 30:, 1].isfinite().any()


def test_same_bits_for_any_number_of_threads():
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 200, 24, 200, 100)
    check_threads("fft_conv", inputs, rest, torch.randn(5, 200, 24))


@pytest.mark.parametrize(
    ("name", "values"),
    [("lengths", [0, 11]), ("lengths", [-1, 10])]
    + [("cu_seqlens", cuts) for cuts in ([0, 11], [1, 10], [0, 7, 5, 10])],
)
def test_the_dispatcher_op_checks_the_layout_itself(name, values):
    for channels in (3, 4):
        u, kernel = torch.randn(2 if name == "lengths" else 1, 10, channels), torch.randn(channels, 10)
        layout = (torch.tensor(values), None) if name == "lengths" else (None, torch.tensor(values))
        with pytest.raises((ValueError, RuntimeError), match=name):
            torch.ops.lyra.fft_conv(u, kernel, None, None, *layout)
