"""Several measurements of one quantity: their mean is the target, their spread says how precise it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, special

from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from .guesses import Role, require_column
from .tables import listed
from .weights import read_numbers

REPLICATE = Role("replicate", "replicates", ())
LEAST = 1e-5  # of the pooled variance: what stands for the variance of replicates that agree to the last digit


def moderated(variances: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Variances drawn towards a common one, by empirical Bayes (Smyth 2004; limma's squeezeVar).

    A variance of two or three values is little more than chance: where the rows' variances differ by no more than
    that, all become the pooled one; where they differ by more, each keeps the share that is its own.

    Args:
        variances, freedom: (N,) of each row and its degrees of freedom, 0 where the row has one value.

    Returns:
        (N,), above 0 if any variance is.
    """
    own = freedom > 0
    s2, d = variances[own], freedom[own]
    pooled = float(np.average(s2, weights=d))
    half = d / 2
    logs = np.log(np.maximum(s2, LEAST * pooled)) - special.digamma(half) + np.log(half)
    spread = float(logs.var(ddof=1) - special.polygamma(1, half).mean()) if len(s2) > 1 else 0.0
    if spread <= 1e-6:  # trigamma of a million: as good as infinitely many degrees of freedom
        return np.full(len(variances), pooled)
    prior = 2 * float(optimize.brentq(lambda x: special.polygamma(1, x) - spread, 1e-6, 2e6))
    common = float(np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2)))
    return (prior * common + freedom * np.where(own, variances, 0.0)) / (prior + freedom)


@dataclass
class Replicates:
    """Columns that measure the same, of all rows of a table.

    Attributes:
        name: what their mean is called; columns: theirs.
        values: the numbers, indexed as the table, NaN where there is none.
    """

    name: str
    columns: list[str]
    values: pd.DataFrame

    @classmethod
    def read(cls, table: pd.DataFrame, options: DataOptions, where: object) -> Replicates:
        """The columns that `options.replicates` names, separated by commas.

        Raises:
            InputError: fewer than two, no such column, or a cell that is no number.
        """
        assert options.replicates is not None
        given = [name.strip() for name in options.replicates.split(",")]
        columns = [require_column(list(table.columns), where, name, REPLICATE) for name in given]
        if len(set(columns)) < 2 or len(set(columns)) < len(columns):
            raise InputError(
                f"{argument('replicates')} {shorten(options.replicates)}: must name two columns or more, each once, "
                "with commas between them"
            )
        numbers = {column: read_numbers(table, column, options, where, REPLICATE.what) for column in columns}
        name = f"mean of {listed(columns)}"
        if name in table.columns:
            raise InputError(f"{where}: already has a column {shorten(name)}; rename it, the target takes that name")
        return cls(name, columns, pd.DataFrame(numbers, index=table.index))

    def cells(self, decimal: str) -> list[str]:
        """The means as text, "" where a row has no value; with the table's own decimal sign."""
        means = (repr(float(mean)) if mean == mean else "" for mean in self.values.mean(axis=1))
        return [text.replace(".", ",") if decimal == "comma" else text for text in means]

    def variances(self, rows: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        """(N,) variance of each row's values and their number; a row with one value has the pooled variance.

        Raises:
            InputError: no row has two values, or they are equal in every row.
        """
        values = self.values.loc[rows]
        counts = values.notna().sum(axis=1).to_numpy()
        variances = values.var(axis=1, ddof=1).to_numpy()
        freedom = np.maximum(counts - 1, 0)
        named = f"{argument('replicates')} {shorten(','.join(self.columns))}"
        if not freedom.any():
            raise InputError(f"{named}: no row has a value in two of these columns; give columns that overlap")
        pooled = float(np.average(variances[freedom > 0], weights=freedom[freedom > 0]))
        if pooled == 0:
            raise InputError(f"{named}: the values are the same in every row; give replicates, not copies of a column")
        return np.where(freedom > 0, variances, pooled), counts

    def errors(self, rows: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        """(N,) standard errors of the means: as they were measured, and from moderated variances, to weigh rows by."""
        variances, counts = self.variances(rows)
        steady = moderated(variances, np.maximum(counts - 1, 0))
        return np.sqrt(variances / counts), np.sqrt(steady / counts)

    def note(self, rows: pd.Index) -> str:
        """How many rows have how many values, and how well they agree."""
        variances, counts = self.variances(rows)
        numbers = ", ".join(
            f"{count:,} rows have {values} value{'s' * (values > 1)}"
            for values, count in sorted(Counter(counts.tolist()).items(), reverse=True)
        )
        error = float(np.sqrt(np.mean(variances / counts)))
        return f"replicates: the target is the {self.name}; {numbers}; their mean's standard error is {error:.3g}"


def noise_ceiling(values: np.ndarray, errors: np.ndarray) -> float | None:
    """The R2 that the true values would reach: 1 - (mean of the squared errors) / (variance of the targets).

    None where all targets are equal; 0 where the errors are larger than the spread of the targets.
    """
    variance = float(np.var(values)) if len(values) else 0.0
    return max(0.0, 1 - float(np.mean(np.square(errors))) / variance) if variance > 0 else None
