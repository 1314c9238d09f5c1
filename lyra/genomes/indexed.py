"""Places of a genome by record and position, through an index of its FASTA file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.formats import format_of
from ..data.sources import CHUNK, Source
from ..errors import InputError, shorten
from ..packages import optional
from .pieces import iterate_pieces

WIDTH = 100  # letters of a line in a copy
HEADER = re.compile(rb"\n>[^\n]*")
OLD_END = re.compile(rb"\r(?!\n)")  # of a line, on which others do not count
SPACES = (b" ", b"\t", b"\v", b"\f")


class Genome:
    """The records of an indexed FASTA file.

    Attributes:
        name: of the file, for messages; sizes: letters of each record, by name, in the order of the file.
    """

    def __init__(self, name: str, faidx: Any) -> None:
        self.name, self._faidx = name, faidx
        self.sizes: Mapping[str, int] = {name: record.rlen for name, record in faidx.index.items()}

    def fetch(self, record: str, start: int, end: int) -> str:
        """The letters from `start` to before `end`, counted from 0; both must be within the record."""
        text: str = self._faidx.fetch(record, start + 1, end)
        if len(text) != end - start:
            raise InputError(
                f"{self.name}: record {shorten(record)} has other letters than its index says; remove {self.name}.fai"
            )
        return text


@contextmanager
def indexed(source: Source) -> Iterator[Genome]:
    """Opens a FASTA file by its index: NAME.fai if that is there and fits, else one that goes at the end.

    Nothing is written beside the file. A packed file, one from a pipe, or one with lines of several lengths, which no
    index can describe, is read from a copy among the temporary files.

    Raises:
        InputError: it is no FASTA file, or its records cannot be told apart by name.
    """
    if format_of(source).columns:
        raise InputError(f"{source}: is no FASTA file, from which windows are cut")
    with tempfile.TemporaryDirectory(prefix="lyra-genome-") as folder, source.reading():
        faidx = _open(source, Path(folder))
        try:
            yield Genome(source.name, faidx)
        finally:
            faidx.close()


def _open(source: Source, folder: Path) -> Any:
    pyfaidx = optional("pyfaidx", "reading windows of a genome")

    def open_with(path: Path, index: Path) -> Any:
        try:
            return pyfaidx.Faidx(str(path), indexname=str(index), as_raw=True, rebuild=False)
        except ValueError as error:
            if "Duplicate key" not in str(error):
                raise
            key = str(error).split('"')[1]
            raise InputError(f"{source}: two records are called {shorten(key)}; rename one") from None

    if _plain(source):
        path, beside = source.file(), Path(f"{source.file()}.fai")
        if beside.is_file() and _fits(path, beside):
            return open_with(path, beside)
        try:
            return open_with(path, folder / "fai")
        except pyfaidx.FastaIndexingError:  # lines of several lengths
            pass
    copy = folder / "genome.fa"
    _copy(source, copy)
    return open_with(copy, folder / "fai")


def _plain(source: Source) -> bool:
    """Whether the bytes are what a reader by position expects: not packed, no comments, in sequences letters alone."""
    if source.encoding != "utf-8" or source.file().suffix.lower() in (".gz", ".bgz", ".bz2", ".zip"):
        return False
    with open(source.file(), "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return False
        file.seek(0)
        before = b"\n"
        while chunk := file.read(CHUNK):
            text = before + chunk
            if text.endswith(b"\r"):
                text += file.read(1)
            if text[text.rfind(b"\n") + 1 :].startswith(b">"):
                text += file.readline()  # a name may have spaces, and is not to be torn apart
            if b"\n;" in text or (b"\r" in text and OLD_END.search(text)):
                return False
            letters = HEADER.sub(b"", text) if b"\n>" in text else text
            if not letters.isascii() or any(space in letters for space in SPACES):
                return False
            before = text[-1:]
    return True


def _fits(path: Path, index: Path) -> bool:
    """Whether an index is not older than its file, and each of its records begins and ends where it says."""
    if index.stat().st_mtime < path.stat().st_mtime:
        return False
    size, end = path.stat().st_size, 0
    try:
        rows = [line.split("\t") for line in index.read_text(encoding="utf-8").splitlines()]
        with open(path, "rb") as file:
            for name, *numbers in rows:
                length, offset, letters, width = map(int, numbers)
                file.seek(end)
                header = file.read(offset - end)
                if (
                    header.lstrip()[:1] != b">"
                    or header.lstrip()[1:].split()[0] != name.encode()
                    or header[-1:] != b"\n"
                ):
                    return False
                end = offset + length + (width - letters) * ((length - 1) // letters if length else 0)
                file.seek(end)
                if file.read(1) not in (b"\r", b"\n", b""):
                    return False
            file.seek(end)
            return bool(rows) and end <= size and not file.read(CHUNK).strip()
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return False


def _copy(source: Source, path: Path) -> None:
    """Writes the records with lines of one length."""
    try:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for piece in iterate_pieces(source, WIDTH * 1000):
                if piece.start == 0:
                    if not piece.name:
                        raise InputError(f"{source}: record {piece.number} has no name, by which windows tell it")
                    file.write(f">{piece.name}\n")
                letters = piece.letters.encode("ascii", "replace").decode()  # a byte each, as the index counts them
                for at in range(0, len(letters), WIDTH):
                    file.write(letters[at : at + WIDTH] + "\n")
    except OSError as error:
        raise InputError(
            f"{source}: no space for a copy in {tempfile.gettempdir()} ({error.strerror}); set TMPDIR"
        ) from None
