"""``fft_conv`` and its backward on CPUs: torch's real transforms, and what lies between them kept in cache.

Per sequence and channel: y = irfft(rfft(u) rfft(k)), with k the kernel by lags, the reverse kernel at its far end and D
added at lag 0. What makes it faster than the plain formula, its backward about twice:

* work goes slab by slab, a few sequences or channels that fit in the second-level cache, so that spectra never travel
  to memory;
* a slab is filled transposed, (channels, points), straight from channels-last rows of any layout, padding left out;
* transforms have the next length with small factors that no lag wraps around in, never a prime times two;
* the backward needs three transforms a sequence, and one more for all kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...layout import compute_dtype

_SLAB = 1 << 17  # points of all rows of a slab: 0.5 MB of float32, and as much again for its spectrum
_LONG = 512  # tokens from which torch transposes a whole contiguous matrix much faster than a part of one


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


def _spans(u: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> list[tuple[int, int]]:
    """(first row, rows) of every sequence, in the rows of the flattened batch.

    The values are checked here too: a compiled graph calls the op without the public function's checks.
    """
    if cu_seqlens is not None:
        cuts = cu_seqlens.tolist()
        if cuts[0] != 0 or cuts[-1] != u.shape[1] or any(a > b for a, b in pairwise(cuts)):
            raise ValueError(f"cu_seqlens must ascend from 0 to {u.shape[1]}, not {cuts}")
        return [(begin, end - begin) for begin, end in pairwise(cuts)]
    each = [u.shape[1]] * u.shape[0] if lengths is None else lengths.tolist()
    if any(not 0 <= n <= u.shape[1] for n in each):
        raise ValueError(f"lengths must lie between 0 and {u.shape[1]}, not {each}")
    return [(b * u.shape[1], n) for b, n in enumerate(each)]


@dataclass
class _Slab:
    """Some sequences, with equal distances from row to row where `together`, and a range of channels."""

    spans: list[tuple[int, int]]
    channels: slice
    together: bool

    def _rows(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """(place in the slab, (sequences, channels, length) view of the activations)."""
        flat = x.flatten(0, 1)[:, self.channels]
        if self.together:
            first, length = self.spans[0]
            rows = flat[first : first + len(self.spans) * length]
            return [(0, rows.unflatten(0, (len(self.spans), length)).transpose(1, 2))]
        return [(i, flat[first : first + n].t().unsqueeze(0)) for i, (first, n) in enumerate(self.spans)]

    def spectrum(self, x: Tensor, points: int) -> Tensor:
        """rfft of the slab's rows of x, (sequences, channels, points // 2 + 1)."""
        tile = x.new_zeros((len(self.spans), x[..., self.channels].shape[-1], points), dtype=compute_dtype(x))
        for i, rows in self._rows(x):
            tile[i : i + rows.shape[0], :, : rows.shape[2]].copy_(rows)
        return torch.fft.rfft(tile)

    def write(self, spectrum: Tensor, points: int, y: Tensor) -> None:
        """The inverse transform's first rows into y."""
        tile = torch.fft.irfft(spectrum, n=points)
        for i, rows in self._rows(y):
            result = tile[i : i + rows.shape[0], :, : rows.shape[2]]
            if rows.shape[2] < _LONG:
                rows.copy_(result)
            else:
                for j in range(rows.shape[0]):
                    rows[j].t().copy_(result[j].contiguous().t())


def _slabs(u: Tensor, spans: list[tuple[int, int]], dense: bool, points: int) -> Iterator[_Slab]:
    spans = [span for span in spans if span[1] > 0]
    channels = u.shape[2]
    at_once = max(_SLAB // (points * channels), 1)
    width = channels if at_once > 1 else max(min(_SLAB // points, channels), min(channels, 16))
    for first_channel in range(0, channels, width):
        for first in range(0, len(spans), at_once):
            some = slice(first_channel, min(first_channel + width, channels))
            yield _Slab(spans[first : first + at_once], some, dense)


@dataclass
class _Plan:
    """How one call is computed: (first row, rows) of its sequences, the points of a transform, how many taps count."""

    spans: list[tuple[int, int]]
    points: int
    taps: int
    reverse_taps: int

    @classmethod
    def of(
        cls, u: Tensor, kernel: Tensor, reverse: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
    ) -> _Plan:
        spans = _spans(u, lengths, cu_seqlens)
        longest = max((n for _, n in spans), default=0)
        taps = min(kernel.shape[1], longest)
        reverse_taps = 0 if reverse is None else min(reverse.shape[1], max(longest - 1, 0))
        # An output sees no wrapped lag if there is room for the longer side beyond the sequence.
        points = good_length(longest + max(taps - 1, 0) if not reverse_taps else 2 * longest - 1)
        return cls(spans, points, taps, reverse_taps)

    def kernel_spectrum(self, kernel: Tensor, reverse: Tensor | None, D: Tensor | None) -> Tensor:
        lags = kernel.new_zeros((kernel.shape[0], self.points))
        lags[:, : self.taps] = kernel[:, : self.taps]
        if reverse is not None and self.reverse_taps:
            lags[:, self.points - self.reverse_taps :] += reverse[:, : self.reverse_taps].flip(-1)
        if D is not None:
            lags[:, 0] += D
        return torch.fft.rfft(lags)


def fft_conv(
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    """The dispatcher op ``lyra::fft_conv``; arguments as in :func:`lyra_kernels.reference.fft_conv`."""
    y = torch.empty_like(u) if lengths is None else torch.zeros_like(u)
    plan = _Plan.of(u, kernel, reverse_kernel, lengths, cu_seqlens)
    if u.numel() == 0:
        return y
    factor = plan.kernel_spectrum(kernel, reverse_kernel, D)
    dense = lengths is None and cu_seqlens is None
    for slab in _slabs(u, plan.spans, dense, plan.points):
        spectrum = slab.spectrum(u, plan.points)
        slab.write(spectrum.mul_(factor[slab.channels]), plan.points, y)
    return y


def fft_conv_backward(
    grad: Tensor,
    u: Tensor,
    kernel: Tensor,
    reverse_kernel: Tensor | None,
    D: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The dispatcher op ``lyra::fft_conv_backward``: gradients of u, kernel, reverse_kernel and D.

    ``du`` is the correlation of ``grad`` with the kernel, and the gradient of lag l is
    ``sum_t grad_{t+l} u_t``: conjugate products of spectra, the second summed over the batch before its one inverse.
    """
    du = torch.empty_like(u) if lengths is None else torch.zeros_like(u)
    dkernel, dD = torch.zeros_like(kernel), kernel.new_empty(0) if D is None else torch.zeros_like(D)
    dreverse = kernel.new_empty(0) if reverse_kernel is None else torch.zeros_like(reverse_kernel)
    plan = _Plan.of(u, kernel, reverse_kernel, lengths, cu_seqlens)
    if u.numel() == 0:
        return du, dkernel, dreverse, dD
    factor = plan.kernel_spectrum(kernel, reverse_kernel, D).conj_physical_()
    total = torch.zeros_like(factor)
    dense = lengths is None and cu_seqlens is None
    for slab in _slabs(u, plan.spans, dense, plan.points):
        grad_spectrum = slab.spectrum(grad, plan.points)
        spectrum = slab.spectrum(u, plan.points).conj_physical_().mul_(grad_spectrum)
        total[slab.channels] += spectrum.sum(0)
        slab.write(grad_spectrum.mul_(factor[slab.channels]), plan.points, du)
    lags = torch.fft.irfft(total, n=plan.points)
    dkernel[:, : plan.taps] = lags[:, : plan.taps]
    if reverse_kernel is not None and plan.reverse_taps:
        dreverse[:, : plan.reverse_taps] = lags[:, plan.points - plan.reverse_taps :].flip(-1)
    if D is not None:
        dD.copy_(lags[:, 0])
    return du, dkernel, dreverse, dD
