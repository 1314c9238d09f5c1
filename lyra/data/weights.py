"""How much each row counts in the loss: by a column of weights, or by the errors of its measurement."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import optimize

from .. import baselines
from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from .guesses import Role, require_column
from .targets import LARGEST, is_missing
from .tasks import is_number, other_notation

WEIGHT = Role("weight", "weight", ())
ERROR = Role("error", "error", ())
LEAST_SHARE = 0.01  # of the targets' variance: the least excess, for no model of sequences explains more than 99%
MAX_FEATURES = 2048  # position-letter pairs for whose ridge regression nobody waits


def read_numbers(table: pd.DataFrame, column: str, options: DataOptions, where: object, what: str) -> np.ndarray:
    """(N,) float64 of a column, NaN where a cell is missing.

    Raises:
        InputError: a cell is neither missing nor a finite number; names the row.
    """
    missing, numbers = is_missing(options.na), np.full(len(table), np.nan)
    for i, (row, cell) in enumerate(zip(table.index, table[column], strict=True)):
        if missing(cell):
            continue
        text = cell.replace(",", ".") if options.decimal == "comma" else cell
        if not is_number(text) or abs(float(text)) > LARGEST:
            notation = other_notation(cell)
            looks = f" (it has {notation})" if notation else ""
            raise InputError(
                f"{where}, row {row}, column {column}: {what} {shorten(cell)} is not a finite number{looks}; correct "
                "it or remove the row"
            )
        numbers[i] = float(text)
    return numbers


def read_column(table: pd.DataFrame, given: str, role: Role, options: DataOptions, where: object) -> np.ndarray:
    """(N,) float64 of the column that a user named for a role; NaN is missing.

    Raises:
        InputError: no such column, or a cell that is no number; a negative weight, an error that is not above 0.
    """
    column = require_column(list(table.columns), where, given, role)
    numbers = read_numbers(table, column, options, where, role.what)
    low = numbers < 0 if role is WEIGHT else numbers <= 0
    if low.any():
        row, cell = table.index[low.argmax()], table[column].iloc[int(low.argmax())]
        must = (
            "must not be negative (0 leaves a row out of the loss)"
            if role is WEIGHT
            else f"must be above 0; give the standard error of the target, or remove the row ({argument('na')} "
            f"{shorten(cell)} {argument('on_missing', 'skip')} if it stands for none)"
        )
        raise InputError(f"{where}, row {row}, column {column}: {role.what} {shorten(cell)} {must}")
    return numbers


def present(table: pd.DataFrame, given: str, role: Role, options: DataOptions, where: object) -> np.ndarray:
    """(N,) bool, which rows have a value in the column that a user named.

    Raises:
        InputError: as `read_column`, or a row has none while `on_missing` is "error".
    """
    there = ~np.isnan(read_column(table, given, role, options, where))
    if not there.all() and options.on_missing == "error":
        raise InputError(
            f"{where}, row {table.index[(~there).argmax()]}, column {given.strip()}: has no {role.what}; fill it in or "
            f"remove the row, or {argument('on_missing', 'skip')}"
        )
    return there


def scaled(weights: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Weights (N,) with a mean of 1 over the training rows, positions of which at least one has a weight above 0."""
    largest = weights.max()  # by which sums neither vanish nor overflow
    return weights / largest / np.mean(weights[train] / largest)


def excess_variance(residuals: np.ndarray, errors: np.ndarray) -> float:
    """Variance of residuals beyond the errors of measurement, tau^2, by Paule and Mandel (1982).

    It is the one with which the residuals, each divided by its own standard deviation, have a mean square of 1:
    mean(residual^2 / (error^2 + tau^2)) = 1; 0 where the errors are as large as the residuals or larger.

    Args:
        residuals, errors: (N,), of predictions for rows that the model was not fitted to.
    """
    squares, variances = np.square(residuals), np.square(errors)

    def surplus(tau2: float) -> float:
        return float(np.mean(squares / (variances + tau2))) - 1

    high = float(squares.max(initial=0.0)) + np.finfo(float).tiny  # there every term is at most 1
    if surplus(high * 1e-12) <= 0:
        return 0.0
    return float(optimize.brentq(surplus, high * 1e-12, high, rtol=1e-6))


def weights_of_errors(
    errors: np.ndarray, values: np.ndarray, parts: np.ndarray, tokens: np.ndarray, offsets: np.ndarray, letters: int
) -> tuple[np.ndarray, str]:
    """1 / (error^2 + tau^2), and what tau is and where it comes from.

    A model is off by more than a measurement's error, so 1 / error^2 would be wrong: few rows with tiny errors would
    make up the loss. tau^2 is the variance, beyond the errors, that an additive model leaves on the validation part
    (see `excess_variance`): a one-hot ridge regression where sequences have one length, else the training part's mean.
    It is at least `LEAST_SHARE` of the training targets' variance.

    Args:
        errors, values: (N,) standard errors and targets, in the units in which the loss is a mean square; NaN is a
            target that is not known.
        parts: (N,); tokens, offsets, letters: the encoded sequences, and how many letters there are.
    """
    train, val = ((parts == part) & ~np.isnan(values) for part in ("train", "val"))
    lengths = np.diff(offsets)
    if lengths.min() == lengths.max() and 0 < lengths[0] * letters <= MAX_FEATURES:
        rows = tokens.reshape(len(lengths), lengths[0])
        ridge = baselines.fit_ridge(rows[train], values[train], rows[val], values[val], letters)
        residuals, left = values[val] - ridge.predict(rows[val]), "a one-hot ridge regression leaves"
    else:
        residuals, left = values[val] - values[train].mean(), "the training part's mean leaves"
    least = LEAST_SHARE * float(values[train].var())
    tau2 = max(excess_variance(residuals, errors[val]), least)
    why = f"what {left} of the validation part beyond the errors" if tau2 > least else "a tenth of the targets' spread"
    return 1 / (np.square(errors) + tau2), f"1 / (error^2 + {np.sqrt(tau2):.3g}^2), {why}"


def weigh(
    table: pd.DataFrame, values: np.ndarray | None, errors: np.ndarray | None, parts: np.ndarray, tokens: np.ndarray,
    offsets: np.ndarray, letters: int, options: DataOptions, where: object,
) -> tuple[np.ndarray | None, str]:  # fmt: skip
    """Each row's weight in the loss, (N,) in any unit, and what it is; None for none.

    Args:
        values: (N,) targets, NaN where not known; None where they are no numbers.
        errors: (N,) theirs, where they are known; not looked at where `options` name a column of weights.

    Raises:
        InputError: the column cannot be used as weights, or errors belong to classes.
    """
    if options.weight is not None:
        weights, how = read_column(table, options.weight, WEIGHT, options, where), f"column {options.weight.strip()}"
    elif errors is not None:
        if values is None:
            raise InputError(
                f"{argument('error')} {shorten(options.error)}: has no effect on classes; leave it out, or give "
                f"{argument('weight')}"
            )
        weights, how = weights_of_errors(errors, values, parts, tokens, offsets, letters)
    else:
        return None, ""
    return weights, how


def worth(weights: np.ndarray) -> float:
    """How many rows of equal weight give as precise a mean (Kish's effective sample size)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
