"""S4D: the diagonal state space as a convolution kernel and as a recurrence.

Gu, Gupta, Goel, Re 2022, "On the Parameterization and Initialization of Diagonal State Space Models". With
``dt = exp(log_dt)`` and ``A = -exp(log_A_real) + i A_imag``, the zero-order hold gives per channel and mode

    a = exp(dt A),   c = 2 C (a - 1) / A,   K_l = Re sum_n c_n a_n^l

and, the same thing step by step, ``s_t = a s_{t-1} + u_t``, ``y_t = Re sum_n c_n s_{n,t} + D u_t``.

Shapes: ``H`` channels, ``M = d_state / 2`` modes; ``log_dt (H,)``, ``log_A_real`` and ``A_imag (H, M)``,
``C (H, M, 2)`` with the real and the imaginary part last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import compute_dtype, fill_padding, pack, sequence_mask, unpack, without_padding
from .conv import fft_conv, toeplitz

CHUNK = 64
"""Tokens that :func:`s4d_scan` turns into matrix products at a time."""


def _complex(pair: Tensor) -> Tensor:
    return torch.complex(pair[..., 0], pair[..., 1])


def _real_pair(value: Tensor) -> Tensor:
    return torch.stack((value.real, value.imag), dim=-1)


def discretize(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """The exponent ``dt A`` and the coefficient ``c = 2 C (exp(dt A) - 1) / A``, both complex.

    ``a = exp(dt A)`` itself is left to the caller, who mostly wants its powers. ``C`` may have leading
    dimensions; ``c`` then has them too.

    ``exp(x + iy) - 1`` is formed as ``expm1(x) cos y - 2 sin^2(y / 2) + i e^x sin y``: subtracting 1 from the
    exponential would lose the digits of a small ``dt A``.
    """
    c_real, c_imag, decay, phase = discretize_real(log_dt, log_A_real, A_imag, C)
    return torch.complex(decay, phase), torch.complex(c_real, c_imag)


def discretize_real(
    log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`discretize` in real arithmetic: ``Re c``, ``Im c``, ``Re dt A`` and ``Im dt A``."""
    dt = torch.exp(log_dt).unsqueeze(-1)
    A_real = -torch.exp(log_A_real)
    decay, phase = dt * A_real, dt * A_imag
    step_real = torch.expm1(decay) * torch.cos(phase) - 2.0 * torch.sin(0.5 * phase).square()
    step_imag = torch.exp(decay) * torch.sin(phase)
    # (a - 1) / A = (a - 1) conj(A) / |A|^2
    scale = 2.0 / (A_real.square() + A_imag.square())
    hold_real = (step_real * A_real + step_imag * A_imag) * scale
    hold_imag = (step_imag * A_real - step_real * A_imag) * scale
    C_real, C_imag = C[..., 0], C[..., 1]
    return C_real * hold_real - C_imag * hold_imag, C_real * hold_imag + C_imag * hold_real, decay, phase


def _powers(exponent: Tensor, length: int) -> Tensor:
    """``exp(l * exponent)`` for ``0 <= l < length``: ``(..., M)`` to ``(..., M, length)``."""
    steps = torch.arange(length, device=exponent.device, dtype=exponent.real.dtype)
    return torch.exp(exponent.unsqueeze(-1) * steps)


def s4d_kernel(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> Tensor:
    """The convolution kernel ``K (H, length)``, ``K_l = Re sum_n c_n a_n^l``."""
    exponent, c = discretize(log_dt, log_A_real, A_imag, C)
    return (c.unsqueeze(-1) * _powers(exponent, length)).sum(-2).real


def s4d_kernel_real(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> Tensor:
    """:func:`s4d_kernel` without a complex number: for exporters and compilers that have none."""
    c_real, c_imag, decay, phase = discretize_real(log_dt, log_A_real, A_imag, C)
    steps = torch.arange(length, device=log_dt.device, dtype=log_dt.dtype)
    magnitude = torch.exp(decay.unsqueeze(-1) * steps)
    angle = phase.unsqueeze(-1) * steps
    wave = c_real.unsqueeze(-1) * torch.cos(angle) - c_imag.unsqueeze(-1) * torch.sin(angle)
    return (magnitude * wave).sum(-2)


def s4d_fft(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The S4D convolution as published: its kernel, then :func:`fft_conv`.

    ``C`` is ``(1, H, M, 2)``, or ``(2, H, M, 2)`` for both directions; the rest is as in :func:`s4d_scan`.
    """
    kernels = [s4d_kernel(log_dt, log_A_real, A_imag, C[d], u.shape[1]) for d in range(C.shape[0])]
    return fft_conv(u, kernels[0], kernels[1] if len(kernels) == 2 else None, D, lengths, cu_seqlens)


def s4d_recurrence(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """:func:`s4d_scan` one token after another, in real arithmetic: the plainest form, and the slowest."""
    if C.shape[0] == 2 or cu_seqlens is not None:
        return _by_direction(s4d_recurrence, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)

    mask = sequence_mask(lengths, u.shape[1])
    value = fill_padding(u, mask).to(compute_dtype(u))
    c_real, c_imag, decay, phase = discretize_real(log_dt, log_A_real, A_imag, C[0])
    a_real, a_imag = torch.exp(decay) * torch.cos(phase), torch.exp(decay) * torch.sin(phase)
    if initial_state is None:
        initial_state = value.new_zeros(*value.shape[::2], A_imag.shape[-1], 2)
    real, imag = initial_state.unbind(-1)
    outputs = []
    for t in range(u.shape[1]):
        new_real = a_real * real - a_imag * imag + value[:, t].unsqueeze(-1)
        new_imag = a_imag * real + a_real * imag
        if mask is not None:
            new_real = torch.where(mask[:, t : t + 1], new_real, real)
            new_imag = torch.where(mask[:, t : t + 1], new_imag, imag)
        real, imag = new_real, new_imag
        outputs.append((c_real * real - c_imag * imag).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else value
    if D is not None:
        y = y + D * value
    return fill_padding(y, mask).to(u.dtype), torch.stack((real, imag), dim=-1)


def s4d_scan(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The S4D convolution as a recurrence, :data:`CHUNK` tokens at a time.

    Causal: ``s_t = a s_{t-1} + u_t``, ``y_t = Re sum_n c_n s_{n,t} + D u_t``. With two directions
    ``y_t = sum_{s<=t} K0_{t-s} u_s + sum_{s>t} K1_{s-t-1} u_s + D u_t``, both sharing ``dt`` and ``A``.

    Within a chunk that state ``S`` enters, position ``t`` from 0:
    ``y_t = sum_{s<=t} K_{t-s} u_s + Re sum_n c_n a_n^(t+1) S_n``, and ``a^T S + sum_s a^(T-1-s) u_s`` leaves.

    Args:
        u: ``(B, L, H)``, or ``(1, T, H)`` with ``cu_seqlens``.
        log_dt, log_A_real, A_imag: ``(H,)``, ``(H, M)``, ``(H, M)``.
        C: ``(1, H, M, 2)``, or ``(2, H, M, 2)`` for both directions.
        D: ``(H,)`` or None.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.
        initial_state: ``(S, H, M, 2)``, the state before each sequence's first token, or None for zeros; None
            with two directions.

    Returns:
        ``y`` like ``u``, zero at padded positions, and the state after each sequence's last token
        ``(S, H, M, 2)`` in the compute dtype; with two directions an empty tensor ``(0,)``.
    """
    if C.shape[0] == 2 or cu_seqlens is not None:
        return _by_direction(s4d_scan, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)

    batch, length, channels = u.shape
    mask = sequence_mask(lengths, length)
    value = fill_padding(u, mask).to(compute_dtype(u))
    exponent, c = discretize(log_dt, log_A_real, A_imag, C[0])
    powers = _powers(exponent, CHUNK + 1)  # (H, M, CHUNK + 1)
    kernel = (c.unsqueeze(-1) * powers[..., :CHUNK]).sum(-2).real

    chunks = max(-(-length // CHUNK), 1)
    tokens = F.pad(value, (0, 0, 0, chunks * CHUNK - length))
    blocks = tokens.reshape(batch, chunks, CHUNK, channels)
    arriving = torch.einsum("hmt,bjth->bjhm", powers[..., :CHUNK].flip(-1), blocks.to(powers.dtype))
    state = torch.zeros_like(arriving[:, 0]) if initial_state is None else _complex(initial_state)
    entering = []
    for chunk in range(chunks):
        entering.append(state)
        state = powers[..., CHUNK] * state + arriving[:, chunk]
    states = torch.stack([*entering, state], dim=1)  # (B, chunks + 1, H, M)

    y = torch.einsum("hts,bjsh->bjth", toeplitz(kernel, None), blocks)
    decode = c.unsqueeze(-1) * powers[..., 1:]
    y = y + torch.einsum("hmt,bjhm->bjth", decode, states[:, :-1]).real
    y = y.reshape(batch, chunks * CHUNK, channels)[:, :length]
    if D is not None:
        y = y + D * value
    final = _final_state(powers, tokens, states, length, lengths)
    return fill_padding(y, mask).to(u.dtype), _real_pair(final)


def _final_state(powers: Tensor, tokens: Tensor, states: Tensor, length: int, lengths: Tensor | None) -> Tensor:
    """Each sequence's state after its last token: its last whole chunk's, and the tokens ``r`` after that.

    ``S' = a^r S + sum_{s<r} a^(r-1-s) u_s``.
    """
    batch = tokens.shape[0]
    if lengths is None:
        whole, left = length // CHUNK, length % CHUNK
        tail = tokens[:, whole * CHUNK : length].to(powers.dtype)
        arriving = torch.einsum("hmt,bth->bhm", powers[..., :left].flip(-1), tail)
        return powers[..., left] * states[:, whole] + arriving
    chunk, rest = lengths // CHUNK, lengths % CHUNK
    position = torch.arange(CHUNK, device=tokens.device)
    row = torch.arange(batch, device=tokens.device)
    index = (chunk.unsqueeze(-1) * CHUNK + position).clamp(max=tokens.shape[1] - 1)
    tail = tokens[row.unsqueeze(-1), index]  # (B, CHUNK, H)
    age = rest.unsqueeze(-1) - 1 - position
    tail = torch.where((age >= 0).unsqueeze(-1), tail, torch.zeros_like(tail)).to(powers.dtype)
    table = powers.movedim(-1, 0)  # (CHUNK + 1, H, M)
    arriving = torch.einsum("bthm,bth->bhm", table[age.clamp(min=0)], tail)
    return table[rest] * states[row, chunk] + arriving


def _by_direction(function, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state):
    """Packed and bidirectional calls of ``function``, in terms of padded causal ones."""
    if cu_seqlens is not None:
        padded, lengths = unpack(u, cu_seqlens)
        y, state = function(padded, log_dt, log_A_real, A_imag, C, D, lengths, None, initial_state)
        return pack(y, cu_seqlens, u.shape[1]), state
    value = without_padding(u, lengths).to(compute_dtype(u))
    forward, _ = function(value, log_dt, log_A_real, A_imag, C[:1], D, lengths, None, None)
    # Flipped whole, padding first: zeros leave the zero state as it is. A token does not see itself: shift.
    backward, _ = function(value.flip(1), log_dt, log_A_real, A_imag, C[1:], None, None, None, None)
    backward = F.pad(backward, (0, 0, 1, -1)) if u.shape[1] else backward
    y = without_padding(forward + backward.flip(1), lengths)
    return y.to(u.dtype), value.new_zeros(0)
