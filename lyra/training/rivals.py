"""The baselines of a task, fitted to the rows that the model was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import baselines
from ..baselines.features import Differences
from ..baselines.kmers import MAX_ROWS
from ..baselines.positions import PositionModel
from ..data.batches import known
from ..data.loading import LabelledData
from ..data.targets import Targets
from ..transforms import Transform, back, fit_transform, mapped
from .parts import flat

ADDITIVE = "one-hot ridge"  # what is left over by it is called epistasis
PAIR_LETTERS = 3_000_000  # that differ from the consensus, in the rows that pairs are fitted to: some ten minutes


@dataclass
class Rival:
    """A fitted baseline.

    Attributes:
        predict: from rows of the data to predictions as the model's are scored; token: of all residues end to end.
        chosen: what the validation part decided; rows: the training rows (token: residues) of the fit.
        model: of sequences of one length, which networks can be mixed with; scale: what it predicts on, None is the
            target's own.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    chosen: Mapping[str, float | None]
    rows: int
    model: PositionModel | None = None
    scale: Transform | None = None

    def to_json(self) -> dict[str, Any]:
        return {"chosen": dict(self.chosen), "fitted_rows": self.rows}


@dataclass
class RivalOfEach:
    """A baseline of each of several targets, by the target's name."""

    each: dict[str, Rival]

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(N, T) numbers, or probabilities of labels, for rows of the data."""
        found = [rival.predict(rows) for rival in self.each.values()]
        return np.stack([one[:, 1] if one.ndim == 2 else one for one in found], axis=1)

    def to_json(self) -> dict[str, Any]:
        return {name: rival.to_json() for name, rival in self.each.items()}


Rivals = Mapping[str, Rival | RivalOfEach]


def fit_rivals(data: LabelledData) -> Rivals:
    """The baselines of the data's task by name, fitted to the training part, penalties chosen on the validation part.

    They learn what the model does: rows as they are weighted, limits left out, on the scale that is asked for. There
    are none without a value to choose by.

    - regression: for one length ridge regression, an additive and a pairwise model through a sigmoid; else ridge
      regression of k-mers.
    - classification: logistic regression of k-mers; for one length also of letters.
    - token, token-regression: logistic or ridge regression of a window around each residue.
    - several targets: for each of them the linear ones of these.
    """
    return _of_each(data) if data.targets.names else _of_target(data)


def _of_each(data: LabelledData) -> dict[str, RivalOfEach]:
    """The linear baselines of each of several targets."""
    labels = data.targets.task == "multilabel"
    task = Targets("classification", ["0", "1"]) if labels else Targets("regression")
    each = {}
    for name, column in zip(data.targets.names, np.concatenate(data.values).T, strict=True):
        parts = np.where(np.isnan(column), "", data.parts)
        values = list(np.nan_to_num(column, nan=1.0).astype(np.int64 if labels else np.float64))
        each[name] = _of_target(replace(data, values=values, parts=parts, targets=task), linear=True)
    kinds = set.intersection(*(set(found) for found in each.values()))
    return {kind: RivalOfEach({name: found[kind] for name, found in each.items()}) for kind in sorted(kinds)}


def _of_target(data: LabelledData, linear: bool = False) -> dict[str, Rival]:
    """Those of one target; `linear` leaves out others, which take longer."""
    lengths, letters, classes = np.diff(data.offsets), len(data.alphabet), len(data.targets.classes)
    same = lengths.min() == lengths.max() and 0 < lengths[0] * letters <= baselines.MAX_FEATURES
    train, validation = data.counting(data.rows("train")), data.counting(data.rows("val"))
    if not len(validation):
        return {}
    if data.targets.task == "regression" and same:
        return fit_positions(data, train, validation, linear)
    scale = fit_transform(data.transform, data.labels_of(train))  # None where there are classes
    learned = data if scale is None else replace(data, values=[mapped(scale, value) for value in data.values])
    parts = part_of(learned, train), part_of(learned, validation)
    if data.targets.per_residue:
        window = baselines.fit_windows(*parts, letters, classes, known)
        name = "window logistic" if classes else "window ridge"
        return {name: Rival(lambda rows: back(scale, window.predict(part_of(data, rows))), window.chosen, window.rows)}
    kmers = baselines.fit_kmers(*parts, letters, classes)
    name = "k-mer logistic" if classes else "k-mer ridge"
    of_kmers = Rival(lambda rows: back(scale, kmers.predict(part_of(data, rows))), kmers.chosen, kmers.rows)
    if not (classes and same):
        return {name: of_kmers}
    drawn = _at_most(train, MAX_ROWS)
    features, values = baselines.one_hot(data.tokens.reshape(len(lengths), -1), letters), flat(data.values)
    _, logistic = baselines.fit_logistic(
        features[drawn], values[drawn], features[validation], values[validation], classes, tf_idf=False,
        weights=_weights(data, drawn), val_weights=_weights(data, validation),
    )  # fmt: skip
    of_letters = Rival(lambda rows: logistic.predict(features[rows]), logistic.chosen, logistic.rows)
    return {"one-hot logistic": of_letters, name: of_kmers}


def fit_positions(
    data: LabelledData, train: np.ndarray, validation: np.ndarray, linear: bool = False
) -> dict[str, Rival]:
    """The simpler models of numbers for sequences of one length, in which rows count as they are weighted.

    Args:
        train, validation: rows that weigh something, without limits, of which these models know nothing.
        linear: the additive one alone.
    """
    tokens, letters = data.tokens.reshape(len(data.values), -1), len(data.alphabet)
    scale = fit_transform(data.transform, data.labels_of(train))
    values = mapped(scale, np.array(data.values))

    def given(rows: np.ndarray) -> tuple[Any, ...]:
        weights = _weights(data, rows), _weights(data, validation)
        return tokens[rows], values[rows], tokens[validation], values[validation], letters, *weights

    models: list[tuple[str, PositionModel, np.ndarray]] = [(ADDITIVE, baselines.fit_ridge(*given(train)), train)]
    if not linear:
        few = _few_letters(tokens, train, letters)
        single = baselines.fit_sigmoid_additive(*given(train))
        models += [
            ("one-hot sigmoid", single, train),
            ("pairwise sigmoid", baselines.fit_pairwise(*given(few), start=single), few),
        ]

    def rival(model: PositionModel, fitted: np.ndarray) -> Rival:
        penalty = {"penalty": model.penalty}
        return Rival(lambda rows: back(scale, model.predict(tokens[rows])), penalty, len(fitted), model, scale)

    return {name: rival(model, fitted) for name, model, fitted in models}


def _weights(data: LabelledData, rows: np.ndarray) -> np.ndarray | None:
    """Of some rows, as the loss weighs them; None for all alike."""
    return None if data.weights is None else data.weights[rows]


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
        _weights(data, rows),
    )
