"""The sequences of a file for a model, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from .data import guesses
from .data.coverage import Strangers
from .data.fasta import is_fasta, iterate_fasta
from .data.guesses import find_column
from .data.rows import RowCount
from .data.sequences import (
    Origin,
    encode_checked,
    find_origin,
    read_sequences,
    read_wild_type,
    without_stop,
)
from .data.sources import Source
from .data.tables import TableFile, take
from .errors import InputError, refuse_without_effect, shorten
from .prediction import Predictor
from .settings.data import MUTATION_OPTIONS, DataOptions, InputOptions, parse_separator

BLOCK_ROWS = 4096
BLOCK_LETTERS = 4_000_000  # of a block whose records are genomes


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


Encoded: TypeAlias = tuple[Block, np.ndarray, np.ndarray, np.ndarray]  # tokens, offsets, which rows are kept


class Input:
    """The sequences of a file for a model, block by block, as often as wanted.

    Attributes:
        count: rows of the last reading so far, used and set aside.
        remarks: what was guessed of the file; notes: warnings about how it is read.
    """

    def __init__(
        self, path: str | Path | Source, predictor: Predictor, options: InputOptions, *, numbered: bool = False
    ) -> None:
        """`numbered` says that whole sequences, too, are numbered from `options.offset`.

        Raises:
            InputError: the file cannot be read, or an option has no effect on it.
        """
        options.check()
        self.source, self.predictor, self.options = Source.of(path), predictor, options
        self._outside = f"with letters outside the {predictor.alphabet.name} alphabet"
        self.count = RowCount()
        self.stops = 0
        self.notes: list[str] = []
        self.strangers = Strangers(predictor.alphabet, predictor.coverage)
        self.fasta = is_fasta(self.source)
        mutation_options = ("wild_type",) if numbered else MUTATION_OPTIONS
        if self.fasta:
            names = ("sequence", "mutant", "separator", *mutation_options)
            refuse_without_effect(options.given, names, f"{self.source} is FASTA, which has no columns")
        else:
            self.table = TableFile(self.source, parse_separator(options.separator))
            self._check_header()
            self.origin = find_columns(self.table.columns, self.source, predictor.source, options, self.notes.append)
            if not self.origin.mutant:
                reason = f"column {shorten(self.origin.column)} holds whole sequences, no mutations"
                refuse_without_effect(options.given, mutation_options, reason)
        self.remarks = [self.source.remark] if self.source.remark else []
        if not self.fasta:
            self.remarks += self._column_remarks()

    def _check_header(self) -> None:
        """Raises InputError if the file is no table, but begins as a FASTA record without its name would."""
        columns = self.table.columns
        named = self.options.sequence or self.options.mutant or self.predictor.source.get("column") in columns
        if len(columns) == 1 and not named and all(
            find_column(columns, self.source, None, role) is None for role in (guesses.SEQUENCE, guesses.MUTANT)
        ):  # fmt: skip
            raise InputError(
                f"{self.source}, row {self.table.header_row}: {shorten(columns[0])} stands before the first '>' "
                "line; a FASTA record begins with one, and a table with the names of its columns"
            )

    def _column_remarks(self) -> list[str]:
        """What was guessed of the table."""
        found = [self.table.remark] if self.table.remark else []
        if self.options.sequence is None and self.options.mutant is None:
            how = "as in training" if self.origin.column == self.predictor.source.get("column") else "by name"
            what = "mutations" if self.origin.mutant else "sequences"
            found.append(f"{what} in column {shorten(self.origin.column)} ({how})")
        return found

    def encoded(self) -> Iterator[Encoded]:
        """Blocks with the tokens and offsets of the sequences that are kept, and which rows these are.

        Raises:
            InputError: anything that a user can put right, a file without sequences included.
        """
        self.count, self.stops = RowCount(), 0
        self.strangers = Strangers(self.predictor.alphabet, self.predictor.coverage)
        alphabet, on_invalid = self.predictor.alphabet, self.options.on_invalid
        for block in fasta_blocks(self.source) if self.fasta else self._table_blocks():
            block.sequences = self._without_stops(block)
            rows = block.table.index
            tokens, offsets, keep = encode_checked(
                block.sequences, rows, alphabet, on_invalid, self.source, block.column
            )
            kept = [sequence for sequence, wanted in zip(block.sequences, keep, strict=True) if wanted]
            self.strangers.watch(kept, rows[keep].tolist(), tokens, offsets)
            self.count.used += int(keep.sum())
            self.count.aside[self._outside] += int((~keep).sum())
            yield block, tokens, offsets, keep
        if not self.fasta:
            self.count.aside["without anything in them"] = self.table.blank
        if self.count.used + self.skipped == 0:
            raise InputError(f"{self.source}: has no sequences; it needs FASTA records, or a header line and rows")

    @property
    def skipped(self) -> int:
        """Sequences left out for their letters."""
        return self.count.aside[self._outside]

    def _table_blocks(self) -> Iterator[Block]:
        for table in self.table.blocks(BLOCK_ROWS, BLOCK_LETTERS):
            if not table.empty:
                sequences = read_sequences(table, self.source, self.origin)
                yield Block(table, sequences, self.origin.column, self.origin.offset if self.origin.mutant else None)

    def _without_stops(self, block: Block) -> list[str]:
        """Proteins without a final '*', unless the model knows '*' from its training."""
        coverage = self.predictor.coverage
        known = coverage is None or "*" in coverage.letters
        if self.predictor.alphabet.name != "protein" or known or block.offset is not None:
            return block.sequences
        trimmed = list(map(without_stop, block.sequences))
        self.stops += sum(map(len, block.sequences)) - sum(map(len, trimmed))
        return trimmed

    def warnings(self) -> list[str]:
        """What to tell about the sequences read, each a line."""
        found = [f"{self.stops:,} sequences end in '*', a stop codon, which is taken off"] if self.stops else []
        return [*self.notes, *(f"{self.source}: {text}" for text in (*found, *self.strangers.warnings()))]


def fasta_blocks(source: Source) -> Iterator[Block]:
    """Blocks of records; their table has the column `id`."""
    records = enumerate(iterate_fasta(source), 1)
    while block := list(take(records, BLOCK_ROWS, BLOCK_LETTERS)):
        index = [number for number, _ in block]
        names, sequences = zip(*(record for _, record in block), strict=True)
        for number, name, sequence in zip(index, names, sequences, strict=True):
            if not sequence:
                raise InputError(
                    f"{source}, row {number}, column sequence: record {shorten(name)} has no sequence; remove it"
                )
        yield Block(pd.DataFrame({"id": names}, index=index), list(sequences), "sequence")


def find_columns(
    columns: list[str], path: object, trained: dict[str, Any], options: InputOptions, warn: Callable[[str], None]
) -> Origin:
    """Where the sequences are: as the user says, else as in the training table, else by the usual names."""
    column = trained.get("column")
    here = column if column in columns else None
    sequence, mutant, wild_type = options.sequence, options.mutant, read_wild_type(options.wild_type, warn)
    if sequence is None and mutant is None:
        if trained.get("mutant"):
            mutant = here
        elif wild_type is None:
            sequence = here
    if trained.get("mutant") and sequence is None:
        plain = None if mutant is not None else find_column(columns, path, None, guesses.SEQUENCE)
        if plain is None:
            wild_type = wild_type or trained["wild_type"]
    offset = options.offset if options.offset is not None else trained.get("offset", 1)
    return find_origin(columns, path, DataOptions(sequence=sequence, mutant=mutant, offset=offset), wild_type)
