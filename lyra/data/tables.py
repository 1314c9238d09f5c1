"""Reading CSV, TSV and FASTA files, plain or gzip, whole or in blocks, and finding their columns."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pandas as pd

from ..errors import InputError, shorten

SEQUENCE_COLUMNS = ("seq", "sequence", "mutated_sequence", "x")
MUTANT_COLUMNS = ("mutant", "mutants", "variant")
TARGET_COLUMNS = ("label", "labels", "DMS_score", "y", "target", "score")
SPLIT_COLUMNS = ("set", "split")
FASTA_SUFFIXES = (".fa", ".fasta", ".fna", ".faa", ".ffn", ".frn", ".fas")
FIRST_ROW = 2  # the line number of the first row under the header, as an editor or spreadsheet shows it


def is_fasta(path: str | Path) -> bool:
    """Whether the name says FASTA, compressed or not."""
    name = str(path).lower().removesuffix(".gz")
    return name.endswith(FASTA_SUFFIXES)


@contextmanager
def readable(path: str | Path) -> Iterator[Path]:
    """Turns every way in which reading a file can fail into an InputError that names the file."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a CSV, TSV or FASTA file")
        if not path.exists():
            raise InputError(f"{path}: there is no such file; check the name and the folder")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; it needs a header line and rows, or FASTA records")
        yield path
    except pd.errors.EmptyDataError:
        raise InputError(f"{path}: the file is empty; it needs a header line and rows") from None
    except (pd.errors.ParserError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a regular table ({reason}); every row needs as many fields as the header"
        ) from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); it must be UTF-8 text, plain or gzip") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(path: Path) -> IO[str]:
    """The file as text, whether it is compressed or not."""
    if _is_gzip(path):
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


def _separator(path: Path) -> str:
    """A tab if the header line has one, else a comma."""
    with _opened(path) as file:
        return "\t" if "\t" in file.readline() else ","


def iterate_table(path: str | Path, rows: int | None) -> Iterator[pd.DataFrame]:
    """A table as blocks of at most `rows` rows (None: one block), every cell text as it stands in the file.

    The index counts lines as an editor does: the first row under the header has index 2 (quoted line breaks
    aside). Nothing is read as missing: "NA" and "" stay text for the caller to judge.
    """
    with readable(path) as file:
        options: dict = {"sep": _separator(file), "dtype": str, "keep_default_na": False, "na_filter": False,
                             "encoding": "utf-8-sig", "index_col": False, "skip_blank_lines": False,
                             "compression": "gzip" if _is_gzip(file) else None}  # fmt: skip
        blocks = pd.read_csv(file, **options, chunksize=rows) if rows else [pd.read_csv(file, **options)]
        line = FIRST_ROW
        for block in blocks:
            block.columns = [str(name).strip() for name in block.columns]
            block.index = pd.RangeIndex(line, line + len(block))
            line += len(block)
            yield block[(block != "").any(axis=1)]  # blank lines keep their number and go


def read_table(path: str | Path) -> pd.DataFrame:
    """The whole table as text cells, indexed by line number.

    Raises:
        InputError: missing, empty, undecodable or irregular file, or a header without rows.
    """
    table = next(iterate_table(path, None))
    if table.empty:
        raise InputError(f"{path}: has a header but no rows; add at least one row under it")
    return table


def iterate_fasta(path: str | Path) -> Iterator[tuple[str, str]]:
    """(name up to the first space, sequence) of each record, one at a time.

    A sequence may go over several lines; blank lines and lines that begin with ';' are left out.

    Raises:
        InputError: unreadable, or text before the first '>' line.
    """
    with readable(path) as file, _opened(file) as lines:
        name: str | None = None
        pieces: list[str] = []
        for number, line in enumerate(lines, 1):
            if line.startswith(">"):
                if name is not None:
                    yield name, "".join(pieces)
                name, pieces = (line[1:].split() or [""])[0], []
                continue
            text = line.strip()
            if not text or text.startswith(";"):
                continue
            if name is None:
                raise InputError(f"{path}, row {number}: {shorten(text)} stands before the first '>' line; "
                                 "a FASTA record begins with one")  # fmt: skip
            pieces.append(text.replace(" ", ""))
        if name is not None:
            yield name, "".join(pieces)


def read_single_sequence(path_or_sequence: str) -> str:
    """A sequence given as itself, or as the first record of a FASTA file."""
    if is_fasta(path_or_sequence):
        for _, sequence in iterate_fasta(path_or_sequence):
            return sequence
        raise InputError(f"{path_or_sequence}: has no records; it needs one sequence")
    return path_or_sequence


def find_column(
    table: pd.DataFrame, path: str | Path, given: str | None, names: Sequence[str], what: str, option: str
) -> str | None:
    """The column `given` by the user (an error if absent), else the first of `names` present in any case.

    Raises:
        InputError: `given` is not a column.
    """
    columns = list(table.columns)
    if given is not None:
        if given not in columns:
            raise InputError(
                f"{path}: {what} column {shorten(given)} is missing; {option} must be one of: {listed(columns)}"
            )
        return given
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name.lower()] for name in names if name.lower() in lower), None)


def require_column(
    table: pd.DataFrame, path: str | Path, given: str | None, names: Sequence[str], what: str, option: str
) -> str:
    """`find_column`, with an error when nothing is found."""
    column = find_column(table, path, given, names, what, option)
    if column is None:
        raise InputError(
            f"{path}: no {what} column (looked for {', '.join(names)}); name it with {option}, "
            f"one of: {listed(table.columns)}"
        )
    return column


def listed(names: Sequence[str], limit: int = 8) -> str:
    """Names for an error message, the first few of them."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
