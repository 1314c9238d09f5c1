"""How many floating-point operations each dispatcher op takes: what PyTorch's counters ask.

The conventions are those of ``torch.utils.flop_counter``. Shapes decide, so that a count is the same whichever kernel
runs, for tensors without values and for padded batches, whose padding is counted. A multiply-add is 2, products count
and elementwise work does not: norms, gates, activations, skips. So a PGC is its projections and its depthwise
convolution, and ``gelu_glu`` its projection. A complex multiply-add is 4 real ones, 8; the real part of one is 4.

============ ================================================================================================
s4d_scan     for each token, channel, mode and direction a step of the complex recurrence, 8, and its output, 4
s4d_kernel   the same for each tap, channel and mode: the next power, 8, and its term of the sum, 4
causal_conv  2 for each pair of a token and a tap that reaches it
fft_conv     5 / 2 N log2 N for each real transform of N = 2 L points: input, kernel and output
gated_fft_conv: its fft_conv
short_conv   2 for each token and tap, as PyTorch counts a convolution that is padded
s4d_fft      its kernels and its fft_conv
s4d_block    its s4d_scan and its gelu_glu
============ ================================================================================================

A backward counts the gradients of all its arguments, which it always computes, and not what kernels compute again to
save memory: twice the forward where that is products, once where it is transforms. A packed batch counts as sequences
of one length, the mean, because shapes do not tell the others. Where the reference formulas run by themselves, under
``use_backend("reference")`` or without the C++ library, no op is called: PyTorch counts the formulas' own products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, sym_min

from .._imports import when_imported
from ..schemas import CONTRACTS, Contract

Shape = Sequence[int]
MULTIPLY_ADD = 2
COMPLEX = 4 * MULTIPLY_ADD
REAL_PART = 2 * MULTIPLY_ADD


def _sequences(activations: Shape, cu_seqlens: Shape | None) -> tuple[int, int]:
    """How many sequences there are, and how long one is."""
    batch, length = activations[:2]
    if cu_seqlens is None:
        return batch, length
    batch = max(cu_seqlens[0] - 1, 1)
    return batch, -(-length // batch)


def _projection(tokens: int, weight: Shape) -> int:
    return MULTIPLY_ADD * tokens * weight[0] * weight[1]


def _rms_norm(x: Shape, weight: Shape | None, eps: float) -> int:
    return 0


def _gated_conv(xv: Shape, conv_weight: Shape, *rest: Any) -> int:
    return MULTIPLY_ADD * xv[0] * xv[1] * conv_weight[0] * conv_weight[2]


def _pgc(
    u: Shape, in_weight: Shape, in_bias: Any, in_norm: Any, conv_weight: Shape, conv_bias: Any, out_weight: Shape,
    *rest: Any,
) -> int:  # fmt: skip
    tokens = u[0] * u[1]
    return _projection(tokens, in_weight) + _gated_conv(u, conv_weight) + _projection(tokens, out_weight)


def _gelu_glu(y: Shape, weight: Shape, *rest: Any) -> int:
    return _projection(y[0] * y[1], weight)


def _s4d_kernel(log_dt: Shape, log_A_real: Shape, A_imag: Shape, C: Shape, length: int) -> int:
    return (COMPLEX + REAL_PART) * log_A_real[0] * log_A_real[1] * length


def _s4d_scan(u: Shape, log_dt: Shape, log_A_real: Shape, A_imag: Shape, C: Shape, *rest: Any) -> int:
    return (COMPLEX + REAL_PART) * u[0] * u[1] * log_A_real[0] * log_A_real[1] * C[0]


def _causal_conv(u: Shape, kernel: Shape, reverse: Shape | None, D: Any, lengths: Any, cu_seqlens: Shape | None) -> int:
    batch, length = _sequences(u, cu_seqlens)
    taps = sym_min(kernel[1], length)
    pairs = taps * length - taps * (taps - 1) // 2
    if reverse is not None:  # which begins at the next token
        taps = sym_min(reverse[1], length)
        pairs += taps * length - taps * (taps + 1) // 2
    return MULTIPLY_ADD * batch * u[2] * pairs


def _fft_conv(u: Shape, kernel: Any, reverse: Any, D: Any, lengths: Any, cu_seqlens: Shape | None) -> int:
    batch, length = _sequences(u, cu_seqlens)
    points = 2 * int(length)
    transforms = u[2] * (2 * batch + 1)
    return transforms * round(2.5 * points * math.log2(points)) if points else 0


def _gated_fft_conv(u: Shape, kernel: Any, reverse: Any, D: Any, pregate: Any, postgate: Any, *rows: Any) -> int:
    return _fft_conv(u, kernel, reverse, D, *rows)


def _short_conv(u: Shape, weight: Shape, *rest: Any) -> int:
    return MULTIPLY_ADD * u[0] * u[1] * weight[0] * weight[1]


def _kernels(u: Shape, log_A_real: Shape, C: Shape, cu_seqlens: Shape | None) -> int:
    length = _sequences(u, cu_seqlens)[1]
    return C[0] * _s4d_kernel(log_A_real[:1], log_A_real, log_A_real, C[1:], length)


def _s4d_fft(
    u: Shape, log_dt: Any, log_A_real: Shape, A_imag: Any, C: Shape, D: Any, lengths: Any, cu_seqlens: Shape | None
) -> int:
    return _kernels(u, log_A_real, C, cu_seqlens) + _fft_conv(u, None, None, D, lengths, cu_seqlens)


def _s4d_fft_backward(
    u: Shape, log_dt: Any, log_A_real: Shape, A_imag: Any, C: Shape, D: Any, lengths: Any, cu_seqlens: Shape | None
) -> int:
    return 2 * _kernels(u, log_A_real, C, cu_seqlens) + _fft_conv(u, None, None, D, lengths, cu_seqlens)


def _s4d_block(
    x: Shape, log_dt: Shape, log_A_real: Shape, A_imag: Shape, C: Shape, D: Any, weight: Shape, *rest: Any
) -> int:
    return _s4d_scan(x, log_dt, log_A_real, A_imag, C) + _gelu_glu(x, weight)


def _twice(formula: Callable[..., int], *args: Any) -> int:
    return 2 * formula(*args)


_FORWARD: dict[str, Callable[..., int]] = {
    "rms_norm": _rms_norm,
    "gated_conv": _gated_conv,
    "pgc": _pgc,
    "gelu_glu": _gelu_glu,
    "s4d_kernel": _s4d_kernel,
    "causal_conv": _causal_conv,
    "fft_conv": _fft_conv,
    "gated_fft_conv": _gated_fft_conv,
    "short_conv": _short_conv,
    "s4d_fft": _s4d_fft,
    "s4d_scan": _s4d_scan,
    "s4d_block": _s4d_block,
}
_BACKWARD: dict[str, Callable[..., int]] = {
    "fft_conv": _fft_conv,
    "gated_fft_conv": _gated_fft_conv,
    "s4d_fft": _s4d_fft_backward,
}
"""Of those that are not twice the forward."""


def _count(contract: Contract, formula: Callable[..., int], backward: bool, *args: Any, out_val: Any = None) -> int:
    given = contract.split(args)[1] if backward else args
    return formula(*(x.shape if isinstance(x, Tensor) else x for x in given))


def flop_formulas() -> dict[str, Callable[..., int]]:
    """The number of floating-point operations of every dispatcher op, as a function of the op's arguments.

    ``torch.utils.flop_counter.FlopCounterMode``, and what is built on it, knows these formulas without being told. They
    are for counters that do not ask PyTorch.

    Returns:
        "lyra::pgc" and the others, backward ones included, to a function that takes the op's arguments in order. Of
        tensors it reads the shapes, so that tensors on "meta" do.

    A multiply-add counts 2; elementwise work counts nothing, as in PyTorch. For the state spaces' conventions see the
    source, ``lyra_kernels/ops/flops.py``.
    """
    found: dict[str, Callable[..., int]] = {}
    for name, contract in CONTRACTS.items():
        forward = _FORWARD[name]
        backward = _BACKWARD.get(name, partial(_twice, forward))
        found[f"lyra::{name}"] = partial(_count, contract, forward, False)
        found[f"lyra::{name}_backward"] = partial(_count, contract, backward, True)
    return found


def _on_any(formula: Callable[..., int], backend: str, *args: Any, **options: Any) -> int:
    return formula(*args, **options)


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for name, formula in flop_formulas().items():
        op = name.removeprefix("lyra::")
        register_flop_formula(getattr(torch.ops.lyra, op), get_raw=True)(formula)
        register_flop_formula(getattr(torch.ops.lyra_on, op), get_raw=True)(partial(_on_any, formula))


when_imported("torch.utils.flop_counter", _register)
