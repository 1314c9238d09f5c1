"""The convolution kernel of a diagonal state space."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .. import reference
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op

s4d_kernel_op = Op("s4d_kernel", reference.s4d_kernel)


def check_parameters(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, channels: int | None = None) -> None:
    """Check log_dt (H,), log_A_real (H, M) and A_imag (H, M) against each other and against the activations."""
    why = "to match u" if channels is not None else ""
    _checks.size("log_dt", log_dt, "(H,)", (channels,), why)
    _checks.size("log_A_real", log_A_real, "(H, M)", (log_dt.shape[0], None), "to match log_dt")
    _checks.size("A_imag", A_imag, "(H, M)", tuple(log_A_real.shape), "to match log_A_real")
    given = {"log_dt": log_dt, "log_A_real": log_A_real, "A_imag": A_imag}
    narrow = {name: x.dtype for name, x in given.items() if x.dtype.itemsize < 4}
    if narrow and not torch.compiler.is_compiling():
        warnings.warn(
            f"{' and '.join(narrow)} of a state space in {next(iter(narrow.values()))}: the angles that they make grow "
            "with the distance between tokens, and are wrong after a few hundred; keep them in float32. FSDP's mixed "
            "precision casts them: shard the layer's kernel on its own, without that: fully_shard(layer.kernel) before "
            "fully_shard(layer, mp_policy=...)",
            stacklevel=2,
        )


def s4d_kernel(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> Tensor:
    """``K_l = Re sum_n c_n a_n^l``, the convolution kernel of a diagonal state space held at steps ``dt``.

    ``dt = exp(log_dt)``, ``A = -exp(log_A_real) + i A_imag``, ``a = exp(dt A)``, ``c = 2 C (a - 1) / A``. M is
    half of d_state: each mode stands for a conjugate pair.

    Args:
        log_dt: ``(H,)``. log_A_real, A_imag: ``(H, M)``. C: ``(H, M, 2)``, real and imaginary part.
        length: number of taps, 0 or more.

    Returns:
        ``(H, length)``, float64 where ``log_dt`` is, else float32.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape or device; the message says which.

    Warns where ``log_dt``, ``log_A_real`` or ``A_imag`` have 16 bits, which do not hold them.

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models".
    """
    _check(log_dt, log_A_real, A_imag, C, length)
    return s4d_kernel_op(*_checks.parameters(compute_dtype(log_dt), log_dt, log_A_real, A_imag, C), length)


@_checks.once_a_signature
def _check(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> None:
    check_parameters(log_dt, log_A_real, A_imag)
    _checks.size("C", C, "(H, M, 2)", (*log_A_real.shape, 2), "to match log_A_real")
    for name, value in {"log_A_real": log_A_real, "A_imag": A_imag, "C": C}.items():
        _checks.same_device(name, value, "log_dt", log_dt)
    if not isinstance(length, (int, torch.SymInt)) or isinstance(length, bool):
        raise TypeError(f"length must be an integer, not {type(length).__name__}")
    if length < 0:
        raise ValueError(f"length must be 0 or more, not {length}")
