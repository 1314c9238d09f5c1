"""Every op in plain, real-valued PyTorch: for ONNX and other runtimes without custom ops or complex numbers.

    program = torch.export.export(model, args, dynamic_shapes=...)
    torch.onnx.export(program.run_decompositions(lk.decompositions()), dynamo=True).save("model.onnx")

Nothing here depends on the value of a length, so a program keeps its dynamic shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from ._torch import OpOverload
from .backends.reference import as_tuple
from .layout import compute_dtype, fill_padding, sequence_mask, without_padding
from .reference.s4d import _by_direction, discretize_real
from .schemas import CONTRACTS, OPS, OPS_ON, Contract

_CHUNK = 64
_PACKED = "packed batches (cu_seqlens) have no decomposition: their longest sequence is not known. Use lengths."


def _decomposition(contract: Contract, formula: Callable) -> Callable:
    """The op by a formula of dense and padded batches, in the op's own signature."""

    def decomposed(*args):
        if contract.cu_seqlens is not None and args[contract.cu_seqlens] is not None:
            raise ValueError(_PACKED)
        out = formula(*contract.formula_arguments(args))
        if not contract.kept:
            return out
        out = as_tuple(out)
        kept = contract.fake(*args)[len(contract.outputs) :]  # for a backward that there is not
        return *out, *(args[0].new_zeros(empty.shape, dtype=empty.dtype) for empty in kept)

    return decomposed


def _on_any(formula: Callable) -> Callable:
    return lambda backend, *args: formula(*args)


def _expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1`` with the digits of a small ``x``; ONNX has no such op, and its exporter would subtract the 1."""
    return torch.tanh(0.5 * x) * (torch.exp(x) + 1.0)


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """:func:`lyra_kernels.reference.rms_norm` with an eps that no optimizer of graphs takes for nothing.

    onnxscript's takes a number within 1e-8 of zero for zero where it is added, and 1e-8 is the layers' eps. As a padded
    position of a sum it is no operand of an addition.
    """
    value = x.to(compute_dtype(x))
    mean_square = F.pad(value.square().mean(-1, keepdim=True), (0, 1), value=eps).sum(-1, keepdim=True)
    value = value * torch.rsqrt(mean_square)
    return (value if weight is None else value * weight).to(x.dtype)


def _gated_conv(xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal):
    value = xv
    if norm_weight is not None:  # in the compute dtype: reference.gated_conv rounds once, at its end
        value = _rms_norm(without_padding(xv, lengths, 1.0).to(compute_dtype(xv)), norm_weight, eps)
    return reference.gated_conv(value, conv_weight, conv_bias, None, lengths, None, eps, causal).to(xv.dtype)


def _pgc(
    u,
    in_weight,
    in_bias,
    in_norm_weight,
    conv_weight,
    conv_bias,
    out_weight,
    out_bias,
    out_norm_weight,
    residual,
    lengths,
    cu_seqlens,
    eps,
    causal,
):
    value = without_padding(u, lengths).to(compute_dtype(u))
    xv = F.linear(value, in_weight, in_bias)
    gated = _gated_conv(xv, conv_weight, conv_bias, in_norm_weight, lengths, None, eps, causal)
    out = F.linear(gated, out_weight, out_bias)
    if out_norm_weight is not None:
        out = _rms_norm(without_padding(out, lengths, 1.0), out_norm_weight, eps)
    if residual is not None:
        out = out + residual
    return without_padding(out, lengths).to(u.dtype)


def _wave(decay: Tensor, phase: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``a^step``, ``(H, M, steps)``."""
    magnitude, angle = torch.exp(decay.unsqueeze(-1) * steps), phase.unsqueeze(-1) * steps
    return magnitude * torch.cos(angle), magnitude * torch.sin(angle)


def _depthwise(x: Tensor, taps: Tensor) -> Tensor:
    """``sum_{s<=t} taps_{t-s} x_s`` along the last dimension, ``(B, C, L)`` with ``(C, K)``, any K."""
    padded = F.pad(x, (taps.shape[-1] - 1, 0))
    return F.conv1d(padded, taps.flip(-1).unsqueeze(1), groups=taps.shape[0])


def _convolve(u, kernel, reverse_kernel, D, lengths, cu_seqlens):
    """:func:`lyra_kernels.reference.causal_conv`, where the number of taps is known without its ``(L, L)`` matrix.

    Inductor takes a convolution's number of taps for the constant that it was traced with, and computes other lengths
    wrongly without a word; a matrix has no taps.
    """
    if any(taps is not None and not isinstance(taps.shape[-1], int) for taps in (kernel, reverse_kernel)):
        return reference.causal_conv(u, kernel, reverse_kernel, D, lengths, None)
    mask = sequence_mask(lengths, u.shape[1])
    value = fill_padding(u, mask).to(compute_dtype(u)).transpose(1, 2)
    y = _depthwise(value, kernel)
    if reverse_kernel is not None:  # reversed in time; a token does not see itself
        y = y + _depthwise(value.flip(-1), F.pad(reverse_kernel, (1, 0))).flip(-1)
    if D is not None:
        y = y + D.unsqueeze(-1) * value
    return fill_padding(y.transpose(1, 2), mask).to(u.dtype)


def _s4d(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state):
    """:func:`lyra_kernels.reference.s4d_scan`: chunks as matrix products, and a convolution over chunks for the states.

    Zeros come before the tokens, not after, so that the last chunk ends where the sequence does.
    """
    if C.shape[0] == 2:
        return _by_direction(_s4d, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)
    batch, length, channels = u.shape
    modes = A_imag.shape[1]
    mask = sequence_mask(lengths, length)
    value = fill_padding(u, mask).to(compute_dtype(u))
    position = torch.arange(length, device=u.device)
    aligned = value
    if lengths is not None:  # each sequence's end to the end
        source = position - (length - lengths).unsqueeze(-1)
        aligned = value.gather(1, source.clamp(min=0).unsqueeze(-1).expand(-1, -1, channels))
        aligned = torch.where((source >= 0).unsqueeze(-1), aligned, torch.zeros_like(aligned))

    c_re, c_im, decay, phase = discretize_real(log_dt, log_A_real, A_imag, C[0])
    step = torch.arange(_CHUNK + 1, device=u.device, dtype=value.dtype)
    a_re, a_im = _wave(decay, phase, step)
    chunks = (length + _CHUNK - 1) // _CHUNK + 1  # two at least: tracing takes a size of one for a constant
    padding = chunks * _CHUNK - length
    blocks = F.pad(aligned, (0, 0, padding, 0)).reshape(batch, chunks, _CHUNK, channels)

    def encode(power: Tensor) -> Tensor:
        arriving = torch.einsum("hmt,bjth->bhmj", power[..., :_CHUNK].flip(-1), blocks)
        return arriving.reshape(batch, channels * modes, chunks)

    # states after each chunk: sum over earlier chunks of a^(chunks between) arriving
    between = torch.arange(chunks, device=u.device, dtype=value.dtype) * _CHUNK
    w_re, w_im = (w.reshape(channels * modes, chunks) for w in _wave(decay, phase, between))
    e_re, e_im = encode(a_re), encode(a_im)
    s_re = (_depthwise(e_re, w_re) - _depthwise(e_im, w_im)).reshape(batch, channels, modes, chunks)
    s_im = (_depthwise(e_re, w_im) + _depthwise(e_im, w_re)).reshape(batch, channels, modes, chunks)

    def decode(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
        return c_re.unsqueeze(-1) * re - c_im.unsqueeze(-1) * im, c_re.unsqueeze(-1) * im + c_im.unsqueeze(-1) * re

    kernel, _ = decode(a_re, a_im)
    y = torch.einsum("hts,bjsh->bjth", reference.s4d.toeplitz(kernel[..., :_CHUNK].sum(1), None), blocks)
    d_re, d_im = decode(a_re[..., 1:], a_im[..., 1:])
    entering_re, entering_im = (F.pad(s, (1, 0))[..., :chunks] for s in (s_re, s_im))
    y = y + torch.einsum("hmt,bhmj->bjth", d_re, entering_re) - torch.einsum("hmt,bhmj->bjth", d_im, entering_im)
    y = y.reshape(batch, chunks * _CHUNK, channels)[:, padding:]
    final_re, final_im = (F.pad(s, (1, 0))[..., -1] for s in (s_re, s_im))

    if lengths is not None:
        target = (position + (length - lengths).unsqueeze(-1)).clamp(max=length - 1)
        y = y.gather(1, target.unsqueeze(-1).expand(-1, -1, channels))
    if initial_state is not None:
        first_re, first_im = initial_state.unbind(-1)
        i_re, i_im = decode(*_wave(decay, phase, (position + 1).to(value.dtype)))
        y = y + torch.einsum("hmt,bhm->bth", i_re, first_re) - torch.einsum("hmt,bhm->bth", i_im, first_im)
        passed = lengths.to(value.dtype) if lengths is not None else value.new_full((1,), length)
        p_re, p_im = (p.movedim(-1, 0) for p in _wave(decay, phase, passed))
        final_re = final_re + p_re * first_re - p_im * first_im
        final_im = final_im + p_re * first_im + p_im * first_re
    if D is not None:
        y = y + D * value
    return fill_padding(y, mask).to(u.dtype), torch.stack((final_re, final_im), dim=-1)


def _s4d_fft(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens):
    return _s4d(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, None)[0]


def _s4d_block(
    x, log_dt, log_A_real, A_imag, C, D, weight, bias, norm_weight, mask, lengths, cu_seqlens, eps, add_input
):
    x = without_padding(x, lengths)
    z = x if norm_weight is None else _rms_norm(x, norm_weight, eps)
    y, _ = _s4d(z, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, None)
    return reference.gelu_glu(y, weight, bias, mask, x if add_input else None, lengths, cu_seqlens)


def decompositions() -> dict[OpOverload, Callable]:
    """A table for ``ExportedProgram.run_decompositions``: forward ops of ``torch.ops.lyra`` to plain formulas.

    ``aten.expm1``, which they need, is in it too, by ``tanh``: exporters to ONNX lose its digits.

    The formulas use real arithmetic only and keep dynamic shapes. They compute what the ops do, less fast: the scan
    stays nearly linear in the length, long convolutions become direct ones, and those of a dynamic length products with
    matrices ``(H, L, L)``: leave S4D's ``algorithm`` at "auto" or "scan" there. Gradients are PyTorch's own.

    Raises:
        ValueError: later, from the decomposition of a packed batch (``cu_seqlens``); use ``lengths`` for exports.
    """
    # The others' reference formulas are such as they are.
    other: dict[str, Callable] = {
        "rms_norm": _rms_norm,
        "gated_conv": _gated_conv,
        "pgc": _pgc,
        "s4d_kernel": reference.s4d_kernel_real,
        "causal_conv": _convolve,
        "fft_conv": _convolve,
        "s4d_fft": _s4d_fft,
        "s4d_scan": _s4d,
        "s4d_block": _s4d_block,
    }
    table: dict[OpOverload, Callable] = {torch.ops.aten.expm1.default: _expm1}
    for name, contract in CONTRACTS.items():
        formula = _decomposition(contract, other.get(name) or getattr(reference, name))
        table[OPS[name]] = formula
        table[OPS_ON[name]] = _on_any(formula)  # of a program that was exported inside of use_backend
    return table
