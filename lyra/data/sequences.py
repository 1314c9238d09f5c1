"""The sequences of a table: where they stand, how they are checked and encoded, and when two are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from .. import alphabets
from ..alphabets import INVALID, Alphabet
from ..errors import InputError, argument, shorten
from . import guesses, mutants, targets
from .guesses import find_column
from .mutants import mutated_sequences
from .tables import listed
from .tasks import LABEL_SEPARATORS, count_labels

ALL_THREE_LETTERS = re.compile(f"(?:{'|'.join(mutants.THREE_LETTERS)}){{2,}}")


@dataclass(frozen=True)
class Origin:
    """Where sequences come from: a column of them, or mutations of a wild type.

    Attributes:
        wild_type: what the mutations refer to; offset: the number of its first residue.
    """

    column: str
    mutant: bool = False
    wild_type: str | None = None
    offset: int = 1


@dataclass(frozen=True)
class TableSource(Origin):
    """The columns of a labelled table, and what its mutations refer to.

    Attributes:
        target: the column of targets; split, val_column: those that said which rows are the test and the validation
            part, or None.
    """

    target: str = ""
    split: str | None = None
    val_column: str | None = None


def find_origin(
    columns: Sequence[str],
    where: object,
    *,
    sequence: str | None,
    mutant: str | None,
    wild_type: str | None,
    offset: int,
) -> Origin:
    """The column of sequences, or, with a wild type or `mutant`, that of mutations.

    Raises:
        InputError: there is none, or mutations without a wild type.
    """
    if mutant is None and (sequence is not None or wild_type is None):
        column = find_column(columns, where, sequence, guesses.SEQUENCE)
        if column is not None:
            return Origin(column)
    column = find_column(columns, where, mutant, guesses.MUTANT)
    if column is None and wild_type is not None:
        raise InputError(
            f"{where}: {argument('wild_type')} has no effect without a column of mutations (looked for "
            f"{guesses.MUTANT.all_names}); name it with {argument('mutant')}, or leave {argument('wild_type')} out"
        )
    if column is None:
        raise InputError(
            f"{where}: no sequence column (looked for {guesses.SEQUENCE.all_names} and {guesses.MUTANT.all_names}); "
            f"name it with {argument('sequence')}, one of: {listed(columns)}"
        )
    if wild_type is None:
        raise InputError(
            f"{where}, column {column}: mutations need the sequence they refer to; give {argument('wild_type')} "
            f"SEQUENCE (and {argument('offset')}, the number of its first residue), or {argument('sequence', column)} "
            "if these are whole sequences"
        )
    return Origin(column, True, wild_type, offset)


def read_sequences(table: pd.DataFrame, where: object, origin: Origin) -> list[str]:
    """The sequences of the rows.

    Raises:
        InputError: a cell is empty, or holds no mutations of the wild type; names the row.
    """
    absent = missing_sequences(table[origin.column], origin)
    if absent.any():
        row, cell = table.index[absent.argmax()], table[origin.column].iloc[int(absent.argmax())].strip()
        what = ("mutation" if origin.mutant else "sequence") + (
            f" is missing ({shorten(cell)})" if cell else " is empty"
        )
        remedy = "write WT for the wild type, or remove the row" if origin.mutant else "fill it in or remove the row"
        raise InputError(f"{where}, row {row}, column {origin.column}: the {what}; {remedy}")
    cells = table[origin.column].str.strip().tolist()
    if origin.mutant:
        assert origin.wild_type is not None
        place = f"{where}, row {{row}}, column {origin.column}"
        return mutated_sequences(zip(table.index, cells, strict=True), origin.wild_type, origin.offset, place)
    if cells and all(map(ALL_THREE_LETTERS.fullmatch, cells)):
        raise InputError(
            f"{where}, row {table.index[0]}, column {origin.column}: {shorten(cells[0])} is written in three-letter "
            "codes; write one letter for each residue"
        )
    return cells


def missing_sequences(cells: pd.Series, origin: Origin) -> np.ndarray:
    """(N,) bool, cells without a sequence: empty, gaps alone, or a word for "missing" where no other is as short."""
    texts = cells.str.strip().tolist()
    words = [not text.strip("-.*") or text.lower() in targets.MISSING for text in texts]
    if origin.mutant or not any(words):
        return np.array([not text for text in texts], dtype=bool)
    lengths = {len(text) for text, word in zip(texts, words, strict=True) if not word}
    return np.array(
        [word and (not text.strip("-.*") or len(text) not in lengths) for text, word in zip(texts, words, strict=True)],
        dtype=bool,
    )


def check_mutations_unused(table: pd.DataFrame, where: object, sequences: list[str]) -> None:
    """Raises InputError where sequences repeat with other mutations: wild types, whose mutations would be lost."""
    mutant = find_column(table.columns, where, None, guesses.MUTANT)
    if mutant is None:
        return
    pairs = set(zip(sequences, table[mutant], strict=True))
    if 2 * len(set(sequences)) <= len(pairs):
        raise InputError(
            f"{where}: sequences repeat while column {mutant} differs: are these wild types? give mutated sequences, "
            f"or {argument('mutant', mutant)} and the one {argument('wild_type')}, or {argument('sequence')} to take "
            "the sequences as they are"
        )


def choose_alphabet(
    name: str | None, sequences: Sequence[str], where: object, rows: Sequence[int] | None = None
) -> tuple[Alphabet, str]:
    """The alphabet given, or the one that the letters speak for and why."""
    if name is None:
        return guesses.guess_alphabet(sequences, where, rows)
    return alphabets.ALPHABETS[name.lower()], "as given"


def without_stop(sequence: str) -> str:
    """A protein without the '*' that a translation ends with."""
    return sequence[:-1] if sequence.endswith("*") and len(sequence) > 1 else sequence


def without_stops(
    sequences: list[str], alphabet: Alphabet, cells: list[str], warn: Callable[[str], None], where: object
) -> list[str]:
    """All proteins `without_stop`.

    Where a '*' stands inside of a sequence, too, it is a mutation, and all stay; so they do where every residue and the
    stop has a label in `cells`.
    """
    if alphabet.name != "protein":
        return sequences
    trimmed = list(map(without_stop, sequences))
    count = sum(map(len, sequences)) - sum(map(len, trimmed))
    if not count or any("*" in sequence for sequence in trimmed):
        return sequences
    counts = ({count_labels(cell, separator) for separator in LABEL_SEPARATORS} for cell in cells)
    if all(len(sequence) in count for sequence, count in zip(sequences, counts, strict=True)):
        return sequences
    warn(f"{where}: {count:,} sequences end in '*', a stop codon, which is taken off")
    return trimmed


def encode_checked(
    sequences: list[str], rows: pd.Index | Sequence[int], alphabet: Alphabet, on_invalid: str, path: object, column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens end to end, offsets, and which sequences were kept (all but those skipped).

    Raises:
        InputError: letters outside the alphabet while `on_invalid` is "error".
    """
    keep = np.ones(len(sequences), dtype=bool)
    tokens, offsets = alphabet.encode_many(sequences, unknown=on_invalid == "unknown")
    bad = np.flatnonzero(tokens == INVALID)
    if len(bad) == 0:
        return tokens, offsets, keep
    owners = np.unique(np.searchsorted(offsets, bad, side="right") - 1)
    if on_invalid == "error":
        first = int(owners[0])
        where = f"{path}, row {rows[first]}, column {column}"
        remedy = f"give another {argument('alphabet')}, or {argument('on_invalid')} skip or unknown"
        raise letter_error(where, sequences[first], int(bad[0] - offsets[first]), alphabet, remedy)
    keep[owners] = False
    return *select(tokens, offsets, keep), keep


def select(tokens: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens end to end and offsets of the sequences to keep."""
    lengths = np.diff(offsets)
    return tokens[np.repeat(keep, lengths)], np.concatenate([[0], np.cumsum(lengths[keep])])


def letter_error(
    where: str, sequence: str, position: int, alphabet: Alphabet, remedy: str, before: int = 0
) -> InputError:
    """The error of a letter outside the alphabet; `position` counts from 0, the message from 1.

    `before`: how many letters come before the sequence, where it is a piece of another.
    """
    return InputError(
        f"{where}: letter {shorten(sequence[position])} at position {before + position + 1} is not in the "
        f"{alphabet.name} alphabet {alphabet.describe()}; correct it, {remedy}"
    )


def read_keys(tokens: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """What makes two sequences one: that the model reads the same (in any case, U as T, '.' as '-')."""
    raw = np.ascontiguousarray(tokens).tobytes()
    ends = offsets.tolist()
    return [raw[start:stop] for start, stop in pairwise(ends)]
