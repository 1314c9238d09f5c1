"""Drop-in modules: the published classes' names, arguments and state_dicts, on the fast ops."""

from .pgc import PGC
from .rms_norm import RMSNorm
from .s4d import S4D
from .s4d_kernel import S4DKernel

__all__ = ["PGC", "S4D", "RMSNorm", "S4DKernel"]
