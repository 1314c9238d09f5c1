"""FASTA records, one at a time, and single sequences that a user gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, argument, shorten
from .sources import Source

FILE_NAME = re.compile(  # how one ends; a point alone may be a gap
    r"\.(fa|fasta|fna|faa|ffn|frn|fas|fsa|fst|mfa|pep|prot|seq|aa|nt|dna|rna|txt|csv|tsv|gb|gbk|gbff|embl|pdb|gz)$",
    re.I,
)


def first_character(source: Source) -> str:
    """The first character that is no white space; "" if there is none."""
    with source.reading(), source.open() as file:
        while block := file.read(4096):
            if text := block.lstrip("\ufeff \t\r\n\f\v"):
                return text[0]
    return ""


def is_fasta(source: Source) -> bool:
    """Whether the content is FASTA, whatever the file is called: it begins with '>', or with a comment.

    Raises:
        InputError: it begins as FASTQ does.
    """
    first = first_character(source)
    if first == "@":
        raise InputError(f"{source}: begins with '@' as FASTQ does, which cannot be read; convert it to FASTA")
    if first != ";":
        return first == ">"
    with source.reading(), source.open() as file:  # an old comment, or a table whose first column has no name
        return next((line[0] == ">" for line in map(str.strip, file) if line and line[0] != ";"), False)


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


def read_single_sequence(given: str, name: str) -> str:
    """A sequence given by itself, or by the file that holds it: a FASTA record, or letters alone.

    Whatever names an existing file is that file. White space is taken off. Messages call the argument `name`.

    Raises:
        InputError: it names a file that is not there, or one that does not hold exactly one sequence.
    """
    if given == "-" or (os.path.exists(given) and not os.path.isdir(given)):
        return _from_file(Source(given), name)
    if os.path.isdir(given):
        raise InputError(f"{argument(name)} {given}: is a folder; give a sequence, or a file with one")
    if os.sep in given or FILE_NAME.search(given):
        raise InputError(
            f"{argument(name)} {given}: there is no such file; check the name and the folder, or give the sequence"
        )
    letters = "".join(given.split())
    if not letters:
        raise InputError(f"{argument(name)}: the sequence is empty; give its letters, or a FASTA file")
    return letters


def _from_file(source: Source, name: str) -> str:
    if is_fasta(source):
        records = [sequence for _, sequence in iterate_fasta(source)]
        if len(records) != 1:
            raise InputError(f"{source}: has {len(records):,} records; {argument(name)} needs a file with one sequence")
        sequence = records[0]
    else:
        with source.reading(), source.open() as file:
            lines = file.read().split()
        sequence = "".join(lines)
        if not sequence:
            raise InputError(f"{source}: has no records; {argument(name)} needs one sequence")
        wrapped = len({len(line) for line in lines[:-1]}) <= 1 and len(lines[-1]) <= len(lines[0])
        if not wrapped or not all(letter.isalpha() or letter in "*-." for letter in sequence):
            raise InputError(
                f"{source}: is neither FASTA nor the letters of one sequence; {argument(name)} needs one of them"
            )
    if not sequence:
        raise InputError(f"{source}: its record has no sequence; {argument(name)} needs one")
    return sequence
