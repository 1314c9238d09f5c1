"""A table with the column that says how it is divided, for `lyra train` and other tools."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..errors import argument
from ..files import atomic_text, table_separator
from .loading import LabelledData

SET, FOLD = "set", "fold"


def write_split(data: LabelledData, out: str | Path) -> list[str]:
    """Writes the rows that take part, with a column `set`, or with folds `fold`, the one that a row is test in.

    A column that is called so already gives way.

    Args:
        out: ends in .csv or .tsv, .gz behind it or not; "-" is standard output.

    Returns:
        what there is to say of it.

    Raises:
        InputError: the file cannot be written.
    """
    separator, notes = table_separator(out), []
    name, cells = SET, data.parts
    if data.fold_of is not None:
        name, cells = FOLD, np.array([*data.fold_names, ""], dtype=object)[data.fold_of]  # -1 takes the last one
    table = data.table
    others = [column for column in table.columns if column.lower() == name]
    if others and others != [data.source.split]:
        notes.append(f"column {others[0]} of the table gives way to the new one")
    table = table.drop(columns=others).assign(**{name: cells})
    with atomic_text(out) as file:
        writer = csv.writer(file, lineterminator="\n", delimiter=separator)
        writer.writerow(table.columns)
        writer.writerows(table.itertuples(index=False))
    if never := int((cells == "").sum()):
        notes.append(
            f"{never:,} rows are test in no fold: their {FOLD} is empty; take them out where {argument('folds', FOLD)} "
            "is to read it"
        )
    return notes
