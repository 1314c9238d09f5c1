"""A whole S4D block as one op: norm, convolution, tail, residual."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import backends, reference
from ..backends.reference import as_tuple
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op, laid_out, saves
from .gelu_glu import check_tail
from .s4d_conv import check_convolution

s4d_block_op = Op("s4d_block", reference.s4d_block)


def s4d_block(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    eps: float = 1e-8,
    mask: Tensor | None = None,
    add_input: bool = False,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
    bidirectional: bool = False,
) -> Tensor:
    """``gelu_glu(s4d_conv(rms_norm(u)))``, plus ``u`` where ``add_input``: a block of a model in one op, by scan.

    On GPUs that is less Python than its parts, and activations lie in between as the scan reads them. It is not cast by
    autocast.

    Args:
        u: ``(batch, length, H)``, float32, float64, float16 or bfloat16.
        log_dt, log_A_real, A_imag, C, D, bidirectional: see :func:`s4d_conv`.
        weight, bias, mask: see :func:`gelu_glu`.
        norm_weight: ``(H,)`` of the RMS norm; None for no norm.
        eps: of the norm.
        add_input: whether ``u`` is added to the result.
        lengths: ``(batch,)``; cu_seqlens: ``(sequences + 1,)``; see :func:`gated_conv`.

    Returns:
        Like ``u``, zero at padded positions.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape, device or value; the message says which.
    """
    check_convolution(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, bidirectional, None, False, "scan")
    _check(u, norm_weight, weight, bias, mask, cu_seqlens, add_input)
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    modes = _checks.parameters(compute_dtype(u), log_dt, log_A_real, A_imag, C, D)
    C = modes[3] if bidirectional else modes[3].unsqueeze(0)
    mask = None if mask is None else mask.detach()
    tail = _checks.parameters(compute_dtype(u), weight, bias, norm_weight, mask)
    if not u.is_contiguous():
        plain = norm_weight is None
        u = laid_out("s4d_block", backends.forced(), u, first=not add_input) if plain else u.contiguous()
    args: list[Any] = [u, *modes[:3], C, modes[4], *tail, lengths, cu_seqlens]
    return as_tuple(s4d_block_op(*args, _checks.epsilon(eps), add_input, saves(args)))[0]


@_checks.once_a_signature
def _check(
    u: Tensor,
    norm_weight: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    add_input: bool,
) -> None:
    check_tail("u", u, weight, bias, mask, cu_seqlens)
    if norm_weight is not None:
        _checks.size("norm_weight", norm_weight, "(H,)", (u.shape[-1],), "to match u")
        _checks.same_device("norm_weight", norm_weight, "u", u)
    _checks.flag("add_input", add_input)
