"""The baselines of a task, fitted to the rows that the model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import baselines
from ..baselines.features import Differences
from ..baselines.kmers import MAX_ROWS
from ..baselines.positions import PositionModel
from ..data.batches import known
from ..data.loading import LabelledData
from .parts import flat

ADDITIVE = "one-hot ridge"  # what is left over by it is called epistasis
PAIR_LETTERS = 3_000_000  # that differ from the consensus, in the rows that pairs are fitted to: some ten minutes


@dataclass
class Rival:
    """A fitted baseline.

    Attributes:
        predict: from rows of the data to predictions as the model's are scored; token: of all residues end to end.
        chosen: what the validation part decided; rows: the training rows (token: residues) of the fit.
        model: of sequences of one length, which networks can be mixed with.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    chosen: Mapping[str, float | None]
    rows: int
    model: PositionModel | None = None

    def to_json(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen), "fitted_rows": self.rows}


def fit_rivals(data: LabelledData) -> dict[str, Rival]:
    """The baselines of the data's task by name, fitted to the training part, penalties chosen on the validation part.

    Limits are left out. There are none of several targets, nor without a value to choose by.

    - regression: for one length ridge regression, an additive and a pairwise model through a sigmoid; else ridge
      regression of k-mers.
    - classification: logistic regression of k-mers; for one length also of letters.
    - token, token-regression: logistic or ridge regression of a window around each residue.
    """
    lengths, letters, classes = np.diff(data.offsets), len(data.alphabet), len(data.targets.classes)
    same = lengths.min() == lengths.max() and 0 < lengths[0] * letters <= baselines.MAX_FEATURES
    train, validation = data.scored("train"), data.scored("val")
    if data.targets.names or not len(validation):
        return {}
    if data.targets.per_residue:
        window = baselines.fit_windows(part_of(data, train), part_of(data, validation), letters, classes, known)
        name = "window logistic" if classes else "window ridge"
        return {name: Rival(lambda rows: window.predict(part_of(data, rows)), window.chosen, window.rows)}
    found: dict[str, Rival] = {}
    tokens = data.tokens.reshape(len(lengths), lengths[0]) if same else data.tokens
    if data.targets.task == "regression" and same:
        return fit_positions(data, train, validation)
    if same:
        drawn = _at_most(train, MAX_ROWS)
        features, values = baselines.one_hot(tokens, letters), flat(data.values)
        _, logistic = baselines.fit_logistic(
            features[drawn], values[drawn], features[validation], values[validation], classes, tf_idf=False
        )
        found["one-hot logistic"] = Rival(lambda rows: logistic.predict(features[rows]), logistic.chosen, logistic.rows)
    kmers = baselines.fit_kmers(part_of(data, train), part_of(data, validation), letters, classes)
    name = "k-mer logistic" if classes else "k-mer ridge"
    found[name] = Rival(lambda rows: kmers.predict(part_of(data, rows)), kmers.chosen, kmers.rows)
    return found


def fit_positions(data: LabelledData, train: np.ndarray, validation: np.ndarray) -> dict[str, Rival]:
    """The simpler models of numbers for sequences of one length, in which rows count as they are weighted.

    Args:
        train, validation: rows without limits, of which these models know nothing.
    """
    tokens = data.tokens.reshape(len(data.values), -1)
    values, letters = np.array(data.values, dtype=np.float64), len(data.alphabet)
    few = _few_letters(tokens, train, letters)

    def given(rows: np.ndarray) -> tuple[Any, ...]:
        weights = (None, None) if data.weights is None else (data.weights[rows], data.weights[validation])
        return tokens[rows], values[rows], tokens[validation], values[validation], letters, *weights

    single = baselines.fit_sigmoid_additive(*given(train))
    models: list[tuple[str, PositionModel, np.ndarray]] = [
        (ADDITIVE, baselines.fit_ridge(*given(train)), train),
        ("one-hot sigmoid", single, train),
        ("pairwise sigmoid", baselines.fit_pairwise(*given(few), start=single), few),
    ]

    def rival(model: PositionModel, fitted: np.ndarray) -> Rival:
        return Rival(lambda rows: model.predict(tokens[rows]), {"penalty": model.penalty}, len(fitted), model)

    return {name: rival(model, fitted) for name, model, fitted in models}


def _few_letters(tokens: np.ndarray, rows: np.ndarray, letters: int) -> np.ndarray:
    """As many of the rows, drawn where they are too many, as have `PAIR_LETTERS` that differ from the consensus."""
    differing = Differences(tokens[rows], letters).matrix.nnz
    return _at_most(rows, max(int(len(rows) * PAIR_LETTERS / max(differing, 1)), 1))


def _at_most(rows: np.ndarray, limit: int) -> np.ndarray:
    return rows if len(rows) <= limit else np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))


def part_of(data: LabelledData, rows: np.ndarray) -> baselines.Part:
    """The sequences and targets of some rows."""
    tokens = [data.tokens[data.offsets[i] : data.offsets[i + 1]] for i in rows]
    return baselines.Part(
        np.concatenate(tokens) if tokens else np.zeros(0, np.int8),
        np.diff(data.offsets)[rows],
        flat([data.values[i] for i in rows]),
    )
