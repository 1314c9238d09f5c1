"""From a labelled table to encoded sequences, targets and parts, every cell checked on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import alphabets
from ..alphabets import INVALID, Alphabet
from ..errors import InputError, shorten
from . import splits, targets
from .mutants import mutated_sequences
from .tables import (
    MUTANT_COLUMNS,
    SEQUENCE_COLUMNS,
    SPLIT_COLUMNS,
    TARGET_COLUMNS,
    find_column,
    is_fasta,
    listed,
    read_single_sequence,
    read_table,
    require_column,
)
from .targets import Targets

ON_INVALID = ("error", "skip", "unknown")


@dataclass
class DataOptions:
    """How a table is read. Every column is found by its usual names when not given.

    Attributes:
        sequence, target, split, mutant: column names.
        wild_type: sequence (or FASTA file) that `mutant` refers to; offset: the number of its first residue.
        alphabet: "protein", "dna", "rna"; None detects it.
        task: "regression", "classification", "token"; None finds it from the target.
        on_invalid: letters outside the alphabet: "error", "skip" the row, or read as the "unknown" letter.
        val_fraction, test_fraction: sizes of the parts drawn with `seed` when no column gives them.
        deduplicate: keep one copy of each sequence.
    """

    sequence: str | None = None
    target: str | None = None
    split: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int = 1
    alphabet: str | None = None
    task: str | None = None
    on_invalid: str = "error"
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    deduplicate: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class LabelledData:
    """A labelled table, encoded.

    Attributes:
        table: the rows kept, as text cells, indexed by line number.
        sequences: their sequences.
        tokens, offsets: all tokens end to end and where each sequence begins.
        values: one target array per row.
        parts: "train", "val" or "test" per row.
        source: columns and wild type that a prediction on a similar file needs.
    """

    path: str
    table: pd.DataFrame
    sequences: list[str]
    tokens: np.ndarray
    offsets: np.ndarray
    values: list[np.ndarray]
    parts: np.ndarray
    alphabet: Alphabet
    targets: Targets
    source: dict[str, Any] = field(default_factory=dict)

    def rows(self, part: str) -> np.ndarray:
        """Row numbers (positions) of a part."""
        return np.flatnonzero(self.parts == part)


def load_labelled(path: str | Path, options: DataOptions, warn: Callable[[str], None] = warnings.warn) -> LabelledData:
    """Reads, checks, encodes and splits a labelled CSV or TSV.

    Raises:
        InputError: anything that a user can put right: one line with file, row (line number), column, remedy.
    """
    if options.on_invalid not in ON_INVALID:
        raise InputError(f"--on-invalid {shorten(options.on_invalid)}: must be one of {', '.join(ON_INVALID)}")
    if is_fasta(path):
        raise InputError(
            f"{path}: FASTA has no targets to train on; give a CSV or TSV with a sequence and a target column"
        )
    table = read_table(path)
    sequences, source = read_sequences(table, path, options)
    alphabet = choose_alphabet(options.alphabet, sequences)
    tokens, offsets, keep = encode_checked(sequences, table.index, alphabet, options.on_invalid, path, source["column"])
    if not keep.all():
        warn(
            f"{path}: skipped {int((~keep).sum())} of {len(keep)} rows that have letters outside the "
            f"{alphabet.name} alphabet"
        )
        table = table[keep]
        sequences = [sequence for sequence, kept in zip(sequences, keep, strict=True) if kept]
        if not sequences:
            raise InputError(f"{path}: no row is left; give the right --alphabet or --on-invalid unknown")

    column = require_column(table, path, options.target, TARGET_COLUMNS, "target", "--target")
    where = f"{path}, row {{row}}, column {column}"
    cells, rows, lengths = table[column].tolist(), table.index.tolist(), np.diff(offsets).tolist()
    found = targets.detect(cells, rows, lengths, where, options.task)
    values = found.values(cells, rows, lengths, where)

    parts, split_column = find_parts(table, path, sequences, options)
    keep = splits.find_duplicates(sequences, parts, options.deduplicate, warn, str(path))
    kept = np.flatnonzero(keep)
    data = LabelledData(
        path=str(path), table=table.iloc[kept], sequences=[sequences[i] for i in kept],
        tokens=tokens, offsets=offsets, values=[values[i] for i in kept], parts=parts[kept],
        alphabet=alphabet, targets=found, source=source | {"target": column, "split": split_column},
    )  # fmt: skip
    if len(kept) < len(sequences):
        data.tokens, data.offsets = alphabet.encode_many(data.sequences, unknown=True)
    check_parts(data)
    return data


def read_sequences(table: pd.DataFrame, path: str | Path, options: DataOptions) -> tuple[list[str], dict[str, Any]]:
    """Sequences from the sequence column, or from mutations of the wild type.

    Returns:
        the sequences, and {"column", "mutant": bool, "wild_type", "offset"} that says where they came from.
    """
    wild_type = read_single_sequence(options.wild_type) if options.wild_type else None
    column = None
    if options.mutant is None and (options.sequence is not None or wild_type is None):
        column = find_column(table, path, options.sequence, SEQUENCE_COLUMNS, "sequence", "--sequence")
    if column is not None:
        sequences = table[column].str.strip().tolist()
        for row, sequence in zip(table.index, sequences, strict=True):
            if not sequence:
                raise InputError(
                    f"{path}, row {row}, column {column}: the sequence is empty; fill it in or remove the row"
                )
        return sequences, {"column": column, "mutant": False}
    mutant = find_column(table, path, options.mutant, MUTANT_COLUMNS, "mutant", "--mutant")
    if mutant is None:
        raise InputError(
            f"{path}: no sequence column (looked for {', '.join(SEQUENCE_COLUMNS)} and "
            f"{', '.join(MUTANT_COLUMNS)}); "
            f"name it with --sequence, one of: {listed(table.columns)}"
        )
    if wild_type is None:
        raise InputError(
            f"{path}, column {mutant}: mutations need the sequence they refer to; give --wild-type SEQUENCE "
            "(and --offset, the number of its first residue)"
        )
    where = f"{path}, row {{row}}, column {mutant}"
    sequences = mutated_sequences(zip(table.index, table[mutant], strict=True), wild_type, options.offset, where)
    return sequences, {"column": mutant, "mutant": True, "wild_type": wild_type, "offset": options.offset}


def choose_alphabet(name: str | None, sequences: list[str]) -> Alphabet:
    if name is None:
        return alphabets.detect(sequences)
    if name.lower() not in alphabets.ALPHABETS:
        raise InputError(f"--alphabet {shorten(name)}: must be one of {', '.join(alphabets.ALPHABETS)}")
    return alphabets.ALPHABETS[name.lower()]


def encode_checked(
    sequences: list[str], rows: pd.Index, alphabet: Alphabet, on_invalid: str, path: str | Path, column: str
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
        remedy = "give another --alphabet, or --on-invalid skip or unknown"
        raise letter_error(where, sequences[first], int(bad[0] - offsets[first]), alphabet, remedy)
    keep[owners] = False
    kept = [sequence for sequence, wanted in zip(sequences, keep, strict=True) if wanted]
    return *alphabet.encode_many(kept), keep


def letter_error(where: str, sequence: str, position: int, alphabet: Alphabet, remedy: str) -> InputError:
    """The error of a letter outside the alphabet; `position` counts from 0, the message from 1."""
    return InputError(
        f"{where}: letter {shorten(sequence[position])} at position {position + 1} is not in the {alphabet.name} "
        f"alphabet {alphabet.describe()}; correct it, {remedy}"
    )


def find_parts(
    table: pd.DataFrame, path: str | Path, sequences: list[str], options: DataOptions
) -> tuple[np.ndarray, str | None]:
    """Parts from the split column, else drawn; a missing validation part is cut out of the training part."""
    column = find_column(table, path, options.split, SPLIT_COLUMNS, "split", "--split")
    if column is None:
        return splits.draw_parts(sequences, options.val_fraction, options.test_fraction, options.seed), None
    where = f"{path}, row {{row}}, column {column}"
    parts = splits.parts_from_column(table[column].tolist(), table.index.tolist(), where)
    return splits.add_validation(parts, sequences, options.val_fraction, options.seed), column


def check_parts(data: LabelledData) -> None:
    """Raises InputError if there is nothing to train on or to validate on."""
    for part, needed in (("train", "to train on"), ("val", "to choose the best epoch by")):
        if not (data.parts == part).any():
            remedy = "add rows" if data.source["split"] is None else f"mark rows in column {data.source['split']}"
            raise InputError(
                f"{data.path}: the {part} part is empty, there is nothing {needed}; {remedy} or change --val-fraction"
            )
    training = data.rows("train")
    values = np.concatenate([np.atleast_1d(data.values[i]) for i in training])
    if len(np.unique(values)) < 2:
        what = "class" if data.targets.classes else "value"
        raise InputError(
            f"{data.path}, column {data.source['target']}: the training part has one {what} only; there "
            "must be at least two"
        )
