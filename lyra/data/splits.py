"""Training, validation and test parts: from columns, or drawn with a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np

from ..errors import InputError, argument, refuse_without_effect, shorten
from ..settings.data import NONE, DataOptions
from . import guesses
from .divisions import PARTS, Grouping, Material, Split
from .draws import draw
from .folds import find_folds
from .groups import check_whole, find_grouping
from .guesses import find_column
from .holdouts import find_holdout
from .strata import find_strata

NAMES = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test", "held-out": "test",
}  # fmt: skip
RANK = {part: i for i, part in enumerate(PARTS)}
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


def find_duplicates(keys: Sequence[Hashable] | np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Which rows are one copy of each key, and which stand in more than one part, or fold.

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
        if RANK.get(parts[i], 0) > RANK.get(parts[best[key]], 0):
            best[key] = i
    keep = np.zeros(len(keys), dtype=bool)
    keep[list(best.values())] = True
    return keep, sorted(across.values())


def find_split(material: Material, options: DataOptions, warn: Callable[[str], None]) -> Split:
    """How the table is divided: by folds, by what the test part shall have that training has not, or into parts.

    Raises:
        InputError: the options cannot be followed with this table.
    """
    grouping, said = find_grouping(material, options, warn)
    if options.folds is not None:
        split = find_folds(material, grouping, options, warn)
        said += unused_columns(material, options, argument("folds", options.folds))
    elif options.holdout != "random":
        split = find_holdout(material, options)
        said += unused_columns(material, options, argument("holdout", options.holdout))
    else:
        split = find_parts(material, grouping, options, warn)
    split.said = [*said, *split.said]
    split.groups = None if grouping.labels is None else grouping.units
    return split


def unused_columns(material: Material, options: DataOptions, instead: str) -> list[str]:
    """What is to be said of columns that would have given the parts."""
    if options.split is not None:
        return []
    names = (*guesses.SPLIT.names, *guesses.VALIDATION.names)
    found = [shorten(column) for column in material.table.columns if column.lower() in names]
    return [f"{' and '.join(found)} not used, as {instead} divides the rows"] if found else []


def find_parts(material: Material, grouping: Grouping, options: DataOptions, warn: Callable[[str], None]) -> Split:
    """Parts from the split column, else drawn; a missing validation part is cut out of the training part.

    FLIP's column `validation`, beside a split column, says which of the training rows are the validation part.

    Raises:
        InputError: a cell names no part, or `validation` stands alone, where it may mean something else; or the columns
            tear a group apart.
    """
    parts, split, val_column = np.full(len(material.table), "train", dtype=object), None, None
    if options.split is None or options.split.lower() != NONE or options.split in material.table.columns:
        split, val_column, parts = parts_of_columns(material, options, warn)
    if column := split or val_column:
        remedy = f"give all rows of a group one part, or {argument('split', NONE)} to draw parts"
        check_whole(grouping, parts, column, remedy)
    val = 0.0 if val_column else options.val_fraction
    test = 0.0 if split else options.test_fraction
    strata, said = find_strata(material, options, [val, test])
    rest = np.flatnonzero(parts == "train")
    chosen = None if strata is None else strata[rest]
    parts[rest] = draw(grouping.of(rest), chosen, val, test, options.seed)
    return Split(parts, split=split, val_column=val_column, said=said)


def parts_of_columns(
    material: Material, options: DataOptions, warn: Callable[[str], None]
) -> tuple[str | None, str | None, np.ndarray]:
    """The columns that say which rows are test and validation, or None, and what they say."""
    table, where = material.table, material.where
    parts, val_column = np.full(len(table), "train", dtype=object), None
    names = list(table.columns)
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
        val_column = split if (parts == "val").any() else None
    if extra is not None and extra != split:
        if marks and val_column is None:
            val_column = extra
            parts = mark_validation(parts, table[extra].tolist(), warn, str(where))
        else:
            why = f"column {split} has a validation part" if val_column else "it says neither yes nor no"
            warn(f"{where}: column {extra} is not used: {why}")
    return split, val_column, parts


def check_effects(given: Collection[str], options: DataOptions, split: str | None, val_column: str | None) -> None:
    """Raises InputError for one of the options `given` that makes no difference to how rows are divided."""
    options.check_effects(given)
    if split is not None:
        refuse_without_effect(given, ("test_fraction",), f"column {split} says which rows are the test part")
    if val_column is not None:
        refuse_without_effect(given, ("val_fraction",), f"column {val_column} says which rows are the validation part")
    if split is not None and val_column is not None:
        refuse_without_effect(given, ("stratify",), f"column {split} says which rows are in which part")


def settle_duplicates(
    keys: np.ndarray, split: Split, sequences: list[str], values: list[np.ndarray], deduplicate: bool,
    warn: Callable[[str], None], where: object,
) -> np.ndarray:  # fmt: skip
    """Which rows to keep: all, or with `deduplicate` one copy of each; warns of sequences in more than one part."""
    folds = split.fold_of is not None
    once, across = find_duplicates(keys, split.parts if split.fold_of is None else split.fold_of)
    if deduplicate:
        if not once.all():
            kept = {key: i for i, key in enumerate(keys) if once[i]}
            same = [np.array_equal(values[i], values[kept[key]], equal_nan=True) for i, key in enumerate(keys)]
            other = same.count(False)
            warn(
                f"{where}: removed {int((~once).sum())} duplicate rows ({len(across)} sequences stood in several "
                f"{'folds' if folds else 'parts'}; {other} rows had another target than the one that is kept)"
            )
        return once
    if across:
        several = "fold" if folds else "of train, val and test"
        warn(
            f"{where}: {len(across)} sequences, such as {shorten(sequences[across[0]])}, stand in more than one "
            f"{several}, so scores are too good; {argument('deduplicate', True)} keeps one copy of each"
        )
    return np.ones(len(once), dtype=bool)
