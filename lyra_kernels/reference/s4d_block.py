"""A whole S4D block: norm, convolution, tail, residual."""

from __future__ import annotations

from torch import Tensor

from ..layout import without_padding
from .gelu_glu import gelu_glu
from .rms_norm import rms_norm
from .s4d import s4d_scan


def s4d_block(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
    add_input: bool,
) -> Tensor:
    """``tail(S4D(norm(u)))``, plus ``u`` where ``add_input``.

    Args:
        u: ``(B, L, H)``, or ``(1, T, H)`` with ``cu_seqlens``.
        log_dt, log_A_real, A_imag, C, D: see :func:`s4d_scan`.
        weight, bias, mask: see :func:`gelu_glu`.
        norm_weight: ``(H,)`` of the RMS norm; None for no norm.
        lengths: ``(B,)`` or None.
        cu_seqlens: ``(S + 1,)`` or None.
        eps: of the norm.

    Returns:
        Like ``u``, zero at padded positions.
    """
    u = without_padding(u, lengths)
    z = u if norm_weight is None else rms_norm(u, norm_weight, eps)
    y, _ = s4d_scan(z, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, None)
    return gelu_glu(y, weight, bias, mask, u if add_input else None, lengths, cu_seqlens)
