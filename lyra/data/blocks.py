"""Sequences of a file block by block, so that a file of any size takes bounded memory: a reader for each format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from ..errors import InputError, refuse_without_effect, shorten
from ..settings.data import MUTATION_OPTIONS, InputOptions, parse_separator
from . import guesses
from .fasta import iterate_fasta
from .guesses import find_column
from .sequences import Origin, TableSource, find_origin, read_sequences
from .sources import Source
from .tables import TableFile, take

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


@dataclass
class Request:
    """What a reader is asked for.

    Attributes:
        options: what the user says of the file; trained: the table that the model was trained on, if that is known.
        wild_type: the sequence that `options.wild_type` stands for.
        numbered: whether whole sequences, too, are numbered from `options.offset`.
    """

    options: InputOptions
    trained: TableSource | None = None
    wild_type: str | None = None
    numbered: bool = False

    @property
    def mutation_options(self) -> tuple[str, ...]:
        """The options that mean nothing where there are no mutations."""
        return ("wild_type",) if self.numbered else MUTATION_OPTIONS


class Reader(Protocol):
    """The sequences of a file of one format.

    Attributes:
        remarks: what was guessed of the file.
        blank: rows of the last reading so far that have nothing in them.
    """

    remarks: list[str]

    def __init__(self, source: Source, request: Request) -> None:
        """Raises InputError: the file cannot be read, or an option has no effect on it."""

    @property
    def blank(self) -> int: ...

    def blocks(self) -> Iterator[Block]: ...


class FastaReader:
    """Records, whose table has the column `id`."""

    blank = 0

    def __init__(self, source: Source, request: Request) -> None:
        names = ("sequence", "mutant", "separator", *request.mutation_options)
        refuse_without_effect(request.options.given, names, f"{source} is FASTA, which has no columns")
        self.source = source
        self.remarks: list[str] = []

    def blocks(self) -> Iterator[Block]:
        records = enumerate(iterate_fasta(self.source), 1)
        while block := list(take(records, BLOCK_ROWS, BLOCK_LETTERS)):
            index = [number for number, _ in block]
            names, sequences = zip(*(record for _, record in block), strict=True)
            for number, name, sequence in zip(index, names, sequences, strict=True):
                if not sequence:
                    raise InputError(
                        f"{self.source}, row {number}, column sequence: record {shorten(name)} has no sequence; "
                        "remove it"
                    )
            yield Block(pd.DataFrame({"id": names}, index=index), list(sequences), "sequence")


class TableReader:
    """Rows with a column of sequences, or of mutations of a wild type."""

    def __init__(self, source: Source, request: Request) -> None:
        self.source = source
        self.table = TableFile(source, parse_separator(request.options.separator))
        self._check_header(request)
        self.origin = choose_origin(self.table.columns, source, request)
        if not self.origin.mutant:
            reason = f"column {shorten(self.origin.column)} holds whole sequences, no mutations"
            refuse_without_effect(request.options.given, request.mutation_options, reason)
        self.remarks = [self.table.remark] if self.table.remark else []
        if request.options.sequence is None and request.options.mutant is None:
            trained = request.trained is not None and self.origin.column == request.trained.column
            what = "mutations" if self.origin.mutant else "sequences"
            how = "as in training" if trained else "by name"
            self.remarks.append(f"{what} in column {shorten(self.origin.column)} ({how})")

    def _check_header(self, request: Request) -> None:
        """Raises InputError if the file is no table, but begins as a FASTA record without its name would."""
        columns, options = self.table.columns, request.options
        named = options.sequence or options.mutant or (request.trained and request.trained.column in columns)
        if len(columns) == 1 and not named and all(
            find_column(columns, self.source, None, role) is None for role in (guesses.SEQUENCE, guesses.MUTANT)
        ):  # fmt: skip
            raise InputError(
                f"{self.source}, row {self.table.header_row}: {shorten(columns[0])} stands before the first '>' "
                "line; a FASTA record begins with one, and a table with the names of its columns"
            )

    @property
    def blank(self) -> int:
        return self.table.blank

    def blocks(self) -> Iterator[Block]:
        offset = self.origin.offset if self.origin.mutant else None
        for table in self.table.blocks(BLOCK_ROWS, BLOCK_LETTERS):
            if not table.empty:
                yield Block(table, read_sequences(table, self.source, self.origin), self.origin.column, offset)


def choose_origin(columns: list[str], path: object, request: Request) -> Origin:
    """Where the sequences are: as the user says, else as in the training table, else by the usual names."""
    options, trained, wild_type = request.options, request.trained, request.wild_type
    sequence, mutant = options.sequence, options.mutant
    here = trained.column if trained is not None and trained.column in columns else None
    mutants = trained is not None and trained.mutant
    if sequence is None and mutant is None:
        if mutants:
            mutant = here
        elif wild_type is None:
            sequence = here
    if trained is not None and mutants and sequence is None:
        plain = None if mutant is not None else find_column(columns, path, None, guesses.SEQUENCE)
        if plain is None:
            wild_type = wild_type or trained.wild_type
    offset = options.offset
    if offset is None:
        offset = 1 if trained is None else trained.offset
    return find_origin(columns, path, sequence=sequence, mutant=mutant, wild_type=wild_type, offset=offset)
