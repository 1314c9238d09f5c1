"""Measured epistasis of double mutants beside the predicted one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..data import guesses
from ..data.guesses import find_column, require_column
from ..data.sequences import Origin, missing_sequences, read_sequences
from ..data.sources import Source
from ..data.tables import TableFile, whole_table
from ..data.targets import Targets, is_missing
from ..data.tasks import Target
from ..errors import InputError, argument
from ..metrics import evaluate
from .subject import Progress, Subject, no_progress

Change = tuple[int, int]  # index of the position, new token


@dataclass
class Measurements:
    """What a table says of mutants of one sequence; several rows of one mutant count as their mean.

    Attributes:
        values: the mean for each set of substitutions, the empty one being the sequence itself.
        aside: how many rows were set aside for what.
    """

    path: str
    values: dict[tuple[Change, ...], float]
    aside: Counter[str]

    def __str__(self) -> str:
        doubles, usable = len(self.doubles), len(self.usable)
        text = f"{self.path}: {usable:,} of {doubles:,} double mutants have both their singles, too"
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.aside.items() if count)
        return text + (f"; rows set aside: {reasons}" if reasons else "")

    @property
    def doubles(self) -> list[tuple[Change, Change]]:
        return [(key[0], key[1]) for key in self.values if len(key) == 2]

    @property
    def usable(self) -> list[tuple[Change, Change]]:
        """The double mutants whose two single mutants were measured as well."""
        return [(a, b) for a, b in self.doubles if (a,) in self.values and (b,) in self.values]


def read_measured(
    path: str | Path, subject: Subject, target: str | None, wild_type_value: float | None
) -> Measurements:
    """The single and double mutants of a sequence in a table of mutations or whole sequences.

    Args:
        target: the column of measurements; None takes the one that the model was trained on, else finds it by its name.
        wild_type_value: of the sequence itself, where no row has it.

    Raises:
        InputError: anything that a user can put right, a table without usable double mutants included.
    """
    source = Source.of(path)
    file = TableFile(source)
    table = whole_table(file)
    trained = subject.score_of.predictor.source
    if target is None and trained is not None and trained.target in file.columns:
        target = trained.target
    column = require_column(file.columns, source, target, guesses.TARGET)
    origin = find_mutants(file.columns, source, subject)
    aside: Counter[str] = Counter()
    missing = is_missing(None)
    absent = np.array([missing(cell) for cell in table[column]], dtype=bool)
    aside["without a value"] = int(absent.sum())
    table = table[~absent]
    empty = missing_sequences(table[origin.column], origin)
    aside["without a sequence"] = int(empty.sum())
    table = table[~empty]
    where = f"{source}, row {{row}}, column {column}"
    cells, rows = table[column].tolist(), table.index.tolist()
    numbers = Targets("regression").values(Target(cells, rows, [1] * len(cells), where))
    found: dict[tuple[Change, ...], list[float]] = {}
    allowed = set(subject.sites.tolist())
    own = subject.tokens.cpu().numpy()
    for sequence, number in zip(read_sequences(table, source, origin), numbers, strict=True):
        if len(sequence) != subject.length:
            aside["of another length"] += 1
            continue
        tokens = subject.score_of.predictor.alphabet.encode(sequence).astype(np.int64)
        sites = np.flatnonzero(tokens != own)
        if len(sites) > 2:
            aside["with more than two mutations"] += 1
        elif (tokens[sites] < 0).any():
            aside["with letters outside the alphabet"] += 1
        elif not allowed.issuperset(sites.tolist()):
            aside[f"at positions outside of {argument('positions')}"] += 1
        else:
            key = tuple((int(site), int(tokens[site])) for site in sites)
            found.setdefault(key, []).append(float(number))
    values = {key: float(np.mean(numbers)) for key, numbers in found.items()}
    if () not in values and wild_type_value is not None:
        values[()] = wild_type_value
    elif wild_type_value is not None:
        raise InputError(
            f"{argument('wild_type_value')}: has no effect, {source} has a row of the sequence itself; leave it out"
        )
    measured = Measurements(str(source), values, aside)
    check_usable(measured)
    return measured


def find_mutants(columns: list[str], source: Source, subject: Subject) -> Origin:
    """The column of mutations or, without one, that of whole sequences."""
    column = find_column(columns, source, None, guesses.MUTANT)
    if column is not None:
        return Origin(column, True, subject.letters, subject.options.offset)
    column = find_column(columns, source, None, guesses.SEQUENCE)
    if column is None:
        raise InputError(
            f"{source}: no column of mutants (looked for {guesses.MUTANT.all_names}, {guesses.SEQUENCE.all_names}); "
            "rename it so"
        )
    return Origin(column)


def check_usable(measured: Measurements) -> None:
    """Raises InputError where no epistasis follows from a table; says what is missing."""
    doubles = len(measured.doubles)
    singles = sum(len(key) == 1 for key in measured.values)
    counted = f"{measured.path}: has {doubles:,} double and {singles:,} single mutants of the sequence"
    if not measured.usable:
        raise InputError(
            f"{counted}, and no double with both its singles; measured epistasis needs the double, both singles and "
            "the sequence itself"
        )
    if () not in measured.values:
        raise InputError(
            f"{counted}, and no row of the sequence itself; add one, or give its value with "
            f"{argument('wild_type_value')} (0 of log ratios to the wild type)"
        )


def measured_epistasis_table(
    subject: Subject, measured: Measurements, progress: Progress = no_progress
) -> pd.DataFrame:
    """Measured and predicted epistasis, y_ab - y_a - y_b + y_wild type, of every double mutant with both its singles.

    Returns:
        one row a double mutant: mutant (such as A24G:D40N), position_1, position_2, measured and predicted (of the
        double mutant itself), measured_epistasis, predicted_epistasis. `attrs` holds unit, doubles (how many), and
        pearson and spearman of the two epistasis columns; None where they are undefined.
    """
    pairs, values = measured.usable, measured.values
    doubles = np.array(pairs, dtype=np.int64)  # (N, 2, 2): which of the two, position or token
    singles = sorted({change for pair in pairs for change in pair})
    alone = np.array(singles, dtype=np.int64)
    single = subject.score_mutants(alone[:, :1], alone[:, 1:], progress)
    predicted = subject.score_mutants(doubles[..., 0], doubles[..., 1], progress)
    of = dict(zip(singles, single.tolist(), strict=True))
    own = float(subject.predicted[0])
    frame = pd.DataFrame(
        {
            "mutant": [":".join(subject.name(*change) for change in pair) for pair in pairs],
            "position_1": doubles[:, 0, 0] + subject.options.offset,
            "position_2": doubles[:, 1, 0] + subject.options.offset,
            "measured": [values[pair] for pair in pairs],
            "predicted": predicted,
            "measured_epistasis": [values[a, b] - values[a,] - values[b,] + values[()] for a, b in pairs],
            "predicted_epistasis": predicted - np.array([of[a] + of[b] - own for a, b in pairs]),
        }
    )
    scores = evaluate("regression", frame["predicted_epistasis"].to_numpy(), frame["measured_epistasis"].to_numpy())
    frame.attrs |= {"unit": subject.score_of.unit, "doubles": len(frame)} | {
        name: scores[name] for name in ("pearson", "spearman")
    }
    return frame
