"""Writing so that a file is either whole or absent under its final name.

Everything is written beside its destination and renamed at the end; an interrupt or a full disk leaves at
most nothing behind. A symbolic link stays one, and what it points to is replaced. Pipes and devices, which have no
earlier content to protect, are written through.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from filelock import FileLock, Timeout

from .errors import InputError, argument

TABLE_SUFFIXES = {".csv": ",", ".tsv": "\t", ".tab": "\t", "": ","}
OPEN_FILE = re.compile(r"/dev/std(in|out|err)|(?:/dev/fd|/proc/self/fd)/(\d+)")
PREVIOUS = ".previous"  # where a run that is replaced waits until the new one has got somewhere
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.\d+\.(unfinished|old)")
LOCK = ".lyra.lock"  # in a folder that a run is writing


def _unfinished(path: Path, ending: str = "unfinished") -> Path:
    """A name beside the final one, of this process, and short enough wherever the final one is."""
    return path.with_name(f".{path.name[:40]}.{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.{ending}")


def remove_unfinished(folder: Path) -> None:
    """Removes what a process left in a folder that was killed while it wrote."""
    for path in folder.rglob(".*.unfinished"):
        _remove(path)


def is_stream(path: str | Path) -> bool:
    """Whether it is written through: "-", a pipe, a device, or one of the system's names for an open file."""
    if OPEN_FILE.fullmatch(str(path)) or str(path) == "-":
        return True
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` if the block ends without an error.

    Works for a file and for a folder; an older one under the same name is replaced, and behind a symbolic link what it
    points to.

    Raises:
        InputError: the system refuses to write (disk full, no permission); the message names `path`.
    """
    given, path = Path(path), Path(path)
    unfinished = _unfinished(path)
    try:
        if given.is_symlink():
            path = Path(os.path.realpath(given))
            unfinished = _unfinished(path)
            if path.is_symlink():
                raise InputError(f"{given}: is a symbolic link that leads nowhere; give another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(unfinished)
        yield unfinished
        if path.is_dir():
            if not unfinished.is_dir():
                raise InputError(f"{given}: is a folder; give the name of a file")
            old = _unfinished(path, "old")
            os.replace(path, old)
            try:
                os.replace(unfinished, path)
            except OSError:
                os.replace(old, path)
                raise
            _remove(old)
        else:
            os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{given}: cannot be written: {error.strerror or error}") from error
    finally:
        _remove(unfinished)


def check_folder(out: Path, marker: str, own: re.Pattern[str], overwrite: bool, advice: str) -> None:
    """Sees to it that a folder to write is absent, empty, or an earlier one of the same kind that may go.

    Args:
        marker: the file by which a folder of this kind is known; own: paths of all files that may be in one.
        overwrite: whether an earlier one may be replaced; advice: what to do where it may not.

    Raises:
        InputError: `out` is a file, or a folder with other things in it.
    """
    check_no_file(out)
    names = [path.name for path in out.iterdir() if path.name != LOCK] if out.is_dir() else []
    if not names:
        return
    ours = marker in names or PREVIOUS in names
    if not (overwrite and ours):
        raise InputError(f"{out}: is not empty; {advice if ours else 'give another folder'}")
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix().removeprefix(f"{PREVIOUS}/")
        if name not in (LOCK, PREVIOUS) and (path.is_symlink() or not path.is_dir()):
            if not (own.fullmatch(name) or UNFINISHED.fullmatch(path.name)):
                raise InputError(f"{out}: holds {name}, which no run wrote; move it, or give another folder")


def check_outside(folder: Path, what: str | Path, name: str | None) -> None:
    """Raises InputError for a file to read, given as the argument `name`, that is in a folder to replace."""
    if os.path.exists(what) and Path(what).resolve().is_relative_to(folder.resolve()):
        place = what if name is None else f"{argument(name)} {what}"
        raise InputError(
            f"{place}: is in the folder that {argument('overwrite', True)} replaces; move it, or give another "
            f"{argument('out')}"
        )


def check_no_file(out: Path) -> None:
    """Raises InputError if a folder that is to be written is something else."""
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        what = "is a file" if out.exists() else "is a symbolic link to nothing"
        raise InputError(f"{out}: {what}; {argument('out')} must name a folder")


@contextmanager
def claimed_folder(out: Path) -> Iterator[None]:
    """Makes a folder and keeps it for this process; at the end an empty one that it made is gone again.

    Raises:
        InputError: another process has it, or it cannot be made.
    """
    made = not out.exists()
    lock = FileLock(out / LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{out}: another run is writing here; wait for it, or give another {argument('out')}"
        ) from None
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror or error}; give another {argument('out')}") from None
    try:
        yield
    finally:
        _remove(out / LOCK)
        lock.release()
        if made:
            with suppress(OSError):
                out.rmdir()  # only if it is empty


@contextmanager
def replaced_content(folder: Path) -> Iterator[Callable[[], None]]:
    """Puts what is in a folder aside, and back again if the block ends before it has called what it was given.

    The folder itself stays, which may be a link or a mounted disk.

    Raises:
        InputError: something cannot be moved or removed.
    """
    aside, done = folder / PREVIOUS, False

    def commit() -> None:
        nonlocal done
        done = True
        _remove(aside)

    def restore() -> None:
        """Puts back what is aside, in place of what has come since."""
        moved = {path.name for path in aside.iterdir()}
        for path in _content(folder):
            if path.name in moved or complete:
                _remove(path)
        for path in aside.iterdir():
            os.replace(path, folder / path.name)
        aside.rmdir()

    complete = True  # all of the old content is aside, so that whatever else is here is new
    with _emptying(folder):
        if aside.is_dir():  # a run that was to replace it was killed before it got anywhere
            restore()
        old = _content(folder)
    try:
        with _emptying(folder):
            complete = False
            if old:
                aside.mkdir()
            for path in old:
                os.replace(path, aside / path.name)
            complete = True
        yield commit
    finally:
        if old and not done:
            with _emptying(folder):
                restore()


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name not in (LOCK, PREVIOUS)]


@contextmanager
def _emptying(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be emptied: {error.strerror or error}; give another {argument('out')} (what was in it "
            f"is there, or in {PREVIOUS} inside)"
        ) from None


def commit_replacement(folder: Path) -> None:
    """Removes what `replaced_content` had put aside, for a run that goes on after it was killed."""
    _remove(folder / PREVIOUS)


def _remove(path: Path) -> None:
    """Removes a file or folder if it is there; what cannot be removed stays, the error that matters is another."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def table_separator(path: str | Path) -> str:
    """What stands between the cells of a table with this name: a comma in .csv, a tab in .tsv; .gz may follow.

    Raises:
        InputError: another ending, which would promise another format, or a link and its file that promise two.
    """
    text = str(path)
    if not text or text.endswith(os.sep):
        raise InputError(
            f"{argument('out')} {text or repr(text)}: is no name of a file; give one that ends in .csv or .tsv"
        )
    suffix, _ = table_format(path)
    if suffix not in TABLE_SUFFIXES and not is_stream(path):
        raise InputError(f"{path}: cannot be written as {suffix}; the name must end in .csv, .tsv, .csv.gz or .tsv.gz")
    if os.path.islink(path) and not is_stream(path):
        real = os.path.realpath(path)
        if table_format(real) != table_format(path) and "" not in (table_format(real)[0], suffix):
            raise InputError(
                f"{path}: is a symbolic link to {real}, whose name promises another format; give that name"
            )
    return TABLE_SUFFIXES.get(suffix, ",")


def table_format(path: str | Path) -> tuple[str, bool]:
    """The ending of a name without .gz, and whether it has .gz; of a link without an ending, those of its file."""
    name = Path(path).name.lower()
    if "." not in name and os.path.islink(path) and not is_stream(path):
        name = Path(os.path.realpath(path)).name.lower()
    return Path(name.removesuffix(".gz")).suffix, name.endswith(".gz")


@contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """A text file (gzip if the name ends in .gz) that appears under its name only when it is complete.

    "-" is standard output; that, a pipe or a device is written through.
    """
    if is_stream(path):
        with _stream(path) as file:
            yield file
        return
    with atomic_path(path) as unfinished:
        with _text(open(unfinished, "wb"), path) as file:
            yield file


@contextmanager
def _stream(path: str | Path) -> Iterator[IO[str]]:
    number = _open_number(str(path))
    try:
        raw = open(path, "wb") if number is None else open(os.dup(number), "wb")  # as it is, not from its beginning
        with _text(raw, path) as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _open_number(path: str) -> int | None:
    """The number of the open file that a path stands for, or None."""
    match = OPEN_FILE.fullmatch("/dev/stdout" if path == "-" else path)
    if match is None:
        return None
    number = int(match[2]) if match[2] else {"in": 0, "out": 1, "err": 2}[match[1]]
    stream = {1: sys.stdout, 2: sys.stderr}.get(number)
    if stream is not None:
        stream.flush()
    return number


@contextmanager
def _text(raw: BinaryIO, path: str | Path) -> Iterator[IO[str]]:
    """Text for an open file, packed if the name says so; a name that is no Unicode is written as its escapes."""
    with raw, ExitStack() as stack:
        packed = table_format(path)[1]
        target: Any = stack.enter_context(gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6)) if packed else raw
        yield stack.enter_context(io.TextIOWrapper(target, encoding="utf-8", newline="", errors="backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON; NaN and infinities, which JSON lacks, are an error of the caller."""
    with atomic_text(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
