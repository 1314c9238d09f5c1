"""One token of an S4D layer on the CPU, where nothing stands between the call and its two kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _torch, backends
from . import _watch
from ._autograd import needs_graph


def s4d_step(
    u: Tensor,
    state: Tensor,
    D: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
) -> tuple[Tensor, Tensor] | None:
    """``gelu_glu(s4d_conv(u))`` of one token and the state after it; None where the public functions have to look.

    They check, cast, record, ask for backends and are watched, which takes as long as the kernels do. Here is asked
    once whether any of it could matter.

    Args:
        u: ``(B, H)``. state: ``(B, H, M, 2)``. weight: ``(2 H, H, 1)``.
        others: as in :func:`lyra_kernels.s4d_conv` and :func:`lyra_kernels.gelu_glu`, known to be ordinary tensors.
    """
    tensors = [u, state, log_dt, log_A_real, A_imag, C, D, weight]
    if bias is not None:
        tensors.append(bias)
    dtype = u.dtype
    if (
        torch.compiler.is_compiling()
        or _watch.watcher is not None
        or (dtype != torch.float32 and dtype != torch.float64)
        or not _torch.plain((u, state))
        or _torch.any_autocast_enabled()
        or needs_graph(tensors)
        or backends.forced() is not None
        or backends.runs_reference(None, u.device)
    ):
        return None
    for x in tensors:
        if not x.is_cpu or x.dtype != dtype or not x.is_contiguous():
            return None
    if state.shape != (u.shape[0], *log_A_real.shape, 2):
        return None
    with _torch.below_autograd():
        return torch.ops.lyra_cpu.s4d_step.default(u, state, log_dt, log_A_real, A_imag, C, D, weight, bias)
