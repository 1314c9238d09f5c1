"""Convolutions by Fourier transform: cuFFT's transforms, and kernels of ``csrc/cuda`` for what lies between them.

Which tokens of a packed batch are which sequence's is known on the card alone, and to read how long the longest is
would make the program wait for it. So a sequence gets a transform for all tokens of the batch where that is little
memory, and where it is not the batch is taken by halves (:mod:`.halves`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layout import count_sequences
from ...schemas import absent
from . import halves

FEW = 4
"""Sequences of a packed batch that each get a transform for all of its tokens, whatever their number."""
SMALL = 1 << 23
"""Values of all sequences, each as long as the batch, up to which more sequences do: their signals take 64 MB."""


def transform_size(length: int) -> int:
    """Points for a linear convolution of ``length`` tokens: at least ``2 length``, a product of small primes, and a
    multiple of 8, which keeps the rows of a batch aligned."""
    best = 8
    while best < 2 * length:
        best *= 2
    for odd in (3, 5, 9, 15):
        size = 8 * odd
        while size < 2 * length:
            size *= 2
        best = min(best, size)
    return best


class FftConv:
    """lyra::fft_conv. It serves lyra::causal_conv too, which is the same function."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels

    def _spectrum(self, kernel: Tensor, reverse_kernel: Tensor | None, length: int, points: int) -> Tensor:
        """``(H, points / 2 + 1, 2)``; the reverse kernel's tap j is lag -(j + 1), that is index points - 1 - j."""
        taps = F.pad(kernel, (0, length - kernel.shape[-1]))
        taps = F.pad(taps, (0, points - length))
        if reverse_kernel is not None:
            reverse = F.pad(reverse_kernel, (0, length - reverse_kernel.shape[-1]))
            taps = taps + F.pad(reverse, (0, points - length)).flip(-1)
        return torch.view_as_real(torch.fft.rfft(taps)).contiguous()

    def _transform(self, x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, points: int) -> Tensor:
        signal = self.kernels.fft_pack(x, lengths, cu_seqlens, points)
        return torch.view_as_real(torch.fft.rfft(signal)).contiguous()

    def _convolve(self, spectra, kernel, conjugate, x, D, lengths, cu_seqlens, points) -> Tensor:
        self.kernels.fft_multiply_(spectra, kernel, conjugate)
        signal = torch.fft.irfft(torch.view_as_complex(spectra), n=points).contiguous()
        return self.kernels.fft_unpack(x, signal, D, lengths, cu_seqlens)

    @staticmethod
    def _by_halves(u: Tensor, cu_seqlens: Tensor | None) -> bool:
        """Whether a packed batch goes the other way, without a transform of all tokens for each sequence."""
        sequences = count_sequences(u, cu_seqlens)
        return cu_seqlens is not None and sequences > FEW and sequences * u.numel() > SMALL

    def forward(self, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> Tensor:
        """lyra::fft_conv."""
        length = u.shape[1]
        if u.numel() == 0:
            return torch.zeros_like(u)
        if self._by_halves(u, cu_seqlens):
            return halves.forward(u, kernel, reverse_kernel, D, cu_seqlens)
        points = transform_size(length)
        spectrum = self._spectrum(kernel, reverse_kernel, length, points)
        spectra = self._transform(u, lengths, cu_seqlens, points)
        return self._convolve(spectra, spectrum, False, u, D, lengths, cu_seqlens, points)

    def backward(self, grad, u, kernel, reverse_kernel, D, lengths, cu_seqlens) -> tuple[Tensor, ...]:
        """lyra::fft_conv_backward: the gradient of a tap is the correlation at its lag, and D's that of lag 0."""
        length, given = u.shape[1], (kernel, reverse_kernel, D)
        if u.numel() == 0:
            return torch.zeros_like(u), *(absent(u) if p is None else torch.zeros_like(p) for p in given)
        if self._by_halves(u, cu_seqlens):
            return halves.backward(grad, u, kernel, reverse_kernel, D, cu_seqlens)
        points = transform_size(length)
        spectrum = self._spectrum(kernel, reverse_kernel, length, points)
        of_grad = self._transform(grad, lengths, cu_seqlens, points)
        of_u = self._transform(u, lengths, cu_seqlens, points)
        product = torch.view_as_complex(self.kernels.fft_correlate(of_grad, of_u))
        lags = torch.fft.irfft(product, n=points)
        du = self._convolve(of_grad, spectrum, True, grad, D, lengths, cu_seqlens, points)
        dkernel = self._taps(lags[:, :length], kernel)
        dreverse = absent(u) if reverse_kernel is None else self._taps(lags.flip(-1)[:, : length - 1], reverse_kernel)
        return du, dkernel, dreverse, absent(u) if D is None else lags[:, 0].clone()

    @staticmethod
    def _taps(lags: Tensor, kernel: Tensor) -> Tensor:
        return F.pad(lags, (0, kernel.shape[-1] - lags.shape[-1])).contiguous()
