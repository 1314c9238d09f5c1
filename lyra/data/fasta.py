"""FASTA records, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, shorten
from .sources import Source


def iterate_fasta(path: str | Path | Source) -> Iterator[tuple[str, str]]:
    """(name up to the first space, sequence) of each record, one at a time.

    A sequence may go over several lines; blank lines and lines that begin with ';' are left out.

    Raises:
        InputError: unreadable, or text before the first '>' line.
    """
    source = Source.of(path)
    with source.reading(), source.open() as lines:
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
                raise InputError(f"{source}, row {number}: {shorten(text)} stands before the first '>' line; "
                                 "a FASTA record begins with one")  # fmt: skip
            pieces.append("".join(text.split()))
        if name is not None:
            yield name, "".join(pieces)


def single_record(source: Source, needed_by: str) -> str:
    """The sequence of a file with one record; `needed_by` is the argument that it is for, in messages.

    Raises:
        InputError: there are none or several, or it is empty.
    """
    records = [sequence for _, sequence in iterate_fasta(source)]
    if len(records) != 1:
        raise InputError(f"{source}: has {len(records):,} records; {needed_by} needs a file with one sequence")
    if not records[0]:
        raise InputError(f"{source}: its record has no sequence; {needed_by} needs one")
    return records[0]
