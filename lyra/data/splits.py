"""Training, validation and test parts: from columns, or drawn with a seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd

from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from . import guesses
from .guesses import find_column

NONE = "none"  # given as the split column, where there is none
PARTS = ("train", "val", "test")
NAMES = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test", "held-out": "test",
}  # fmt: skip
YES = frozenset({"true", "t", "1", "1.0", "yes", "y"})
NO = frozenset({"false", "f", "0", "0.0", "no", "n", "", "nan", "na", "none"})


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
                f"{where.format(row=row)}: value {shorten(cell)} names no part; it must be train, val or test "
                f"({argument('split', NONE)} if the column is about something else)"
            )
        parts[i] = part
    return parts


def is_yes_or_no(cells: Sequence[str]) -> bool:
    """Whether every cell says yes, no, or nothing, and at least one yes."""
    found = {cell.strip().lower() for cell in cells}
    return found <= YES | NO and bool(found & YES)


def mark_validation(parts: np.ndarray, cells: Sequence[str], warn: Callable[[str], None], where: str) -> np.ndarray:
    """The training rows of which `cells` say yes become the validation part, as FLIP's tables mean it."""
    yes = np.array([cell.strip().lower() in YES for cell in cells], dtype=bool)
    if both := int((yes & (parts == "test")).sum()):
        warn(f"{where}: {both:,} rows of the test part are marked as validation, too; they stay in the test part")
    parts = parts.copy()
    parts[yes & (parts == "train")] = "val"
    return parts


def check_fraction(value: float, name: str) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{argument(name)} {value}: must be at least 0 and below 1")


def draw_parts(keys: Sequence[Hashable], val_fraction: float, test_fraction: float, seed: int) -> np.ndarray:
    """Random parts in which rows with the same key always stay together."""
    check_fraction(val_fraction, "val_fraction")
    check_fraction(test_fraction, "test_fraction")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"{argument('val_fraction')} {val_fraction} {argument('test_fraction')} {test_fraction}: leave nothing to "
            "train on; their sum must be below 1"
        )
    group = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    order = np.random.default_rng(seed).permutation(len(group))
    n_test = round(test_fraction * len(group))
    n_val = round(val_fraction * len(group))
    part_of_group = np.full(len(group), "train", dtype=object)
    part_of_group[order[:n_test]] = "test"
    part_of_group[order[n_test : n_test + n_val]] = "val"
    return part_of_group[[group[key] for key in keys]]


def divide_training(
    parts: np.ndarray, keys: Sequence[Hashable], val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Cuts parts out of the training rows; a fraction of 0 cuts none."""
    training = np.flatnonzero(parts == "train")
    parts = parts.copy()
    parts[training] = draw_parts([keys[int(i)] for i in training], val_fraction, test_fraction, seed)
    return parts


def find_duplicates(keys: Sequence[Hashable], parts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Which rows are one copy of each key, and which stand in more than one part.

    The copy is that of the test part if it has one, else that of the validation part, else the first.

    Returns:
        (N,) bool, and for each key that is in several parts the row of its first copy.
    """
    best: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    across: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        if key not in best:
            best[key] = first[key] = i
            continue
        if parts[best[key]] != parts[i]:
            across[key] = first[key]
        if PARTS.index(parts[i]) > PARTS.index(parts[best[key]]):
            best[key] = i
    keep = np.zeros(len(keys), dtype=bool)
    keep[list(best.values())] = True
    return keep, sorted(across.values())


def find_parts(
    table: pd.DataFrame, where: object, keys: Sequence[Hashable], options: DataOptions, warn: Callable[[str], None]
) -> tuple[np.ndarray, dict[str, str | None]]:
    """Parts from the split column, else drawn; a missing validation part is cut out of the training part.

    FLIP's column `validation`, beside a split column, says which of the training rows are the validation part.

    Returns:
        the parts, and {"split", "val_column"}: the columns that say which rows are test and validation, or None.

    Raises:
        InputError: a cell names no part, or `validation` stands alone, where it may mean something else.
    """
    used: dict[str, str | None] = {"split": None, "val_column": None}
    parts = np.full(len(table), "train", dtype=object)
    names = list(table.columns)
    if options.split is not None and options.split.lower() == NONE and options.split not in names:
        return draw_parts(keys, options.val_fraction, options.test_fraction, options.seed), used
    split = find_column(names, where, options.split, guesses.SPLIT)
    extra = find_column(names, where, None, guesses.VALIDATION)
    marks = extra is not None and is_yes_or_no(table[extra].tolist())
    if split is not None and split == extra and marks:
        split = None  # asked for by name
    elif split is None and marks:
        raise InputError(
            f"{where}, column {extra}: does it say which rows are the validation part? {argument('split', extra)} if "
            f"so, {argument('split', NONE)} if not"
        )
    if split is not None:
        cells, rows = table[split].tolist(), table.index.tolist()
        parts = parts_from_column(cells, rows, f"{where}, row {{row}}, column {split}")
        used = {"split": split, "val_column": split if (parts == "val").any() else None}
    if extra is not None and extra != split:
        if marks and used["val_column"] is None:
            used["val_column"] = extra
            parts = mark_validation(parts, table[extra].tolist(), warn, str(where))
        else:
            why = f"column {split} has a validation part" if used["val_column"] else "it says neither yes nor no"
            warn(f"{where}: column {extra} is not used: {why}")
    drawn = (0.0 if used["val_column"] else options.val_fraction, 0.0 if split else options.test_fraction)
    return divide_training(parts, keys, *drawn, options.seed), used


def settle_duplicates(
    keys: Sequence[Hashable], parts: np.ndarray, sequences: list[str], values: list[np.ndarray], deduplicate: bool,
    warn: Callable[[str], None], where: object,
) -> np.ndarray:  # fmt: skip
    """Which rows to keep: all, or with `deduplicate` one copy of each; warns of sequences in more than one part."""
    once, across = find_duplicates(keys, parts)
    if deduplicate:
        if not once.all():
            kept = {key: i for i, key in enumerate(keys) if once[i]}
            other = sum(not np.array_equal(values[i], values[kept[key]]) for i, key in enumerate(keys) if not once[i])
            warn(
                f"{where}: removed {int((~once).sum())} duplicate rows ({len(across)} sequences stood in several "
                f"parts; {other} rows had another target than the one that is kept)"
            )
        return once
    if across:
        warn(
            f"{where}: {len(across)} sequences, such as {shorten(sequences[across[0]])}, stand in more than one of "
            f"train, val and test, so scores are too good; {argument('deduplicate', True)} keeps one copy of each"
        )
    return np.ones(len(parts), dtype=bool)
