"""From a labelled table to encoded sequences, targets and parts, every cell checked on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..alphabets import Alphabet
from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions, parse_separator
from . import guesses, targets
from .batches import IGNORED
from .coverage import Coverage
from .fasta import is_fasta
from .guesses import Target, require_column
from .rows import RowCount
from .sequences import (
    Origin,
    check_mutations_unused,
    choose_alphabet,
    encode_checked,
    find_origin,
    missing_sequences,
    read_keys,
    read_sequences,
    read_wild_type,
    select,
    without_stops,
)
from .sources import Source
from .splits import find_parts, settle_duplicates
from .tables import TableFile, listed, whole_table
from .targets import Targets


@dataclass
class LabelledData:
    """A labelled table, encoded.

    Attributes:
        table: the rows kept, as text cells, indexed by line number.
        sequences: their sequences.
        tokens, offsets: all tokens end to end and where each sequence begins.
        values: one target array per row.
        parts: "train", "val" or "test" of each row.
        source: where sequences and targets came from, and which columns said which part: "split", "val_column".
        rows_read: how many rows were used, and how many not; guesses: what was found that nobody said, with reasons.
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
    source: dict[str, Any]
    rows_read: RowCount = field(default_factory=RowCount)
    guesses: list[str] = field(default_factory=list)

    def rows(self, part: str) -> np.ndarray:
        """Positions of a part's rows."""
        return np.flatnonzero(self.parts == part)

    def labels(self, part: str) -> np.ndarray:
        """The targets of a part end to end, residues without a label left out."""
        values = [np.atleast_1d(self.values[i]) for i in self.rows(part)]
        flat = np.concatenate(values) if values else np.zeros(0)
        return flat[flat != IGNORED] if self.targets.task == "token" else flat

    def coverage(self) -> Coverage:
        """What the model will have seen."""
        tokens, offsets = select(self.tokens, self.offsets, self.parts == "train")
        return Coverage.of(tokens, np.diff(offsets), self.alphabet)


def load_labelled(path: str | Path | Source, options: DataOptions, warn: Callable[[str], None]) -> LabelledData:
    """Reads, checks, encodes and splits a labelled CSV or TSV.

    Raises:
        InputError: anything that a user can put right: one line with file, row (line number), column, remedy.
    """
    options.check()
    source = Source.of(path)
    if is_fasta(source):
        raise InputError(
            f"{source}: FASTA has no targets to train on; give a CSV or TSV with a sequence and a target column"
        )
    file = TableFile(source, parse_separator(options.separator))
    table = whole_table(file)
    count = RowCount()
    count.aside["without anything in them"] = file.blank
    guessed = [text for text in (source.remark, file.remark) if text]

    origin = find_origin(table.columns, source, options, read_wild_type(options.wild_type, warn))
    column = require_column(table.columns, source, options.target, guesses.TARGET)
    if options.target is None and column in guesses.TARGET.weak and "x" in table.columns and origin.column != "x":
        raise InputError(
            f"{source}: is column {column} the target or, beside x, a coordinate? say with {argument('target')}"
        )
    table = without_missing(table, column, options, source, count)
    if options.on_missing == "skip" and (absent := missing_sequences(table[origin.column], origin)).any():
        count.aside["without a sequence"] = int(absent.sum())
        table = table[~absent]
    sequences = read_sequences(table, source, origin)
    if not sequences:
        raise InputError(f"{source}: no row has a sequence and a target")
    if options.sequence is None and not origin.mutant:
        check_mutations_unused(table, source, sequences)
    alphabet, reason = choose_alphabet(options.alphabet, sequences, f"{source}, column {origin.column}", table.index)
    if not origin.mutant:
        sequences = without_stops(sequences, alphabet, table[column].tolist(), warn, source)
    tokens, offsets, keep = encode_checked(sequences, table.index, alphabet, options.on_invalid, source, origin.column)
    if not keep.all():
        count.aside[f"with letters outside the {alphabet.name} alphabet"] = int((~keep).sum())
        table, sequences = table[keep], [sequence for sequence, kept in zip(sequences, keep, strict=True) if kept]
        if not sequences:
            raise InputError(
                f"{source}: no row is left; give the right {argument('alphabet')} or "
                f"{argument('on_invalid', 'unknown')}"
            )

    found, values, why = read_targets(table, column, np.diff(offsets), options, source)
    if found.task == "token" and not (labelled := np.array([(value != IGNORED).any() for value in values])).all():
        count.aside["without a labelled residue"] = int((~labelled).sum())
        table, tokens, offsets = table[labelled], *select(tokens, offsets, labelled)
        sequences = [sequence for sequence, kept in zip(sequences, labelled, strict=True) if kept]
        values = [value for value, kept in zip(values, labelled, strict=True) if kept]

    keys = read_keys(tokens, offsets)
    parts, columns = find_parts(table, source, keys, options, warn)
    kept = settle_duplicates(keys, parts, sequences, values, options.deduplicate, warn, source)
    count.aside["copies of another row"] = int((~kept).sum())
    count.used = int(kept.sum())
    at = np.flatnonzero(kept)
    if not kept.all():
        tokens, offsets = select(tokens, offsets, kept)
    guessed += column_guesses(origin, column, columns, options)
    guessed += [f"{alphabet.name} ({reason})"] if options.alphabet is None else []
    guessed += [f"{found.task} ({why})"] if options.task is None else [why] if why else []
    data = LabelledData(
        path=str(source), table=table.iloc[at], sequences=[sequences[i] for i in at],
        tokens=tokens, offsets=offsets, values=[values[i] for i in at], parts=parts[at],
        alphabet=alphabet, targets=found, source=origin.to_json() | {"target": column} | columns,
        rows_read=count, guesses=guessed,
    )  # fmt: skip
    check_parts(data)
    classes = Counter(data.labels("train").tolist()) if found.classes else Counter()
    found.positive = targets.choose_positive(found, options.positive, classes)
    if same := targets.alike(found.classes):
        warn(f"{source}, column {column}: classes {listed(same)} differ in spelling only; they are kept apart")
    return data


def column_guesses(origin: Origin, target: str, columns: dict[str, Any], options: DataOptions) -> list[str]:
    """Which columns were found by their names."""
    found = []
    if options.sequence is None and options.mutant is None:
        found.append(f"{'mutations' if origin.mutant else 'sequences'} in column {shorten(origin.column)}")
    if options.target is None:
        found.append(f"target in {shorten(target)}")
    if columns["split"] is not None and options.split is None:
        found.append(f"parts in {shorten(columns['split'])}")
    if columns["val_column"] not in (None, columns["split"]):
        found.append(f"validation rows in {shorten(columns['val_column'])}")
    return [", ".join(found) + " (by name)"] if found else []


def without_missing(
    table: pd.DataFrame, column: str, options: DataOptions, where: object, count: RowCount
) -> pd.DataFrame:
    """The rows that have a target.

    Raises:
        InputError: a row has none while `on_missing` is "error".
    """
    missing = targets.is_missing(options.na)
    absent = np.array([missing(cell) for cell in table[column]], dtype=bool)
    if not absent.any():
        return table
    if options.on_missing == "error":
        row, cell = table.index[absent.argmax()], table[column].iloc[int(absent.argmax())]
        name = f"; {argument('na', '')} if that is a class" if cell.strip() else ""
        raise InputError(
            f"{where}, row {row}, column {column}: value is {shorten(cell) if cell.strip() else 'empty'}; fill it "
            f"in or remove the row, or {argument('on_missing', 'skip')}{name}"
        )
    count.aside["without a target"] = int(absent.sum())
    if absent.all():
        raise InputError(f"{where}, column {column}: no row has a target; choose another {argument('target')}")
    return table[~absent]


def read_targets(
    table: pd.DataFrame, column: str, lengths: np.ndarray, options: DataOptions, where: object
) -> tuple[Targets, list[np.ndarray], str]:
    """What there is to predict, the value of each row, and what was guessed of it."""
    cells, notes = table[column].tolist(), []
    target = Target(cells, table.index.tolist(), lengths.tolist(), f"{where}, row {{row}}, column {column}")
    if options.decimal == "comma":
        target.cells = targets.points(target)
    else:
        target.cells, note = targets.same_numbers(cells)
        notes = [note] if note else []
    found, why = targets.detect(target, options.task, unlabelled=options.unlabelled, na=options.na)
    return found, found.values(target), "; ".join([text for text in (why, *(notes if found.classes else [])) if text])


def check_parts(data: LabelledData) -> None:
    """Raises InputError if there is nothing to train on or to validate on."""
    for part, needed in (("train", "to train on"), ("val", "to choose the best epoch by")):
        if not (data.parts == part).any():
            remedy = "add rows" if data.source["split"] is None else f"mark rows in column {data.source['split']}"
            raise InputError(
                f"{data.path}: the {part} part is empty, there is nothing {needed}; {remedy} or change "
                f"{argument('val_fraction')}"
            )
    if len(np.unique(data.labels("train"))) < 2:
        what = "class" if data.targets.classes else "value"
        raise InputError(
            f"{data.path}, column {data.source['target']}: the training part has one {what} only; there "
            "must be at least two"
        )
