"""The middle of a projected gated convolution: RMSNorm, split, depthwise convolution, gate."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op

gated_conv_op = Op("gated_conv", reference.gated_conv)


def check_width(conv_weight: Tensor, causal: bool) -> None:
    """A centred convolution must have a middle."""
    width = conv_weight.shape[-1]
    if width < 1 or (not causal and width % 2 == 0):
        raise ValueError(
            f"conv_weight has {width} taps: a centred convolution needs an odd number (or pass causal=True)"
        )


def gated_conv(
    xv: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    *,
    eps: float = 1e-8,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
    causal: bool = False,
) -> Tensor:
    """``v * (conv(x) + bias)`` with ``x, v = split(rms_norm(xv))``: a gated depthwise convolution along the length.

    Args:
        xv: ``(batch, length, 2 E)``; the first half is convolved, the second gates.
        conv_weight: ``(E, 1, k)``, k odd unless ``causal``.
        conv_bias: ``(E,)`` or None.
        norm_weight: ``(2 E,)``, or None for no normalisation at all.
        eps: of the normalisation.
        lengths: ``(batch,)`` integers, a tensor or a list: sequence b is ``xv[b, :lengths[b]]``. One is for all.
        cu_seqlens: ``(sequences + 1,)`` likewise, with batch 1: sequence s is ``xv[0, cu[s]:cu[s + 1]]``.
        causal: pad ``k - 1`` zeros on the left, instead of ``k // 2`` on both sides.

    Returns:
        ``(batch, length, E)``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Source: Ramesh et al. 2025, arXiv 2503.16351.
    """
    _check(xv, conv_weight, conv_bias, norm_weight, causal)
    lengths, cu_seqlens = _checks.layout(xv, lengths, cu_seqlens, "xv")
    weights = _checks.parameters(compute_dtype(xv), conv_weight, conv_bias, norm_weight)
    return gated_conv_op(xv.contiguous(), *weights, lengths, cu_seqlens, _checks.epsilon(eps), causal)


@_checks.once_a_signature
def _check(xv: Tensor, conv_weight: Tensor, conv_bias: Tensor | None, norm_weight: Tensor | None, causal: bool) -> None:
    _checks.activations("xv", xv, "(batch, length, 2 * E)")
    if xv.shape[-1] % 2:
        raise ValueError(f"xv must have an even number of channels (2 * E), not {xv.shape[-1]}")
    channels = xv.shape[-1] // 2
    _checks.size("conv_weight", conv_weight, "(E, 1, k)", (channels, 1, None), "to match xv")
    check_width(conv_weight, _checks.flag("causal", causal))
    if conv_bias is not None:
        _checks.size("conv_bias", conv_bias, "(E,)", (channels,), "to match xv")
    if norm_weight is not None:
        _checks.size("norm_weight", norm_weight, "(2 * E,)", (2 * channels,), "to match xv")
    for name, value in {"conv_weight": conv_weight, "conv_bias": conv_bias, "norm_weight": norm_weight}.items():
        _checks.same_device(name, value, "xv", xv)
