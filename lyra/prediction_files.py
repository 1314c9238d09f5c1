"""Predictions from file to file, block by block."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .data.batches import SequenceDataset
from .data.loading import ON_INVALID, DataOptions, encode_checked, read_sequences
from .data.tables import find_column, is_fasta, iterate_fasta, iterate_table
from .errors import InputError, shorten
from .files import atomic_text
from .prediction import Predictor

BLOCK_ROWS = 4096
BLOCK_LETTERS = 4_000_000  # of a FASTA block, whose records may be genomes


@dataclass
class InputOptions:
    """How the file is read; None takes what the model was trained with. See `DataOptions`."""

    sequence: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int | None = None
    on_invalid: str = "error"
    batch_size: int = 256

    def check(self) -> None:
        if self.on_invalid not in ON_INVALID:
            raise InputError(f"--on-invalid {shorten(self.on_invalid)}: must be one of {', '.join(ON_INVALID)}")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be above 0")


@dataclass
class Block:
    """Some rows of a file.

    Attributes:
        table: the rows as text cells, indexed by line number (FASTA: record number, and one column `id`).
        sequences: their sequences; column: where these stand, for messages.
        offset: the number of the first residue, where the sequences come from mutations; else None.
    """

    table: pd.DataFrame
    sequences: list[str]
    column: str
    offset: int | None = None


def predict_file(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    options: InputOptions,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """Predicts for every sequence of a CSV, TSV or FASTA file and writes a CSV in the same order.

    Memory is bounded by a block of the file, however long it is; `out` appears when it is complete.

    Returns:
        how many sequences were predicted, and how many skipped.

    Raises:
        InputError: anything that a user can put right.
    """
    options.check()
    if Path(path).exists() and Path(out).exists() and Path(path).samefile(out):
        raise InputError(f"{out}: is the file to read; give another name with --out")
    done = skipped = 0
    with atomic_text(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        for block in read_blocks(path, predictor, options):
            table = block.table
            if not done and not skipped:
                check_columns(table, predictor, path)
                writer.writerow([*table.columns, *predictor.columns])
            tokens, offsets, keep = encode_checked(
                block.sequences, table.index, predictor.alphabet, options.on_invalid, path, block.column
            )
            dataset = SequenceDataset(tokens, offsets, np.arange(len(offsets) - 1))
            cells = predictor.cells(predictor.predict_dataset(dataset, options.batch_size))
            for row, cell in zip(table[keep].itertuples(index=False), cells, strict=True):
                writer.writerow([*row, *cell.values()])
            done += int(keep.sum())
            skipped += int((~keep).sum())
            progress(done)
    return done, skipped


def check_columns(table: pd.DataFrame, predictor: Predictor, path: str | Path) -> None:
    taken = [name for name in predictor.columns if name in table.columns]
    if taken:
        raise InputError(f"{path}: already has a column {taken[0]}; rename it, the prediction takes that name")


def read_blocks(path: str | Path, predictor: Predictor, options: InputOptions) -> Iterator[Block]:
    """The rows of a CSV, TSV or FASTA file, block by block.

    Raises:
        InputError: anything that a user can put right, a file without sequences included.
    """
    empty = True
    for block in fasta_blocks(path) if is_fasta(path) else table_blocks(path, predictor, options):
        empty = False
        yield block
    if empty:
        raise InputError(f"{path}: has no sequences; it needs FASTA records, or a header line and rows")


def fasta_blocks(path: str | Path) -> Iterator[Block]:
    """Blocks of records; their table has the column `id`."""
    records = enumerate(iterate_fasta(path), 1)
    while block := take_block(records):
        index = [number for number, _ in block]
        names, sequences = zip(*(record for _, record in block), strict=True)
        for number, name, sequence in zip(index, names, sequences, strict=True):
            if not sequence:
                raise InputError(
                    f"{path}, row {number}, column sequence: record {shorten(name)} has no sequence; remove it"
                )
        yield Block(pd.DataFrame({"id": names}, index=index), list(sequences), "sequence")


def take_block(records: Iterator[tuple[int, tuple[str, str]]]) -> list[tuple[int, tuple[str, str]]]:
    block, letters = [], 0
    for record in islice(records, BLOCK_ROWS):
        block.append(record)
        letters += len(record[1][1])
        if letters >= BLOCK_LETTERS:
            break
    return block


def table_blocks(path: str | Path, predictor: Predictor, options: InputOptions) -> Iterator[Block]:
    """Blocks of rows; columns are found as in training."""
    for table in iterate_table(path, BLOCK_ROWS):
        if table.empty:
            continue
        found = column_options(table, path, predictor.source, options)
        sequences, source = read_sequences(table, path, found)
        yield Block(table, sequences, source["column"], source.get("offset"))


def column_options(
    table: pd.DataFrame, path: str | Path, trained: dict[str, Any], options: InputOptions
) -> DataOptions:
    """What the user gave, else what the training table had if it is here, else the usual names."""
    column = trained.get("column")
    here = column if column in table.columns else None
    sequence, mutant, wild_type = options.sequence, options.mutant, options.wild_type
    if sequence is None and mutant is None:
        if trained.get("mutant"):
            mutant = here
        elif wild_type is None:
            sequence = here
    if trained.get("mutant") and sequence is None:
        plain = find_column(table, path, None, ("seq", "sequence", "mutated_sequence", "x"), "sequence", "--sequence")
        if mutant is not None or plain is None:
            wild_type = wild_type or trained["wild_type"]
    offset = options.offset if options.offset is not None else trained.get("offset", 1)
    return DataOptions(sequence=sequence, mutant=mutant, wild_type=wild_type, offset=offset)
