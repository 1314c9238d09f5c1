"""flash-fft-conv's interface against its formula in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lyra_kernels.compat.flashfftconv import FlashDepthWiseConv1d, FlashFFTConv

from ..ops.cases import assert_close

SHAPES = [
    # seqlen, L, taps
    (64, 32, 32),  # causal
    (64, 32, 64),  # two-sided
    (64, 64, 64),  # circular
    (64, 64, 5),
    (61, 47, 33),  # some lags come around
    (61, 47, 15),  # the most taps of which none does
    (61, 47, 16),
    (7, 1, 7),
    (1, 1, 1),
]


def formula(u, k, seqlen, pregate=None, postgate=None):
    gated = u if pregate is None else u * pregate
    y = torch.fft.irfft(torch.fft.rfft(gated, n=seqlen) * torch.fft.rfft(k, n=seqlen), n=seqlen)[..., : u.shape[-1]]
    return y if postgate is None else y * postgate


def compare(function, wanted, tensors, limit):
    """Values and every gradient, by relative RMS error."""
    exact = [t.double().requires_grad_() for t in tensors]
    given = [t.detach().clone().requires_grad_() for t in tensors]
    expected, found = wanted(*exact), function(*given)
    assert found.dtype == tensors[0].dtype
    assert_close(found, expected, limit, "output")
    grad = torch.randn(expected.shape).to(found.dtype)
    gradients = torch.autograd.grad(found, given, grad)
    for i, (a, b) in enumerate(zip(gradients, torch.autograd.grad(expected, exact, grad.double()), strict=True)):
        assert_close(a, b, limit, f"gradient {i}")


@pytest.mark.parametrize(("seqlen", "length", "taps"), SHAPES)
def test_convolution(seqlen, length, taps):
    u, k = torch.randn(2, 3, length), torch.randn(3, taps)
    compare(FlashFFTConv(seqlen), lambda u, k: formula(u, k, seqlen), (u, k), 2e-6)


@pytest.mark.parametrize("gates", ["both", "before", "behind"])
@pytest.mark.parametrize(("seqlen", "length", "taps"), SHAPES[1:6:2])
def test_gates(seqlen, length, taps, gates):
    conv = FlashFFTConv(seqlen, dtype=torch.bfloat16, use_32_butterfly=False)
    u, k = torch.randn(2, 3, length), torch.randn(3, taps)
    if gates == "both":
        given = (u, k, torch.randn_like(u), torch.randn_like(u))
        compare(conv, lambda u, k, a, b: formula(u, k, seqlen, a, b), given, 2e-6)
    elif gates == "before":
        compare(conv, lambda u, k, a: formula(u, k, seqlen, a), (u, k, torch.randn_like(u)), 2e-6)
    else:
        given = (u, k, torch.randn_like(u))
        compare(lambda u, k, b: conv(u, k, None, b), lambda u, k, b: formula(u, k, seqlen, None, b), given, 2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    u, k = torch.randn(2, 3, 40).to(dtype), torch.randn(3, 40, dtype=torch.float64 if dtype == torch.float64 else None)
    compare(FlashFFTConv(80), lambda u, k: formula(u, k, 80), (u, k), 1e-12 if dtype == torch.float64 else 5e-3)


def test_a_state_dict_of_theirs_loads():
    model = torch.nn.ModuleDict({"conv": FlashFFTConv(64), "linear": torch.nn.Linear(2, 2)})
    theirs = {**torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 2)}).state_dict(), "conv.f_16_fft": torch.ones(4)}
    model.load_state_dict(theirs)
    assert torch.equal(model["linear"].weight, theirs["linear.weight"]) and not model["conv"].state_dict()


def test_refusals():
    u, k = torch.randn(2, 3, 20), torch.randn(3, 20)
    with pytest.raises(ValueError, match="neither may be more than seqlen, 16: make it FlashFFTConv\\(20\\)"):
        FlashFFTConv(16)(u, k)
    with pytest.raises(ValueError, match=r"k must have shape .*u is \(B, L, H\): give u.transpose\(1, 2\)"):
        FlashFFTConv(40)(u.transpose(1, 2), k)
    with pytest.raises(ValueError, match=r"u must have shape \(B, H, L\), not \(3, 20\)"):
        FlashFFTConv(40)(u[0], k)
    with pytest.raises(ValueError, match="seqlen must be an integer of at least 1, not 0"):
        FlashFFTConv(0)
    with pytest.raises(ValueError, match="too short for 5 taps, padding 0"):
        FlashDepthWiseConv1d(3, 5, 0, torch.ones(3, 1, 5), torch.ones(3))(u[..., :4])
    with pytest.raises(ValueError, match=r"weights must have shape \(3, 1, 5\), not \(3, 1, 4\)"):
        FlashDepthWiseConv1d(3, 5, 2, torch.ones(3, 1, 4), torch.ones(3))
    with pytest.raises(ValueError, match=r"input must have shape \(B, H, L\) with H = 3, not \(2, 20, 3\)"):
        FlashDepthWiseConv1d(3, 5, 2, torch.ones(3, 1, 5), torch.ones(3))(u.transpose(1, 2))


@pytest.mark.parametrize("is_bhl", [True, False])
@pytest.mark.parametrize(
    ("taps", "padding"), [(3, 1), (4, 3), (4, 2), (4, 1), (5, 0), (1, 0), (2, 4), (3, 2), (1, 2), (8, 1), (12, 5)]
)
def test_depthwise(taps, padding, is_bhl):
    weights, bias, x = torch.randn(3, 1, taps), torch.randn(3), torch.randn(2, 3, 23)
    conv = FlashDepthWiseConv1d(3, taps, padding, weights, bias, is_bhl)
    assert conv.weights.shape == ((3, taps) if is_bhl else (taps, 3))
    names = dict(conv.named_parameters())

    def function(x, weights, bias):
        given = {"weights": weights[:, 0] if is_bhl else weights[:, 0].t(), "bias": bias}
        assert names.keys() == given.keys()
        y = torch.func.functional_call(conv, given, x if is_bhl else x.transpose(1, 2))
        return y if is_bhl else y.transpose(1, 2)

    def formula(x, weights, bias):
        return F.conv1d(x, weights, bias, padding=padding, groups=3)

    compare(function, formula, (x, weights, bias), 2e-6)
    y = conv(x if is_bhl else x.transpose(1, 2))
    assert_close(y if is_bhl else y.transpose(1, 2), formula(x, weights, bias), 1e-6)


@pytest.mark.parametrize("is_bhl", [True, False])
def test_depthwise_of_other_dtypes(is_bhl):
    """Weights in float32 beside activations in bfloat16, as in mixed precision; double ones if asked for."""
    weights, bias, x = torch.randn(3, 5), torch.randn(3), torch.randn(2, 3, 23)
    conv = FlashDepthWiseConv1d(3, 5, 2, weights, bias, is_bhl)
    y = conv((x if is_bhl else x.transpose(1, 2)).bfloat16())
    y = y if is_bhl else y.transpose(1, 2)
    assert y.dtype == torch.bfloat16
    assert_close(y, F.conv1d(x, weights[:, None], bias, padding=2, groups=3), 1e-2)
    assert FlashDepthWiseConv1d(3, 5, 2, weights, bias, is_bhl, dtype=torch.float64).bias.dtype == torch.float64


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FlashFFTConv(64.0), "seqlen must be an integer of at least 1, not 64.0"),
        (
            lambda: FlashFFTConv(16)(torch.zeros(2, 5, 9), torch.zeros(5, 9), torch.zeros(2, 9, 5)),
            r"pregate must have u's shape, \(B, H, L\) = \(2, 5, 9\), not \(2, 9, 5\)",
        ),
        (
            lambda: FlashDepthWiseConv1d(5, 3, 1, torch.zeros(5, 1, 3), torch.zeros(1), is_bhl=False),
            r"bias must have shape \(5,\), not \(1,\)",
        ),
        (
            lambda: FlashDepthWiseConv1d(5, 3, -2, torch.zeros(5, 1, 3), torch.zeros(5), is_bhl=False),
            "padding must be 0 or more, not -2",
        ),
    ],
)
def test_what_would_be_broadcast_or_cut_in_silence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_tokens_between_padding():
    weights, bias = torch.randn(5, 1, 3), torch.randn(5)
    y = FlashDepthWiseConv1d(5, 3, 2, weights, bias)(torch.zeros(2, 5, 0))
    assert torch.equal(y, bias[:, None].expand(2, 5, 2))
