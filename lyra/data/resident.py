"""Batches that are made on a card, from sequences that lie there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .batches import Batch, SequenceDataset, bucket, to_device, without_target

Rows = tuple[Tensor, int]
"""Those of a batch, `(B,)` on the device, and how wide it is."""


class ResidentDataset:
    """The sequences and targets of a `SequenceDataset` in a device's memory, a byte a residue.

    Args:
        dataset: with targets.
        device: where they are kept, and batches are made.
    """

    def __init__(self, dataset: SequenceDataset, device: torch.device) -> None:
        assert dataset.values is not None
        self.widths, self.device = dataset.lengths, device
        self.uniform = len(np.unique(dataset.lengths)) == 1
        values = dataset.values
        self.per_token = bool(values) and values[0].ndim == 1
        targets = np.concatenate(values) if self.per_token else np.array(values)
        label_starts = np.cumsum(dataset.lengths) - dataset.lengths
        parts = (dataset.tokens, dataset.starts, dataset.lengths, targets, label_starts)
        moved = (to_device(torch.from_numpy(np.ascontiguousarray(part)), device) for part in parts)
        self.tokens, self.starts, self.lengths, self.targets, self.label_starts = moved
        self.weights, self.censored = (
            None if part is None else to_device(torch.from_numpy(part), device)
            for part in (dataset.weights, dataset.censored)
        )

    def rows(self, groups: Sequence[Sequence[int]]) -> list[Rows]:
        """Groups of rows, each one batch, in one copy to the device."""
        every = to_device(torch.from_numpy(np.concatenate(groups)), self.device).split([len(rows) for rows in groups])
        return [(where, self.width(rows)) for rows, where in zip(groups, every, strict=True)]

    def width(self, rows: Sequence[int]) -> int:
        """Of a batch: that of its bucket, or the one length that all sequences of the dataset have."""
        longest = int(self.widths[rows].max())
        return longest if self.uniform else bucket(longest)

    def batch(self, rows: Tensor, width: int) -> Batch:
        """The batch of some rows, made on the device; no values are read for it."""
        lengths = self.lengths[rows]
        positions = torch.arange(width, device=self.device)
        inside = None if self.uniform else positions < lengths.unsqueeze(-1)
        tokens = _pick(self.tokens, self.starts[rows], positions, inside, 0).long()
        if self.per_token:
            fill = without_target(self.targets.dtype)
            targets = _pick(self.targets, self.label_starts[rows], positions, inside, fill)
        else:
            targets = self.targets[rows]
        weights, censored = (None if part is None else part[rows] for part in (self.weights, self.censored))
        return Batch(tokens, None if self.uniform else lengths, targets, weights, censored)


def _pick(flat: Tensor, starts: Tensor, positions: Tensor, inside: Tensor | None, fill: float) -> Tensor:
    """`(B, L)` from where each sequence starts in `flat`; `fill` outside of it."""
    at = starts.unsqueeze(-1) + positions
    if inside is None:
        return flat[at]
    if len(flat) == 0:
        return torch.full(inside.shape, fill, dtype=flat.dtype, device=flat.device)
    return torch.where(inside, flat[at.clamp(max=len(flat) - 1)], torch.full_like(flat[:1], fill))
