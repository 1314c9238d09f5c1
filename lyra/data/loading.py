"""From a labelled table to encoded sequences, targets and parts, every cell checked on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from ..alphabets import Alphabet
from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions, parse_separator
from . import guesses, targets
from .batches import known
from .divisions import Material, Split
from .formats import format_of
from .guesses import find_column, require_column
from .holdouts import MIXED
from .labelled import LabelledData, change_scale, note_limits, weigh_rows
from .replicates import Replicates
from .rows import RowCount
from .sequences import (
    Origin,
    TableSource,
    check_mutations_unused,
    choose_alphabet,
    encode_checked,
    find_origin,
    missing_sequences,
    read_sequences,
    select,
    without_stops,
)
from .several import check_each, find_columns, read_several, without_any
from .sources import Source
from .splits import find_split, settle_duplicates
from .tables import TableFile, listed, whole_table
from .targets import Targets
from .tasks import Target
from .weights import ERROR, WEIGHT, present
from .wild_types import read_wild_type


@dataclass
class Rows:
    """The rows of a table that are left so far, and what is known of each.

    Attributes:
        count: those set aside on the way; the others are as in `LabelledData`, empty until they are known.
    """

    table: pd.DataFrame
    count: RowCount = field(default_factory=RowCount)
    sequences: list[str] = field(default_factory=list)
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    values: list[np.ndarray] = field(default_factory=list)

    def keep(self, wanted: np.ndarray, others: str) -> None:
        """Sets all but the `wanted` (N,) aside; `others` says what those are."""
        if wanted.all():
            return
        self.count.aside[others] = int((~wanted).sum())
        self.table = self.table[wanted]
        self.sequences = list(compress(self.sequences, wanted))
        self.values = list(compress(self.values, wanted))
        if len(self.offsets):
            self.tokens, self.offsets = select(self.tokens, self.offsets, wanted)


def load_labelled(path: str | Path | Source, options: DataOptions, warn: Callable[[str], None]) -> LabelledData:
    """Reads, checks, encodes and splits a labelled CSV or TSV.

    Raises:
        InputError: anything that a user can put right: one line with file, row (line number), column, remedy.
    """
    options.check()
    return load_with_wild_type(Source.of(path), options, read_wild_type(options.wild_type, warn), warn)


def load_with_wild_type(
    source: Source, options: DataOptions, wild_type: str | None, warn: Callable[[str], None]
) -> LabelledData:
    """`load_labelled` for options that are checked, and the sequence that `options.wild_type` stands for."""
    file = labelled_table(source, options)
    rows = Rows(whole_table(file))
    rows.count.aside["without anything in them"] = file.blank
    columns = list(rows.table.columns)
    # a held-out part may need the wild type of whole sequences
    whole = options.holdout != "random" and find_column(columns, source, options.mutant, guesses.MUTANT) is None
    origin = find_origin(
        columns, source, sequence=options.sequence, mutant=options.mutant, wild_type=None if whole else wild_type,
        offset=options.offset,
    )  # fmt: skip
    replicates = Replicates.read(rows.table, options, source) if options.replicates is not None else None
    if replicates is not None:
        rows.table[replicates.name] = replicates.cells(options.decimal)
    several = find_columns(columns, options, source) if len(options.names) > 1 else []
    target = several[0] if several else replicates.name if replicates else find_target(columns, source, options, origin)
    drop_missing(rows, origin, several or [target], options, source)
    alphabet, letters = encode_rows(rows, origin, target, options, warn, source)
    if several:
        found, rows.values, task, note = read_several(rows.table, several, options, source)
    else:
        (found, task), note = read_targets(rows, target, options, source), ""
    material = Material(
        source, rows.table, rows.tokens, rows.offsets, alphabet, rows.values, found.classes, wild_type, options.offset,
        origin.column,
    )  # fmt: skip
    split = find_split(material, options, warn)
    kept = settle_duplicates(material.keys, split, rows.sequences, rows.values, options.deduplicate, warn, source)
    rows.keep(kept, "copies of another row")
    split.keep(kept)
    used = split.used
    rows.keep(used, MIXED)
    split.keep(used)
    rows.count.used = len(rows.table)

    guessed = [text for text in (source.remark, file.remark) if text]
    guessed += column_guesses(origin, target, split, options)
    guessed += [f"{alphabet.name} ({letters})"] if options.alphabet is None else []
    guessed += [f"{found.task} ({task})"] if options.task is None and not options.numeric else [task] if task else []
    data = LabelledData(
        path=str(source), table=rows.table, sequences=rows.sequences, tokens=rows.tokens, offsets=rows.offsets,
        values=rows.values, parts=split.parts, alphabet=alphabet, targets=found,
        source=TableSource(**asdict(origin), target=target, split=split.split, val_column=split.val_column),
        rows_read=rows.count, guesses=[*guessed, *split.said], folds=split.folds, fold_names=split.fold_names,
        fold_of=split.fold_of, groups=split.groups, notes=[note] if note else [],
    )  # fmt: skip
    if options.censored:
        note_limits(data)
    if several:
        data.source = replace(data.source, target=", ".join(several))
    check_parts(data)
    if options.transform != "none":
        change_scale(data, options.transform)
    weigh_rows(data, replicates, options)
    classes = Counter(data.labels("train").tolist()) if found.classes else Counter()
    found.positive = targets.choose_positive(found, options.positive, classes)
    if same := targets.alike(found.classes):
        warn(f"{source}, column {target}: classes {listed(same)} differ in spelling only; they are kept apart")
    return data


def labelled_table(source: Source, options: DataOptions) -> TableFile:
    """The table in a file; an InputError if the file's format has no columns."""
    found = format_of(source)
    if not found.columns:
        raise InputError(
            f"{source}: {found.name} has no targets to train on; give a CSV or TSV with a sequence and a target column"
        )
    return TableFile(source, parse_separator(options.separator))


def find_target(columns: list[str], where: object, options: DataOptions, origin: Origin) -> str:
    """The column of targets."""
    column = require_column(columns, where, options.names[0] if options.names else None, guesses.TARGET)
    if options.target is None and column in guesses.TARGET.weak and "x" in columns and origin.column != "x":
        raise InputError(
            f"{where}: is column {column} the target or, beside x, a coordinate? say with {argument('target')}"
        )
    return column


def column_guesses(origin: Origin, target: str, split: Split, options: DataOptions) -> list[str]:
    """Which columns were found by their names."""
    found = []
    if options.sequence is None and options.mutant is None:
        found.append(f"{'mutations' if origin.mutant else 'sequences'} in column {shorten(origin.column)}")
    if options.target is None and options.replicates is None:
        found.append(f"target in {shorten(target)}")
    if split.split is not None and options.split is None:
        found.append(f"parts in {shorten(split.split)}")
    if split.val_column not in (None, split.split):
        found.append(f"validation rows in {shorten(split.val_column)}")
    return [", ".join(found) + " (by name)"] if found else []


def drop_missing(rows: Rows, origin: Origin, names: list[str], options: DataOptions, where: object) -> None:
    """Sets aside the rows without any target of these, and those without a sequence, if `on_missing` is "skip".

    Raises:
        InputError: a row has no target while `on_missing` is "error", or none has one.
    """
    absent, target = without_any(rows.table, names, options), names[0]
    if absent.any() and options.on_missing == "error":
        row, cell = rows.table.index[absent.argmax()], rows.table[target].iloc[int(absent.argmax())]
        name = f"; {argument('na', '')} if that is a class" if cell.strip() else ""
        raise InputError(
            f"{where}, row {row}, column {target}: value is {shorten(cell) if cell.strip() else 'empty'}; fill it "
            f"in or remove the row, or {argument('on_missing', 'skip')}{name}"
        )
    if len(absent) and absent.all():
        raise InputError(f"{where}, column {target}: no row has a target; choose another {argument('target')}")
    rows.keep(~absent, "without a target")
    for given, role in ((options.weight, WEIGHT), (options.error, ERROR)):
        if given is not None:
            rows.keep(present(rows.table, given, role, options, where), f"without {role.article} {role.what}")
    if options.on_missing == "skip":
        rows.keep(~missing_sequences(rows.table[origin.column], origin), "without a sequence")


def encode_rows(
    rows: Rows, origin: Origin, target: str, options: DataOptions, warn: Callable[[str], None], where: object
) -> tuple[Alphabet, str]:
    """Reads and encodes the sequences; returns the alphabet and the reason for it."""
    rows.sequences = read_sequences(rows.table, where, origin)
    if not rows.sequences:
        raise InputError(f"{where}: no row has a sequence and a target")
    if options.sequence is None and not origin.mutant:
        check_mutations_unused(rows.table, where, rows.sequences)
    place = f"{where}, column {origin.column}"
    alphabet, reason = choose_alphabet(options.alphabet, rows.sequences, place, rows.table.index)
    if not origin.mutant:
        rows.sequences = without_stops(rows.sequences, alphabet, rows.table[target].tolist(), warn, where)
    tokens, offsets, keep = encode_checked(
        rows.sequences, rows.table.index, alphabet, options.on_invalid, where, origin.column
    )
    rows.keep(keep, f"with letters outside the {alphabet.name} alphabet")
    if not rows.sequences:
        raise InputError(
            f"{where}: no row is left; give the right {argument('alphabet')} or {argument('on_invalid', 'unknown')}"
        )
    rows.tokens, rows.offsets = tokens, offsets
    return alphabet, reason


def read_targets(rows: Rows, column: str, options: DataOptions, where: object) -> tuple[Targets, str]:
    """Reads the value of each row; returns what there is to predict, and what was guessed of it."""
    cells, notes = rows.table[column].tolist(), []
    lengths = np.diff(rows.offsets).tolist()
    target = Target(cells, rows.table.index.tolist(), lengths, f"{where}, row {{row}}, column {column}")
    if options.censored:
        target.cells, _ = targets.limits(cells)
    if options.decimal == "comma":
        target.cells = targets.points(target)
    else:
        target.cells, note = targets.same_numbers(target.cells)
        notes = [note] if note else []
    task = "regression" if options.numeric else options.task
    found, why = targets.detect(target, task, unlabelled=options.unlabelled, na=options.na)
    rows.values = found.values(target)
    if found.per_residue:
        labelled = np.array([known(value).any() for value in rows.values], dtype=bool)
        if found.numeric and options.on_missing == "error" and not labelled.all():
            raise target.refuse(
                target.rows[int(labelled.argmin())],
                f"no residue has a number; remove the row, or {argument('on_missing', 'skip')}",
            )
        rows.keep(labelled, f"without a {'number' if found.numeric else 'labelled residue'}")
    return found, "; ".join([text for text in (why, *(notes if found.classes else [])) if text])


def check_parts(data: LabelledData) -> None:
    """Raises InputError if there is nothing to train on or to validate on, or in a fold nothing to test on."""
    for name, parts in zip(data.fold_names or [""], data.folds or [data.parts], strict=True):
        _check_parts(replace(data, parts=parts), f" of fold {name}" if name else "")


def _check_parts(data: LabelledData, fold: str) -> None:
    needed = {"train": "to train on", "val": "to choose the best epoch by"} | ({"test": "to test on"} if fold else {})
    for part, what in needed.items():
        if not (data.parts == part).any():
            remedy = "add rows" if data.source.split is None else f"mark rows in column {data.source.split}"
            raise InputError(
                f"{data.path}: the {part} part{fold} is empty, there is nothing {what}; {remedy} or change "
                f"{argument('val_fraction' if part != 'test' else 'folds')}"
            )
    if data.targets.names:
        check_each(data.targets.names, np.concatenate(data.values), data.parts, data.path)
    if len(np.unique(data.labels("train"))) < 2:
        what = "class" if data.targets.classes else "value" + " that is no limit" * (data.censored is not None)
        raise InputError(
            f"{data.path}, column {data.source.target}: the training part{fold} has one {what} only; there "
            "must be at least two"
        )
