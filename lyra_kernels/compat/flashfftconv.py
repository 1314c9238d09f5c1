"""The interface of flash-fft-conv: ``FlashFFTConv`` and ``FlashDepthWiseConv1d``, for any length and on any device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import fft_conv, short_conv
from ._lags import check, sides

_FEW = 8
"""Taps, of both sides, up to which conv1d is faster in ``(B, H, L)``, as it pads without a copy."""


class FlashFFTConv(nn.Module):
    """``irfft(rfft(u, n=seqlen) * rfft(k, n=seqlen), n=seqlen)[..., :L]``, between gates where they are given.

    Causal where neither u nor k is longer than half of ``seqlen``, circular where u is as long as that.

    Args:
        seqlen: points of the transform, at least L and at least k's taps; any number.
        dtype, use_32_butterfly: taken and not needed: u's dtype is computed in float32 and stored as it was.

    Raises:
        ValueError: seqlen is less than 1.
    """

    def __init__(self, seqlen: int, dtype: torch.dtype = torch.float16, use_32_butterfly: bool = True) -> None:
        super().__init__()
        if not isinstance(seqlen, int) or seqlen < 1:
            raise ValueError(f"seqlen must be an integer of at least 1, not {seqlen!r}")
        self.seqlen, self.dtype, self.use_32_butterfly = seqlen, dtype, use_32_butterfly

    def extra_repr(self) -> str:
        return f"{self.seqlen}"

    def _load_from_state_dict(self, *args: Any) -> None:
        """Leave out what their module keeps, the constants of its transforms."""

    def forward(self, u: Tensor, k: Tensor, pregate: Tensor | None = None, postgate: Tensor | None = None) -> Tensor:
        """``(B, H, L)``.

        Args:
            u: ``(B, H, L)``, L at most ``seqlen``; k: ``(H, taps)``, as many at most.
            pregate, postgate: ``(B, H, L)``: what u is multiplied by before the convolution, and the result after it.

        Raises:
            ValueError: a shape is wrong, or longer than ``seqlen``.
        """
        check(u, k)
        length, taps = u.shape[2], k.shape[1]
        if length > self.seqlen or taps > self.seqlen:
            raise ValueError(f"u is {length} tokens long and k has {taps} taps; neither may be more than seqlen, "
                             f"{self.seqlen}: make it FlashFFTConv({max(length, taps)}), or twice that for a causal "
                             "convolution")  # fmt: skip
        for name, gate in {"pregate": pregate, "postgate": postgate}.items():
            if gate is not None and gate.shape != u.shape:
                raise ValueError(f"{name} must have u's shape, (B, H, L) = {tuple(u.shape)}, not {tuple(gate.shape)}")
        kernel, reverse = sides(k, length, self.seqlen)
        gates = [g if g is None else g.transpose(1, 2) for g in (pregate, postgate)]
        y = fft_conv(u.transpose(1, 2), kernel, reverse_kernel=reverse, pregate=gates[0], postgate=gates[1])
        return y.transpose(1, 2)


class FlashDepthWiseConv1d(nn.Module):
    """``conv1d(x, weights, bias, padding=padding, groups=channels)``, stored in x's dtype.

    Args:
        channels: H. kernel_size: K, any. padding: zeros at each end of a sequence.
        weights: ``(H, 1, K)`` or ``(H, K)``; bias: ``(H,)``. Both are copied.
        is_bhl: whether activations are ``(B, H, L)``, else ``(B, L, H)``.
        device, dtype: of the parameters; by default those of ``weights``.

    Attributes:
        weights: ``(H, K)``, or ``(K, H)`` where not ``is_bhl``.

    Raises:
        ValueError: the weights are not of H channels and K taps, the bias is not of H, or padding is negative.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        padding: int,
        weights: Tensor,
        bias: Tensor,
        is_bhl: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if tuple(weights.shape) not in ((channels, 1, kernel_size), (channels, kernel_size)):
            raise ValueError(f"weights must have shape ({channels}, 1, {kernel_size}), not {tuple(weights.shape)}")
        if tuple(bias.shape) != (channels,):
            raise ValueError(f"bias must have shape ({channels},), not {tuple(bias.shape)}")
        if padding < 0:
            raise ValueError(f"padding must be 0 or more, not {padding}: cut the input instead")
        self.d, self.k, self.padding, self.is_bhl = channels, kernel_size, padding, is_bhl
        rows = weights.detach().reshape(channels, kernel_size).to(device, dtype or weights.dtype)
        self.weights = nn.Parameter((rows if is_bhl else rows.t()).clone(memory_format=torch.contiguous_format))
        self.bias = nn.Parameter(bias.detach().to(device, dtype or bias.dtype).clone())

    def extra_repr(self) -> str:
        return f"{self.d}, kernel_size={self.k}, padding={self.padding}, is_bhl={self.is_bhl}"

    def forward(self, input: Tensor) -> Tensor:
        """``(B, H, L + 2 padding - K + 1)`` of ``(B, H, L)``, or both with the last two dimensions exchanged.

        Raises:
            ValueError: the input is of other channels, or shorter than the kernel by more than the padding.
        """
        channels = 1 if self.is_bhl else 2
        if input.dim() != 3 or input.shape[channels] != self.d:
            form = "(B, H, L)" if self.is_bhl else "(B, L, H)"
            raise ValueError(f"input must have shape {form} with H = {self.d}, not {tuple(input.shape)}")
        length, longer = input.shape[3 - channels], 2 * self.padding - self.k + 1
        if length + longer < 1:
            raise ValueError(f"an input of {length} tokens is too short for {self.k} taps, padding {self.padding}")
        # y_t = sum_i w_i x_{t + i - padding}; short_conv's is the same K - 1 - padding tokens later.
        before, behind = max(self.padding - self.k + 1, 0), max(self.k - 1 - self.padding, 0)
        if self.is_bhl and behind and self.k <= _FEW:
            weights, bias = self.weights.to(input.dtype).unsqueeze(1), self.bias.to(input.dtype)
            return F.conv1d(input, weights, bias, padding=self.padding, groups=self.d)
        ends = (before, self.padding)
        x = F.pad(input, ends).transpose(1, 2) if self.is_bhl else F.pad(input, (0, 0, *ends))
        y = short_conv(x, self.weights if self.is_bhl else self.weights.t(), self.bias)[:, behind:]
        return y.transpose(1, 2) if self.is_bhl else y
