"""The truth: every op in plain PyTorch, readable, differentiable, in any floating dtype, never fast.

A function here takes the very arguments of the dispatcher op ``torch.ops.lyra.<name>``, by position; each
backend is tested against it in float64.
"""

from .conv import causal_conv, fft_conv, gated_fft_conv
from .gated_conv import depthwise_conv, gated_conv
from .gelu_glu import gelu_glu
from .pgc import pgc
from .rms_norm import rms_norm
from .s4d import discretize, discretize_real, s4d_fft, s4d_kernel, s4d_kernel_real, s4d_recurrence, s4d_scan
from .s4d_block import s4d_block
from .short_conv import short_conv

__all__ = [
    "causal_conv",
    "depthwise_conv",
    "discretize",
    "discretize_real",
    "fft_conv",
    "gated_conv",
    "gated_fft_conv",
    "gelu_glu",
    "pgc",
    "rms_norm",
    "s4d_block",
    "s4d_fft",
    "s4d_kernel",
    "s4d_kernel_real",
    "s4d_recurrence",
    "s4d_scan",
    "short_conv",
]
