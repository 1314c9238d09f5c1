"""What users hand to estimators as X and y: lists, arrays, Series, tables; read whole or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.multiclass import type_of_target

from ..data.batches import IGNORED
from ..data.targets import LARGEST, Targets
from ..data.tasks import LABEL_SEPARATORS, NUMBERS
from ..errors import InputError, shorten

UNLABELLED = "-"  # as None, the label of a residue that has none


@dataclass
class Labels:
    """Targets, read.

    Attributes:
        targets: what there is to predict; values: of each row, as in `LabelledData`; cells: as a table has them.
        classes: (K,) as the user has them, in the order of `targets.classes`; None for numbers.
        limits: whether some cells are limits, such as <0.5.
    """

    targets: Targets
    values: list[np.ndarray]
    cells: list[str]
    classes: np.ndarray | None = None
    limits: bool = False


@dataclass(frozen=True)
class Rows:
    """Entries of X or y with what messages call them.

    Attributes:
        entries: one a row; names: the rows, such as 3 and "3 of validation"; where, column: what stands around them.
        training: how many are not of the validation part.
        columns: what several targets are called; empty where nobody said.
    """

    entries: list[Any]
    names: Sequence[object]
    where: str
    column: str
    training: int
    columns: Sequence[str] = ()

    def refuse(self, index: int | None, problem: str) -> InputError:
        """An error about one row, or about all."""
        row = "" if index is None else f", row {self.names[index]}"
        return InputError(f"{self.where}{row}, column {self.column}: {problem}")


def entries(given: Any, name: str, what: str = "sequences", several: bool = False) -> list[Any]:
    """The entries of a list, an array (N,) or (N, 1), a Series, or a table of one column.

    Args:
        several: whether there may be more columns; an entry is then a row of them.

    Raises:
        InputError: it is something else, or empty.
    """
    example = f"give a list of {what}"
    if hasattr(given, "__array__") and not isinstance(given, (pd.Series, pd.DataFrame, str)):
        given = np.asarray(given)
    if given is None or isinstance(given, (str, bytes, dict, set)) or not hasattr(given, "__len__"):
        shown = f"the one text {shorten(given)}" if isinstance(given, str) else f"{type(given).__name__}"
        raise InputError(f"{name}: is {shown}; {example}")
    if getattr(given, "ndim", 1) == 2 or isinstance(given, pd.DataFrame):
        if several and given.shape[1] > 1:
            given = given.to_numpy(dtype=object) if isinstance(given, pd.DataFrame) else given
            return entries(list(given), name, what)
        if given.shape[1] != 1:
            columns = ", ".join(map(str, getattr(given, "columns", [])[:5]))
            more = f" ({columns}); choose one, such as {name}[{given.columns[0]!r}]" if columns else f"; {example}"
            raise InputError(f"{name}: has {given.shape[1]} columns{more}")
        given = given.iloc[:, 0] if isinstance(given, pd.DataFrame) else given[:, 0]
    if getattr(given, "ndim", 1) != 1 or (hasattr(given, "shape") and not hasattr(given, "tolist")):
        raise InputError(f"{name}: is {type(given).__name__} of shape {getattr(given, 'shape', '')}; {example}")
    found = list(given)
    if not found:
        raise InputError(f"{name}: is empty; {example}")
    return found


def texts(given: Any, name: str, where: str) -> list[str]:
    """The sequences in X.

    Raises:
        InputError: it is no list of texts; names the row, from 0.
    """
    found = entries(given, name)
    for row, entry in enumerate(found):
        if not isinstance(entry, str):
            what = "nothing" if is_none(entry) else f"{shorten(entry)}, {type(entry).__name__}"
            raise InputError(f"{where}, row {row}, column {name}: is {what}; a sequence is text, such as 'ACGT'")
    return [str(entry) for entry in found]


def is_none(entry: Any) -> bool:
    """Whether an entry stands for no value."""
    return entry is None or (pd.api.types.is_scalar(entry) and bool(pd.isna(entry)))


def plain(entry: Any) -> Any:
    """A NumPy scalar as Python's own, anything else as it is."""
    return entry.item() if isinstance(entry, np.generic) else entry


def number(rows: Rows, index: int, entry: Any) -> float:
    """An entry that is a number.

    Raises:
        InputError: it is missing, no finite number, or too large; names the row.
    """
    if is_none(entry):
        raise rows.refuse(index, "value is missing; fill it in or remove the row")
    try:
        found = float(entry)
    except (TypeError, ValueError):
        raise rows.refuse(index, f"value {shorten(entry)} is not a number") from None
    if not np.isfinite(found):
        raise rows.refuse(index, f"value {found} is not a finite number; correct it or remove the row")
    if abs(found) > LARGEST:
        raise rows.refuse(index, f"value {found:g} is beyond {LARGEST:g}; give the target in a larger unit")
    return found


def residue_numbers(rows: Rows) -> Labels:
    """Targets that are a number per residue, None or NaN where one has none.

    Raises:
        InputError: one is no finite number, or too large, or a row has none at all; names the row and the residue.
    """
    values, cells = [], []
    for index in range(len(rows.entries)):
        found = numbers_of_residues(rows, index)
        if np.isnan(found).all():
            raise rows.refuse(index, "no residue has a number; remove the row")
        values.append(found)
        cells.append(",".join(UNLABELLED if np.isnan(value) else repr(value) for value in found.tolist()))
    unlabelled = [UNLABELLED] if any(np.isnan(value).any() for value in values) else []
    return Labels(Targets(NUMBERS, separator=",", unlabelled=unlabelled), values, cells)


def numbers_of_residues(rows: Rows, index: int) -> np.ndarray:
    """(L,) float64 of a row, NaN where a residue has no number."""
    entry = rows.entries[index]
    if not isinstance(entry, (list, tuple, np.ndarray, pd.Series)):
        raise rows.refuse(index, f"is {shorten(entry)}; give the numbers of the residues, as a list or an array")
    found = np.full(len(entry), np.nan)
    for at, given in enumerate(entry):
        if is_none(given) or given == UNLABELLED:
            continue
        try:
            found[at] = float(given)
        except (TypeError, ValueError):
            raise rows.refuse(index, f"value {shorten(given)} of residue {at} is not a number") from None
        if not abs(found[at]) <= LARGEST:
            must = f"beyond {LARGEST:g}; give the target in a larger unit" if np.isfinite(found[at]) else "not finite"
            raise rows.refuse(index, f"value {found[at]:g} of residue {at} is {must}")
    return found


def classes(rows: Rows) -> Labels:
    """Targets that are a class each.

    Raises:
        InputError: one is missing or no label, a class of the validation rows is none of training, or there are not
            two.
    """
    for index, entry in enumerate(rows.entries):
        if is_none(entry):
            raise rows.refuse(index, "label is missing; fill it in or remove the row")
        check_label(rows, index, entry)
    found, names = distinct(rows, rows.entries[: rows.training])
    if (kind := type_of_target(found)) not in ("binary", "multiclass"):
        raise rows.refuse(None, f"Unknown label type: {kind}; a classifier needs labels, LyraRegressor takes numbers")
    index_of = {plain(label): number for number, label in enumerate(found)}
    values = [np.asarray(number_of(rows, at, entry, index_of)) for at, entry in enumerate(rows.entries)]
    return Labels(Targets("classification", names), values, [names[int(value)] for value in values], found)


def residue_classes(rows: Rows) -> Labels:
    """Targets that are a class per residue; a row may be text, a letter for each, or a list of labels.

    Raises:
        InputError: as for `classes`, or a row without any label.
    """
    split = [residue_labels(rows, index) for index in range(len(rows.entries))]
    found, names = distinct(rows, [label for labels in split[: rows.training] for label in labels if label is not None])
    index_of: dict[Any, int] = {plain(label): number for number, label in enumerate(found)}
    values = []
    for at, labels in enumerate(split):
        if all(label is None for label in labels):
            raise rows.refuse(at, "no residue has a label; remove the row")
        values.append(np.array([number_of(rows, at, label, index_of) for label in labels], dtype=np.int64))
    separators = ["", *(one for one in LABEL_SEPARATORS if one)]
    fits = (one for one in separators if (max(map(len, names)) == 1 if not one else not any(one in n for n in names)))
    separator = next(fits, None)
    if separator is None:
        raise rows.refuse(None, "labels have commas, spaces, semicolons and bars in them; write them without one")
    cells = [separator.join(UNLABELLED if v == IGNORED else names[v] for v in value.tolist()) for value in values]
    unlabelled = [UNLABELLED] if any((value == IGNORED).any() for value in values) else []
    return Labels(Targets("token", names, separator, unlabelled=unlabelled), values, cells, found)


def residue_labels(rows: Rows, index: int) -> list[Any]:
    """The labels of a row's residues, None where there is none."""
    entry = rows.entries[index]
    if not isinstance(entry, (str, list, tuple, np.ndarray, pd.Series)):
        raise rows.refuse(index, f"is {shorten(entry)}; give the labels of the residues, as text or a list")
    labels = [None if is_none(label) or label == UNLABELLED else plain(label) for label in entry]
    for label in labels:
        if label is not None:
            check_label(rows, index, label)
    return labels


def check_label(rows: Rows, index: int, label: Any) -> None:
    """Raises InputError for what is no label: neither text nor a number."""
    if not isinstance(plain(label), (str, int, float)):
        raise rows.refuse(index, f"label {shorten(label)} is {type(label).__name__}; must be text or a whole number")
    if isinstance(label, str) and not label.strip():
        raise rows.refuse(index, "label is empty; fill it in or remove the row")


def distinct(rows: Rows, labels: list[Any]) -> tuple[np.ndarray, list[str]]:
    """(K,) the classes as scikit-learn orders them, and their names.

    Raises:
        InputError: there are fewer than two, or text and numbers.
    """
    kinds = {isinstance(plain(label), str) for label in labels}
    if len(kinds) > 1:
        raise rows.refuse(None, "some labels are text and some are numbers; write all alike")
    found = np.unique(np.asarray(labels)) if labels else np.zeros(0)
    if len(found) < 2:
        what = f"there is one class only, {shorten(found[0])}" if len(found) else "there is no label"
        raise rows.refuse(None, f"{what}; a classifier needs at least two")
    return found, [str(plain(label)) for label in found]


def number_of(rows: Rows, index: int, label: Any, index_of: dict[Any, int]) -> int:
    """The index of a label; an InputError where training has it not."""
    if label is None:
        return IGNORED
    try:
        return index_of[plain(label)]
    except KeyError:
        known = ", ".join(map(str, index_of))
        raise rows.refuse(index, f"class {shorten(label)} is unknown; it must be one of: {known}") from None


def row_weights(given: Any, count: int, where: str = "fit") -> np.ndarray | None:
    """(N,) how much each row counts; None where all count alike.

    Raises:
        InputError: there are more or fewer than rows, one is below 0 or no finite number, or all are 0.
    """
    if given is None or isinstance(given, (int, float)):
        return None
    found = entries(given, "sample_weight", "numbers")
    if len(found) != count:
        raise InputError(f"{where}: X has {count:,} rows and sample_weight {len(found):,}; there must be one for each")
    read = Rows(found, range(count), where, "sample_weight", count)
    values = np.array([number(read, row, entry) for row, entry in enumerate(found)])
    if (negative := np.flatnonzero(values < 0)).size:
        raise InputError(f"{where}, row {negative[0]}, column sample_weight: {values[negative[0]]:g} is below 0")
    if not values.any():
        raise InputError(f"{where}: every sample_weight is zero, so that no row counts")
    return None if np.ptp(values) == 0 else values
