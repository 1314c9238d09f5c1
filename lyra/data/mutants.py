"""Sequences from mutation lists such as A24G:T30K, in the notations that people use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..alphabets import to_bytes
from ..errors import InputError, argument, shorten

WILD_TYPE_NAMES = frozenset({"", "wt", "_wt", "wildtype", "wild-type", "wild_type", "wild type", "=", "p.=", "p.(=)"})
SEPARATOR = re.compile(r"\s*[:,;/+|]\s*|\s+")
MUTATION = re.compile(r"([A-Za-z*])(-?\d{1,9})([A-Za-z*\-])")
HGVS = re.compile(r"([A-Z][a-z]{2}|[A-Z*])(\d{1,9})([A-Z][a-z]{2}|[A-Z*=])")
LISTS = (re.compile(r"\[(.+)\]"), re.compile(r"\(([^()]+)\)"))  # what may stand around all mutations of a cell
THREE_LETTERS = {
    "Ala": "A", "Arg": "R", "Asn": "N", "Asp": "D", "Cys": "C", "Gln": "Q", "Glu": "E", "Gly": "G", "His": "H",
    "Ile": "I", "Leu": "L", "Lys": "K", "Met": "M", "Phe": "F", "Pro": "P", "Ser": "S", "Thr": "T", "Trp": "W",
    "Tyr": "Y", "Val": "V", "Ter": "*", "Sec": "U", "Pyl": "O", "Xaa": "X",
}  # fmt: skip


class Mutation(NamedTuple):
    """One substitution: what stands there, its number, what takes its place (the same letter for none)."""

    old: str
    position: int
    new: str


def parse_mutations(text: str) -> list[Mutation]:
    """The substitutions of a cell; none for the wild type.

    Takes A24G, several joined by one of : , ; / + | or space, and HGVS's protein notation: p.Ala24Gly, p.(A24G),
    p.A24=, p.Trp24Ter, p.[Ala24Gly;Asn40Asp].

    Raises:
        ValueError: anything else, such as a deletion, or two mutations at one position.
    """
    text = text.strip()
    if text.lower() in WILD_TYPE_NAMES:
        return []
    inner = text.removeprefix("p.")
    for around in LISTS if text.startswith("p.") else ():
        if match := around.fullmatch(inner):
            inner = match[1]
    places: dict[int, str] = {}
    mutations = []
    for piece in SEPARATOR.split(inner):
        mutation = _parse_one(piece)
        mutations.append(mutation)
        if mutation.position in places:
            raise ValueError(
                f"{shorten(places[mutation.position])} and {shorten(piece)} are two mutations at one position; give one"
            )
        places[mutation.position] = piece
    return mutations


def _parse_one(piece: str) -> Mutation:
    plain = piece.removeprefix("p.")
    if plain.startswith("(") and plain.endswith(")"):
        plain = plain[1:-1]
    if match := HGVS.fullmatch(plain):
        old, new = (THREE_LETTERS.get(letters, letters) for letters in (match[1], match[3]))
        if len(old) == len(new) == 1:
            return Mutation(old, int(match[2]), old if new == "=" else new)
    if match := MUTATION.fullmatch(piece):
        return Mutation(match[1], int(match[2]), match[3])
    raise ValueError(f"{shorten(piece)} is no mutation; write it like A24G (substitutions only), several joined by ':'")


def apply_mutations(mutant: str, wild_type: str, offset: int = 1) -> str:
    """The wild type with the mutations applied.

    Args:
        mutant: see `parse_mutations`.
        wild_type: the sequence that is mutated.
        offset: the number of the wild type's first residue.

    Raises:
        ValueError: notation, position or wild-type letter is wrong; the message says which.
    """
    letters = list(wild_type)
    for old, number, new in parse_mutations(mutant):
        position, named = number - offset, f"{old}{number}{new}"
        if not 0 <= position < len(wild_type):
            raise ValueError(
                f"{named} is outside the wild type, which has residues {offset} to {offset + len(wild_type) - 1}; "
                f"check {argument('offset')} (the number of its first residue)"
            )
        if wild_type[position].upper() != old.upper():
            raise ValueError(f"{named} starts from {old}, but residue {number} of the wild type is "
                             f"{wild_type[position]}; check {argument('wild_type')} and "
                             f"{argument('offset')}")  # fmt: skip
        if new.upper() != old.upper():
            letters[position] = new
    return "".join(letters)


def matching_offsets(mutants: Iterable[str], wild_type: str) -> list[int]:
    """Every offset under which all mutations start from the wild type's own letters."""
    wanted = set()
    for mutant in mutants:
        try:
            wanted |= {(mutation.position, mutation.old.upper()) for mutation in parse_mutations(mutant)}
        except ValueError:
            return []
    if not wanted:
        return []
    positions = np.array([position for position, _ in wanted])
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
            hint = f" (every row fits {argument('offset', fits[0])})" if len(fits) == 1 else ""
            raise InputError(f"{where.format(row=row)}: {error}{hint}") from None
    return sequences
