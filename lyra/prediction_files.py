"""Predictions from file to file, block by block."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from .data.batches import SequenceDataset
from .data.inputs import Input
from .errors import InputError
from .files import atomic_text, table_separator
from .prediction import Predictor
from .prediction_columns import Columns
from .settings.data import InputOptions


def predict_file(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    options: InputOptions,
    *,
    progress: Callable[[int], None] = lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
    """Predicts for every sequence of a CSV, TSV or FASTA file and writes a table in the same order.

    Memory is bounded by a block of the file, however long it is; `out` appears when it is complete.

    Args:
        path: "-" is standard input.
        out: ends in .csv or .tsv, .gz behind it or not; "-" is standard output, and pipes and devices are written to.
        say: told what was guessed, warnings, and how many rows were read, used and set aside.

    Returns:
        how many sequences were predicted, and how many skipped.

    Raises:
        InputError: anything that a user can put right.
    """
    separator = table_separator(out)
    columns = Columns(predictor, options.interval)
    given = Input(path, options, alphabet=predictor.alphabet, coverage=predictor.coverage, trained=predictor.source)
    given.source.check_output(out)
    if given.remarks:
        say(f"guessed: {'; '.join(given.remarks)}")
    with atomic_text(out) as file:
        writer = csv.writer(file, lineterminator="\n", delimiter=separator)
        header = False
        for block, tokens, offsets, keep in given.encoded():
            if not header:
                check_columns(block.table, columns.names, given.source)
                writer.writerow([*block.table.columns, *columns.names])
                header = True
            dataset = SequenceDataset(tokens, offsets, np.arange(len(offsets) - 1))
            kept = block.table[keep]
            predictor.check_lengths(dataset.lengths, kept.index.tolist(), str(given.source))
            cells = columns.cells(dataset, options.batch_size)
            for row, cell in zip(kept.itertuples(index=False), cells, strict=True):
                writer.writerow([*row, *cell])
            progress(given.count.used)
    for warning in given.warnings():
        say(f"warning: {warning}")
    say(f"rows: {given.count}")
    return given.count.used, given.skipped


def check_columns(table: pd.DataFrame, names: list[str], path: object) -> None:
    taken = [name for name in names if name in table.columns]
    if taken:
        raise InputError(f"{path}: already has a column {taken[0]}; rename it, the prediction takes that name")
