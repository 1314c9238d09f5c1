"""Reading CSV and TSV tables, whole or in blocks: every row as it stands in the file, or an error with the row."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, TypeVar

import pandas as pd

from ..errors import InputError, argument, shorten
from ..settings.data import SEPARATORS
from .sources import Source

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a field may be a genome
GUESSED = ("\t", ",", ";")
GIVEN = "as given"
SURVEY = 500  # rows that tell one separator from another where the header has several
LONGEST_RECORD = 1000  # lines of a quoted cell; more is a quotation mark that was never closed


def separator_name(separator: str) -> str:
    return next((name for name, text in SEPARATORS.items() if text == separator), repr(separator))


class _Lines(Iterator[str]):
    """The lines of a file for a CSV parser, watched for quotation marks that swallow rows.

    Attributes:
        row: number of the line at which the record under way began.
    """

    def __init__(self, file: IO[str], name: str, separator: str, first: int) -> None:
        self.file, self.name, self.separator = file, name, separator
        self.width = 0  # fields of the header, once it is known
        self.row = first  # of the next record
        self.pending = 0  # lines that the record under way has so far
        self.whole = False  # whether the first of them has as many cells as the header, quotes left aside

    def __next__(self) -> str:
        line = next(self.file)
        whole = self.width == self._cells(line)
        if self.pending == 0:
            self.whole = whole
        else:  # inside of a quoted cell: are this line and the one that it began in rows of their own?
            if self.pending >= LONGEST_RECORD or (self.whole and whole):
                raise InputError(
                    f"{self.name}, row {self.row}: a quotation mark opens a cell that swallows row "
                    f"{self.row + self.pending}; take the mark out, or, if the cell is meant to have lines, their ends"
                )
        self.pending += 1
        return line

    def _cells(self, line: str) -> int:
        """How many cells a line has if quotation marks mean nothing."""
        return line.count(self.separator) + 1

    def finish_record(self) -> int:
        """Begins a new record; returns where the one before began."""
        began = self.row
        self.row += self.pending
        self.pending = 0
        return began


class TableFile:
    """A table in a file.

    Attributes:
        columns: names in the header, without spaces around them.
        separator: what stands between cells; reason: how that was found.
        blank: rows of the reading under way, or the last, whose cells are all empty; they are set aside.
    """

    def __init__(self, path: str | Path | Source, separator: str | None = None) -> None:
        """`separator` None finds it: the one of tab, comma and semicolon that the header and all rows have.

        Raises:
            InputError: unreadable, empty, two columns of one name, or a separator that could be either of two.
        """
        self.source = Source.of(path)
        self.blank = 0
        with self.source.reading():
            lines = self._head()
            given = re.fullmatch(r"sep=(.)\s*", lines[0], re.IGNORECASE) if lines else None
            self._skip = len(self._skipped) + (given is not None)
            lines = lines[given is not None :]
            if not lines:
                raise InputError(
                    f"{self.source}: has no sequences, blank lines only; give a header line and rows, or FASTA records"
                )
            self.separator, self.reason = separator, GIVEN
            if separator is None:
                self.separator, self.reason = (given[1], "its first line says so") if given else self._find(lines)
            with self.source.open() as file:
                self.columns = next(iter(self._records(file)))[1]
        self._check_names()

    @property
    def header_row(self) -> int:
        """The header's line number."""
        return self._skip + 1

    @property
    def remark(self) -> str | None:
        """How the separator was found, where it is not the comma that the name CSV promises."""
        if self.reason == GIVEN or self.separator in (",", None):
            return None
        return f"{separator_name(self.separator)} between cells ({self.reason})"

    def _head(self) -> list[str]:
        """The first lines, beginning with the first that is not blank."""
        with self.source.open() as file:
            self._skipped: list[str] = []
            for line in file:
                if line.strip("\ufeff\r\n\t ,;"):
                    return [line.lstrip("\ufeff"), *islice(file, SURVEY)]
                self._skipped.append(line)
        return []

    def _find(self, lines: list[str]) -> tuple[str, str]:
        """The separator and how it was found."""
        header = re.sub(r'"[^"]*"', "", lines[0])
        there = [separator for separator in GUESSED if separator in header]
        if len(there) < 2:
            return (there[0], "the header has no other") if there else (",", "one column")
        consistent = []
        fits = {}
        for separator in there:
            rows = [row for row in csv.reader(lines, delimiter=separator) if any(cell.strip() for cell in row)]
            fits[separator] = sum(len(row) == len(rows[0]) for row in rows)
            if fits[separator] == len(rows):
                consistent.append(separator)
        if len(consistent) > 1:
            names = " or ".join(map(separator_name, consistent))
            raise InputError(
                f"{self.source}, row {self.header_row}: the cells may be separated by {names}; say which with "
                f"{argument('separator')}"
            )
        return (consistent[0], "every row fits") if consistent else (max(there, key=lambda s: fits[s]), "most rows fit")

    def _check_names(self) -> None:
        self.columns = [re.sub(r"\s*[\r\n]+\s*", " ", name.strip("\ufeff \t\r\n")) for name in self.columns]
        for name, count in Counter(self.columns).items():
            if name and count > 1:
                places = " and ".join(str(i) for i, other in enumerate(self.columns, 1) if other == name)
                raise InputError(
                    f"{self.source}, row {self.header_row}: columns {places} are both called {shorten(name)}; rename "
                    "one"
                )

    def _records(self, file: IO[str]) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of the header and of every row, blank lines left out."""
        for _ in range(self._skip):
            next(file)
        assert self.separator is not None
        lines = _Lines(file, self.source.name, self.separator, self._skip + 1)
        try:
            for cells in csv.reader(lines, delimiter=self.separator, strict=True):
                row = lines.finish_record()
                if not cells or (len(cells) == 1 and not cells[0].strip()):
                    if lines.width != 1:
                        continue
                    cells = [""]  # in a table of one column, a row
                lines.width = lines.width or len(cells)
                if len(cells) != lines.width:
                    raise self._irregular(row, cells, lines.width)
                yield row, cells
        except csv.Error as error:
            raise InputError(
                f"{self.source}, row {lines.row}: a quotation mark is not closed, or not doubled inside of quotes "
                f"({error}); correct it"
            ) from None

    def _irregular(self, row: int, cells: list[str], width: int) -> InputError:
        more = ""
        if self.separator == "," and any(
            re.fullmatch(r"\s*[+-]?\d+", a) and re.fullmatch(r"\d+\s*", b) for a, b in pairwise(cells)
        ):
            more = "; a decimal comma must be a point, or the cell in quotes"
        plural = "" if len(cells) == 1 else "s"
        return InputError(
            f"{self.source}, row {row}: has {len(cells)} field{plural}, the header {width}; every row needs as many "
            f"fields as the header{more}"
        )

    def blocks(self, rows: int | None, letters: int | None = None) -> Iterator[pd.DataFrame]:
        """The rows as text cells, indexed by their line numbers.

        A block ends after `rows` rows or `letters` characters, whichever comes first; None is no limit.

        Nothing is read as missing: "NA" and "" stay text for the caller to judge.

        Raises:
            InputError: a row with more or fewer cells than the header, or a stray quotation mark; names the row.
        """
        self.blank = 0
        with self.source.reading(), self.source.open() as file:
            records = self._records(file)
            next(records)
            while block := list(take(records, rows, letters)):
                self._refuse_header(block)
                kept = [(row, cells) for row, cells in block if any(cell.strip() for cell in cells)]
                self.blank += len(block) - len(kept)
                yield pd.DataFrame(
                    [cells for _, cells in kept], columns=self.columns, index=[row for row, _ in kept], dtype=object
                )

    def _refuse_header(self, block: list[tuple[int, list[str]]]) -> None:
        """Raises InputError where the header comes again, as in two tables one behind the other."""
        for row, cells in block:
            if cells[0].strip() == self.columns[0] and [cell.strip() for cell in cells] == self.columns:
                raise InputError(f"{self.source}, row {row}: repeats the header; take the row out")


Record = TypeVar("Record", bound=tuple[int, Sequence[str]])  # its number, its texts


def take(records: Iterator[Record], rows: int | None, letters: int | None) -> Iterator[Record]:
    """The next records, up to both limits; None is no limit."""
    taken = 0
    for record in islice(records, rows):
        yield record
        taken += sum(map(len, record[1])) if letters else 0
        if letters and taken >= letters:
            return


def read_table(path: str | Path | Source, separator: str | None = None) -> pd.DataFrame:
    """The whole table as text cells, indexed by line number.

    Raises:
        InputError: missing, empty, undecodable or irregular file, or a header without rows.
    """
    return whole_table(TableFile(path, separator))


def whole_table(file: TableFile) -> pd.DataFrame:
    """All rows of a table; an InputError if it has none."""
    table = next(file.blocks(None), None)
    if table is None or table.empty:
        raise InputError(f"{file.source}: has a header but no rows; add at least one row under it")
    return table


def listed(names: Sequence[str], limit: int = 8) -> str:
    """Names for an error message, the first few of them."""
    names = [name if len(name) <= 60 else name[:57] + "..." for name in map(str, names)]
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
