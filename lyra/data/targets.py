"""What there is to predict: the task, its classes, and target cells read as numbers or tokens."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError, argument, shorten
from .batches import IGNORED
from .tasks import (
    ABOUT,
    LABEL_SEPARATORS,
    LIMIT,
    NUMBERS,
    Target,
    count_labels,
    guess_task,
    is_number,
    label_counts,
    other_notation,
    remedy_for,
    split_labels,
)

MISSING = frozenset({
    "", "na", "n/a", "nan", "null", "none", "<na>", "#n/a", "#div/0!", "#value!", "#ref!", "#num!", "#name?", "#null!",
})  # fmt: skip
LARGEST = 1e150  # whose square a float64 can hold
PER_RESIDUE = ("token", NUMBERS)


@dataclass
class Targets:
    """How target cells become numbers; part of a model's metadata.

    Attributes:
        task: "regression" (one number per sequence), "classification" (one class per sequence), "token" (one class per
            residue) or "token-regression" (one number per residue).
        classes: class names in the order of the model's outputs; empty for numbers.
        separator: what stands between the labels, or numbers, of residues in a cell ("" if each is one character).
        positive: of two classes, the one whose F1 and AUPRC are told; None where there are not two.
        unlabelled: labels that stand for a residue without one; it takes no part in the loss and the scores.
        names: of several targets, their columns, one output of the model each; empty for one. The task is "regression",
            or "multilabel" where each is a class that is there (1) or not (0).
    """

    task: str
    classes: list[str] = field(default_factory=list)
    separator: str = ""
    positive: str | None = None
    unlabelled: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def per_residue(self) -> bool:
        """Whether each residue has an answer of its own, not the sequence as a whole."""
        return self.task in PER_RESIDUE

    @property
    def numeric(self) -> bool:
        """Whether the answers are numbers, not classes or labels."""
        return self.task in ("regression", NUMBERS)

    @property
    def d_output(self) -> int:
        """Outputs of the model."""
        return max(1, len(self.classes), len(self.names))

    @property
    def positive_index(self) -> int:
        """The index of the positive class; 1 where none is named."""
        return 1 if self.positive is None else self.classes.index(self.positive)

    def values(self, target: Target) -> list[np.ndarray]:
        """Target arrays, one per row: () float64, () int64, (L,) int64 or (L,) float64; IGNORED or NaN for none.

        Raises:
            InputError: a cell that is not a number, not a known class, or of the wrong length.
        """
        if self.task == "regression":
            return [np.asarray(_number(cell, row, target)) for cell, row in zip(target.cells, target.rows, strict=True)]
        if self.task == NUMBERS:
            rows = zip(target.cells, target.rows, target.lengths, strict=True)
            return [self._numbers(self.split(cell, row, length, target), row, target) for cell, row, length in rows]
        index = {name: i for i, name in enumerate(self.classes)}
        if self.task == "token":
            index |= dict.fromkeys(self.unlabelled, IGNORED)
        values = []
        for cell, row, length in zip(target.cells, target.rows, target.lengths, strict=True):
            names = self.split(cell, row, length, target) if self.task == "token" else [cell.strip()]
            try:
                tokens = np.array([index[name] for name in names], dtype=np.int64)
            except KeyError as error:
                raise target.refuse(
                    row, f"class {shorten(error.args[0])} is unknown; it must be one of: {', '.join(self.classes)}"
                ) from None
            values.append(tokens if self.task == "token" else tokens.reshape(()))
        return values

    def split(self, cell: str, row: int, length: int, target: Target) -> list[str]:
        """The labels, or numbers, of one sequence's residues; as many as residues, or an InputError."""
        labels = split_labels(cell, self.separator)
        if len(labels) != length:
            what = "numbers" if self.numeric else "labels"
            raise target.refuse(
                row, f"has {len(labels)} {what} for a sequence of {length} residues; there must be one for each"
            )
        return labels

    def _numbers(self, cells: Sequence[str], row: int, target: Target) -> np.ndarray:
        """(L,) float64 of one sequence's residues, NaN where one has none."""
        values = np.full(len(cells), np.nan)
        for i, cell in enumerate(cells):
            if cell not in self.unlabelled:
                values[i] = _number(cell, row, target, i + 1)
        return values


def is_missing(na: str | None) -> Callable[[str], bool]:
    """Which cells stand for no value: empty ones and those of `na`, texts between commas; None takes the usual."""
    if na is None:
        return lambda cell: cell.strip().lower() in MISSING
    texts = {text.strip() for text in na.split(",")} | {""}
    numbers = {float(text) for text in texts if is_number(text)}
    return lambda cell: cell.strip() in texts or (bool(numbers) and is_number(cell) and float(cell) in numbers)


def limits(cells: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Cells such as <0.5 without their signs, and (N,) int8: -1 where the value lies below, 1 above, 0 for no sign."""
    found = [LIMIT.fullmatch(cell) for cell in cells]
    signs = [0 if match is None else -1 if match[1] in "<\u2264" else 1 for match in found]
    bare = [cell if match is None else match[2] for cell, match in zip(cells, found, strict=True)]
    return bare, np.array(signs, dtype=np.int8)


def points(target: Target) -> list[str]:
    """Cells with the decimal commas of numbers as points, also of those for each residue, such as 0,5;0,25.

    Raises:
        InputError: a cell has a point, which there may be a thousands separator.
    """
    for cell, row in zip(target.cells, target.rows, strict=True):
        if "." in cell:
            raise target.refuse(
                row, f"value {shorten(cell)} has a point, and {argument('decimal', 'comma')}; write all numbers alike"
            )
    return [cell.replace(",", ".") if _decimal(cell) else cell for cell in target.cells]


def _decimal(cell: str) -> bool:
    """Whether every comma in a cell stands in a number."""
    pieces = re.split(r"[;|\s]+", cell.strip().removeprefix("[").removesuffix("]"))
    return all(is_number(piece.replace(",", ".", 1)) for piece in pieces if "," in piece)


def same_numbers(cells: Sequence[str]) -> tuple[list[str], str]:
    """Cells in which 1.0 is called 1 where the column has both, as a program leaves them that wrote some as decimals.

    Returns:
        the cells, and what was done, "" if nothing.
    """
    names = {cell.strip() for cell in cells}
    whole = {name: match[1] for name in names if (match := re.fullmatch(r"([+-]?\d+)\.0*", name))}
    if not any(number in names for number in whole.values()):
        return list(cells), ""
    example = min(name for name, number in whole.items() if number in names)
    return [whole.get(cell.strip(), cell) for cell in cells], f"{example} and {whole[example]} are one class"


def alike(classes: Sequence[str]) -> list[str]:
    """Two classes that people may have meant to be one: the same number, or the same word in upper and lower case."""
    groups: dict[object, list[str]] = {}
    for name in classes:
        groups.setdefault(float(name) if is_number(name) else name.casefold(), []).append(name)
    return next((names for names in groups.values() if len(names) > 1), [])


def detect(target: Target, task: str | None, *, unlabelled: str = "-", na: str | None = None) -> tuple[Targets, str]:
    """Finds the task (unless given) and the classes from a target column; see `tasks.guess_task`.

    Args:
        unlabelled: the label of residues without one; "" if all have one. Empty labels and those that `na` says
            are missing (see `is_missing`) stand for none, too, where labels have a separator.

    Returns:
        the targets and the reason for the task, "" if it was given.

    Raises:
        InputError: only one class, or no task can be told from the cells.
    """
    reason, separator = "", None
    if task is None:
        task, separator, reason = guess_task(target)
    if task == "regression":
        return Targets(task), reason
    if task == NUMBERS:
        return _find_numbers(target, separator, reason, unlabelled, na)
    without: list[str] = []
    if task == "token":
        separator = _label_separator(target) if separator is None else separator
        counts = label_counts(target.cells, separator)
        missing = is_missing(na)
        without = sorted(label for label in counts if label == unlabelled or (separator and missing(label)))
        if separator == "" and unlabelled and len(unlabelled) > 1:
            raise InputError(
                f"{argument('unlabelled')} {shorten(unlabelled)}: must be one character, as the labels are"
            )
    else:
        separator = ""
        counts = Counter(cell.strip() for cell in target.cells)
    classes = sorted((name for name in counts if name not in without), key=_class_order)
    if len(classes) < 2:
        more = (
            f" ({', '.join(map(shorten, without))} stands for none; {argument('unlabelled', '')} makes it one)"
            if without
            else ""
        )
        what = f"every row has the one class {shorten(classes[0])}" if classes else "no residue has a class"
        raise target.refuse(None, f"{what}{more}; a classifier needs at least two")
    if without:
        residues = sum(counts[label] for label in without)
        reason += f"; {residues:,} residues have no label ({', '.join(map(shorten, without))})"
    return Targets(task, classes, separator, unlabelled=without), reason.removeprefix("; ")


def _find_numbers(
    target: Target, separator: str | None, reason: str, unlabelled: str, na: str | None
) -> tuple[Targets, str]:
    """`detect` for a number per residue; `separator` None finds it."""
    separator = _label_separator(target, LABEL_SEPARATORS[:-1]) if separator is None else separator
    missing, counts = is_missing(na), label_counts(target.cells, separator)
    without = sorted(label for label in counts if label == unlabelled or missing(label))
    if without:
        residues = sum(counts[label] for label in without)
        shown = ", ".join(shorten(label) if label else "empty" for label in without)
        reason += f"; {residues:,} residues have no number ({shown})"
    return Targets(NUMBERS, separator=separator, unlabelled=without), reason.removeprefix("; ")


def _label_separator(target: Target, separators: Sequence[str] = LABEL_SEPARATORS) -> str:
    """The separator of labels where the task is given: the one that most rows speak for, of none the most frequent."""
    fits = {
        separator: sum(
            count_labels(cell, separator) == length for cell, length in zip(target.cells, target.lengths, strict=True)
        )
        for separator in separators
    }
    best = max(fits, key=lambda separator: fits[separator])
    if fits[best]:
        return best
    there = {each: sum(cell.strip().count(each) for cell in target.cells) for each in separators if each}
    often = max(there, key=lambda separator: there[separator])
    return often if there[often] or "" not in separators else ""


def choose_positive(targets: Targets, given: str | None, counts: Counter[int]) -> str | None:
    """The class whose F1 is told: of two, the one given, else the rarer in training, of equals the second.

    Raises:
        InputError: `given` is no class, or there are not two.
    """
    if given is not None and len(targets.classes) != 2:
        what = f"{len(targets.classes)} classes" if targets.classes else "a number for a target"
        raise InputError(f"{argument('positive')} {shorten(given)}: has no effect with {what}; leave it out")
    if given is not None and given not in targets.classes:
        raise InputError(f"{argument('positive')} {shorten(given)}: must be one of {', '.join(targets.classes)}")
    if len(targets.classes) != 2 or given is not None:
        return given
    return targets.classes[0 if counts[0] < counts[1] else 1]


def _number(cell: str, row: int, target: Target, residue: int | None = None) -> float:
    """The number in a cell, or in what a cell has for a residue, counted from 1."""
    number = float(cell) if is_number(cell) else math.nan
    of = "" if residue is None else f" of residue {residue}"
    if abs(number) > LARGEST:
        raise target.refuse(row, f"value {shorten(cell)}{of} is beyond {LARGEST:g}; give the target in a larger unit")
    if math.isnan(number) and residue is not None:
        raise target.refuse(
            row, f"value {shorten(cell)}{of} is not a finite number; correct it, give {argument('na')} {shorten(cell)} "
            f"if it stands for none, or {argument('task', 'token')} if these are classes",
        )  # fmt: skip
    if math.isnan(number):
        what = other_notation(cell)
        looks = f" (it has {what})" if what else ""
        if what == ABOUT and LIMIT.fullmatch(cell):
            raise target.refuse(row, f"value {shorten(cell)} is not a finite number{looks}; {remedy_for(cell, what)}")
        raise target.refuse(
            row,
            f"value {shorten(cell)} is not a finite number{looks}; correct it, remove the row ({argument('na')} "
            f"{shorten(cell)} {argument('on_missing', 'skip')} if it stands for none), or give {argument('task')}",
        )
    return number


def _class_order(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if is_number(name) else (1, 0.0, name)
