"""The projected gated convolution, whole."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from ..layout import compute_dtype, without_padding
from . import _checks
from ._autograd import Op
from .gated_conv import check_width

pgc_op = Op("pgc", reference.pgc)


def pgc(
    u: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    in_norm_weight: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    out_norm_weight: Tensor | None,
    *,
    eps: float = 1e-8,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
    causal: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """``rms_norm(W_out gated_conv(W_in u + b_in) + b_out) + residual``: the projected gated convolution, whole.

    Under autocast ``u`` is cast like a Linear's input; weights stay as they are and sums are float32.

    Args:
        u: ``(batch, length, d_model)``.
        in_weight: ``(2 E, d_model)``. in_bias: ``(2 E,)`` or None.
        in_norm_weight: ``(2 E,)``, or None for no normalisation there.
        conv_weight: ``(E, 1, k)``, k odd unless ``causal``. conv_bias: ``(E,)`` or None.
        out_weight: ``(d_out, E)``. out_bias: ``(d_out,)`` or None.
        out_norm_weight: ``(d_out,)``, or None for no normalisation there.
        eps, lengths, cu_seqlens, causal: as in :func:`gated_conv`.
        residual: ``(batch, length, d_out)``, added to the output; the sum has the wider of both dtypes.

    Returns:
        ``(batch, length, d_out)``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Source: Ramesh et al. 2025, arXiv 2503.16351.
    """
    parameters = (in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias, out_norm_weight)
    _check(u, *parameters, residual, causal)
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    u = _checks.autocast(u)
    weights = _checks.parameters(compute_dtype(u), *parameters)
    fused, apart = _checks.residual(residual, u.dtype)
    fused = None if fused is None else fused.contiguous()
    out = pgc_op(u.contiguous(), *weights, fused, lengths, cu_seqlens, _checks.epsilon(eps), causal)
    return out if apart is None else out + without_padding(apart, lengths)


@_checks.once_a_signature
def _check(
    u: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    in_norm_weight: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    out_norm_weight: Tensor | None,
    residual: Tensor | None,
    causal: bool,
) -> None:
    _checks.activations("u", u, "(batch, length, d_model)")
    _checks.size("in_weight", in_weight, "(2 * E, d_model)", (None, u.shape[-1]), "to match u")
    if in_weight.shape[0] % 2:
        raise ValueError(f"in_weight must have an even number of rows (2 * E), not {in_weight.shape[0]}")
    inner = in_weight.shape[0] // 2
    _checks.size("conv_weight", conv_weight, "(E, 1, k)", (inner, 1, None), "to match in_weight")
    check_width(conv_weight, _checks.flag("causal", causal))
    _checks.size("out_weight", out_weight, "(d_out, E)", (None, inner), "to match in_weight")
    for name, value, width in (
        ("in_bias", in_bias, 2 * inner),
        ("in_norm_weight", in_norm_weight, 2 * inner),
        ("conv_bias", conv_bias, inner),
        ("out_bias", out_bias, out_weight.shape[0]),
        ("out_norm_weight", out_norm_weight, out_weight.shape[0]),
    ):
        if value is not None:
            _checks.size(name, value, "(channels,)", (width,), "to match the weights")
    if residual is not None:
        wanted = (*u.shape[:2], out_weight.shape[0])
        _checks.size("residual", residual, "(batch, length, d_out)", wanted, "to match u and out_weight")
    others = {
        "in_weight": in_weight,
        "in_bias": in_bias,
        "in_norm_weight": in_norm_weight,
        "conv_weight": conv_weight,
        "conv_bias": conv_bias,
        "out_weight": out_weight,
        "out_bias": out_bias,
        "out_norm_weight": out_norm_weight,
        "residual": residual,
    }
    for name, value in others.items():
        _checks.same_device(name, value, "u", u)
