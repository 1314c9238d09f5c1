"""Training, validation and test parts: from a column, from files, or drawn with a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError, shorten

PARTS = ("train", "val", "test")
NAMES = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test", "held-out": "test",
}  # fmt: skip


def parts_from_column(cells: Sequence[str], rows: Sequence[int], where: str) -> np.ndarray:
    """Part names ("train", "val", "test") of the rows.

    Raises:
        InputError: a cell that names no part.
    """
    parts = np.empty(len(cells), dtype=object)
    for i, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        part = NAMES.get(cell.strip().lower())
        if part is None:
            raise InputError(
                f"{where.format(row=row)}: value {shorten(cell)} names no part; it must be train, val or test"
            )
        parts[i] = part
    return parts


def check_fraction(value: float, option: str) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{option} {value}: must be at least 0 and below 1")


def draw_parts(sequences: Sequence[str], val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """Random parts in which copies of a sequence always stay together."""
    check_fraction(val_fraction, "--val-fraction")
    check_fraction(test_fraction, "--test-fraction")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"--val-fraction {val_fraction} --test-fraction {test_fraction}: leave nothing to train on; "
            "their sum must be below 1"
        )
    group = {sequence: i for i, sequence in enumerate(dict.fromkeys(sequences))}
    order = np.random.default_rng(seed).permutation(len(group))
    n_test = round(test_fraction * len(group))
    n_val = round(val_fraction * len(group))
    part_of_group = np.full(len(group), "train", dtype=object)
    part_of_group[order[:n_test]] = "test"
    part_of_group[order[n_test : n_test + n_val]] = "val"
    return part_of_group[[group[sequence] for sequence in sequences]]


def add_validation(parts: np.ndarray, sequences: Sequence[str], val_fraction: float, seed: int) -> np.ndarray:
    """Cuts a validation part out of the training rows, where there is none yet."""
    if (parts == "val").any():
        return parts
    training = np.flatnonzero(parts == "train")
    drawn = draw_parts([sequences[int(i)] for i in training], val_fraction, 0.0, seed)
    parts = parts.copy()
    parts[training] = drawn
    return parts


def find_duplicates(
    sequences: Sequence[str], parts: np.ndarray, deduplicate: bool, warn: Callable[[str], None], where: str
) -> np.ndarray:
    """Which rows to keep; warns about sequences that stand in more than one part.

    With `deduplicate` one copy of each sequence is kept: that of the test part if it has one, else that of
    the validation part, else the first.
    """
    keep = np.ones(len(sequences), dtype=bool)
    best: dict[str, int] = {}
    across = set()
    for i, sequence in enumerate(sequences):
        first = best.setdefault(sequence, i)
        if first == i:
            continue
        if parts[first] != parts[i]:
            across.add(sequence)
        if PARTS.index(parts[i]) > PARTS.index(parts[first]):
            best[sequence] = i
    if deduplicate:
        keep[:] = False
        keep[list(best.values())] = True
        if not keep.all():
            warn(
                f"{where}: removed {int((~keep).sum())} duplicate rows ({len(across)} sequences stood in several parts)"
            )
    elif across:
        warn(
            f"{where}: {len(across)} sequences, such as {shorten(min(across))}, stand in more than one "
            "of train, val and test, "
            "so scores are too good; --deduplicate keeps one copy of each"
        )
    return keep
