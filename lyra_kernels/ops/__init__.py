"""The public functions: checks, casts and layout here, the work in the backends."""

from .conv import causal_conv, fft_conv
from .flops import flop_formulas
from .gated_conv import gated_conv
from .gelu_glu import gelu_glu
from .pgc import pgc
from .rms_norm import rms_norm
from .s4d_block import s4d_block
from .s4d_conv import s4d_conv
from .s4d_kernel import s4d_kernel
from .short_conv import short_conv

__all__ = [
    "causal_conv",
    "fft_conv",
    "flop_formulas",
    "gated_conv",
    "gelu_glu",
    "pgc",
    "rms_norm",
    "s4d_block",
    "s4d_conv",
    "s4d_kernel",
    "short_conv",
]
