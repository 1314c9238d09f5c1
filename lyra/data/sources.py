"""Bytes and text of what a user names: files, pipes and standard input, plain or gzip, in the usual encodings."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, AnyStr, BinaryIO, Generic

from ..errors import InputError, argument
from ..files import is_stream

CHUNK = 1 << 20
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
TABLE = "a header line and rows, or FASTA records"
CONTENT = {".bed": "lines of record, start and end", ".vcf": "a header and a line for each variant"}
FOREIGN = (  # how files begin that hold no text, and what to do with them
    (b"PK\x03\x04", "is a zip archive or an Excel workbook; save the table as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save the table as CSV"),
    (b"BZh", "is compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it, or compress it with gzip"),
    (b"PAR1", "is a Parquet file; save the table as CSV"),
    (b"%PDF", "is a PDF file; save the table as CSV"),
)
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")  # no text has these
CONTROL_CHARACTER = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
AMBIGUOUS = re.compile(rb"[\x80-\x9f]")  # letters in some code pages, control characters in Latin-1


class Source:
    """Something to read, as often as wanted: a file as it is, a pipe or a device from a copy of what it gave.

    Attributes:
        name: what messages call it.
        stream: whether it can be read only once, so that a copy is kept.
    """

    def __init__(self, path: str | Path) -> None:
        """`path` "-" is standard input.

        Raises:
            InputError: there is no such file, or it cannot be read.
        """
        self.name = "standard input" if str(path) == "-" else re.sub(r"[\x00-\x1f]", "?", str(path))
        self._path = Path(path)
        with self.reading():
            self.stream = str(path) == "-" or self._is_stream()
            if self.stream:
                self._copy = self._keep()

    @classmethod
    def of(cls, source: str | Path | Source) -> Source:
        return source if isinstance(source, Source) else cls(source)

    def __str__(self) -> str:
        return self.name

    def _is_stream(self) -> bool:
        if not self._path.exists():
            raise InputError(f"{self.name}: there is no such file; check the name and the folder")
        mode = self._path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{self.name}: is a folder; give a CSV, TSV or FASTA file")
        return not stat.S_ISREG(mode)

    def _keep(self) -> IO[bytes]:
        """A temporary file with all that the stream gives; it goes with this object."""
        copy = tempfile.NamedTemporaryFile(prefix="lyra-input-")
        given: BinaryIO
        with contextlib.ExitStack() as stack:
            if self.name == "standard input":
                if sys.stdin is None:
                    raise InputError("standard input: is closed; give a file")
                given = sys.stdin.buffer
            else:
                given = stack.enter_context(open(self._path, "rb"))
            try:
                shutil.copyfileobj(given, copy, CHUNK)
                copy.flush()
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                folder = tempfile.gettempdir()
                raise InputError(f"{self.name}: no space to keep it in {folder}; set TMPDIR, or give a file") from None
        return copy

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns every way in which reading can fail into an InputError that names the file."""
        try:
            yield
        except UnicodeError as error:
            raise InputError(
                f"{self.name}: cannot be read as text ({error}); it must be UTF-8 text, plain or gzip"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                f"{self.name}: cannot be read: its gzip data is broken ({error}); copy or pack it anew"
            ) from None
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read: {error.strerror or error}") from None

    def file(self) -> Path:
        """The file that holds the bytes."""
        return Path(self._copy.name) if self.stream else self._path

    def is_file(self, other: str | Path) -> bool:
        """Whether `other` is the very file that is read."""
        if self.stream:
            return False
        if os.path.exists(other) and self._path.samefile(other):
            return True
        return os.path.realpath(other) == os.path.realpath(self._path)  # by way of a folder that is not there

    def check_output(self, out: str | Path) -> None:
        """Raises InputError if the file to write is the one that is read."""
        if not is_stream(out) and self.is_file(out):
            raise InputError(f"{out}: is the file to read; give another name with {argument('out')}")

    def sha256(self) -> str:
        """Of the bytes as they are, compressed or not."""
        digest = hashlib.sha256()
        with self.reading(), open(self.file(), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def open_bytes(self) -> BinaryIO:
        """The content, unpacked."""
        with open(self.file(), "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.open(self.file(), "rb") if packed else open(self.file(), "rb")  # type: ignore[return-value]

    def open(self) -> IO[str]:
        """The content as text, its line ends as they are."""
        return io.TextIOWrapper(self.open_bytes(), encoding=self.encoding, newline="")

    @cached_property
    def encoding(self) -> str:
        """Found by a mark at the beginning, else from all of the content: UTF-8, or Latin-1 where it is not UTF-8.

        Raises:
            InputError: it is no text, or in an encoding that cannot be told for sure; names the row.
        """
        with self.open_bytes() as file:
            head = file.read(4096)
            if not head:
                name = self.name.lower().removesuffix(".gz")
                needed = next((what for ending, what in CONTENT.items() if name.endswith(ending)), TABLE)
                raise InputError(f"{self.name}: the file is empty; it needs {needed}")
            for start, remedy in FOREIGN:
                if head.startswith(start):
                    raise InputError(f"{self.name}: {remedy}")
            marked = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None) or _unmarked(head)
            file.seek(0)
            return self._utf8_or_latin1(file) if marked is None else self._checked(file, marked)

    def _checked(self, file: BinaryIO, encoding: str) -> str:
        """The encoding, if all of the content is text in it."""
        decoder, lines = codecs.getincrementaldecoder(encoding)(), _LineCount("\n", "\r")
        while True:
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeError:
                raise InputError(
                    f"{self.name}: cannot be read as text: it begins as {encoding.upper()}, and is something else "
                    f"from about row {lines.total + 1} on; save the file as UTF-8"
                ) from None
            if found := CONTROL_CHARACTER.search(text):
                raise self._no_text(lines.row(text, found.start()), ord(found[0]))
            if not chunk:
                return encoding
            lines.add(text)

    def _no_text(self, row: int, byte: int) -> InputError:
        return InputError(
            f"{self.name}: cannot be read as text: row {row} has a byte 0x{byte:02x}; it must be UTF-8 text, plain "
            "or gzip"
        )

    def _utf8_or_latin1(self, file: BinaryIO) -> str:
        decoder, lines, ambiguous = codecs.getincrementaldecoder("utf-8")(), _LineCount(b"\n", b"\r"), False
        first: tuple[int, int] | None = None  # row and value of the first byte that is not UTF-8
        while chunk := file.read(CHUNK):
            if found := CONTROL.search(chunk):
                raise self._no_text(lines.row(chunk, found.start()), found[0][0])
            if first is None:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:  # its object begins with what was left of the chunk before
                    first = lines.row(error.object, error.start), error.object[error.start]
            ambiguous = ambiguous or AMBIGUOUS.search(chunk) is not None
            lines.add(chunk)
        if first is None:
            try:
                decoder.decode(b"", final=True)
                return "utf-8"
            except UnicodeDecodeError as error:
                first = lines.total + 1, error.object[error.start]
        row, byte = first
        if ambiguous:
            raise InputError(
                f"{self.name}: cannot be read as text: row {row} has a byte 0x{byte:02x}, which is not UTF-8, and "
                "other bytes are not Latin-1; save the file as UTF-8"
            )
        self.latin1_row = row
        return "latin-1"

    latin1_row: int | None = None  # the first row with a letter that is no UTF-8, where the text is Latin-1

    @property
    def remark(self) -> str | None:
        """What was guessed of the encoding, where it was more than UTF-8."""
        encoding = self.encoding
        if encoding == "latin-1":
            return f"read as Latin-1 (row {self.latin1_row} is not UTF-8)"
        return None if encoding.startswith("utf-8") else f"read as {encoding.upper()}"


class _LineCount(Generic[AnyStr]):
    """Counts lines, which end in a line feed, or in a carriage return where there is no line feed at all."""

    def __init__(self, feed: AnyStr, carriage: AnyStr) -> None:
        self.end: AnyStr = feed
        self.carriage: AnyStr = carriage
        self.total = 0

    def add(self, chunk: AnyStr) -> None:
        if self.total == 0 and self.end not in chunk and self.carriage in chunk:
            self.end = self.carriage
        self.total += chunk.count(self.end)

    def row(self, chunk: AnyStr, at: int) -> int:
        """The line number of a place in the next chunk."""
        end = self.carriage if self.total == 0 and self.end not in chunk else self.end
        return self.total + chunk.count(end, 0, at) + 1


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without its mark, by the zero bytes that every second byte of ASCII text is."""
    even, odd = head[0::2], head[1::2]
    if odd and odd.count(0) > 0.7 * len(odd) and even.count(0) == 0:
        return "utf-16-le"
    if even and even.count(0) > 0.7 * len(even) and odd.count(0) == 0:
        return "utf-16-be"
    return None
