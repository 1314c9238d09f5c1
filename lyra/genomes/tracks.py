"""One number a base or a window, in a BigWig file: what genome browsers draw."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, argument, refuse_without_effect, shorten
from ..files import atomic_path, is_stream
from ..packages import optional
from ..prediction import Predictor

Interval = tuple[str, int, int, float]  # record, start, end (from 0, the end left out), value
SUFFIXES = (".bw", ".bigwig")


def is_bigwig(out: str | Path) -> bool:
    """Whether a file to write is a BigWig, by its name."""
    return str(out).lower().endswith(SUFFIXES) and not is_stream(out)


def track_of(predictor: Predictor, class_name: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """From predictions (...) or (..., classes) to the numbers of a track: the value, or the probability of a class.

    Of several targets (..., T) those of one.

    Raises:
        InputError: no class is named, or there is none of that name.
    """
    classes = predictor.targets.classes or predictor.targets.names
    if not classes:
        refuse_without_effect(
            [] if class_name is None else ["class_name"], ["class_name"], "the model predicts numbers"
        )
        return lambda prediction: prediction
    names = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    if class_name is None:
        raise InputError(f"a BigWig holds the probability of one class; give {argument('class_name')}, one of: {names}")
    if class_name not in classes:
        raise InputError(f"{argument('class_name')} {shorten(class_name)}: is no class of the model; it has {names}")
    index = classes.index(class_name)
    return lambda prediction: prediction[..., index]


def write_bigwig(out: str | Path, sizes: dict[str, int], intervals: Iterable[Interval]) -> None:
    """Writes a BigWig file, whole or not at all, as the intervals come.

    Args:
        sizes: the length of each record of the genome.
        intervals: record by record, in order of their starts, none over another.

    Raises:
        InputError: it cannot be written; whatever the intervals raise while they are made.
    """
    bigtools = optional("pybigtools", "a BigWig file")
    covered = 0
    failure: BaseException | None = None

    def watched() -> Iterator[Interval]:
        """The library swallows what an iterator raises."""
        nonlocal covered, failure
        try:
            for interval in intervals:
                covered += interval[2] - interval[1]
                yield interval
        except GeneratorExit:  # the library has had enough
            raise
        except BaseException as error:
            failure = error

    with atomic_path(out) as unfinished:
        named = unfinished.with_name(unfinished.name + ".bw")  # the library goes by the ending
        try:
            try:
                bigtools.open(str(named), "w").write(sizes, watched())
            except Exception as error:
                if failure is None:
                    raise InputError(f"{out}: cannot be written: {error}") from None
            if failure is not None:
                raise failure
            if covered == 0:
                raise InputError(f"{out}: there is nothing to write, no window was predicted")
            if _bases(bigtools, named) != covered:  # so it tells of a full disk, and of intervals that it refused
                raise InputError(f"{out}: cannot be written whole; is there space on the disk?")
            os.replace(named, unfinished)
        finally:
            with suppress(OSError):
                named.unlink()


def _bases(bigtools: Any, path: Path) -> int:
    """How many bases have a value in a BigWig; -1 if it is none."""
    try:
        return int(bigtools.open(str(path)).info()["summary"]["basesCovered"])
    except bigtools.BBIReadError:
        return -1
