"""Convolution of a packed batch by Fourier transforms, its sequences as long as they like, none of them read.

A row of tokens is cut in halves, these again, down to single tokens. Two tokens of one sequence come apart at one cut,
and what the left half adds to the right one is a convolution of its own: of the one sequence that goes across the cut,
if any does. All cuts of a level are transforms of one size, so that a batch of T tokens takes ``log2 T`` levels of T
points: ``T log(T)^2`` steps and a few times T values of memory, whatever sequences it holds. Where the kernel has fewer
taps than there are tokens, the first level has blocks as long as the kernel, each cut from the one before it.

Tokens of other sequences are selected away, never multiplied by zero: a NaN in them reaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layout import compute_dtype
from ...schemas import absent


@dataclass(frozen=True)
class Cut:
    """Equal windows of a row, each cut in two: tokens [begin, middle) of a window are left, [middle, end) right."""

    window: int
    step: int
    """From one window to the next."""
    begin: int
    middle: int
    end: int

    @property
    def points(self) -> int:
        """Of a transform: what goes around it falls on the left part, where nobody looks."""
        return self.end - self.begin

    def left(self, x: Tensor) -> Tensor:
        """Of a row ``(..., tokens)`` the left parts, ``(..., windows, middle - begin)``."""
        return x.unfold(-1, self.window, self.step)[..., self.begin : self.middle]

    def right(self, x: Tensor) -> Tensor:
        """The right parts, ``(..., windows, end - middle)``."""
        return x.unfold(-1, self.window, self.step)[..., self.middle : self.end]


def block_size(tokens: int) -> int:
    """The smallest 2^a, 3 2^a or 5 2^a that is at least ``tokens``: it halves well, and cuFFT plans for few sizes."""
    return min(odd << (-(-tokens // odd) - 1).bit_length() for odd in (1, 3, 5))


def cuts(block: int, tokens: int) -> Iterator[Cut]:
    """By which all pairs of tokens come apart that are less than ``block`` apart, in a row of whole blocks."""
    if block < tokens:
        yield Cut(2 * block, block, 0, block, 2 * block)
    while block % 2 == 0:
        yield Cut(block, block, 0, block // 2, block)
        block //= 2
    parts = [(0, block)]
    while parts:
        begin, end = parts.pop()
        if end - begin > 1:
            middle = (begin + end) // 2
            yield Cut(block, block, begin, middle, end)
            parts += [(begin, middle), (middle, end)]


class _Row:
    """The tokens of a packed batch as ``(channels, tokens)``, filled up to whole blocks.

    Args:
        cu_seqlens: ``(S + 1,)``.
        taps: of the kernel, lags that it reaches.
    """

    def __init__(self, cu_seqlens: Tensor, tokens: int, taps: int) -> None:
        block = block_size(max(1, min(taps, tokens)))
        self.tokens, self.padded = tokens, -(-tokens // block) * block
        self.cuts = tuple(cuts(block, self.padded))
        positions = torch.arange(self.padded, device=cu_seqlens.device)
        self.sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), positions, right=True)

    def flipped(self) -> _Row:
        """The same row read from its end."""
        other = object.__new__(_Row)
        other.tokens, other.padded, other.cuts = self.tokens, self.padded, self.cuts
        other.sequence = self.sequence.flip(0)
        return other

    def of(self, x: Tensor) -> Tensor:
        """Activations ``(1, T, H)`` as ``(H, padded)``, in the compute dtype."""
        return F.pad(x[0].t().to(compute_dtype(x)), (0, self.padded - self.tokens))

    def _across(self, cut: Cut, part: Tensor, right: bool) -> Tensor:
        """A part of every window with zeros where its sequence does not go across the cut."""
        first = cut.right(self.sequence)[..., :1]
        mine = (cut.right if right else cut.left)(self.sequence) == first
        return torch.where(mine, part, 0.0)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """``y_t = sum_{s<=t} kernel_{t-s} x_s`` over the tokens s of t's sequence; ``kernel (H, taps)``."""
        y = x * kernel[:, :1]
        for cut in self.cuts:
            spectrum = torch.fft.rfft(self._across(cut, cut.left(x), False), n=cut.points)
            spectrum = spectrum * torch.fft.rfft(kernel[:, : cut.points], n=cut.points).unsqueeze(1)
            sums = torch.fft.irfft(spectrum, n=cut.points)[..., cut.middle - cut.begin :]
            cut.right(y).add_(self._across(cut, sums, True))
        return y

    def correlate(self, grad: Tensor, x: Tensor, taps: int) -> Tensor:
        """``sum_t grad_{t+l} x_t`` for the lags ``l < taps``, over tokens of the same sequence: ``(H, taps)``."""
        lags = x.new_zeros(x.shape[0], taps)
        for cut in self.cuts:
            of_x = torch.fft.rfft(self._across(cut, cut.left(x), False), n=cut.points)
            late = self._across(cut, cut.right(grad), True)
            of_grad = torch.fft.rfft(F.pad(late, (cut.middle - cut.begin, 0)))
            found = torch.fft.irfft((of_grad * of_x.conj()).sum(1), n=cut.points)[:, 1:taps]
            lags[:, 1 : 1 + found.shape[1]] += found
        lags[:, 0] = (grad * x).sum(1)
        return lags


def _ahead(reverse_kernel: Tensor) -> Tensor:
    """The reverse kernel as that of a convolution of the row read from its end: it has no lag 0."""
    return F.pad(reverse_kernel, (1, 0))


def _row(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, cu_seqlens: Tensor) -> _Row:
    ahead = 0 if reverse_kernel is None else reverse_kernel.shape[1] + 1
    return _Row(cu_seqlens, u.shape[1], max(kernel.shape[1], ahead))


def _taps(kernel: Tensor) -> Tensor:
    """The kernel, with a zero where it has no tap at all."""
    return kernel if kernel.shape[1] else F.pad(kernel, (0, 1))


def _result(y: Tensor, like: Tensor) -> Tensor:
    return y[:, : like.shape[1]].t().unsqueeze(0).to(like.dtype).contiguous()


def forward(u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, D: Tensor | None, cu_seqlens: Tensor) -> Tensor:
    """``lyra::fft_conv`` of a packed batch."""
    row = _row(u, kernel, reverse_kernel, cu_seqlens)
    x = row.of(u)
    y = row.convolve(x, _taps(kernel))
    if reverse_kernel is not None:
        y += row.flipped().convolve(x.flip(1), _ahead(reverse_kernel)).flip(1)
    if D is not None:
        y += D.unsqueeze(1) * x
    return _result(y, u)


def backward(
    grad: Tensor, u: Tensor, kernel: Tensor, reverse_kernel: Tensor | None, D: Tensor | None, cu_seqlens: Tensor
) -> tuple[Tensor, ...]:
    """``lyra::fft_conv_backward`` of a packed batch: to read a row from its end transposes a convolution."""
    row = _row(u, kernel, reverse_kernel, cu_seqlens)
    flipped, x, g = row.flipped(), row.of(u), row.of(grad)
    du = flipped.convolve(g.flip(1), _taps(kernel)).flip(1)
    lags = row.correlate(g, x, max(1, kernel.shape[1]))
    dkernel = lags[:, : kernel.shape[1]].contiguous()
    dreverse = absent(u)
    if reverse_kernel is not None:
        du += row.convolve(g, _ahead(reverse_kernel))
        dreverse = flipped.correlate(g.flip(1), x.flip(1), reverse_kernel.shape[1] + 1)[:, 1:].contiguous()
    if D is not None:
        du += D.unsqueeze(1) * g
    return _result(du, u), dkernel, dreverse, absent(u) if D is None else lags[:, 0].clone()
