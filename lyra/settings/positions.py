"""Positions of a sequence as people write them: 10-60,72, in a numbering of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..errors import InputError, argument, shorten

Positions = str | Sequence[int] | None  # None is all of them
RANGE = re.compile(r"\s*(-?\d+)(?:\s*-\s*(-?\d+))?\s*")


def ranges(name: str, positions: Positions) -> list[tuple[int, int]] | None:
    """Positions, the value of the argument `name`, as (first, last) pairs in the caller's numbering.

    Raises:
        InputError: they are not written like 10-60,72.
    """
    if positions is None:
        return None
    if not isinstance(positions, str):
        return [(int(number), int(number)) for number in positions]
    found = []
    for piece in positions.split(","):
        match = RANGE.fullmatch(piece)
        if match is None:
            raise InputError(
                f"{argument(name)} {shorten(positions)}: {shorten(piece)} is no position and no range; write it like "
                "10-60,72"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(
                f"{argument(name)} {shorten(positions)}: {first}-{last} runs backwards; write {last}-{first}"
            )
        found.append((first, last))
    return found


def sites(name: str, positions: Positions, offset: int, length: int, where: str) -> np.ndarray:
    """Indices, from 0, of positions in a sequence; sorted, each once.

    Args:
        offset: the number of the sequence's first residue.
        where: what messages call the sequence.

    Raises:
        InputError: a position that the sequence does not have.
    """
    found = ranges(name, positions)
    if found is None:
        return np.arange(length)
    for ends in found:
        for position in ends:
            site(name, position, offset, length, where)
    spans = [np.arange(first, last + 1) - offset for first, last in found]
    return np.unique(np.concatenate(spans)) if spans else np.arange(0)


def site(name: str, position: int, offset: int, length: int, where: str) -> int:
    """The index, from 0, of one position; an InputError that names the argument if there is none."""
    if not 0 <= position - offset < length:
        raise InputError(
            f"{argument(name)} {position}: {where} has positions {offset} to {offset + length - 1}; choose among "
            f"them, or give {argument('offset')}, the number of the first"
        )
    return position - offset
