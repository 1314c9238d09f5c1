"""Fast, exact layers for biological sequences: projected gated convolutions and diagonal state spaces.

Functions take activations ``(batch, length, channels)``; layers keep the published shapes and names.
"""

from .backends import available_backends, dispatcher, use_backend
from .choice import explain_choice
from .decompositions import decompositions
from .environment import env_report
from .graphs import graphed
from .layers import PGC, S4D, RMSNorm, S4DKernel
from .ops import (
    causal_conv,
    fft_conv,
    flop_formulas,
    gated_conv,
    gelu_glu,
    pgc,
    rms_norm,
    s4d_block,
    s4d_conv,
    s4d_kernel,
    short_conv,
)
from .version import __version__

dispatcher.register()

__all__ = [
    "PGC",
    "S4D",
    "RMSNorm",
    "S4DKernel",
    "__version__",
    "available_backends",
    "causal_conv",
    "decompositions",
    "env_report",
    "explain_choice",
    "fft_conv",
    "flop_formulas",
    "gated_conv",
    "gelu_glu",
    "graphed",
    "pgc",
    "rms_norm",
    "s4d_block",
    "s4d_conv",
    "s4d_kernel",
    "short_conv",
    "use_backend",
]
