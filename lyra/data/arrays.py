"""Labelled data and sequences from arrays in place of files: the same checks, parts and messages, rows from 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..alphabets import Alphabet
from ..errors import InputError, shorten
from ..settings.data import DataOptions
from . import targets
from .batches import SequenceDataset
from .coverage import Coverage, Strangers
from .divisions import Material
from .inputs import without_new_stops
from .labelled import change_scale, note_limits
from .loading import LabelledData, Rows, check_parts, encode_rows
from .sequences import Origin, TableSource, encode_checked, read_sequences
from .splits import find_duplicates, find_split
from .targets import Targets

SEQUENCES, TARGETS, GROUPS, PARTS = "X", "y", "groups", "part"  # columns of the table that the arrays make


@dataclass
class Arrays:
    """Sequences with their targets, each of which has one.

    Attributes:
        sequences: text; cells: the targets as a table would have them; values: those as `LabelledData` has them.
        targets: what there is to predict.
        rows: what messages call each row.
        validation: how many of the last rows are the validation part; 0 draws one.
        groups: of each row, or None.
        names: what the columns of sequences and targets are called.
        limits: whether some cells are limits, such as <0.5.
    """

    sequences: list[str]
    cells: list[str]
    values: list[np.ndarray]
    targets: Targets
    rows: Sequence[Hashable]
    validation: int = 0
    groups: Sequence[object] | None = None
    names: tuple[str, str] = (SEQUENCES, TARGETS)
    limits: bool = False

    def table(self) -> pd.DataFrame:
        """The arrays as text, one row each."""
        columns = {SEQUENCES: self.sequences, TARGETS: self.cells}
        if self.groups is not None:
            columns[GROUPS] = ["" if pd.isna(group) else str(group) for group in self.groups]  # type: ignore[call-overload]
        if self.validation:
            learning = len(self.sequences) - self.validation
            columns[PARTS] = ["train"] * learning + ["val"] * self.validation
        return pd.DataFrame(columns, index=pd.Index(list(self.rows), dtype=object))


def label_arrays(arrays: Arrays, options: DataOptions, warn: Callable[[str], None], where: str) -> LabelledData:
    """The arrays encoded, with a training and a validation part.

    Args:
        options: alphabet, letters outside it ("error" or "unknown"), how a validation part is drawn, and the scale on
            which numbers are learned.
        where: how messages call the arrays.

    Raises:
        InputError: anything that a user can put right: one line with the row and what would be right.
    """
    options = replace(options, test_fraction=0.0, group=None if arrays.groups is None else GROUPS,
                      split=PARTS if arrays.validation else None)  # fmt: skip
    options.check()
    rows = Rows(arrays.table(), values=arrays.values)
    alphabet, reason = encode_rows(rows, Origin(SEQUENCES), TARGETS, options, warn, where)
    found = arrays.targets
    if found.per_residue:
        check_residues(rows, where, "numbers" if found.numeric else "labels")
    material = Material(where, rows.table, rows.tokens, rows.offsets, alphabet, rows.values, found.classes,
                        column=SEQUENCES)  # fmt: skip
    split = find_split(material, options, warn)
    _, across = find_duplicates(material.keys, split.parts)
    if across:  # copies are drawn together, so these were handed in
        warn(
            f"{where}: {len(across):,} sequences, such as {shorten(rows.sequences[across[0]])}, stand in training and "
            "validation both, so scores are too good and the epoch that is kept is a late one; leave copies out"
        )
    rows.count.used = len(rows.table)
    guessed = [f"{alphabet.name} ({reason})"] if options.alphabet is None else []
    data = LabelledData(
        path=where, table=rows.table, sequences=rows.sequences, tokens=rows.tokens, offsets=rows.offsets,
        values=rows.values, parts=split.parts, alphabet=alphabet, targets=found,
        source=TableSource(SEQUENCES, target=TARGETS), rows_read=rows.count, guesses=[*guessed, *split.said],
        groups=split.groups,
    )  # fmt: skip
    if arrays.limits:
        note_limits(data)
    check_parts(data)
    if options.transform != "none":
        change_scale(data, options.transform)
    data.source = TableSource(arrays.names[0], target=arrays.names[1])
    classes = Counter(data.labels("train").tolist()) if found.classes else Counter()
    found.positive = targets.choose_positive(found, None, classes)
    return data


def check_residues(rows: Rows, where: str, what: str) -> None:
    """Raises InputError for a sequence that has not one label, or number, for each residue."""
    for row, values, length in zip(rows.table.index, rows.values, np.diff(rows.offsets).tolist(), strict=True):
        if len(values) != length:
            raise InputError(
                f"{where}, row {row}, column {TARGETS}: has {len(values)} {what} for a sequence of {length} residues; "
                "there must be one for each"
            )


def encode_array(
    sequences: list[str], alphabet: Alphabet, coverage: Coverage | None, on_invalid: str, where: str
) -> tuple[SequenceDataset, list[str]]:
    """Sequences as a model reads them, and what is to be said of those that are unlike its training.

    Raises:
        InputError: an empty sequence, or a letter outside the alphabet while `on_invalid` is "error".
    """
    table = pd.DataFrame({SEQUENCES: sequences})
    texts, stops = without_new_stops(read_sequences(table, where, Origin(SEQUENCES)), alphabet, coverage)
    tokens, offsets, _ = encode_checked(texts, table.index, alphabet, on_invalid, where, SEQUENCES)
    strangers = Strangers(alphabet, coverage)
    strangers.watch(texts, table.index.tolist(), tokens, offsets)
    said = [f"{stops:,} sequences end in '*', a stop codon, which is taken off"] if stops else []
    return SequenceDataset(tokens, offsets, np.arange(len(texts))), [
        f"{where}: {text}" for text in (*said, *strangers.warnings())
    ]
