"""Folds: every row is test once, so that a model is judged on all of a table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ..errors import InputError, argument, shorten
from ..settings.data import MOST_FOLDS, DataOptions
from .divisions import Grouping, Material, Split
from .draws import draw, draw_folds
from .groups import check_whole
from .guesses import Role, find_column
from .holdouts import find_mutated, folds_by_position
from .strata import find_strata
from .targets import MISSING
from .tasks import is_number


def find_folds(material: Material, grouping: Grouping, options: DataOptions, warn: Callable[[str], None]) -> Split:
    """For each fold the part of every row: the fold is its test part, a share of the others its validation part.

    Folds are drawn with the seed, or a column says which one a row is in. Groups stay whole in both, and validation
    parts are drawn as those of one split are.

    Raises:
        InputError: folds that cannot be made of these rows, or a column that does not say them.
    """
    count = options.number_of_folds
    if options.holdout == "position":
        if count is None:
            raise InputError(
                f"{argument('folds', options.folds)} {argument('holdout', 'position')}: a column says which rows are "
                f"held out, so positions are not drawn; give a number of {argument('folds')}, or no "
                f"{argument('holdout')}"
            )
        mutated, said = find_mutated(material, options)
        split = folds_by_position(mutated, material, options, count)
        split.said = [*said, *split.said]
        return split
    if count is None:
        fold_of, names = folds_of_column(material, grouping, str(options.folds), warn)
        strata, said = find_strata(material, options, [options.val_fraction])
    else:
        strata, said = find_strata(material, options, [options.val_fraction, 1 / count])
        fold_of, names = draw_folds(grouping, strata, count, options.seed), [str(i + 1) for i in range(count)]
    folds = [with_fold(fold_of == i, grouping, strata, options, i) for i in range(len(names))]
    return Split(folds[0], folds, fold_of, names, said=said)


def with_fold(
    test: np.ndarray, grouping: Grouping, strata: np.ndarray | None, options: DataOptions, number: int
) -> np.ndarray:
    """(N,) the parts of a fold whose `test` (N,) rows are known; another part is drawn in each."""
    parts = np.full(len(test), "test", dtype=object)
    rest = np.flatnonzero(~test)
    chosen = None if strata is None else strata[rest]
    parts[rest] = draw(grouping.of(rest), chosen, options.val_fraction, 0.0, options.seed + number)
    return parts


def folds_of_column(
    material: Material, grouping: Grouping, given: str, warn: Callable[[str], None]
) -> tuple[np.ndarray, list[str]]:
    """(N,) the fold of each row and the folds' names, in the order of numbers or of letters.

    Raises:
        InputError: a row without a fold, fewer than 2 folds, more than 100, or one that tears a group apart.
    """
    column = find_column(list(material.table.columns), material.where, given, Role("fold", "folds", ()))
    assert column is not None
    cells = material.table[column].str.strip()
    missing = cells.str.lower().isin(MISSING).to_numpy()
    if missing.any():
        row, cell = material.table.index[missing.argmax()], cells.iloc[int(missing.argmax())]
        raise InputError(
            f"{material.where}, row {row}, column {column}: the fold is {shorten(cell) if cell else 'empty'}; fill it "
            "in or remove the row"
        )
    names = sorted(set(cells), key=lambda name: (0, float(name), name) if is_number(name) else (1, 0.0, name))
    if not 2 <= len(names) <= MOST_FOLDS:
        raise InputError(
            f"{material.where}, column {column}: has {len(names):,} different values; folds must be 2 to {MOST_FOLDS}"
        )
    check_whole(
        grouping, cells.to_numpy(dtype=object), column,
        f"give a number of {argument('folds')} to draw them by groups, or other groups",
    )  # fmt: skip
    return pd.Categorical(cells, names).codes.astype(np.int64), names
