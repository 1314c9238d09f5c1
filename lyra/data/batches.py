"""Batches by length: a dataset of encoded sequences, samplers that put similar lengths together, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

POOL_BATCHES = 50  # batches sorted by length together: enough to make lengths alike, few enough to stay random
IGNORED = -100  # the class at padded positions; torch's cross-entropy leaves it out by default


def known(targets: np.ndarray) -> np.ndarray:
    """Which targets there are: classes that are not IGNORED, numbers that are not NaN."""
    return targets != IGNORED if targets.dtype.kind == "i" else ~np.isnan(targets)


def without_target(dtype: torch.dtype) -> float:
    """What stands where there is no target: IGNORED among classes, NaN among numbers."""
    return math.nan if dtype.is_floating_point else IGNORED


def max_tokens_per_batch(batch_size: int) -> int:
    """Padded positions that a batch may have, so that memory does not follow the longest sequence."""
    return max(65_536, 512 * batch_size)


def bucket(width: int) -> int:
    """The least of 8, 12, 16, 24, 32, 48, ... that is not below the width: at most half as much again."""
    power = max(8, 1 << max(width - 1, 0).bit_length())
    return power if width > power * 3 // 4 or power == 8 else power * 3 // 4


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy there; to a card it goes from pinned memory, so that the program need not wait for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and x.is_cpu else x.to(device)


@dataclass
class Batch:
    """A padded batch.

    Attributes:
        tokens: (B, L) int64, padded with 0.
        lengths: (B,) int64, or None when every sequence has length L.
        targets: (B,) float32 (standardised) or int64, or (B, L) int64 padded with IGNORED or float32 padded with NaN;
            (B, 1, T) float32 of several targets, NaN where one is missing; None without targets.
        weights: (B,) float32, how much each row counts in the loss; None where all count alike.
        censored: (B,) int8, as in `LabelledData`; None where no target is a limit.
    """

    tokens: Tensor
    lengths: Tensor | None
    targets: Tensor | None = None
    weights: Tensor | None = None
    censored: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return self.map(lambda part: to_device(part, device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with each of its tensors changed."""
        parts = (self.tokens, self.lengths, self.targets, self.weights, self.censored)
        return Batch(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def tensors(self) -> list[Tensor]:
        """Those that are there, in the order of the attributes."""
        parts = (self.tokens, self.lengths, self.targets, self.weights, self.censored)
        return [part for part in parts if part is not None]

    def in_bucket(self) -> Batch:
        """Padded to the width of its bucket, unless all sequences have one length: few widths make few CUDA graphs."""
        more = 0 if self.lengths is None else bucket(self.tokens.shape[1]) - self.tokens.shape[1]
        if more == 0:
            return self
        targets = self.targets
        if targets is not None and targets.dim() == 2:
            targets = F.pad(targets, (0, more), value=without_target(targets.dtype))
        return replace(self, tokens=F.pad(self.tokens, (0, more)), targets=targets)

    def __len__(self) -> int:
        return len(self.tokens)


def pad(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, fill: int) -> np.ndarray:
    """(B, max length) int64 from slices of a flat array."""
    width = int(lengths.max(initial=0))
    positions = np.arange(width)
    inside = positions < lengths[:, None]
    at = np.minimum(starts[:, None] + positions, max(len(flat) - 1, 0))
    return np.where(inside, flat[at], fill).astype(np.int64) if len(flat) else np.zeros((len(starts), width), np.int64)


class SequenceDataset(Dataset[Batch]):
    """Encoded sequences and their targets; indexed with a list of rows, it returns a padded batch."""

    def __init__(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        rows: Sequence[int] | np.ndarray,
        values: list[np.ndarray] | None = None,
        weights: np.ndarray | None = None,
        censored: np.ndarray | None = None,
    ) -> None:
        """Selects sequences.

        Args:
            tokens, offsets: as `Alphabet.encode_many` gives them.
            rows: which of those sequences.
            values: one target array per sequence.
            weights, censored: (sequences,) as in `LabelledData`.
        """
        self.tokens = tokens
        self.starts = offsets[:-1][rows]
        self.lengths = np.diff(offsets)[rows]
        self.values = None if values is None else [values[i] for i in rows]
        self.weights = None if weights is None else np.asarray(weights, dtype=np.float32)[rows]
        self.censored = None if censored is None else censored[rows]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        """The padded batch of these rows; what a sampler of whole batches asks a DataLoader for."""
        lengths = self.lengths[rows]
        tokens = torch.from_numpy(pad(self.tokens, self.starts[rows], lengths, 0))
        same = len(lengths) == 0 or int(lengths.min()) == tokens.shape[1]
        weights, censored = (
            None if part is None else torch.from_numpy(part[rows]) for part in (self.weights, self.censored)
        )
        return Batch(tokens, None if same else torch.from_numpy(lengths), self.targets(rows), weights, censored)

    def targets(self, rows: Sequence[int]) -> Tensor | None:
        if self.values is None:
            return None
        values = [self.values[row] for row in rows]
        if values and values[0].ndim == 1:
            labels = [torch.from_numpy(value) for value in values]
            fill = without_target(labels[0].dtype)
            return torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=fill)
        return torch.from_numpy(np.array(values))


def batches_by_length(lengths: np.ndarray, order: np.ndarray, batch_size: int, max_tokens: int) -> list[np.ndarray]:
    """Cuts `order`, already sorted by length where that is wanted, into batches within both limits.

    A sequence longer than `max_tokens` makes a batch of its own.
    """
    widths = lengths[order]
    if len(order) and widths.min() == widths.max():  # of one length: no need to look at each, in every epoch
        size = max(1, min(batch_size, max_tokens // max(int(widths[0]), 1)))
        return [order[start : start + size] for start in range(0, len(order), size)]
    batches = []
    start, widest = 0, 0
    for stop, row in enumerate(order):
        wider = max(widest, int(lengths[row]))
        if stop > start and (stop - start == batch_size or (stop - start + 1) * wider > max_tokens):
            batches.append(order[start:stop])
            start, wider = stop, int(lengths[row])
        widest = wider
    if len(order) > start:
        batches.append(order[start:])
    return batches


class BucketSampler(Sampler[list[int]]):
    """Random batches of similar lengths, the same for the same seed and epoch, split over processes.

    Each epoch shuffles the rows, sorts pools of `POOL_BATCHES` batches by length, cuts them, and shuffles the
    batches. Every process gets equally many: a few of the first are repeated to fill up the last round.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        max_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.max_tokens, self.seed = lengths, batch_size, max_tokens, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self._batches: tuple[int, list[np.ndarray]] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch's order; Lightning calls it before each epoch."""
        self.epoch = epoch

    def batches(self) -> list[np.ndarray]:
        """This epoch's batches of all processes together."""
        if self._batches is None or self._batches[0] != self.epoch:
            self._batches = (self.epoch, self._make())
        return self._batches[1]

    def _make(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        pool = POOL_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += batches_by_length(self.lengths, rows, self.batch_size, self.max_tokens)
        return [batches[i] for i in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches()
        for i in range(self.rank, len(self) * self.world_size, self.world_size):
            yield batches[i % len(batches)].tolist()

    def __len__(self) -> int:
        return math.ceil(len(self.batches()) / self.world_size)


class SortedSampler(Sampler[list[int]]):
    """Every row once, in batches from the longest sequences to the shortest."""

    def __init__(self, lengths: np.ndarray, batch_size: int, max_tokens: int) -> None:
        order = np.argsort(-lengths, kind="stable")
        self.batches = batches_by_length(lengths, order, batch_size, max_tokens)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)
