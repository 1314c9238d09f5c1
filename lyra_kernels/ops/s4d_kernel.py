"""The convolution kernel of a diagonal state space."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .. import _torch, reference
from ..layout import compute_dtype
from . import _checks
from ._autograd import Op

s4d_kernel_op = Op("s4d_kernel", reference.s4d_kernel)


def check_parameters(
    log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, channels: int | None = None
) -> None:
    """Check log_dt (H,), log_A_real (H, M) and A_imag (H, M) against each other and against the activations."""
    why = "to match u" if channels is not None else ""
    _checks.size("log_dt", log_dt, "(H,)", (channels,), why)
    _checks.size("log_A_real", log_A_real, "(H, M)", (log_dt.shape[0], None), "to match log_dt")
    _checks.size("A_imag", A_imag, "(H, M)", tuple(log_A_real.shape), "to match log_A_real")
    given = {"log_dt": log_dt, "log_A_real": log_A_real, "A_imag": A_imag, "C": C}
    narrow = {name: x.dtype for name, x in given.items() if isinstance(x, Tensor) and x.dtype.itemsize < 4}
    if narrow:
        _warn_of_16_bits(" and ".join(narrow), str(next(iter(narrow.values()))))


@_torch.constant_when_compiled  # torch.compile would leave a warning out, or fail
def _warn_of_16_bits(names: str, dtype: str) -> None:
    warnings.warn(
        f"{names} of a state space in {dtype}, which cannot hold them: the convolution kernel may be off by tens of "
        "percent, and an optimizer does not move them. S4DKernel keeps them in float32; these were cast past it, as by "
        "FSDP's mixed precision: shard each kernel on its own, without that, by fully_shard(layer.kernel) before "
        "fully_shard(layer, mp_policy=...)",
        stacklevel=3,
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

    Warns, once for each kind of call, where parameters have 16 bits, which do not hold them.

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models".
    """
    _check(log_dt, log_A_real, A_imag, C, length)
    return s4d_kernel_op(*_checks.parameters(compute_dtype(log_dt), log_dt, log_A_real, A_imag, C), length)


@_checks.once_a_signature
def _check(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> None:
    check_parameters(log_dt, log_A_real, A_imag, C)
    _checks.size("C", C, "(H, M, 2)", (*log_A_real.shape, 2), "to match log_A_real")
    for name, value in {"log_A_real": log_A_real, "A_imag": A_imag, "C": C}.items():
        _checks.same_device(name, value, "log_dt", log_dt)
    if not isinstance(length, (int, torch.SymInt)) or isinstance(length, bool):
        raise TypeError(f"length must be an integer, not {type(length).__name__}")
    if length < 0:
        raise ValueError(f"length must be 0 or more, not {length}")
