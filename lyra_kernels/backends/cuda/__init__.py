"""The ops of the CUDA C++ backend: its kernels, and what PyTorch's own operations do between them.

Matrix products and Fourier transforms are PyTorch's (cuBLAS, cuFFT); everything around them that moves memory runs in
the kernels of ``csrc/cuda``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layout import compute_dtype, without_padding
from ...schemas import SCHEMAS, absent
from .. import composed, native
from ..backend import Backend, Operations
from . import architectures
from .fft_conv import FftConv


def implementations(kernels: Any) -> Operations:
    """Op name to function, from a dispatcher namespace such as ``torch.ops.lyra_cuda``."""
    # An op that is a kernel, and its backward another one, has its name there.
    table: dict[str, Callable] = {name: getattr(kernels, name).default for name in SCHEMAS if hasattr(kernels, name)}
    convolution = FftConv(kernels)
    for name in ("fft_conv", "causal_conv"):
        table[name], table[name + "_backward"] = convolution.forward, convolution.backward
    for name in ("gated_fft_conv", "s4d_fft", "s4d_block"):
        for op in (name, name + "_backward"):
            table[op] = partial(getattr(composed, op), table.__getitem__)
    block = Pgc(kernels)
    table["pgc"], table["pgc_backward"] = block.forward, block.backward
    table["gelu_glu"], table["gelu_glu_backward"] = gelu_glu, gelu_glu_backward
    return table


def _built() -> bool:
    return hasattr(torch.ops.lyra_cuda, "gated_conv")


def availability() -> tuple[bool, str]:
    """Whether the kernels were built for the card of this machine."""
    if native.MODULE is None or not _built():
        return False, "the CUDA C++ kernels were not built (no nvcc at build time)"
    if not torch.cuda.is_available():
        return False, "built, but PyTorch finds no CUDA device"
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    reason = architectures.why_not(name, capability, native.MODULE.cuda_architectures().split(", "))
    return reason is None, reason or name


@cache
def operations() -> Operations:
    """All ops, or none where the kernels were not built."""
    return implementations(torch.ops.lyra_cuda) if _built() else {}


BACKEND = Backend(name="cuda", devices=("cuda",), availability=availability, operations=operations)


class Pgc:
    """lyra::pgc: two matrix products, the gated convolution between them and the norm after."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def _gated(self, u, w_in, b_in, n_in, w_conv, b_conv, lengths, cu_seqlens, eps, causal) -> tuple[Tensor, Tensor]:
        xv = _linear(u, w_in, b_in)
        return xv, self.kernels.gated_conv(xv, w_conv, b_conv, n_in, lengths, cu_seqlens, eps, causal)

    def forward(
        self, u, w_in, b_in, n_in, w_conv, b_conv, w_out, b_out, n_out, residual, lengths, cu_seqlens, eps, causal
    ) -> Tensor:
        """lyra::pgc."""
        gated = self._gated(u, w_in, b_in, n_in, w_conv, b_conv, lengths, cu_seqlens, eps, causal)[1]
        out = _linear(gated, w_out, b_out)
        if n_out is not None:
            out = self.kernels.rms_norm(out, n_out, eps)
        return without_padding(out if residual is None else out + residual, lengths)

    def backward(
        self, grad, u, w_in, b_in, n_in, w_conv, b_conv, w_out, b_out, n_out, lengths, cu_seqlens, eps, causal
    ) -> tuple[Tensor, ...]:
        """lyra::pgc_backward, from recomputed activations; 16-bit ones in float32, whose rounding would add up."""
        real = without_padding(u, lengths).to(compute_dtype(u))
        xv, gated = self._gated(real, w_in, b_in, n_in, w_conv, b_conv, lengths, cu_seqlens, eps, causal)
        grad = without_padding(grad, lengths).to(real.dtype)
        dn_out = absent(u)
        if n_out is not None:
            projected = _linear(gated, w_out, b_out)
            if lengths is not None:  # whose norm may not exist, and would make its zero gradient NaN
                projected = without_padding(projected, lengths, 1.0)
            grad, dn_out = self.kernels.rms_norm_backward(grad, projected, n_out, eps)
        dgated, dw_out, db_out = _linear_backward(grad, gated, w_out, b_out)
        dxv, dw_conv, db_conv, dn_in = self.kernels.gated_conv_backward(
            dgated, xv, w_conv, b_conv, n_in, lengths, cu_seqlens, eps, causal
        )
        du, dw_in, db_in = _linear_backward(dxv, real, w_in, b_in)
        return du.to(u.dtype), dw_in, db_in, dn_in, dw_conv, db_conv, dw_out, db_out, dn_out


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A projection in the dtype of the activations."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    compute = compute_dtype(x)
    rows = grad.flatten(0, 1)
    dx = grad @ weight.to(grad.dtype)
    dweight = (rows.mT.to(compute) @ x.flatten(0, 1).to(compute)).contiguous()
    return dx.contiguous(), dweight, absent(x) if bias is None else rows.sum(0, dtype=compute)


def _mask_of_tokens(mask: Tensor | None, y: Tensor, cu_seqlens: Tensor | None) -> Tensor | None:
    """What each token is multiplied by, from the mask ``(S, H)`` of its sequence: broadcasts against ``y``."""
    if mask is None or cu_seqlens is None:
        return None if mask is None else mask.unsqueeze(1)
    tokens = torch.arange(y.shape[1], device=y.device)
    return mask[torch.searchsorted(cu_seqlens[1:].contiguous(), tokens, right=True)].unsqueeze(0)


def gelu_glu(y, weight, bias, mask, residual, lengths, cu_seqlens) -> Tensor:
    """lyra::gelu_glu, in the compute dtype."""
    value = F.gelu(without_padding(y, lengths).to(compute_dtype(y)))
    factor = _mask_of_tokens(mask, y, cu_seqlens)
    out = F.glu(F.linear(value if factor is None else value * factor, weight, bias), dim=-1)
    out = out if residual is None else out + residual
    return without_padding(out, lengths).to(y.dtype).contiguous()


def gelu_glu_backward(grad, y, weight, bias, mask, lengths, cu_seqlens) -> tuple[Tensor, ...]:
    """lyra::gelu_glu_backward, from recomputed activations."""
    compute = compute_dtype(y)
    real, grad = (without_padding(x, lengths).to(compute) for x in (y, grad))
    factor = _mask_of_tokens(mask, y, cu_seqlens)
    value = F.gelu(real) if factor is None else F.gelu(real) * factor
    dz = torch.ops.aten.glu_backward(grad, F.linear(value, weight, bias), -1)
    dvalue, dweight, dbias = _linear_backward(dz, value, weight, bias)
    dvalue = dvalue if factor is None else dvalue * factor
    return torch.ops.aten.gelu_backward(dvalue, real).to(y.dtype), dweight, dbias
