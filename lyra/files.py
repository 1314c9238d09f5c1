"""Writing so that a file is either whole or absent under its final name.

Everything is written beside its destination and renamed at the end; an interrupt or a full disk leaves at
most nothing behind.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import InputError


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.unfinished")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` if the block ends without an error.

    Works for a file and for a folder; an older one under the same name is replaced.

    Raises:
        InputError: the system refuses to write (disk full, no permission); the message names `path`.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(unfinished)
        yield unfinished
        if path.is_dir():
            if not unfinished.is_dir():
                raise InputError(f"{path}: is a folder; give the name of a file")
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(unfinished, path)
            _remove(old)
        else:
            os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        _remove(unfinished)


def check_folder(out: Path, marker: str, overwrite: bool, advice: str) -> None:
    """Sees to it that a folder to write is absent, empty, or an earlier one of the same kind that may go.

    Args:
        marker: the file by which a folder of this kind is known.
        overwrite: whether an earlier one may be replaced; advice: what to do where it may not.

    Raises:
        InputError: `out` is a file, or a folder with other things in it.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out must name a folder")
    if out.is_dir() and any(out.iterdir()):
        ours = (out / marker).exists()
        if not (overwrite and ours):
            raise InputError(f"{out}: is not empty; {advice if ours else 'give another folder'}")


def _remove(path: Path) -> None:
    """Removes a file or folder if it is there; what cannot be removed stays, the error that matters is another."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def atomic_text(path: str | Path) -> Iterator[IO[str]]:
    """A text file (gzip if the name ends in .gz) that appears under its name only when it is complete."""
    with atomic_path(path) as unfinished:
        if str(path).endswith(".gz"):
            file: IO[str] = gzip.open(unfinished, "wt", encoding="utf-8", newline="", compresslevel=6)
        else:
            file = open(unfinished, "w", encoding="utf-8", newline="")
        with file:
            yield file


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON; NaN and infinities, which JSON lacks, are an error of the caller."""
    with atomic_text(path) as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
