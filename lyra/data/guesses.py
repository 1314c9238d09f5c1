"""The rules by which columns and the alphabet are guessed that a user did not say.

A rule looks at the whole table, gives its reason, and refuses where the evidence is thin: a wrong guess costs more than
a question. (The task's rules are in `tasks`, the separator's in `tables`, the encoding's in `sources`.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..alphabets import DNA, PROTEIN, RNA, Alphabet, to_bytes
from ..errors import InputError, argument, shorten
from .tables import listed

# --- columns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Role:
    """What a column may be for.

    Attributes:
        what, argument: how messages call it, and the argument that names the column.
        names: what such a column is usually called, in any case.
        weak: names that count only where none of `names` is there.
        ranked: whether an earlier name beats a later one; else two of them are a question.
    """

    what: str
    argument: str
    names: tuple[str, ...]
    weak: tuple[str, ...] = ()
    ranked: bool = False

    @property
    def article(self) -> str:
        return "an" if self.what[0] in "aeiou" else "a"

    @property
    def all_names(self) -> str:
        return ", ".join(self.names + self.weak)


SEQUENCE = Role("sequence", "sequence", ("seq", "sequence", "mutated_sequence"), ("x",))
TARGET = Role("target", "target", ("label", "labels", "DMS_score", "target", "score"), ("y",))
MUTANT = Role("mutant", "mutant", ("mutant", "mutants", "variant"), ranked=True)
SPLIT = Role("split", "split", ("set", "split"))
VALIDATION = Role("validation", "split", ("validation",))
NAME = Role("id", "", ("id", "name", "entry", "accession", *MUTANT.names), ranked=True)


def find_column(columns: Sequence[str], path: object, given: str | None, role: Role) -> str | None:
    """The column `given` by the user, else the one with a usual name.

    Raises:
        InputError: `given` is not a column, or two columns have usual names.
    """
    columns = list(columns)
    if given is not None and not given.strip():
        raise InputError(f"{path}: {argument(role.argument)} is empty; it must be one of: {listed(columns)}")
    if given is not None:
        if given.strip() not in columns:
            raise InputError(
                f"{path}: {role.what} column {shorten(given)} is missing; {argument(role.argument)} must be one of: "
                f"{listed(columns)}"
            )
        return given.strip()
    for names in (role.names, role.weak):
        found = [column for name in names for column in columns if column.lower() == name.lower()]
        if len(found) > 1 and not role.ranked:
            raise InputError(
                f"{path}: {len(found)} columns may be the {role.what} column: {listed(found)}; choose one with "
                f"{argument(role.argument)}"
            )
        if found:
            return found[0]
    return None


def require_column(columns: Sequence[str], path: object, given: str | None, role: Role) -> str:
    """`find_column`, with an error when nothing is found."""
    column = find_column(columns, path, given, role)
    if column is None:
        raise InputError(
            f"{path}: no {role.what} column (looked for {role.all_names}); name it with {argument(role.argument)}, "
            f"one of: {listed(columns)}"
        )
    return column


# --- alphabet --------------------------------------------------------------------------------------------------------

NUCLEIC = "ACGTUN"
AMBIGUOUS = "RYSWKMBDHVX"  # IUPAC codes for one of several nucleotides; most are amino acids, too
MOSTLY = 0.9  # share of ACGTUN from which letters are nucleotides whatever else is there
RARELY = 0.5  # share up to which they are amino acids; those of real proteins are about a quarter
LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)


def count_letters(sequences: Iterable[str]) -> np.ndarray:
    """(26,) how often each letter from A to Z occurs, upper and lower case together."""
    raw = np.frombuffer(to_bytes("".join(sequences)), dtype=np.uint8)
    counts = np.bincount(raw, minlength=256)
    return counts[LETTERS] + counts[LETTERS + 32]


def judge_letters(counts: np.ndarray) -> tuple[Alphabet | None, str]:
    """The alphabet that letters speak for and why; None where they do not say.

    RNA has U and no T; gaps, digits and other characters are no evidence.
    """
    seen = {chr(letter): int(count) for letter, count in zip(LETTERS, counts, strict=True) if count}
    total = sum(seen.values())
    nucleic = RNA if "U" in seen and "T" not in seen else DNA
    share = sum(count for letter, count in seen.items() if letter in NUCLEIC) / total if total else 1.0
    others = {letter: count for letter, count in seen.items() if letter not in NUCLEIC}
    foreign = {letter: count for letter, count in others.items() if letter not in AMBIGUOUS}
    if not others:
        return nucleic, f"letters {''.join(seen)}"
    if share >= MOSTLY and not foreign:
        return nucleic, f"{share:.1%} of the letters are ACGTUN; {', '.join(others)} as IUPAC codes"
    if share <= RARELY or (foreign and share < MOSTLY):
        telling = foreign or others
        return PROTEIN, f"{', '.join(list(telling)[:4])} are no nucleotides"
    if foreign:
        most = ", ".join(f"{letter} ({count:,} times)" for letter, count in list(foreign.items())[:4])
        return None, f"{share:.1%} of the letters are nucleotides, but {most} is none"
    return None, f"{share:.0%} of the letters are ACGTUN, the others IUPAC codes that are amino acids, too"


def guess_alphabet(
    sequences: Sequence[str], where: object = "sequences", rows: Sequence[int] | None = None
) -> tuple[Alphabet, str]:
    """The alphabet and the reason; `rows` are the sequences' line numbers, for the message.

    Raises:
        InputError: the letters do not say.
    """
    alphabet, reason = judge_letters(count_letters(sequences))
    if alphabet is None:
        if rows is not None:
            forms = (re.compile(rf"[^{NUCLEIC}{AMBIGUOUS}\W\d_]", re.I), re.compile(rf"[{AMBIGUOUS}]", re.I))
            places = ((row, found) for form in forms for row, text in zip(rows, sequences, strict=True)
                      if (found := form.search(text)))  # fmt: skip
            row, found = next(places)
            reason += f" (the first is {found[0]} in row {row}, position {found.start() + 1})"
        raise InputError(
            f"{where}: protein or nucleic acid? {reason}; correct the letters, or give {argument('alphabet')}"
        )
    return alphabet, reason
