"""The gated convolution by FFT: :mod:`.fft_conv`, and torch's products before and after it."""

from __future__ import annotations

from torch import Tensor

from .. import composed
from . import IMPLEMENTATIONS
from ._launch import refusing


@refusing(lambda *args: "its products are torch's", instead=composed.gated_fft_conv)
def gated_fft_conv(u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens) -> Tensor:
    """``torch.ops.lyra.gated_fft_conv``."""
    args = (u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens)
    return composed.gated_fft_conv(IMPLEMENTATIONS.__getitem__, *args)


def gated_fft_conv_backward(
    grad, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens
) -> tuple[Tensor, ...]:
    """``torch.ops.lyra.gated_fft_conv_backward``."""
    args = (grad, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens)
    return composed.gated_fft_conv_backward(IMPLEMENTATIONS.__getitem__, *args)
