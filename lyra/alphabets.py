"""Alphabets of biological sequences and their encoding to integer tokens.

A token is the index of a letter in `Alphabet.letters`, or UNKNOWN. Lower case (soft masking) reads as upper
case, U and T are the same letter in DNA and RNA, and IUPAC codes for "one of several" read as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

UNKNOWN = -1  # the token of an unknown residue; to the models it has no features at all
INVALID = -2  # what the look-up table holds for a byte that is no letter of the alphabet
COMPLEMENTS = {"dna": str.maketrans("ACGT", "TGCA"), "rna": str.maketrans("ACGU", "UGCA")}


@dataclass(frozen=True)
class Alphabet:
    """Letters, their order, and what else is read as one of them.

    Attributes:
        name: "protein", "dna" or "rna".
        letters: one character per token; token i is letters[i].
        unknown: the letter that stands for an unknown residue; it is not among `letters`.
        aliases: other characters, each with the letter that it reads as.
    """

    name: str
    letters: str
    unknown: str
    aliases: dict[str, str] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return len(self.letters)

    @cached_property
    def table(self) -> np.ndarray:
        """(256,) int8: byte -> token, INVALID where the byte is no letter."""
        table = np.full(256, INVALID, dtype=np.int8)
        tokens = {letter: i for i, letter in enumerate(self.letters)} | {self.unknown: UNKNOWN}
        tokens |= {alias: tokens[letter] for alias, letter in self.aliases.items()}
        for letter, token in tokens.items():
            table[ord(letter)] = token
            table[ord(letter.lower())] = token
        return table

    @cached_property
    def unknown_table(self) -> np.ndarray:
        """The same with every other byte read as unknown."""
        return np.maximum(self.table, UNKNOWN)

    def encode(self, sequence: str, *, unknown: bool = False) -> np.ndarray:
        """Tokens (L,) int8 of one sequence; INVALID at bad letters, or with `unknown` UNKNOWN."""
        raw = np.frombuffer(to_bytes(sequence), dtype=np.uint8)
        return (self.unknown_table if unknown else self.table)[raw]

    def encode_many(self, sequences: Sequence[str], *, unknown: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all sequences end to end, (sum L,) int8, and where each begins, (S + 1,) int64."""
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences)), out=offsets[1:])
        return self.encode("".join(sequences), unknown=unknown), offsets

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.letters[token] if token >= 0 else self.unknown for token in tokens)

    @cached_property
    def complement(self) -> np.ndarray | None:
        """(len(self),) int8: the token of each letter on the other strand, "-" as it is; None for a protein."""
        other = COMPLEMENTS.get(self.name)
        if other is None:
            return None
        return np.array([self.letters.index(letter.translate(other)) for letter in self.letters], dtype=np.int8)

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The other strand of one sequence (L,), from its own beginning; an unknown residue stays unknown.

        Raises:
            ValueError: a protein has none.
        """
        if self.complement is None:
            raise ValueError(f"a {self.name} sequence has no reverse complement")
        return np.append(self.complement, np.int8(UNKNOWN))[tokens[::-1]]  # UNKNOWN counts from the end

    def describe(self) -> str:
        """The letters as an error message lists them."""
        extra = "".join(sorted(set(self.aliases) - set(self.letters)))
        return self.letters + self.unknown + (f" (and {extra})" if extra else "")


def to_bytes(text: str) -> bytes:
    """One byte per character; characters beyond Latin-1, never letters of an alphabet, become '?'."""
    return text.encode("latin-1", "replace")


def _nucleic(name: str, letter: str, other: str) -> Alphabet:
    aliases = {other: letter, ".": "-"} | dict.fromkeys("RYSWKMBDHVX", "N")
    return Alphabet(name, f"ACG{letter}-", "N", aliases)


PROTEIN = Alphabet(
    "protein", "ACDEFGHIKLMNPQRSTVWY*-", "X", {"B": "X", "J": "X", "O": "X", "U": "X", "Z": "X", ".": "-"}
)
DNA = _nucleic("dna", "T", "U")
RNA = _nucleic("rna", "U", "T")
ALPHABETS = {alphabet.name: alphabet for alphabet in (PROTEIN, DNA, RNA)}
