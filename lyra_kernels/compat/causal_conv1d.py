"""The interface of causal-conv1d over :func:`lyra_kernels.short_conv`: activations ``(batch, dim, length)``.

Any width, length, number of channels and memory layout, on CPUs too, differentiable to any order. Arguments that do not
go together are a ValueError here, an unknown activation a NotImplementedError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _torch
from ..ops import _checks, short_conv
from ..ops.short_conv import last_tokens

__all__ = ["causal_conv1d_fn", "causal_conv1d_update", "causal_conv1d_varlen_states"]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    _checks.activations("x", x, "(batch, dim, length)")
    _checks.size("weight", weight, "(dim, width)", (x.shape[1], None), "to match x")
    if bias is not None:
        _checks.size("bias", bias, "(dim,)", (x.shape[1],), "to match x")
    if activation not in (None, "silu", "swish"):
        raise NotImplementedError(f'activation must be None, "silu" or "swish", not {activation!r}')


def _state(name: str, state: Tensor, sizes: tuple[int, ...], x: Tensor) -> None:
    _checks.size(name, state, "(batch, dim, width - 1)", sizes, "to match x and weight")
    _checks.same_device(name, state, "x", x)


def _integers(name: str, values: Tensor, form: str, sizes: tuple[int, ...], x: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.is_floating_point() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor of shape {form}, not {getattr(values, 'dtype', values)!r}")
    if tuple(values.shape) != sizes:
        raise ValueError(f"{name} must have shape {form} = {sizes} to match x, not {_checks.shape_of(values)}")
    _checks.same_device(name, values, "x", x)
    return values.to(torch.int64)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A causal depthwise convolution along the length, as :func:`lyra_kernels.short_conv` computes it.

    Args:
        x: ``(batch, dim, length)``, contiguous or channels last, which are read as they lie; with seq_idx a contiguous
            one is copied.
        weight: ``(dim, width)``; the last tap multiplies the token itself.
        bias: ``(dim,)`` or None.
        seq_idx: ``(batch, length)`` integers: a token sees those before it up to the first of another index. Where it
            is negative the output is zero.
        initial_states: ``(batch, dim, width - 1)``, the tokens before the first; of its index, where there is seq_idx.
        return_final_states: whether to return the last width - 1 tokens, too.
        final_states_out: ``(batch, dim, width - 1)``, which these are then written to.
        activation: None, "silu" or "swish".

    Returns:
        Like ``x``; with ``return_final_states`` also ``(batch, dim, width - 1)`` in the dtype of ``x``, differentiable.

    Raises:
        ValueError: seq_idx with return_final_states, final_states_out that is not asked for, a wrong shape or device.
        TypeError: a wrong dtype. NotImplementedError: another activation.
    """
    _check(x, weight, bias, activation)
    batch, dim, length = x.shape
    sizes = (batch, dim, weight.shape[1] - 1)
    if final_states_out is not None:
        if not return_final_states:
            raise ValueError(
                "final_states_out is written with return_final_states=True only: pass that too, or neither"
            )
        _state("final_states_out", final_states_out, sizes, x)
    tokens = x.transpose(1, 2)
    if initial_states is not None:
        _state("initial_states", initial_states, sizes, x)
        initial_states = initial_states.transpose(1, 2)
    if seq_idx is not None:
        if return_final_states:
            raise ValueError("return_final_states=True does not go with seq_idx: ask for them without it")
        index = _integers("seq_idx", seq_idx, "(batch, length)", (batch, length), x)
        runs, first = _runs(index)
        if initial_states is not None and x.numel():
            zeros = initial_states.new_zeros((runs.shape[0] - 1, *initial_states.shape[1:]))
            initial_states = zeros.index_copy(0, first, initial_states)
        packed = tokens.reshape(1, batch * length, dim)
        y = short_conv(
            packed,
            weight,
            bias,
            activation=activation,
            cu_seqlens=runs,
            initial_state=initial_states if x.numel() else None,
        )
        y = _or_zero(index.unsqueeze(-1) >= 0, y.view(batch, length, dim)).transpose(1, 2)
        return y.contiguous() if x.is_contiguous() else y
    y = short_conv(tokens, weight, bias, activation=activation, initial_state=initial_states)
    assert isinstance(y, Tensor)
    if not return_final_states:
        return y.transpose(1, 2)
    final = last_tokens(tokens, sizes[2], initial_states, None, None).to(x.dtype).transpose(1, 2)
    return y.transpose(1, 2), final if final_states_out is None else final_states_out.copy_(final)


def _runs(index: Tensor) -> tuple[Tensor, Tensor]:
    """Where runs of one number begin in the rows of ``index (batch, length)``, laid end to end, and their end; and
    which run each row begins with.

    On a GPU the number of runs would have to be waited for: there it is taken for the number of tokens, and what is
    after the last run has no tokens.
    """
    starts = (index != index.roll(1, 1)) | (torch.arange(index.shape[1], device=index.device) == 0)
    known = index.device.type == "cpu" and not torch.compiler.is_compiling() and not _torch.transforms_active()
    run = starts.flatten().cumsum(0)
    count = int(starts.sum()) if known else index.numel()
    begins = torch.searchsorted(run, torch.arange(1, count + 2, device=index.device))
    return begins, run.view(index.shape)[:, :1].flatten() - 1


def _or_zero(there: Tensor, x: Tensor) -> Tensor:
    return torch.where(there, x, torch.zeros((), dtype=x.dtype, device=x.device))


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The next tokens of sequences, of which ``conv_state`` holds the last ones; it is updated in place.

    Args:
        x: ``(batch, dim)`` or ``(batch, dim, length)``.
        conv_state: ``(batch, dim, state_len)``, state_len at least width - 1, the latest token last. Its update is not
            recorded by autograd.
        weight, bias, activation: as of :func:`causal_conv1d_fn`.
        cache_seqlens: ``(batch,)`` integers: conv_state is a circular buffer, and each sequence's tokens go to
            cache_seqlens % state_len and on.
        conv_state_indices: ``(batch,)`` integers: which rows of conv_state, then ``(rows, dim, state_len)``, are the
            sequences'; they differ. A negative one stands for no sequence: its output is zero.

    Returns:
        Like ``x``.

    Raises:
        ValueError, TypeError, NotImplementedError: as of :func:`causal_conv1d_fn`.
    """
    if isinstance(x, Tensor) and x.dim() == 2:
        return causal_conv1d_update(
            x.unsqueeze(-1), conv_state, weight, bias, activation, cache_seqlens, conv_state_indices
        ).squeeze(-1)
    _check(x, weight, bias, activation)
    batch, dim, length = x.shape
    history = weight.shape[1] - 1
    rows = None if conv_state_indices is not None else batch
    _checks.size("conv_state", conv_state, "(batch, dim, state_len)", (rows, dim, None), "to match x")
    _checks.same_device("conv_state", conv_state, "x", x)
    state_len = conv_state.shape[2]
    if state_len < history:
        raise ValueError(f"conv_state must hold width - 1 = {history} tokens or more, not {state_len}")
    state, there = conv_state, None
    if conv_state_indices is not None:
        indices = _integers("conv_state_indices", conv_state_indices, "(batch,)", (batch,), x)
        there = indices >= 0
        state = conv_state[indices.clamp(min=0)]
    new = x.to(state.dtype)
    if cache_seqlens is None or state_len == 0:
        before = state[..., state_len - history :]
        after = torch.cat([state, new], dim=-1)[..., length:]
    else:
        position = _integers("cache_seqlens", cache_seqlens, "(batch,)", (batch,), x).unsqueeze(-1)

        def places(begin: int, end: int) -> Tensor:
            at = (position + torch.arange(begin, end, device=x.device)) % state_len
            return at.unsqueeze(1).expand(-1, dim, -1)

        first = max(length - state_len, 0)  # of the tokens that are not overwritten at once
        before = state.gather(2, places(-history, 0))
        after = state.scatter(2, places(first, length), new[..., first:])
    y = short_conv(x.transpose(1, 2), weight, bias, activation=activation, initial_state=before.transpose(1, 2).clone())
    assert isinstance(y, Tensor)
    y = y.transpose(1, 2)
    with torch.no_grad():
        if there is None:
            conv_state.copy_(after)
        elif batch:
            # What stands for no sequence writes what the last row that is one does, or else what it has read.
            source = torch.where(there, torch.arange(batch, device=x.device), indices.argmax())
            after = torch.where(there[:, None, None], after, state)
            conv_state.index_copy_(0, indices.clamp(min=0)[source], after[source])
    return y if there is None else _or_zero(there[:, None, None], y)


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """The last ``state_len`` tokens of packed sequences, zeros before those of shorter ones.

    Args:
        x: ``(tokens, dim)``; cu_seqlens: ``(batch + 1,)``: sequence b is ``x[cu_seqlens[b]:cu_seqlens[b + 1]]``.

    Returns:
        ``(batch, dim, state_len)``.
    """
    _checks.activations("x", x, "(tokens, dim)")
    if state_len < 0:
        raise ValueError(f"state_len must be 0 or more, not {state_len}")
    _, cu_seqlens_checked = _checks.layout(x.unsqueeze(0), None, cu_seqlens, "x")
    return last_tokens(x.unsqueeze(0), state_len, None, None, cu_seqlens_checked).transpose(1, 2)
