"""FASTA records piece by piece, so that a chromosome of any length takes little memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..data.sources import Source
from ..errors import InputError, shorten

LINE = 1 << 16  # characters of a line read at a time: whole chromosomes may stand on one


class Piece(NamedTuple):
    """Some letters of a record.

    Attributes:
        number: of the record, from 1; name: what stands behind its '>' up to the first space.
        start: how many letters of it came before; letters: "" in a record without any.
        last: whether none come after.
    """

    number: int
    name: str
    start: int
    letters: str
    last: bool


def iterate_pieces(source: Source, length: int) -> Iterator[Piece]:
    """The records of a FASTA file in pieces of `length` letters, the last piece of each shorter or as long.

    What is a record and what is left out is as in `iterate_fasta`.

    Raises:
        InputError: unreadable, or text before the first '>' line.
    """
    number, name, start, waiting, count = 0, "", 0, list[str](), 0
    for header, text in _lines(source):
        if header:
            if number:
                yield Piece(number, name, start, "".join(waiting), True)
            number, name, start, waiting, count = number + 1, text, 0, [], 0
            continue
        waiting.append(text)
        count += len(text)
        if count > length:
            letters = "".join(waiting)
            for at in range(0, count - length, length):
                yield Piece(number, name, start, letters[at : at + length], False)
                start += length
            waiting, count = [letters[at + length :]], count - at - length
    if number:
        yield Piece(number, name, start, "".join(waiting), True)


def _lines(source: Source) -> Iterator[tuple[bool, str]]:
    """(True, a record's name), or (False, some letters of the record before), without white space and comments."""
    with source.reading(), source.open() as file:
        row, begins, blank, comment, named = 1, True, True, False, False
        while chunk := file.readline(LINE):
            ends = chunk[-1] in "\r\n"
            if begins and chunk.startswith(">"):
                while not ends and (more := file.readline(LINE)):
                    chunk, ends = chunk + more, more[-1] in "\r\n"
                named = True
                yield True, (chunk[1:].split() or [""])[0]
            else:
                text = "".join(chunk.split())
                comment = comment or (blank and text.startswith(";"))
                blank = blank and not text
                if text and not comment:
                    if not named:
                        raise InputError(f"{source}, row {row}: {shorten(text)} stands before the first '>' line; "
                                         "a FASTA record begins with one")  # fmt: skip
                    yield False, text
            begins = ends
            if ends:
                row, blank, comment = row + 1, True, False
