"""The S4D convolution by FFT with its kernel made on the fly: :mod:`.fft_conv` from the parameters.

Neither the kernel nor a spectrum is in memory; only the gradient of the taps is, once a channel whatever the batch, on
its way to the kernel's own backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...schemas import absent
from .. import composed
from . import IMPLEMENTATIONS
from ._launch import refusing
from ._transpose import channels_first, lying_as, takes_channels_first
from .fft_conv import convolve, sequences, why_not
from .fft_conv_backward import correlate


def _why_not(u: Tensor, A_imag: Tensor) -> str | None:
    """Why kernel and transform are not one launch, or None."""
    if A_imag.numel() == 0 or A_imag.dtype != torch.float32:
        return "the parameters are not float32, or none"
    return why_not(u)


@takes_channels_first
@refusing(lambda u, log_dt, log_A_real, A_imag, *rest: _why_not(u, A_imag), instead=composed.s4d_fft)
def s4d_fft(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.s4d_fft``."""
    spectrum = (log_dt, log_A_real, A_imag)
    if _why_not(u, A_imag):
        return composed.s4d_fft(IMPLEMENTATIONS.__getitem__, u, *spectrum, C, D, lengths, cu_seqlens)
    return convolve(u, C, None, D, spectrum, sequences(u, lengths, cu_seqlens), cu_seqlens is not None)


@takes_channels_first
def s4d_fft_backward(grad, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.s4d_fft_backward``."""
    ops = IMPLEMENTATIONS.__getitem__
    spectrum = (log_dt, log_A_real, A_imag)
    if _why_not(u, A_imag):
        return composed.s4d_fft_backward(ops, grad, u, *spectrum, C, D, lengths, cu_seqlens)
    row = sequences(u, lengths, cu_seqlens)
    grad = channels_first(grad).transpose(1, 2)  # once, for both
    du = convolve(grad, C, None, D, spectrum, row, cu_seqlens is not None, adjoint=True)
    taps = correlate(grad, u, C.shape[0] == 2, row)
    dD = absent(u) if D is None else taps[0, :, 0].contiguous()
    return lying_as(du, u), *composed.parameter_gradients(ops, list(taps), *spectrum, C), dD
