"""``fft_conv``, ``gated_fft_conv`` and their backwards on CPUs: in C++, or by PyTorch's transforms of few channels.

The C++ kernels transform as many channels at once as a vector has lanes (csrc/cpu/fft.h). One to three channels would
leave most lanes empty, and take up to four times as long as PyTorch's real transforms of one row after the other. How
those are used here:

* work goes slab by slab, a few sequences that fit in the second-level cache, so that spectra never travel to memory;
* a slab is filled as (channels, points) straight from the activations, which lie as (B, L, H) or as (B, H, L), each
  for itself; padding is left out, and products with gates are made on the way in and out;
* transforms have the next length with small factors that no lag wraps around in, never a prime times two;
* the backward needs three transforms a sequence, four with a gate behind the convolution, and one more for all kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...layout import compute_dtype
from ...schemas import absent

FEW_CHANNELS = 3
"""Up to which PyTorch's transforms are taken."""

_SLAB = 1 << 18  # points of all rows of a slab: 1 MB of float32
_ROWS = 64  # of a slab at least, as MKL prepares transforms anew for each, which takes as long as 15 of them,
_LARGEST = 1 << 23  # but no more points than this, 32 MB
_BLOCK = 256  # tokens that channels-last memory is transposed at once in: whole lines of it stay in cache


@functools.lru_cache(maxsize=4096)
def good_length(least: int) -> int:
    """The smallest even 2^a 3^b 5^c 7^d that is at least ``least``: lengths that transforms are fast at."""
    if least <= 2:
        return 2
    best = 1 << (least - 1).bit_length()
    seven = 2
    while seven < best:
        five = seven
        while five < best:
            three = five
            while three < best:
                quotient = -(-least // three)
                best = min(best, three << (quotient - 1).bit_length())
                three *= 3
            five *= 5
        seven *= 7
    return best


@dataclass(frozen=True)
class _Span:
    """One sequence: its tokens ``first`` to ``first + length`` in a row of the batch."""

    row: int
    first: int
    length: int


def _spans(u: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> list[_Span]:
    """Every sequence.

    The values are checked here too: a compiled graph calls the op without the public function's checks.
    """
    if cu_seqlens is not None:
        cuts = cu_seqlens.tolist()
        if cuts[0] != 0 or cuts[-1] != u.shape[1] or any(a > b for a, b in pairwise(cuts)):
            raise ValueError(f"cu_seqlens must ascend from 0 to {u.shape[1]}, not {cuts}")
        return [_Span(0, begin, end - begin) for begin, end in pairwise(cuts)]
    each = [u.shape[1]] * u.shape[0] if lengths is None else lengths.tolist()
    if any(not 0 <= n <= u.shape[1] for n in each):
        raise ValueError(f"lengths must lie between 0 and {u.shape[1]}, not {each}")
    return [_Span(b, 0, n) for b, n in enumerate(each)]


@dataclass
class _Slab:
    """Some sequences, whole neighbouring rows of the batch where `together`."""

    spans: list[_Span]
    together: bool

    def _rows(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(place in the slab, (sequences, channels, length) view of activations), the same for all activations."""
        if self.together:
            first = self.spans[0].row
            yield slice(None), x[first : first + len(self.spans)].transpose(1, 2)
            return
        for i, span in enumerate(self.spans):
            tokens = slice(span.first, span.first + span.length)
            yield slice(i, i + 1), x[span.row, tokens].t().unsqueeze(0)

    def spectrum(self, x: Tensor, gate: Tensor | None, tile: Tensor) -> Tensor:
        """rfft of the slab's rows of x, times the gate's, (sequences, channels, points // 2 + 1).

        Args:
            tile: ``(sequences, channels, points)`` or more; zero beyond the longest sequence, and left so.
        """
        tile = tile[: len(self.spans)]
        if not self.together:
            tile.zero_()
        gates = _none() if gate is None else self._rows(gate)
        for (place, rows), (_, gate_rows) in zip(self._rows(x), gates, strict=False):
            part = tile[place, :, : rows.shape[2]]
            if rows.stride(2) == 1:
                _product(rows, gate_rows, part)
                continue
            for first in range(0, part.shape[2], _BLOCK):
                some = slice(first, first + _BLOCK)
                _product(rows[..., some], None if gate_rows is None else gate_rows[..., some], part[..., some])
        return torch.fft.rfft(tile)

    def write(self, result: Tensor, gate: Tensor | None, y: Tensor) -> None:
        """The first rows of an inverse transform, (sequences, channels, points), times the gate's, into y."""
        gates = _none() if gate is None else self._rows(gate)
        for (place, rows), (_, gate_rows) in zip(self._rows(y), gates, strict=False):
            found = result[place, :, : rows.shape[2]]
            if gate_rows is not None and rows.dtype != found.dtype:
                found = found * gate_rows  # rounded once
            rows.copy_(found)
            if gate_rows is not None and rows.dtype == found.dtype:
                rows.mul_(gate_rows)


def _product(x: Tensor, gate: Tensor | None, out: Tensor) -> None:
    """A view of activations, times a gate's, into a part of a tile, in its dtype."""
    if gate is None:
        out.copy_(x)
    elif x.dtype == out.dtype and x.stride(2) == gate.stride(2) == 1:
        torch.mul(x, gate, out=out)
    else:
        out.copy_(x.to(out.dtype) * gate)


def _none() -> Iterator[tuple[None, None]]:
    while True:
        yield None, None


@dataclass
class _Plan:
    """How one call is computed: its sequences, the points of a transform, how many taps of each direction count."""

    spans: list[_Span]
    longest: int
    points: int
    taps: int
    reverse_taps: int
    dense: bool

    @classmethod
    def of(
        cls, u: Tensor, kernel: Tensor, reverse: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
    ) -> _Plan:
        spans = _spans(u, lengths, cu_seqlens)
        longest = max((span.length for span in spans), default=0)
        taps = min(kernel.shape[1], longest)
        reverse_taps = 0 if reverse is None else min(reverse.shape[1], max(longest - 1, 0))
        # An output sees no wrapped lag if there is room for the longer side beyond the sequence.
        points = good_length(longest + max(taps - 1, 0) if not reverse_taps else 2 * longest - 1)
        return cls(spans, longest, points, taps, reverse_taps, lengths is None and cu_seqlens is None)

    def kernel_spectrum(self, kernel: Tensor, reverse: Tensor | None, D: Tensor | None) -> Tensor:
        lags = kernel.new_empty((kernel.shape[0], self.points))
        lags[:, : self.taps] = kernel[:, : self.taps]
        lags[:, self.taps :] = 0.0
        if reverse is not None and self.reverse_taps:
            lags[:, self.points - self.reverse_taps :] += reverse[:, : self.reverse_taps].flip(-1)
        if D is not None:
            lags[:, 0] += D
        return torch.fft.rfft(lags)

    def slabs(self, u: Tensor) -> Iterator[tuple[_Slab, Tensor]]:
        """Every slab of the call, and a tile to fill for its transforms."""
        spans = [span for span in self.spans if span.length > 0]
        channels = u.shape[2]
        rows = max(_SLAB, min(_ROWS * self.points, _LARGEST)) // self.points
        at_once = min(max(rows // channels, 1), max(len(spans), 1))
        tile = u.new_empty((at_once, channels, self.points), dtype=compute_dtype(u))
        tile[..., self.longest :] = 0.0
        for first in range(0, len(spans), at_once):
            yield _Slab(spans[first : first + at_once], self.dense), tile


def gated_fft_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::gated_fft_conv``; arguments as in :func:`lyra_kernels.reference.gated_fft_conv`."""
    if u.shape[2] > FEW_CHANNELS:
        return torch.ops.lyra_cpu.gated_fft_conv.default(
            u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens
        )
    y = torch.empty_like(u) if lengths is None else torch.zeros_like(u)
    plan = _Plan.of(u, kernel, reverse_kernel, lengths, cu_seqlens)
    if u.numel() == 0:
        return y
    factor = plan.kernel_spectrum(kernel, reverse_kernel, D)
    for slab, tile in plan.slabs(u):
        spectrum = slab.spectrum(u, pregate, tile).mul_(factor)
        slab.write(torch.fft.irfft(spectrum, n=plan.points), postgate, y)
    return y


def gated_fft_conv_backward(
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    pregate: Tensor | None,
    postgate: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The dispatcher op ``lyra::gated_fft_conv_backward``: gradients of u, kernel, reverse_kernel, D and the gates.

    Behind the postgate comes ``g = grad postgate``. The gradient of what is convolved, ``u pregate``, is the
    correlation of g with the kernel, and that of lag l is ``sum_t g_{t+l} (u pregate)_t``: conjugate products of
    spectra, the second summed over the batch before its one inverse. What the postgate was multiplied by is made again.
    """
    if u.shape[2] > FEW_CHANNELS:
        return torch.ops.lyra_cpu.gated_fft_conv_backward.default(
            grad, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens
        )
    new = torch.empty_like if lengths is None else torch.zeros_like
    du = new(u)
    dpre, dpost = (absent(u) if gate is None else new(gate) for gate in (pregate, postgate))
    dkernel, dD = torch.zeros_like(kernel), absent(u) if D is None else torch.zeros_like(D)
    dreverse = absent(u) if reverse_kernel is None else torch.zeros_like(reverse_kernel)
    plan = _Plan.of(u, kernel, reverse_kernel, lengths, cu_seqlens)
    if u.numel() == 0:
        return du, dkernel, dreverse, dD, dpre, dpost
    factor = plan.kernel_spectrum(kernel, reverse_kernel, D)
    conjugate = factor.conj().resolve_conj()
    total = torch.zeros_like(factor)
    for slab, tile in plan.slabs(u):
        spectrum = slab.spectrum(u, pregate, tile)
        if postgate is not None:
            convolved = torch.fft.irfft(spectrum * factor, n=plan.points)
            slab.write(convolved, grad, dpost)
        grad_spectrum = slab.spectrum(grad, postgate, tile)
        total += spectrum.conj_physical_().mul_(grad_spectrum).sum(0)
        correlated = torch.fft.irfft(grad_spectrum.mul_(conjugate), n=plan.points)
        if pregate is not None:
            slab.write(correlated, u, dpre)
        slab.write(correlated, pregate, du)
    lags = torch.fft.irfft(total, n=plan.points)
    dkernel[:, : plan.taps] = lags[:, : plan.taps]
    if reverse_kernel is not None and plan.reverse_taps:
        dreverse[:, : plan.reverse_taps] = lags[:, plan.points - plan.reverse_taps :].flip(-1)
    if D is not None:
        dD.copy_(lags[:, 0])
    return du, dkernel, dreverse, dD, dpre, dpost


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::fft_conv``; arguments as in :func:`lyra_kernels.reference.fft_conv`."""
    return gated_fft_conv(u, kernel, reverse_kernel, D, None, None, lengths, cu_seqlens)


def fft_conv_backward(
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:
    """The dispatcher op ``lyra::fft_conv_backward``: gradients of u, kernel, reverse_kernel and D."""
    found = gated_fft_conv_backward(grad, u, kernel, reverse_kernel, D, None, None, lengths, cu_seqlens)
    return found[:4]
