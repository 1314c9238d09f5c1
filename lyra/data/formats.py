"""The formats of files with sequences, told by how the content begins, whatever the file is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError
from .blocks import FastaReader, Reader, TableReader
from .fasta import single_record
from .sources import Source


class Format(NamedTuple):
    """A format, and what reads it.

    Attributes:
        begins: the first character of such a file, comments left out; "" for any other.
        columns: whether it has columns, as of mutations and targets.
        reader: of sequences block by block.
        single: of a file that holds one sequence; the text names the argument that needs it, for messages.
    """

    name: str
    begins: str
    columns: bool
    reader: type[Reader]
    single: Callable[[Source, str], str]


def single_text(source: Source, needed_by: str) -> str:
    """The letters of a file that holds nothing else.

    Raises:
        InputError: there are none, or something else than the lines of one sequence.
    """
    with source.reading(), source.open() as file:
        lines = file.read().split()
    sequence = "".join(lines)
    if not sequence:
        raise InputError(f"{source}: has no records; {needed_by} needs one sequence")
    wrapped = len({len(line) for line in lines[:-1]}) <= 1 and len(lines[-1]) <= len(lines[0])
    if not wrapped or not all(letter.isalpha() or letter in "*-." for letter in sequence):
        raise InputError(f"{source}: is neither FASTA nor the letters of one sequence; {needed_by} needs one of them")
    return sequence


FORMATS = (  # the first that fits
    Format("FASTA", ">", False, FastaReader, single_record),
    Format("a table", "", True, TableReader, single_text),
)
REFUSED = {"@": "begins with '@' as FASTQ does, which cannot be read; convert it to FASTA"}


def format_of(source: Source) -> Format:
    """The format of a file.

    Raises:
        InputError: it is one that nothing here reads.
    """
    first = first_character(source)
    if first in REFUSED:
        raise InputError(f"{source}: {REFUSED[first]}")
    if first == ";":  # an old comment, or a table whose first column has no name
        with source.reading(), source.open() as file:
            first = next((line[0] for line in map(str.strip, file) if line and line[0] != ";"), "")
    return next(each for each in FORMATS if first.startswith(each.begins))


def first_character(source: Source) -> str:
    """The first character that is no white space; "" if there is none."""
    with source.reading(), source.open() as file:
        while block := file.read(4096):
            if text := block.lstrip("\ufeff \t\r\n\f\v"):
                return text[0]
    return ""
