"""The public functions: checks, casts and layout here, the work in the backends."""

from . import _fallback
from .conv import causal_conv, causal_conv_op, fft_conv, fft_conv_op
from .gated_conv import _op as _gated_conv_op
from .gated_conv import gated_conv
from .gelu_glu import _op as _gelu_glu_op
from .gelu_glu import gelu_glu
from .pgc import _op as _pgc_op
from .pgc import pgc
from .rms_norm import _op as _rms_norm_op
from .rms_norm import rms_norm
from .s4d_conv import s4d_conv, s4d_fft_op, s4d_scan_op
from .s4d_kernel import s4d_kernel, s4d_kernel_op

_fallback.register(
    [
        causal_conv_op,
        fft_conv_op,
        _gated_conv_op,
        _gelu_glu_op,
        _pgc_op,
        _rms_norm_op,
        s4d_fft_op,
        s4d_scan_op,
        s4d_kernel_op,
    ]
)

__all__ = ["causal_conv", "fft_conv", "gated_conv", "gelu_glu", "pgc", "rms_norm", "s4d_conv", "s4d_kernel"]
