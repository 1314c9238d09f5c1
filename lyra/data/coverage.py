"""What a model was trained on, and where new sequences are something else."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..alphabets import PROTEIN, Alphabet
from .guesses import count_letters, judge_letters

MAPPED = 2000  # letters of a sequence up to which each position is looked at
FAR = 2  # times shorter or longer than any training sequence is far outside
ENOUGH = 20  # letters that tell nucleotides from amino acids
NUCLEOTIDES = re.compile(rf"[ACGTUNacgtun.-]{{{ENOUGH},}}")


@dataclass(frozen=True)
class Coverage:
    """The training sequences in short; part of a model's metadata.

    Attributes:
        letters: those that occurred, the unknown letter included.
        shortest, longest: their lengths.
        positions: of sequences of one length, not longer than `MAPPED`, the letters that occurred at each position.
    """

    letters: str
    shortest: int
    longest: int
    positions: list[str] | None = None

    @classmethod
    def of(cls, tokens: np.ndarray, lengths: np.ndarray, alphabet: Alphabet) -> Coverage:
        """That of sequences: their tokens end to end, and their lengths (N,)."""
        if 0 < lengths.min() == lengths.max() <= MAPPED:
            columns = tokens.reshape(len(lengths), -1).T
            positions = [alphabet.decode(np.unique(column)) for column in columns]
        else:
            positions = None
        return cls(alphabet.decode(np.unique(tokens)), int(lengths.min()), int(lengths.max()), positions)

    def novelty(self, tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray, alphabet: Alphabet,
                first: int = 1) -> list[str]:  # fmt: skip
        """What each sequence has that training never had, such as "length 54" and "W39"; "" if nothing.

        Args:
            tokens, starts, lengths: of the sequences, which lie in `tokens` from `starts` (N,) on.
            first: the number of the first position.
        """
        found: list[list[str]] = [[] for _ in starts]
        for row in np.flatnonzero((lengths < self.shortest) | (lengths > self.longest)):
            found[row].append(f"length {lengths[row]}")
        known = np.array([letter in self.letters for letter in [*alphabet.letters, alphabet.unknown]])
        seen: np.ndarray | None = None
        if self.positions is not None:
            letters = [*alphabet.letters, alphabet.unknown]
            seen = np.array([[letter in here for letter in letters] for here in self.positions])
        for at, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            own = tokens[start : start + length].astype(np.int64)  # an unknown letter, -1, is the last column
            here = known[own] if seen is None or length != len(seen) else seen[np.arange(length), own]
            found[at] += [f"{alphabet.decode([own[i]])}{i + first}" for i in np.flatnonzero(~here)]
        return ["; ".join(reasons) for reasons in found]


class Strangers:
    """Watches sequences for what a model never saw in training."""

    def __init__(self, alphabet: Alphabet, coverage: Coverage | None) -> None:
        """`coverage` None, as in models of earlier versions, watches the kind of sequence alone."""
        self.alphabet, self.coverage = alphabet, coverage
        self.letters = np.zeros(26, dtype=np.int64)
        self.unseen: dict[str, tuple[int, int]] = {}  # letter: how often, first row
        self.nucleic: tuple[int, int] = (0, 0)  # how many sequences of nucleotides, first row
        self.odd: dict[str, tuple[int, int, int]] = {}  # "shorter" or "longer": how many, first row, its length

    def watch(self, sequences: list[str], rows: list[int], tokens: np.ndarray, offsets: np.ndarray) -> None:
        """Takes sequences, their row numbers, and their encoding."""
        self.watch_letters(sequences, rows, tokens, offsets)
        self.watch_lengths(rows, np.diff(offsets))

    def watch_letters(self, sequences: list[str], rows: list[int], tokens: np.ndarray, offsets: np.ndarray) -> None:
        """Takes sequences, or pieces of them."""
        self.letters += count_letters(sequences)
        if self.alphabet.name == PROTEIN.name:
            these = [row for row, text in zip(rows, sequences, strict=True) if NUCLEOTIDES.fullmatch(text)]
            self.nucleic = self.nucleic[0] + len(these), self.nucleic[1] or (these[0] if these else 0)
        if self.coverage is None or not rows:
            return
        for token in np.unique(tokens):
            letter = self.alphabet.decode([int(token)])
            if letter not in self.coverage.letters:
                at = np.flatnonzero(tokens == token)
                row = rows[int(np.searchsorted(offsets, at[0], side="right")) - 1]
                count, first = self.unseen.get(letter, (0, row))
                self.unseen[letter] = count + len(at), first

    def watch_lengths(self, rows: list[int], lengths: np.ndarray) -> None:
        if self.coverage is None:
            return
        outside = {
            "shorter": np.flatnonzero(lengths * FAR < self.coverage.shortest),
            "longer": np.flatnonzero(lengths > self.coverage.longest * FAR),
        }
        for what, found in outside.items():
            if len(found):
                count, row, length = self.odd.get(what, (0, rows[found[0]], int(lengths[found[0]])))
                self.odd[what] = count + len(found), row, length

    def warnings(self) -> list[str]:
        """One line for each way in which the sequences are not what the model knows."""
        found = []
        trained = judge_letters(count_letters([self.coverage.letters]))[0] if self.coverage else self.alphabet
        kind, reason = judge_letters(self.letters)
        if self.alphabet.name != PROTEIN.name and kind is PROTEIN and self.letters.sum() >= ENOUGH:
            name = self.alphabet.name.upper()
            found.append(f"these look like proteins ({reason}), and the model was trained on {name}")
        count, row = self.nucleic
        if count and (trained is None or trained.name == PROTEIN.name):
            which = (
                f"{count:,} sequences, the first in row {row}, look"
                if count > 1
                else f"the sequence in row {row} looks"
            )
            found.append(f"{which} like nucleotides, and the model was trained on proteins; translate them first")
        for letter, (count, row) in self.unseen.items():
            times = f"{count:,} times, first" if count > 1 else "once,"
            found.append(f"letter {letter} never occurred in training; it is here {times} in row {row}")
        for what, (count, row, length) in self.odd.items():
            assert self.coverage is not None
            many = f"{count:,} sequences are" if count > 1 else "a sequence is"
            found.append(
                f"{many} far {what} than those of training ({self.coverage.shortest:,} to {self.coverage.longest:,} "
                f"letters), such as row {row} with {length:,}"
            )
        return found
