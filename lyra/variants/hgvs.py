"""Sequences from HGVS strings: substitutions, deletions, insertions and duplications in the MAVE-HGVS subset.

Substitutions of proteins are read as everywhere in Lyra (A24G:D40N too); the rest is parsed by the package mavehgvs.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..alphabets import PROTEIN, Alphabet
from ..data.mutants import THREE_LETTERS, WILD_TYPE_NAMES, apply_mutations, parse_mutations
from ..errors import argument, shorten
from ..packages import optional

ACCESSION = re.compile(r"[^\s:]+:(?=[cgmnopr]\.)")
PREFIX = re.compile(r"([cgmnopr])\.")
SYNONYMOUS = "_sy"  # Enrich2's name for all synonymous variants together
TRIPLET = re.compile(r"[A-Z][a-z]{2}")


class Edit(NamedTuple):
    """The letters from index `start` up to before `stop` give way to `new`."""

    start: int
    stop: int
    new: str


def apply_hgvs(text: str, wild_type: str, offset: int, alphabet: Alphabet) -> str:
    """The wild type with a variant applied.

    Takes p.Ala24Gly, p.A24G, p.(Ala24Gly), p.[Ala24Gly;Asn40del], p.=, p.Trp5Ter for proteins (the stop is a letter
    '*' there, what follows stays, as in tables of mutants), and c., n., g., m., o. and r. for DNA and RNA; also A24G,
    several joined by ':'. An accession in front (NP_1.1:p.Ala24Gly) is left out of account.

    Args:
        offset: the number of the wild type's first residue.

    Raises:
        ValueError: notation, position or the letter there is wrong, or what the string says has no sequence (frame
            shifts, introns); the message says which.
    """
    bare = ACCESSION.sub("", text.strip())
    kind = match[1] if (match := PREFIX.match(bare)) else ""
    protein = alphabet.name == PROTEIN.name
    if kind and protein != (kind == "p"):
        what, reads = ("residues of a protein", "nucleotides") if kind == "p" else ("nucleotides", "proteins")
        raise ValueError(
            f"{shorten(bare)} names {what}, and this model reads {reads}; choose another {argument('hgvs')}"
        )
    if not bare:
        raise ValueError("the cell is empty; write = for the wild type")
    if bare.lower() in WILD_TYPE_NAMES or (protein and bare == SYNONYMOUS):
        return wild_type
    if not kind or protein:
        try:
            parse_mutations(bare)
        except ValueError:  # more than substitutions
            if not kind:
                raise
        else:
            return apply_mutations(bare, wild_type, offset)
    return apply_edits(parse_edits(bare, wild_type, offset), wild_type)


def parse_edits(text: str, wild_type: str, offset: int) -> list[Edit]:
    """What a MAVE-HGVS string changes, by the package mavehgvs."""
    mavehgvs = optional("mavehgvs", f"reading {shorten(text)}")
    exceptions = optional("mavehgvs.exceptions", f"reading {shorten(text)}")
    try:
        whole = mavehgvs.Variant(text, relaxed_ordering=True)
        parts = [mavehgvs.Variant(part) for part in whole.components()] if whole.is_multi_variant() else [whole]
    except exceptions.MaveHgvsParseError as error:
        raise ValueError(
            f"{shorten(text)} is no MAVE-HGVS ({error}); write it like p.Ala24Gly or c.[12A>G;15del]"
        ) from None
    return [edit for part in parts for edit in edits_of(part, wild_type, offset)]


def edits_of(variant: Any, wild_type: str, offset: int) -> list[Edit]:
    """The one change of a variant that is not composed; none where it says that nothing changes."""
    name = shorten(str(variant))
    if variant.is_target_identical():
        return []
    if variant.variant_type == "fs":
        raise ValueError(f"{name} shifts the frame, and the residues behind it are not told")
    ends = variant.positions if isinstance(variant.positions, tuple) else (variant.positions,) * 2
    first, last = (find(end, name, wild_type, offset) for end in ends)
    new = variant.sequence
    if variant.variant_type == "sub":
        old, new = variant.sequence
        if letters(old) != wild_type[first] and not same_base(letters(old), wild_type[first]):
            raise ValueError(f"{name} starts from {letters(old)}, but {offset + first} of the wild type is "
                             f"{wild_type[first]}; check {argument('wild_type')} and {argument('offset')}")  # fmt: skip
    if variant.variant_type == "equal":
        return []
    if variant.variant_type == "ins":
        return [Edit(last, last, letters(new))]
    if variant.variant_type == "dup":
        return [Edit(last + 1, last + 1, wild_type[first : last + 1])]
    return [Edit(first, last + 1, "" if variant.variant_type == "del" else letters(new))]


def find(position: Any, name: str, wild_type: str, offset: int) -> int:
    """The index, from 0, of a position; a ValueError if the wild type does not have it, or another residue there."""
    if position.is_intronic() or position.is_utr():
        raise ValueError(
            f"{name} is in an intron or outside of the coding sequence, and the wild type has no such part"
        )
    site = position.position - offset
    if not 0 <= site < len(wild_type):
        raise ValueError(
            f"{name} is outside the wild type, which has residues {offset} to {offset + len(wild_type) - 1}; check "
            f"{argument('offset')} (the number of its first residue)"
        )
    if position.amino_acid is not None and letters(position.amino_acid) != wild_type[site]:
        raise ValueError(
            f"{name} names {position.amino_acid}{position.position}, but residue {position.position} of the wild type "
            f"is {wild_type[site]}; check {argument('wild_type')} and {argument('offset')}"
        )
    return site


def letters(text: str) -> str:
    """One letter a residue: three-letter codes of a protein, or bases in capitals."""
    if TRIPLET.fullmatch(text[:3]):
        return "".join(THREE_LETTERS[code] for code in TRIPLET.findall(text))
    return text.upper()


def same_base(one: str, other: str) -> bool:
    """T and U are."""
    return {one, other} <= {"T", "U"}


def apply_edits(edits: list[Edit], wild_type: str) -> str:
    """The wild type with edits that do not overlap, as mavehgvs sees to."""
    for start, stop, new in sorted(edits, reverse=True):
        wild_type = wild_type[:start] + new + wild_type[stop:]
    return wild_type
