"""Long causal convolutions with an arbitrary kernel: by FFT, or as the direct Toeplitz product."""

from __future__ import annotations

from torch import Tensor

from .. import backends, reference
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op, laid_out

causal_conv_op = Op("causal_conv", reference.causal_conv)
fft_conv_op = Op("fft_conv", reference.fft_conv)


def _convolve(
    op: Op,
    u: Tensor,
    kernel: Tensor,
    D: Tensor | None,
    reverse_kernel: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    _check(u, kernel, D, reverse_kernel)
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    parameters = _checks.parameters(compute_dtype(u), kernel, reverse_kernel, D)
    u = u if u.is_contiguous() else laid_out(op.name, backends.forced(), u)
    return op(u, *parameters, lengths, cu_seqlens)


@_checks.once_a_signature
def _check(u: Tensor, kernel: Tensor, D: Tensor | None, reverse_kernel: Tensor | None) -> None:
    _checks.activations("u", u, "(batch, length, H)")
    channels = u.shape[-1]
    _checks.size("kernel", kernel, "(H, taps)", (channels, None), "to match u")
    if reverse_kernel is not None:
        _checks.size("reverse_kernel", reverse_kernel, "(H, taps)", (channels, None), "to match u")
    if D is not None:
        _checks.size("D", D, "(H,)", (channels,), "to match u")
    for name, value in {"kernel": kernel, "reverse_kernel": reverse_kernel, "D": D}.items():
        _checks.same_device(name, value, "u", u)


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    D: Tensor | None = None,
    *,
    reverse_kernel: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """``y_t = sum_{s<=t} kernel_{t-s} u_s + sum_{s>t} reverse_kernel_{s-t-1} u_s + D u_t``, by FFT.

    O(log L) work per token and channel, whatever the kernel.

    Args:
        u: ``(batch, length, H)``, float32, float64, float16 or bfloat16.
        kernel: ``(H, taps)``, any number of taps; missing ones count as zero, surplus ones are not used.
        D: ``(H,)`` skip weights, or None.
        reverse_kernel: ``(H, taps)`` for what comes after a token, or None for a causal convolution.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``u``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.
    """
    return _convolve(fft_conv_op, u, kernel, D, reverse_kernel, lengths, cu_seqlens)


def causal_conv(
    u: Tensor,
    kernel: Tensor,
    D: Tensor | None = None,
    *,
    reverse_kernel: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """The same function as :func:`fft_conv`, as a direct product: L / 2 multiply-adds per token and channel.

    The fastest way for short sequences. Arguments, result and errors are those of :func:`fft_conv`.
    """
    return _convolve(causal_conv_op, u, kernel, D, reverse_kernel, lengths, cu_seqlens)
