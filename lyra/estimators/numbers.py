"""Targets that are numbers, as users hand them to a regressor: one a row or several, of which some may be limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..data.targets import Targets, limits
from ..errors import InputError, shorten
from .inputs import Labels, Rows, is_none, number

ROWS = (list, tuple, np.ndarray, pd.Series)


def numbers(rows: Rows) -> Labels:
    """Targets that are numbers, or texts such as "<0.5" for limits; several of a row may be missing, but not all.

    Raises:
        InputError: one is missing, no finite number, or too large; rows have more or fewer targets than the first, or
            none; a limit is one of several. Names the row.
    """
    width = width_of(rows.entries[0])
    for index, entry in enumerate(rows.entries):
        if width_of(entry) != width:
            raise rows.refuse(
                index, f"has {told(width_of(entry))}, and the first row {told(width)}; all must have as many"
            )
    if width is None:
        return of_one(rows, rows.entries)
    if width < 2:
        return of_one(rows, [value for entry in rows.entries for value in entry])
    names = list(rows.columns) or default_names(rows.column, width)
    values = []
    for index, entry in enumerate(rows.entries):
        found = [of_several(replace(rows, column=name), index, value) for name, value in zip(names, entry, strict=True)]
        if np.isnan(found).all():
            raise rows.refuse(index, "every value is missing; remove the row")
        values.append(np.array([found]))
    cells = [" ".join(map(repr, value[0].tolist())) for value in values]
    return Labels(Targets("regression", names=names), values, cells)


def width_of(entry: Any) -> int | None:
    """How many targets a row has; None for one that is not in a list."""
    return len(entry) if isinstance(entry, ROWS) else None


def told(width: int | None) -> str:
    return "one value" if width in (None, 1) else f"{width} values"


def default_names(column: str, width: int) -> list[str]:
    """What several targets are called where nobody said: y0, y1 and so on."""
    return [f"{column}{i}" for i in range(width)]


def of_one(rows: Rows, found: list[Any]) -> Labels:
    """A number, or a limit, for each row; what is a number stays one."""
    bare, signs = limits([entry.strip() if isinstance(entry, str) else "" for entry in found])
    values = [number(rows, i, bare[i] if signs[i] else entry) for i, entry in enumerate(found)]
    cells = [entry.strip() if sign else repr(value) for entry, sign, value in zip(found, signs, values, strict=True)]
    return Labels(Targets("regression"), [np.asarray(value) for value in values], cells, limits=bool(signs.any()))


def of_several(rows: Rows, index: int, entry: Any) -> float:
    if is_none(entry):
        return float("nan")
    if isinstance(entry, str) and limits([entry.strip()])[1].any():
        raise rows.refuse(index, f"value {shorten(entry)} is a limit, which are for one target; give a number, or NaN")
    return number(rows, index, entry)


def names_of(given: Any, name: str) -> list[str]:
    """What the columns of several targets are called; empty where that is not known.

    Raises:
        InputError: two are called the same.
    """
    if not isinstance(given, pd.DataFrame) or given.shape[1] < 2:
        return []
    found = [str(column) for column in given.columns]
    twice = next((column for column in found if found.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{name}: has two columns {shorten(twice)}; give each a name of its own")
    return found


def check_names(found: list[str], known: list[str], where: str, name: str) -> None:
    """Raises InputError where the columns of a table are others, or in another order, than those of training."""
    if found and known and found != known:
        raise InputError(f"{where}: {name} has the columns {', '.join(found)}; they must be {', '.join(known)}, in "
                         "this order")  # fmt: skip
