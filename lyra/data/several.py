"""Several targets of a table, read as one array; a row that lacks some takes part with the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import InputError, argument
from ..settings.data import DataOptions
from .guesses import TARGET, require_column
from .targets import Targets, is_missing
from .weights import read_numbers


def find_columns(columns: Sequence[str], options: DataOptions, where: object) -> list[str]:
    """The columns of several targets.

    Raises:
        InputError: there is no such column, or one is given twice.
    """
    found = [require_column(columns, where, name, TARGET) for name in options.names]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{argument('target', twice)}: is given more than once; give each column once")
    return found


def without_any(table: pd.DataFrame, columns: Sequence[str], options: DataOptions) -> np.ndarray:
    """(N,) bool, rows in which all of these columns are missing."""
    missing = is_missing(options.na)
    return np.all([[missing(cell) for cell in table[column]] for column in columns], axis=0)


def read_several(
    table: pd.DataFrame, columns: list[str], options: DataOptions, where: object
) -> tuple[Targets, list[np.ndarray], str, str]:
    """What there is to predict, (1, T) float64 for each row, NaN where a target is missing, the task's reason, a note.

    Raises:
        InputError: a cell that is no number, or that is neither 0 nor 1 where these are asked for.
    """
    values = np.stack([read_numbers(table, column, options, where, "target") for column in columns], axis=-1)
    binary = np.isin(values, (0.0, 1.0)) | np.isnan(values)
    if options.task == "multilabel" and not binary.all():
        row, column = np.argwhere(~binary)[0]
        raise InputError(
            f"{where}, row {table.index[row]}, column {columns[column]}: value {values[row, column]:g} is neither 0 "
            f"nor 1; correct it, or give {argument('task', 'regression')}"
        )
    task = options.task or ("multilabel" if binary.all() else "regression")
    reason = "every target is 0 or 1" if task == "multilabel" else "numbers"
    lacking = np.isnan(values)
    note = f"{len(columns)} targets: " + (
        f"{int(lacking.any(1).sum()):,} rows lack some and take part with the others ("
        + ", ".join(f"{name} {int(lacking[:, i].sum()):,}" for i, name in enumerate(columns) if lacking[:, i].any())
        + ")"
        if lacking.any()
        else "every row has all of them"
    )
    return Targets(task, names=columns), list(values[:, None, :]), reason, note


def check_each(names: Sequence[str], values: np.ndarray, parts: np.ndarray, where: object) -> None:
    """Raises InputError where a target (N, T) has fewer than two values to train on, or none to validate on."""
    for column, name in zip(values.T, names, strict=True):
        known = ~np.isnan(column)
        if len(np.unique(column[known & (parts == "train")])) < 2:
            raise InputError(
                f"{where}, column {name}: the training part has fewer than two different values; leave this "
                f"{argument('target')} out"
            )
        if not known[parts == "val"].any():
            raise InputError(f"{where}, column {name}: the validation part has no value; leave this "
                             f"{argument('target')} out")  # fmt: skip
