"""A labelled table, encoded, and what other columns and signs say of its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from ..alphabets import Alphabet
from ..errors import InputError, argument
from ..settings.data import DataOptions
from ..transforms import Log
from . import targets
from .batches import known
from .coverage import Coverage
from .replicates import Replicates
from .rows import RowCount
from .sequences import TableSource, read_keys, select
from .several import check_each
from .targets import Targets
from .weights import ERROR, read_column, scaled, weigh, worth


@dataclass
class LabelledData:
    """A labelled table, encoded.

    Attributes:
        table: the rows kept, as text cells, indexed by line number.
        sequences: their sequences.
        tokens, offsets: all tokens end to end and where each sequence begins.
        values: one target array per row.
        parts: "train", "val" or "test" of each row.
        folds: with folds, the same for each, "aside" for a row that takes part in none; `parts` are those of the first.
        fold_names: what the folds are called; fold_of: (N,) int, the one that a row is test in, -1 for none, or None.
        groups: (N,) int, equal for rows that were kept together as a group or cluster, or None without such.
        source: where sequences, targets and parts came from.
        rows_read: how many rows were used, and how many not; guesses: what was found that nobody said, with reasons.
        weights: (N,) float64, how much each row counts in the loss, 1 on average over the training part (with folds
            that of the first; each network scales them to its own rows); None where all count alike.
        censored: (N,) int8, -1 where a target is an upper limit, below which the value lies, 1 where it is a lower one,
            0 where it is the value; None where all are values.
        errors: (N,) standard errors of the targets; None where they are not known.
        transform: the scale on which numbers are learned, "none" for their own, in which `values` are.
        notes: what was made of the columns of weights, errors, replicates and limits, a line each.
    """

    path: str
    table: pd.DataFrame
    sequences: list[str]
    tokens: np.ndarray
    offsets: np.ndarray
    values: list[np.ndarray]
    parts: np.ndarray
    alphabet: Alphabet
    targets: Targets
    source: TableSource
    rows_read: RowCount = field(default_factory=RowCount)
    guesses: list[str] = field(default_factory=list)
    folds: list[np.ndarray] = field(default_factory=list)
    fold_names: list[str] = field(default_factory=list)
    fold_of: np.ndarray | None = None
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    censored: np.ndarray | None = None
    errors: np.ndarray | None = None
    transform: str = "none"
    notes: list[str] = field(default_factory=list)

    def rows(self, part: str) -> np.ndarray:
        """Positions of a part's rows."""
        return np.flatnonzero(self.parts == part)

    def labels(self, part: str) -> np.ndarray:
        """The targets of a part end to end, limits, missing ones and residues without a label left out."""
        return self.labels_of(self.rows(part))

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """The targets of some rows, likewise."""
        values = [np.atleast_1d(self.values[i]) for i in self.measured(rows)]
        flat = np.concatenate(values) if values else np.zeros(0)
        return flat[known(flat)]

    def each(self, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """A number of each of some rows (N,), once for each of the targets that `labels_of` gives of these rows."""
        return np.repeat(numbers[rows], [int(known(self.values[i]).sum()) for i in rows])

    def scored(self, part: str) -> np.ndarray:
        """Positions of a part's rows that take part in scores: those whose targets are no limits."""
        return self.measured(self.rows(part))

    def measured(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose targets are no limits."""
        return rows if self.censored is None else rows[self.censored[rows] == 0]

    def counting(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose targets are no limits and that weigh something."""
        rows = self.measured(rows)
        return rows if self.weights is None else rows[self.weights[rows] > 0]

    def keys(self) -> np.ndarray:
        """(N,) whole numbers from 0, the same for rows that no split may tear apart: equal sequences, and groups."""
        if self.groups is not None:
            return self.groups
        numbers: dict[bytes, int] = {}
        return np.array([numbers.setdefault(key, len(numbers)) for key in read_keys(self.tokens, self.offsets)])

    def coverage(self, parts: Sequence[str] = ("train",)) -> Coverage:
        """What the model will have seen, if it learns from these parts; with folds, from those of any."""
        seen = np.logical_or.reduce([np.isin(each, parts) for each in self.folds or [self.parts]])
        tokens, offsets = select(self.tokens, self.offsets, seen)
        return Coverage.of(tokens, np.diff(offsets), self.alphabet)


def change_scale(data: LabelledData, transform: str) -> None:
    """Sets the scale on which numbers are learned.

    Raises:
        InputError: the target is no number, or one is not above 0 where its logarithm is wanted.
    """
    if not data.targets.numeric:
        raise InputError(f"{argument('transform', transform)}: has no effect, the task is {data.targets.task}, whose "
                         "target is no number; leave it out")  # fmt: skip
    for row, values in zip(data.table.index, data.values, strict=True):
        if transform == "log" and (values <= 0).any():
            at = int(np.argmax(values.ravel() <= 0))
            column = data.targets.names[at] if data.targets.names else data.source.target
            of = f" of residue {at + 1}" if data.targets.per_residue else ""
            raise InputError(
                f"{data.path}, row {row}, column {column}: value {values.ravel()[at]:g}{of} has no logarithm, it is "
                f"not above 0; remove the row, or leave {argument('transform', 'log')} out"
            )
    data.transform = transform
    scale = {"log": "log10 of the target", "rank": "normal scores of the target's training ranks"}[transform]
    data.notes.append(f"scale: the loss is that of {scale}; predictions and scores are in the target's own units")


def weigh_rows(data: LabelledData, replicates: Replicates | None, options: DataOptions) -> None:
    """Sets the errors and the weights of the rows, as far as there are columns for them.

    Raises:
        InputError: a column cannot be used.
    """
    rows, steady = data.table.index, None
    if replicates is not None:
        data.errors, steady = replicates.errors(rows)
        data.notes.append(replicates.note(rows))
    elif options.error is not None:
        if data.targets.per_residue:
            raise InputError(
                f"{argument('error', options.error)}: is for one number a sequence, and the task is "
                f"{data.targets.task}; leave it out, or give {argument('weight')}"
            )
        data.errors = steady = read_column(data.table, options.error, ERROR, options, data.path)
    single = data.targets.task == "regression" and not data.targets.names
    values = np.array(data.values) if single else None
    if data.transform == "rank":
        if steady is not None and options.weight is None:
            data.notes[-1] += "; ranks are not weighted by it"
        steady = None  # an error of measurement is none of a rank
    elif values is not None and steady is not None and data.transform == "log":
        scale = Log()
        steady = steady * scale.slope(values)
        values = scale(torch.from_numpy(values)).numpy()
    if values is not None and data.censored is not None:
        values[data.censored != 0] = np.nan
    data.weights, how = weigh(
        data.table, values, steady, data.parts, data.tokens, data.offsets, len(data.alphabet), options, data.path
    )
    if data.weights is None:
        return
    for name, parts in zip(data.fold_names or [""], data.folds or [data.parts], strict=True):
        train, val = (np.flatnonzero(parts == part) for part in ("train", "val"))
        check_counting(data, train, val, f" of fold {name}" if name else "")
    data.weights = scaled(data.weights, data.rows("train"))
    training = data.weights[data.rows("train")]
    data.notes.append(
        f"weights in the loss: {how}; the {len(training):,} training rows{' of the first fold' if data.folds else ''} "
        f"are worth {worth(training):,.0f} of equal weight; scores count every row alike"
    )


def check_counting(data: LabelledData, train: np.ndarray, val: np.ndarray, place: str) -> None:
    """Raises InputError where rows to train on and to validate on weigh nothing, or leave too few values to learn.

    Args:
        place: behind the part's name in messages.
    """
    for rows, name in ((train, "training"), (val, "validation")):
        if data.weights is not None and not data.weights[rows].any():
            raise InputError(
                f"{data.path}: every row of the {name} part{place} has the weight 0; at least one must be above 0"
            )
    if data.targets.names:
        parts = np.full(len(data.values), "", dtype=object)
        parts[data.counting(train)], parts[data.counting(val)] = "train", "val"
        check_each(data.targets.names, np.concatenate(data.values), parts, data.path)
    elif len(np.unique(data.labels_of(data.counting(train)))) < 2:
        weighing = "" if data.weights is None else " with a weight above 0"
        what = "class" if data.targets.classes else "value"
        raise InputError(
            f"{data.path}: the training rows{place}{weighing} have one {what} only; there must be at least two"
        )


def note_limits(data: LabelledData) -> None:
    """Sets which targets are limits, and says how many."""
    _, signs = targets.limits(data.table[data.source.target].tolist())
    if not signs.any():
        return
    data.censored = signs
    parts = ", ".join(f"{int((signs[data.rows(part)] != 0).sum()):,} {part}" for part in ("train", "val", "test"))
    data.notes.append(
        f"censored targets: {int((signs < 0).sum()):,} lie below a limit, {int((signs > 0).sum()):,} above one "
        f"({parts}); the loss counts a prediction on the wrong side of the limit only, scores leave these rows out"
    )
