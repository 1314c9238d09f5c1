"""The reference norm, gated convolution, PGC and layer tail against torch's own modules and loops over scalars."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lyra_kernels import reference

DOUBLE = torch.float64
EPS = 1e-8


def weights(inner: int, width: int, d: int = 4) -> tuple[Tensor, ...]:
    """in_weight, in_bias, in_norm, conv_weight, conv_bias, out_weight, out_bias, out_norm."""
    shapes = [(2 * inner, d), (2 * inner,), (2 * inner,), (inner, 1, width), (inner,), (d, inner), (d,), (d,)]
    return tuple(torch.randn(shape, dtype=DOUBLE) for shape in shapes)


def test_rms_norm_is_torchs():
    x, weight = torch.randn(3, 5, 7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)
    torch.testing.assert_close(reference.rms_norm(x, weight, EPS), F.rms_norm(x, (7,), weight, EPS))
    torch.testing.assert_close(reference.rms_norm(x, None, EPS), F.rms_norm(x, (7,), None, EPS))


@pytest.mark.parametrize("length", [0, 1, 2, 9])
@pytest.mark.parametrize(("width", "causal"), [(1, False), (3, False), (7, False), (3, True), (4, True)])
def test_gated_conv_term_by_term(width, causal, length):
    inner = 2
    xv = torch.randn(2, length, 2 * inner, dtype=DOUBLE)
    weight, bias = torch.randn(inner, 1, width, dtype=DOUBLE), torch.randn(inner, dtype=DOUBLE)
    norm = torch.randn(2 * inner, dtype=DOUBLE)
    left = width - 1 if causal else width // 2
    expected = torch.zeros(2, length, inner, dtype=DOUBLE)
    for b in range(2):
        rows = []
        for t in range(length):
            row = xv[b, t].tolist()
            scale = 1 / math.sqrt(sum(x * x for x in row) / len(row) + EPS)
            rows.append([x * scale * w for x, w in zip(row, norm.tolist(), strict=True)])
        for t in range(length):
            for e in range(inner):
                taps = [
                    float(weight[e, 0, j]) * rows[t + j - left][e] for j in range(width) if 0 <= t + j - left < length
                ]
                expected[b, t, e] = rows[t][inner + e] * (math.fsum(taps) + float(bias[e]))
    found = reference.gated_conv(xv, weight, bias, norm, None, None, EPS, causal)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_pgc_is_torchs_modules_in_a_row():
    in_weight, in_bias, in_norm, conv_weight, conv_bias, out_weight, out_bias, out_norm = weights(6, 5)
    u = torch.randn(2, 11, 4, dtype=DOUBLE)
    conv = nn.Conv1d(6, 6, 5, padding="same", groups=6, dtype=DOUBLE)
    conv.load_state_dict({"weight": conv_weight, "bias": conv_bias})
    x, v = F.rms_norm(F.linear(u, in_weight, in_bias), (12,), in_norm, EPS).chunk(2, -1)
    gated = v * conv(x.transpose(1, 2)).transpose(1, 2)
    expected = F.rms_norm(F.linear(gated, out_weight, out_bias), (4,), out_norm, EPS) + u
    parameters = (in_weight, in_bias, in_norm, conv_weight, conv_bias, out_weight, out_bias, out_norm)
    found = reference.pgc(u, *parameters, u, None, None, EPS, False)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gelu_glu_is_torchs_modules_in_a_row():
    y, residual = torch.randn(2, 2, 9, 5, dtype=DOUBLE)
    weight, bias = torch.randn(10, 5, dtype=DOUBLE), torch.randn(10, dtype=DOUBLE)
    mask = torch.randn(2, 5, dtype=DOUBLE)
    conv = nn.Conv1d(5, 10, 1, dtype=DOUBLE)
    conv.load_state_dict({"weight": weight.unsqueeze(-1), "bias": bias})
    dropped = nn.GELU()(y).transpose(1, 2) * mask.unsqueeze(-1)
    expected = nn.GLU(dim=1)(conv(dropped)).transpose(1, 2) + residual
    found = reference.gelu_glu(y, weight, bias, mask, residual, None, None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("op", ["gated_conv", "pgc", "gelu_glu"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_sequence_in_a_batch_is_the_sequence_alone(op, packed):
    sizes, channels = (5, 0, 12, 1), {"gated_conv": 6, "pgc": 4, "gelu_glu": 5}[op]
    parameters = weights(3, 3)
    glu = (torch.randn(10, 5, dtype=DOUBLE), torch.randn(10, dtype=DOUBLE))
    mask = torch.randn(4, 5, dtype=DOUBLE)

    def call(x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, rows: slice) -> Tensor:
        if op == "gated_conv":
            return reference.gated_conv(x, parameters[3], parameters[4], parameters[2], lengths, cu_seqlens, EPS, False)
        if op == "pgc":
            return reference.pgc(x, *parameters, x, lengths, cu_seqlens, EPS, False)
        return reference.gelu_glu(x, *glu, mask[rows], None, lengths, cu_seqlens)

    sequences = [torch.randn(1, n, channels, dtype=DOUBLE) for n in sizes]
    if packed:
        out = call(torch.cat(sequences, 1), None, torch.tensor([0, *sizes]).cumsum(0), slice(None))
        parts = list(out[0].split(sizes))
    else:
        x = torch.full((4, 12, channels), float("nan"), dtype=DOUBLE)
        for b, s in enumerate(sequences):
            x[b, : s.shape[1]] = s[0]
        out = call(x, torch.tensor(sizes), None, slice(None))
        parts = [out[b, :n] for b, n in enumerate(sizes)]
        assert all(not out[b, n:].any() for b, n in enumerate(sizes))
    for s, (x, part) in enumerate(zip(sequences, parts, strict=True)):
        torch.testing.assert_close(part, call(x, None, None, slice(s, s + 1))[0], rtol=1e-10, atol=1e-12)


def test_derivatives_of_first_and_second_order():
    u, lengths = torch.randn(2, 4, 4, dtype=DOUBLE), torch.tensor([4, 2])
    leaves = [x.requires_grad_() for x in (u, *weights(2, 3))]

    def pgc(*args: Tensor) -> Tensor:
        return reference.pgc(*args, args[0], lengths, None, 0.1, False)

    assert torch.autograd.gradcheck(pgc, leaves)
    assert torch.autograd.gradgradcheck(pgc, leaves)
    y, mask, residual = (
        torch.randn(2, 3, 3, dtype=DOUBLE),
        torch.rand(2, 3, dtype=DOUBLE),
        torch.randn(2, 3, 3, dtype=DOUBLE),
    )
    parameters = torch.randn(6, 3, dtype=DOUBLE), torch.randn(6, dtype=DOUBLE)
    leaves = [x.requires_grad_() for x in (y, *parameters, residual)]

    def tail(y: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return reference.gelu_glu(y, weight, bias, mask, residual, lengths, None)

    assert torch.autograd.gradcheck(tail, leaves)
    assert torch.autograd.gradgradcheck(tail, leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32_and_rounded_once(dtype):
    in_weight, in_bias, in_norm, conv_weight, conv_bias, out_weight, out_bias, out_norm = (
        w.float() for w in weights(6, 5)
    )
    u = torch.randn(2, 11, 4).to(dtype)
    parameters = (in_weight, in_bias, in_norm, conv_weight, conv_bias, out_weight, out_bias, out_norm)
    rest = (*parameters, None, None, None, EPS, False)
    exact = reference.pgc(u.float(), *rest)
    found = reference.pgc(u, *rest)
    assert found.dtype == dtype
    # The gated convolution's output is one op of its own, stored once on the way.
    assert ((found.float() - exact).norm() / exact.norm()) < 2 * torch.finfo(dtype).eps
