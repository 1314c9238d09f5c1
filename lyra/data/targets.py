"""What there is to predict: the task, its classes, and target cells read as numbers or tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, shorten

TASKS = ("regression", "classification", "token")
MAX_NUMERIC_CLASSES = 20  # whole numbers with more distinct values than this are read as a regression target
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "#n/a"})


@dataclass
class Targets:
    """How target cells become numbers; part of a model's metadata.

    Attributes:
        task: "regression" (one number per sequence), "classification" (one class per sequence) or "token"
            (one class per residue).
        classes: class names in the order of the model's outputs; empty for a regression.
        separator: what stands between the labels of residues in a cell ("" if each is one character).
    """

    task: str
    classes: list[str] = field(default_factory=list)
    separator: str = ""

    @property
    def d_output(self) -> int:
        """Outputs of the model."""
        return max(1, len(self.classes))

    def to_json(self) -> dict[str, Any]:
        return {"task": self.task, "classes": self.classes, "separator": self.separator}

    def values(self, cells: Sequence[str], rows: Sequence[int], lengths: Sequence[int], where: str) -> list[np.ndarray]:
        """Target arrays, one per row: () float32, () int64 or (L,) int64.

        Args:
            cells: the column's text.
            rows: line numbers, for messages.
            lengths: residues of each sequence (used by "token").
            where: message prefix with a `{row}` in it.

        Raises:
            InputError: a cell that is missing, not a number, not a known class, or of the wrong length.
        """
        if self.task == "regression":
            return [
                np.asarray(_number(cell, where.format(row=row)), np.float32)
                for cell, row in zip(cells, rows, strict=True)
            ]
        index = {name: i for i, name in enumerate(self.classes)}
        values = []
        for cell, row, length in zip(cells, rows, lengths, strict=True):
            place = where.format(row=row)
            names = self.split(cell, length, place) if self.task == "token" else [_class_name(cell, place)]
            try:
                tokens = np.array([index[name] for name in names], dtype=np.int64)
            except KeyError as error:
                raise InputError(
                    f"{place}: class {shorten(error.args[0])} is unknown; it must be one of: {', '.join(self.classes)}"
                ) from None
            values.append(tokens if self.task == "token" else tokens.reshape(()))
        return values

    def split(self, cell: str, length: int, place: str) -> list[str]:
        """The labels of one sequence's residues; as many as residues, or an InputError."""
        labels = split_labels(cell, self.separator)
        if len(labels) != length:
            raise InputError(
                f"{place}: has {len(labels)} labels for a sequence of {length} residues; there must be one for each"
            )
        return labels


def split_labels(cell: str, separator: str) -> list[str]:
    cell = cell.strip()
    if not separator:
        return list(cell)
    return [label.strip() for label in cell.split(separator)] if cell else []


def detect(cells: Sequence[str], rows: Sequence[int], lengths: Sequence[int], where: str, task: str | None) -> Targets:
    """Finds the task (unless given) and the classes from a target column.

    One label per residue in at least half of the rows is "token"; numbers in at least half are "regression",
    or "classification" if they are few whole numbers; other text is "classification".

    Raises:
        InputError: an empty cell, or only one class.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"--task {shorten(task)}: must be one of {', '.join(TASKS)}")
    for cell, row in zip(cells, rows, strict=True):
        if cell.strip().lower() in MISSING:
            raise InputError(
                f"{where.format(row=row)}: value is {shorten(cell) if cell else 'empty'}; fill it in or remove the row"
            )
    separator = _separator(cells, lengths)
    if task is None:
        task = _guess(cells, separator)
    if task == "regression":
        return Targets(task)
    if task == "token":
        separator = separator if separator is not None else ("," if any("," in cell for cell in cells) else "")
        names = {label for cell in cells for label in split_labels(cell, separator)}
    else:
        separator = ""
        names = {_class_name(cell, "") for cell in cells}
    classes = sorted(names, key=_class_order)
    if len(classes) < 2:
        raise InputError(
            f"{where.split(', row')[0]}{where.split('{row}')[-1]}: every row has the one class "
            f"{shorten(classes[0])}; "
            "a classifier needs at least two"
        )
    return Targets(task, classes, separator)


def _guess(cells: Sequence[str], separator: str | None) -> str:
    if separator is not None:
        return "token"
    numbers = [number for number in map(_try_number, cells) if number is not None]
    if 2 * len(numbers) < len(cells):
        return "classification"
    whole = len(numbers) == len(cells) and all(number.is_integer() for number in numbers)
    return "classification" if whole and len(set(numbers)) <= MAX_NUMERIC_CLASSES else "regression"


def _separator(cells: Sequence[str], lengths: Sequence[int]) -> str | None:
    """The separator under which at least half of the rows have one label per residue, if there is one."""
    for separator in (",", " ", ";", ""):
        fits = sum(
            len(split_labels(cell, separator)) == length and length > 1 and not (separator == "" and _is_decimal(cell))
            for cell, length in zip(cells, lengths, strict=True)
        )
        if len(cells) and 2 * fits >= len(cells):
            return separator
    return None


def _is_decimal(cell: str) -> bool:
    """A number that is more than digits: its characters are no labels."""
    return _try_number(cell) is not None and not cell.strip().isdigit()


def _try_number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(cell: str, place: str) -> float:
    number = _try_number(cell)
    if number is None or abs(number) > np.finfo(np.float32).max:
        raise InputError(
            f"{place}: value {shorten(cell)} is not a finite number; correct it, remove the row, or give --task"
        )
    return number


def _class_name(cell: str, place: str) -> str:
    """A class's name; 1, 1.0 and " 1" are the same class."""
    number = _try_number(cell)
    return str(int(number)) if number is not None and number.is_integer() and abs(number) < 1e15 else cell.strip()


def _class_order(name: str) -> tuple[int, float, str]:
    number = _try_number(name)
    return (1, 0.0, name) if number is None else (0, number, name)
