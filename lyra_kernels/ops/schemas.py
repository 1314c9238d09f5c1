"""Every dispatcher op of ``torch.ops.lyra``: its schema and its fake kernel, in one place.

The schemas are defined here rather than in C++ so that an installation without a compiler has the same ops: exported
programs load and run there too, on the reference formulas. Native code only registers implementations.

Shapes: B batch, L length, H or C channels, E inner channels of a PGC, M = d_state / 2 modes, S sequences. Activations
are (B, L, C), contiguous, float32/64/16 or bfloat16; parameters are contiguous, in the compute dtype (float64 beside
float64 activations, else float32). ``lengths`` (B,) marks a padded batch, ``cu_seqlens`` (S + 1,) a packed one with
B = 1; both are int64. Gradients of parameters come in the compute dtype, those of absent ones with shape (0,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LIBRARY = torch.library.Library("lyra", "DEF")

SCAN_CHUNK = 64  # tokens between two checkpoints that s4d_scan leaves for its backward

_ROWS = "Tensor? lengths, Tensor? cu_seqlens"
_GATED = f"Tensor xv, Tensor conv_weight, Tensor? conv_bias, Tensor? norm_weight, {_ROWS}, float eps, bool causal"
_PGC = (
    "Tensor u, Tensor in_weight, Tensor? in_bias, Tensor? in_norm_weight, Tensor conv_weight, "
    "Tensor? conv_bias, Tensor out_weight, Tensor? out_bias, Tensor? out_norm_weight, "
    f"{_ROWS}, float eps, bool causal"
)
_CONV = f"Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, {_ROWS}"
_MODES = "Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C"


def _returns(n: int) -> str:
    return "(" + ", ".join(["Tensor"] * n) + ")"


SCHEMAS = {
    "rms_norm": "(Tensor x, Tensor? weight, float eps) -> Tensor",
    "rms_norm_backward": f"(Tensor grad, Tensor x, Tensor? weight, float eps) -> {_returns(2)}",
    "gated_conv": f"({_GATED}) -> Tensor",
    "gated_conv_backward": f"(Tensor grad, {_GATED}) -> {_returns(4)}",
    "pgc": f"({_PGC}) -> Tensor",
    "pgc_backward": f"(Tensor grad, {_PGC}) -> {_returns(9)}",
    "gelu_glu": f"(Tensor y, Tensor weight, Tensor? bias, Tensor? mask, Tensor? residual, {_ROWS}) -> Tensor",
    "gelu_glu_backward": "(Tensor grad, Tensor y, Tensor weight, Tensor? bias, Tensor? mask, "
    f"{_ROWS}) -> {_returns(3)}",
    "s4d_kernel": f"({_MODES}, SymInt length) -> Tensor",
    "s4d_kernel_backward": f"(Tensor grad, {_MODES}) -> {_returns(4)}",
    "causal_conv": f"({_CONV}) -> Tensor",
    "causal_conv_backward": f"(Tensor grad, {_CONV}) -> {_returns(4)}",
    "fft_conv": f"({_CONV}) -> Tensor",
    "fft_conv_backward": f"(Tensor grad, {_CONV}) -> {_returns(4)}",
    "s4d_fft": f"(Tensor u, {_MODES}, Tensor? D, {_ROWS}) -> Tensor",
    "s4d_fft_backward": f"(Tensor grad, Tensor u, {_MODES}, Tensor? D, {_ROWS}) -> {_returns(6)}",
    "s4d_scan": f"(Tensor u, {_MODES}, Tensor? D, {_ROWS}, Tensor? initial_state, bool save) -> {_returns(3)}",
    "s4d_scan_backward": f"(Tensor grad_y, Tensor? grad_final_state, Tensor u, {_MODES}, Tensor? D, {_ROWS}, "
    f"Tensor? initial_state, Tensor checkpoints) -> {_returns(7)}",
}

_TAGS = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "needs_exact_strides"):  # the kernels want the contiguous tensors that the callers made
    _TAGS.append(torch.Tag.needs_exact_strides)

for _name, _schema in SCHEMAS.items():
    LIBRARY.define(_name + _schema, tags=_TAGS)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that parameters, states and sums have beside activations like x."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _gradient(parameter: Tensor | None, like: Tensor) -> Tensor:
    """An empty gradient for a parameter, in the compute dtype of the activations `like`."""
    shape = (0,) if parameter is None else parameter.shape
    return like.new_empty(shape, dtype=compute_dtype(like))


def _slots(u: Tensor, cu_seqlens: Tensor | None) -> int:
    """How many checkpoints a scan over u leaves."""
    if cu_seqlens is not None:
        return u.shape[1] // SCAN_CHUNK + cu_seqlens.shape[0] - 1
    return u.shape[0] * ((u.shape[1] + SCAN_CHUNK - 1) // SCAN_CHUNK)


def count_sequences(u: Tensor, cu_seqlens: Tensor | None) -> int:
    """How many there are in a dense, padded or packed batch."""
    return u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _fake_rms_norm(x, weight, eps):
    return torch.empty_like(x)


def _fake_rms_norm_backward(grad, x, weight, eps):
    return torch.empty_like(x), _gradient(weight, x)


def _fake_gated_conv(xv, conv_weight, *rest):
    return xv.new_empty((xv.shape[0], xv.shape[1], conv_weight.shape[0]))


def _fake_gated_conv_backward(grad, xv, conv_weight, conv_bias, norm_weight, *rest):
    parameters = (conv_weight, conv_bias, norm_weight)
    return torch.empty_like(xv), *(_gradient(p, xv) for p in parameters)


def _fake_pgc(u, *rest):
    return u.new_empty((u.shape[0], u.shape[1], rest[5].shape[0]))


def _fake_pgc_backward(grad, u, *rest):
    return torch.empty_like(u), *(_gradient(p, u) for p in rest[:8])


def _fake_gelu_glu(y, *rest):
    return torch.empty_like(y)


def _fake_gelu_glu_backward(grad, y, weight, bias, *rest):
    return torch.empty_like(y), _gradient(weight, y), _gradient(bias, y)


def _fake_s4d_kernel(log_dt, log_A_real, A_imag, C, length):
    return log_dt.new_empty((log_dt.shape[0], length))


def _fake_s4d_kernel_backward(grad, *parameters):
    return tuple(torch.empty_like(p) for p in parameters)


def _fake_conv(u, *rest):
    return torch.empty_like(u)


def _fake_conv_backward(grad, u, kernel, reverse_kernel, D, *rest):
    return torch.empty_like(u), *(_gradient(p, u) for p in (kernel, reverse_kernel, D))


def _fake_s4d_fft_backward(grad, u, *rest):
    return torch.empty_like(u), *(_gradient(p, u) for p in rest[:5])


def _fake_s4d_scan(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, save):
    directions, (channels, modes) = C.shape[0], log_A_real.shape
    dtype = compute_dtype(u)
    state = (count_sequences(u, cu_seqlens), channels, modes, 2) if directions == 1 else (0,)
    saved = (_slots(u, cu_seqlens), directions * channels * modes * 2) if save else (0,)
    return torch.empty_like(u), u.new_empty(state, dtype=dtype), u.new_empty(saved, dtype=dtype)


def _fake_s4d_scan_backward(grad_y, grad_final_state, u, *rest):
    log_dt, log_A_real, A_imag, C, D, _, _, initial_state, _ = rest
    parameters = (log_dt, log_A_real, A_imag, C, D, initial_state)
    return torch.empty_like(u), *(_gradient(p, u) for p in parameters)


_FAKES: dict[str, Callable] = {
    "rms_norm": _fake_rms_norm,
    "rms_norm_backward": _fake_rms_norm_backward,
    "gated_conv": _fake_gated_conv,
    "gated_conv_backward": _fake_gated_conv_backward,
    "pgc": _fake_pgc,
    "pgc_backward": _fake_pgc_backward,
    "gelu_glu": _fake_gelu_glu,
    "gelu_glu_backward": _fake_gelu_glu_backward,
    "s4d_kernel": _fake_s4d_kernel,
    "s4d_kernel_backward": _fake_s4d_kernel_backward,
    "causal_conv": _fake_conv,
    "causal_conv_backward": _fake_conv_backward,
    "fft_conv": _fake_conv,
    "fft_conv_backward": _fake_conv_backward,
    "s4d_fft": _fake_conv,
    "s4d_fft_backward": _fake_s4d_fft_backward,
    "s4d_scan": _fake_s4d_scan,
    "s4d_scan_backward": _fake_s4d_scan_backward,
}

for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"lyra::{_name}", _fake, lib=LIBRARY)

OPS = {name: getattr(torch.ops.lyra, name).default for name in SCHEMAS}
