"""A labelled table, encoded, and what other columns and signs say of its targets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from ..alphabets import Alphabet
from ..errors import InputError, argument
from ..settings.data import DataOptions
from ..transforms import Log
from . import targets
from .batches import IGNORED
from .coverage import Coverage
from .replicates import Replicates
from .rows import RowCount
from .sequences import TableSource, select
from .several import check_each
from .targets import Targets
from .weights import ERROR, read_column, weigh


@dataclass
class LabelledData:
    """A labelled table, encoded.

    Attributes:
        table: the rows kept, as text cells, indexed by line number.
        sequences: their sequences.
        tokens, offsets: all tokens end to end and where each sequence begins.
        values: one target array per row.
        parts: "train", "val" or "test" of each row.
        source: where sequences, targets and parts came from.
        rows_read: how many rows were used, and how many not; guesses: what was found that nobody said, with reasons.
        weights: (N,) float64, how much each row counts in the loss, 1 on average over the training part; None where
            all count alike.
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
        values = [np.atleast_1d(self.values[i]) for i in self.scored(part)]
        flat = np.concatenate(values) if values else np.zeros(0)
        if self.targets.names:
            return flat[~np.isnan(flat)]
        return flat[flat != IGNORED] if self.targets.task == "token" else flat

    def scored(self, part: str) -> np.ndarray:
        """Positions of a part's rows that take part in scores: those whose targets are no limits."""
        rows = self.rows(part)
        return rows if self.censored is None else rows[self.censored[rows] == 0]

    def coverage(self) -> Coverage:
        """What the model will have seen."""
        tokens, offsets = select(self.tokens, self.offsets, self.parts == "train")
        return Coverage.of(tokens, np.diff(offsets), self.alphabet)


def change_scale(data: LabelledData, transform: str) -> None:
    """Sets the scale on which numbers are learned.

    Raises:
        InputError: the target is no number, or one is not above 0 where its logarithm is wanted.
    """
    if data.targets.task != "regression":
        raise InputError(f"{argument('transform', transform)}: has no effect, the task is {data.targets.task}, whose "
                         "target is no number; leave it out")  # fmt: skip
    values = np.array(data.values)
    if transform == "log" and (values <= 0).any():
        at = np.argwhere(values <= 0)[0]
        column = data.targets.names[at[-1]] if data.targets.names else data.source.target
        raise InputError(
            f"{data.path}, row {data.table.index[at[0]]}, column {column}: value {values[tuple(at)]:g} has no "
            f"logarithm, it is not above 0; remove the row, or leave {argument('transform', 'log')} out"
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
    data.weights, note = weigh(
        data.table, values, steady, data.parts, data.tokens, data.offsets, len(data.alphabet), options, data.path
    )
    data.notes += [note] if note else []
    if data.targets.names and data.weights is not None:
        counting = np.where(data.weights > 0, data.parts, "")
        check_each(data.targets.names, np.concatenate(data.values), counting, data.path)


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
