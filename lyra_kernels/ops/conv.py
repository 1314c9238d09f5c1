"""Long convolutions with an arbitrary kernel: by FFT, with gates or without, or as the direct Toeplitz product."""

from __future__ import annotations

import warnings
from typing import NoReturn

import torch
from torch import Tensor

from .. import backends, reference
from ..layout import compute_dtype
from . import _checks, cost_model
from ._autograd import Op, laid_out

causal_conv_op = Op("causal_conv", reference.causal_conv)
fft_conv_op = Op("fft_conv", reference.fft_conv)
gated_fft_conv_op = Op("gated_fft_conv", reference.gated_fft_conv)

_LONG = 16
"""Tokens from which a kernel of twice as many taps is taken for a two-sided one, and not for one of few taps."""


def _by_name(function: str, misplaced: tuple[object, ...]) -> None:
    if misplaced:
        raise TypeError(
            f"{function} takes u and kernel by position and all else by name. Skip weights of (H,), which multiply u: "
            f"{function}(u, kernel, D=D). A bias: {function}(u, kernel) + bias. With weights of conv1d, whose last tap "
            f"multiplies the token itself: lyra_kernels.short_conv(u, weight, bias), or {function}(u, weight.flip(-1)) "
            "+ bias, since here the first tap does"
        )


@_checks.once_a_signature
def _check(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
) -> None:
    _checks.activations("u", u, "(batch, length, H)")
    _checks.tensor("kernel", kernel, "(H, taps)")
    _checks.channels_last("u", u, "kernel", kernel.shape[0])
    channels = u.shape[-1]
    _checks.size("kernel", kernel, "(H, taps)", (channels, None), "to match u")
    if reverse_kernel is not None:
        _checks.size("reverse_kernel", reverse_kernel, "(H, taps)", (channels, None), "to match u")
    if D is not None:
        _checks.size("D", D, "(H,)", (channels,), "to match u")
    for name, gate in {"pregate": pregate, "postgate": postgate}.items():
        if gate is not None:
            _checks.size(name, gate, "(batch, length, H)", tuple(u.shape), "like u")
    others = {"kernel": kernel, "reverse_kernel": reverse_kernel, "D": D, "pregate": pregate, "postgate": postgate}
    for name, value in others.items():
        _checks.same_device(name, value, "u", u)
    if not torch.compiler.is_compiling():  # where a length may have to stay unknown
        _warn_of_two_sides(kernel, reverse_kernel, u.shape[1])


def _warn_of_two_sides(kernel: Tensor, reverse_kernel: Tensor | None, length: int) -> None:
    """Of a kernel as long as the transform of a padded sequence, whose second half are usually lags below zero."""
    taps = kernel.shape[1]
    if reverse_kernel is None and length >= _LONG and taps in (2 * length - 1, 2 * length):
        warnings.warn(
            f"kernel has {taps} taps, of which u, {length} tokens long, reaches the first {length}. If the others are "
            "what comes after a token, as in a circular convolution by FFT, they are the reverse kernel: give "
            f"kernel=kernel[:, :{length}], reverse_kernel=kernel[:, {taps - length + 1}:].flip(-1). If they are lags "
            f"that no token here is away from another, say so: kernel[:, :{length}]",
            stacklevel=6,
        )


def convolve(
    op: Op | None,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: _checks.Integers | None,
    cu_seqlens: _checks.Integers | None,
    *gates: Tensor | None,
) -> Tensor:
    """Check the arguments and call an op, or whichever of the two without gates is cheaper."""
    _check(u, kernel, reverse_kernel, D, *(gates or (None, None)))
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    if op is None:
        op = causal_conv_op if _directly(u, kernel, reverse_kernel) else fft_conv_op
    parameters = _checks.parameters(compute_dtype(u), kernel, reverse_kernel, D)
    backend = backends.forced()
    given = [x if x is None or x.dtype == u.dtype else x.to(u.dtype) for x in (u, *gates)]
    laid = [x if x is None or x.is_contiguous() else laid_out(op.name, backend, x) for x in given]
    y = op(laid[0], *parameters, *laid[1:], lengths, cu_seqlens)
    if laid[0] is not u and not torch.compiler.is_compiling() and _is_channels_first(u):
        return y.transpose(1, 2).contiguous().transpose(1, 2)  # as u lies, although the op needed a copy
    return y


def _is_channels_first(u: Tensor) -> bool:
    return not u.is_contiguous() and u.transpose(1, 2).is_contiguous()


def _directly(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None) -> bool:
    """Whether the direct product is cheaper than transforms: on CPUs, where taps are few."""
    if (backends.forced() or backends.default_backend(u.device)) != "cpu":
        return False
    length, taps = u.shape[1], kernel.shape[-1]
    reverse_taps = 0 if reverse_kernel is None else reverse_kernel.shape[-1]
    known = type(length) is int and type(taps) is int and type(reverse_taps) is int
    if known and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        return cost_model.convolves_directly(length, taps, reverse_taps)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import, known by then

    # A length not known yet must stay unknown: no guard.
    return statically_known_true(taps + reverse_taps <= cost_model.FEW_TAPS)


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    *misplaced: NoReturn,
    reverse_kernel: Tensor | None = None,
    D: Tensor | None = None,
    pregate: Tensor | None = None,
    postgate: Tensor | None = None,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor:
    """A long convolution in O(log L) work per token and channel, whatever the kernel, between two gates or none.

    ``y_t = postgate_t (sum_{s<=t} kernel_{t-s} v_s + sum_{s>t} reverse_kernel_{s-t-1} v_s + D v_t)`` of
    ``v = pregate u``.

    Tap j of ``kernel`` is lag j: the first multiplies the token itself, where conv1d's last one does. Tap j of
    ``reverse_kernel`` is lag -(j + 1): the first multiplies the next token. Nothing wraps around: a kernel k for a
    circular convolution of L taps is ``kernel=k, reverse_kernel=k[:, 1:].flip(-1)``, and a two-sided one of 2 L taps,
    as a transform of 2 L points has it, is ``kernel=k[:, :L], reverse_kernel=k[:, L + 1:].flip(-1)``.

    Args:
        u: ``(batch, length, H)``, float32, float64, float16 or bfloat16. Of a tensor ``x (batch, H, length)`` give
            ``x.transpose(1, 2)``, which is not copied, and transpose the result, which lies in memory as x does. Where
            H and the length are equal, nothing can tell one from the other.
        kernel: ``(H, taps)``, any number of taps; missing ones count as zero, surplus ones are not used.
        reverse_kernel: ``(H, taps)`` for what comes after a token, or None for a causal convolution.
        D: ``(H,)`` skip weights, or None.
        pregate, postgate: like ``u``, or None for ones; computed with in ``u``'s dtype.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``u``, zero at padded positions. On CPUs few taps are multiplied directly, as :func:`causal_conv` does.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Warns:
        UserWarning: the kernel has 2 L taps, or one less, and is probably two-sided.
    """
    _by_name("fft_conv", misplaced)
    if pregate is None and postgate is None:
        return convolve(None, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
    return convolve(gated_fft_conv_op, u, kernel, reverse_kernel, D, lengths, cu_seqlens, pregate, postgate)


def causal_conv(
    u: Tensor,
    kernel: Tensor,
    *misplaced: NoReturn,
    reverse_kernel: Tensor | None = None,
    D: Tensor | None = None,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
) -> Tensor:
    """The same function as :func:`fft_conv` without gates, as a direct product: a multiply-add for each tap in reach.

    The fastest way for short sequences and for few taps. Tap j of ``kernel`` multiplies what is j tokens back:
    the weights of conv1d, ``(H, taps)``, are ``weight.flip(-1)`` here. Arguments, result and errors are those of
    :func:`fft_conv`.
    """
    _by_name("causal_conv", misplaced)
    return convolve(causal_conv_op, u, kernel, reverse_kernel, D, lengths, cu_seqlens)
