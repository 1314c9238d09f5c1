"""Fast, exact layers for biological sequences: projected gated convolutions and diagonal state spaces.

Functions take activations ``(batch, length, channels)``; layers keep the published shapes and names.
"""

__version__ = "0.1.0"

from .backends import available_backends, env_report, use_backend
from .decompositions import decompositions
from .layers import PGC, S4D, RMSNorm, S4DKernel
from .ops import causal_conv, fft_conv, gated_conv, gelu_glu, pgc, rms_norm, s4d_conv, s4d_kernel

__all__ = [
    "PGC",
    "S4D",
    "RMSNorm",
    "S4DKernel",
    "available_backends",
    "causal_conv",
    "decompositions",
    "env_report",
    "fft_conv",
    "gated_conv",
    "gelu_glu",
    "pgc",
    "rms_norm",
    "s4d_conv",
    "s4d_kernel",
    "use_backend",
]
