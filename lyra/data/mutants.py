"""Sequences from mutation lists such as A24G:T30K (ProteinGym's notation)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..alphabets import to_bytes
from ..errors import InputError, shorten

MUTATION = re.compile(r"([A-Za-z*])(\d+)([A-Za-z*\-])")
WILD_TYPE_NAMES = frozenset({"", "wt", "_wt", "wildtype", "wild-type", "wild_type"})


def apply_mutations(mutant: str, wild_type: str, offset: int = 1) -> str:
    """The wild type with the mutations applied.

    Args:
        mutant: mutations joined by ':' (or ','), each old letter, position, new letter; "" or "WT" for none.
        wild_type: the sequence that is mutated.
        offset: the number of the wild type's first residue.

    Raises:
        ValueError: notation, position or wild-type letter is wrong; the message says which.
    """
    if mutant.strip().lower() in WILD_TYPE_NAMES:
        return wild_type
    letters = list(wild_type)
    for mutation in re.split(r"[:,]", mutant.strip()):
        match = MUTATION.fullmatch(mutation.strip())
        if match is None:
            raise ValueError(f"{shorten(mutation)} is no mutation; write it like A24G, several joined by ':'")
        old, position, new = match[1], int(match[2]) - offset, match[3]
        if not 0 <= position < len(wild_type):
            raise ValueError(
                f"{mutation} is outside the wild type, which has residues {offset} to "
                f"{offset + len(wild_type) - 1}; "
                "check --offset (the number of its first residue)"
            )
        if wild_type[position].upper() != old.upper():
            raise ValueError(f"{mutation} starts from {old}, but residue {match[2]} of the wild type is "
                             f"{wild_type[position]}; check --wild-type and --offset")  # fmt: skip
        letters[position] = new
    return "".join(letters)


def matching_offsets(mutants: Iterable[str], wild_type: str) -> list[int]:
    """Every offset under which all mutations start from the wild type's own letters."""
    wanted = {(match[2], match[1].upper()) for mutant in mutants for match in [*MUTATION.finditer(mutant)]}
    if not wanted:
        return []
    positions = np.array([int(position) for position, _ in wanted])
    letters = np.frombuffer(to_bytes("".join(letter for _, letter in wanted)), dtype=np.uint8)
    wild = np.frombuffer(to_bytes(wild_type.upper()), dtype=np.uint8)
    first, last = int(positions.max()) - len(wild_type) + 1, int(positions.min())
    return [offset for offset in range(first, last + 1) if (wild[positions - offset] == letters).all()]


def mutated_sequences(mutants: Iterable[tuple[int, str]], wild_type: str, offset: int, where: str) -> list[str]:
    """Sequences of (row, mutant) pairs.

    Raises:
        InputError: the first bad row, with the offset that would fit if there is exactly one.
    """
    pairs = list(mutants)
    sequences = []
    for row, mutant in pairs:
        try:
            sequences.append(apply_mutations(mutant, wild_type, offset))
        except ValueError as error:
            fits = matching_offsets((text for _, text in pairs), wild_type)
            hint = f" (every row fits --offset {fits[0]})" if len(fits) == 1 else ""
            raise InputError(f"{where.format(row=row)}: {error}{hint}") from None
    return sequences
