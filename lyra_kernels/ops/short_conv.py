"""Short causal depthwise convolutions, as state space models and long convolutions have them before their mixing."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from .. import _torch, backends, reference
from ..layout import compute_dtype, count_sequences
from . import _checks
from ._autograd import Op, laid_out

short_conv_op = Op("short_conv", reference.short_conv)


@overload
def short_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor: ...


@overload
def short_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...


def short_conv(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``y_t = act(sum_j weight_j u_{t-W+1+j} + bias)``: a causal depthwise convolution of few taps.

    Args:
        u: ``(batch, length, H)``, float32, float64, float16 or bfloat16. The transposed view of ``(batch, H, length)``
            memory is read as it is in eager calls on the CPU, and the result lies as it does.
        weight: ``(H, W)``, any W from 1 on, in the order of ``torch.nn.functional.conv1d``: the last tap multiplies the
            token itself, the first the token W - 1 before it.
        bias: ``(H,)`` or None.
        activation: "silu", which is also called "swish", or None.
        initial_state: ``(sequences, W - 1, H)``: the tokens before each sequence's first, the oldest first; None for
            zeros.
        return_final_state: whether to return also the state that the next piece of each sequence starts from.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``u``, zero at padded positions; with ``return_final_state`` also the last W - 1 tokens of each sequence,
        ``(sequences, W - 1, H)``, among them those of ``initial_state`` (else zeros) where a sequence has fewer.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.
    """
    _check(u, weight, bias, activation, initial_state, return_final_state)
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    if initial_state is not None:
        sequences = count_sequences(u, cu_seqlens)
        size = (sequences, weight.shape[1] - 1, u.shape[2])
        _checks.size("initial_state", initial_state, "(sequences, W - 1, H)", size, "to match u and weight")
    parameters = _checks.parameters(compute_dtype(u), weight, bias, initial_state)
    given = u if u.is_contiguous() else laid_out("short_conv", backends.forced(), u)
    y = short_conv_op(given, *parameters, lengths, cu_seqlens, activation is not None)
    if not return_final_state:
        return y
    return y, last_tokens(u, weight.shape[1] - 1, initial_state, lengths, cu_seqlens)


@_checks.once_a_signature
def _check(
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    initial_state: Tensor | None,
    return_final_state: bool,
) -> None:
    _checks.activations("u", u, "(batch, length, H)")
    channels = u.shape[-1]
    _checks.size("weight", weight, "(H, W)", (channels, None), "to match u")
    if weight.shape[1] < 1:
        raise ValueError("weight must have at least one tap: its shape (H, W) is " + _checks.shape_of(weight))
    if bias is not None:
        _checks.size("bias", bias, "(H,)", (channels,), "to match u")
    if activation not in (None, "silu", "swish"):
        raise ValueError(f'activation must be None, "silu" or "swish", not {activation!r}')
    _checks.flag("return_final_state", return_final_state)
    for name, value in {"weight": weight, "bias": bias, "initial_state": initial_state}.items():
        _checks.same_device(name, value, "u", u)


def last_tokens(
    u: Tensor, count: int, before: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The last `count` tokens of each sequence, ``(sequences, count, H)``; differentiable.

    Args:
        before: ``(sequences, count, H)``, the tokens before the first, which count where a sequence is shorter; None
            for zeros.
    """
    dtype = u.dtype if before is None else torch.promote_types(u.dtype, before.dtype)
    length = u.shape[1]
    dense = lengths is None and cu_seqlens is None
    if dense and not torch.compiler.is_compiling() and length >= count:  # a program for all lengths must not ask
        return u[:, length - count :].to(dtype, copy=True, memory_format=torch.contiguous_format)
    if before is None:
        before = u.new_zeros(count_sequences(u, cu_seqlens), count, u.shape[2])
    if length == 0:
        return before.to(dtype, copy=True)
    with _torch.beside(u):
        if cu_seqlens is not None:
            first, ends = cu_seqlens[:-1, None], cu_seqlens.diff().unsqueeze(-1)
            row = torch.zeros_like(first)
        else:
            ends = (torch.full_like(u[:, 0, 0], length, dtype=torch.int64) if lengths is None else lengths).unsqueeze(
                -1
            )
            first, row = torch.zeros_like(ends), torch.arange(u.shape[0], device=u.device).unsqueeze(-1)
        position = ends - count + torch.arange(count, device=u.device)  # in a sequence; negative: before it
        tokens = u[row, (first + position).clamp(min=0, max=length - 1)].to(dtype)
        index = (position + count).clamp(max=max(count - 1, 0)).unsqueeze(-1)
        older = before.to(dtype).gather(1, index.expand(-1, -1, u.shape[2]))
        return torch.where((position >= 0).unsqueeze(-1), tokens, older)
