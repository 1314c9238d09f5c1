"""The estimators: of numbers, of classes, and of a class or a number per residue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score

from ..data.batches import IGNORED
from ..errors import InputError
from ..settings.data import INTERVAL
from . import inputs
from .arguments import arguments
from .base import SequenceEstimator, read_pair
from .inputs import Labels, Rows, plain, row_weights


@arguments("class_weights")
class LyraRegressor(RegressorMixin, SequenceEstimator):
    """A number for each sequence, as a scikit-learn regressor.

    Args:
        model, positions, d_model, d_state, dropout, pgc_layers, s4_layers, pool, bidirectional, strand, output, epochs,
            batch_size, lr, weight_decay, s4_lr, warmup, gradient_clip, keep, patience, average, ensemble, mix: model
            and training, see `lyra.settings.Recipe`. Those that are None are chosen by the data; `recipe_` says how.
        accelerator, devices, precision, graphs: see `lyra.settings.Hardware`; one process trains.
        random_state: seed of the validation rows, the weights, the order and dropout; None or a RandomState draws one.
        alphabet: "protein", "dna", "rna"; None finds it.
        on_invalid: letters outside the alphabet: "error", or read as the "unknown" letter.
        val_fraction: share of the rows that is drawn to choose the best epoch by; stratify: whether it is drawn with
            targets in equal shares, None where it matters.
        verbose: whether progress is shown, on standard error.

    Attributes:
        predictor_: the trained model, a `lyra.Predictor`.
        recipe_: the settings of training, with everything said; shares_: of each kind of model in a mix.
        history_: losses and scores, a row an epoch.

    Example:
        >>> from lyra import LyraRegressor
        >>> X = ["ACGT", "GGCA", "TTAG", "CCGA", "GATC", "TGCG", "AATT", "CGCG", "GGGA", "TACC"] * 4
        >>> y = [x.count("G") - x.count("C") for x in X]
        >>> model = LyraRegressor(d_model=8, d_state=4, epochs=2, mix="none").fit(X, y)
        >>> model.predict(["ACGT", "GGGG"]).shape
        (2,)
    """

    task = "regression"

    def _labels(self, rows: Rows) -> Labels:
        return inputs.numbers(rows)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) predictions in the units of y."""
        return np.asarray(self._predictions(X, "predict"))

    def predict_interval(self, X: Any, coverage: float = INTERVAL) -> pd.DataFrame:
        """Predictions of an ensemble with intervals; see `lyra.uncertainty.Calibration`.

        Args:
            coverage: the share of measurements that the intervals are to cover.

        Returns:
            one row a sequence: prediction, sd (the members' standard deviation), lower and upper.

        Raises:
            InputError: the model is no ensemble, or `coverage` is too near to 1 for the rows held out.
        """
        dataset = self._dataset(X, "predict_interval")
        members = np.asarray(self.predictor_.members_of(dataset))
        predicted, spread = members.mean(1), members.std(1)
        bounds = self.predictor_.interval(predicted, spread, coverage)
        index = X.index if isinstance(X, (pd.Series, pd.DataFrame)) else None
        columns = {"prediction": predicted, "sd": spread, "lower": bounds[:, 0], "upper": bounds[:, 1]}
        return pd.DataFrame(columns, index=index)


@arguments("output", "mix")
class LyraClassifier(ClassifierMixin, SequenceEstimator):
    """A class for each sequence, as a scikit-learn classifier.

    Arguments and attributes are those of `LyraRegressor` but `output` and `mix`, and

    Args:
        class_weights: "balanced" weighs classes by the inverse of their frequency, "none" does not.

    Attributes:
        classes_: (K,) the classes, in the order of the columns of `predict_proba`.

    Example:
        >>> from lyra import LyraClassifier
        >>> X = ["ACGT", "GGCA", "TTAG", "CCGA", "GATC", "TGCG", "AATT", "CGCG", "GGGA", "TACC"] * 4
        >>> y = ["rich" if x.count("G") + x.count("C") > 2 else "poor" for x in X]
        >>> model = LyraClassifier(d_model=8, d_state=4, epochs=2).fit(X, y)
        >>> model.classes_.tolist()
        ['poor', 'rich']
    """

    task = "classification"

    def _labels(self, rows: Rows) -> Labels:
        return inputs.classes(rows)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the most probable classes."""
        most = self._predictions(X, "predict").argmax(1)
        return self.classes_[most]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) the probability of each class, in the order of `classes_`."""
        return self._predictions(X, "predict_proba")


@arguments("output", "mix", "pool", "positions")
class LyraTokenClassifier(SequenceEstimator):
    """A class for each residue of each sequence.

    y has for each sequence the labels of its residues: text with a letter each, or a list; "-" or None stands for a
    residue without one, which counts neither in training nor in scores. What `predict` gives is such a y. To
    scikit-learn it is no classifier, as y is not one class a row: `cross_val_score` and the like draw rows at random,
    without regard to classes.

    Arguments and attributes are those of `LyraClassifier` but `pool` and `positions`.

    Example:
        >>> from lyra import LyraTokenClassifier
        >>> X = ["ACGT", "GGCAT", "TTAG", "CCGA", "GATC", "TGCGA", "AATT", "CGCG", "GGGA", "TACC"] * 4
        >>> y = ["".join("01"[letter in "GC"] for letter in x) for x in X]
        >>> model = LyraTokenClassifier(d_model=8, d_state=4, epochs=2).fit(X, y)
        >>> [len(labels) for labels in model.predict(["ACGT", "GGCAT"])]
        [4, 5]
    """

    task = "token"

    def _labels(self, rows: Rows) -> Labels:
        return inputs.residue_classes(rows)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) object: the most probable class of each residue; text if all classes are one character, else arrays."""
        predictions = self._predictions(X, "predict")
        found = [self.classes_[each.argmax(-1)] for each in predictions]
        if all(isinstance(name, str) and len(name) == 1 for name in self.classes_.tolist()):
            return objects(["".join(labels) for labels in found])
        return objects(found)

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N,) object: for each sequence of L residues (L, K) the probability of each class."""
        return objects(self._predictions(X, "predict_proba"))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of the residues with a label whose class is right; each counts as much as its sequence.

        Raises:
            InputError: a sequence has not one label for each residue, or no residue has one.
        """
        predictions = self._predictions(X, "score")
        _, labels = read_pair(X, y, "score")
        weights = row_weights(sample_weight, len(labels), "score")
        rows = Rows(labels, range(len(labels)), "score", "y", len(labels))
        index_of = {plain(label): number for number, label in enumerate(self.classes_)}
        right, counts = [], []
        for row, each in enumerate(predictions):
            true = inputs.residue_labels(rows, row)
            if len(true) != len(each):
                raise rows.refuse(row, f"has {len(true)} labels for a sequence of {len(each)} residues; there must be "
                                  "one for each")  # fmt: skip
            # a class that training had not is wrong, as scikit-learn has it
            known = np.array([IGNORED if label is None else index_of.get(label, len(index_of)) for label in true])
            labelled = known != IGNORED
            right.append(int((each.argmax(-1) == known)[labelled].sum()))
            counts.append(int(labelled.sum()))
        each_counts = np.ones(len(counts)) if weights is None else weights
        total = float(each_counts @ np.array(counts))
        if total == 0:
            raise InputError("score: no residue that counts has a label")
        return float(each_counts @ np.array(right)) / total


@arguments("class_weights", "mix", "pool", "positions")
class LyraTokenRegressor(SequenceEstimator):
    """A number for each residue of each sequence.

    y has for each sequence a list or array of numbers; None or NaN stands for a residue without one, which counts
    neither in training nor in scores. What `predict` gives is such a y. To scikit-learn it is no regressor, as y is not
    one number a row.

    Arguments and attributes are those of `LyraRegressor` but `mix`, `pool` and `positions`.

    Example:
        >>> from lyra import LyraTokenRegressor
        >>> X = ["ACGT", "GGCAT", "TTAG", "CCGA", "GATC", "TGCGA", "AATT", "CGCG", "GGGA", "TACC"] * 4
        >>> y = [[0.9 if letter in "GC" else 0.1 for letter in x] for x in X]
        >>> model = LyraTokenRegressor(d_model=8, d_state=4, epochs=2).fit(X, y)
        >>> [len(numbers) for numbers in model.predict(["ACGT", "GGCAT"])]
        [4, 5]
    """

    task = "token-regression"

    def _labels(self, rows: Rows) -> Labels:
        return inputs.residue_numbers(rows)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) object: for each sequence of L residues (L,) predictions in the units of y."""
        return objects(self._predictions(X, "predict"))

    def predict_interval(self, X: Any, coverage: float = INTERVAL) -> list[pd.DataFrame]:
        """Predictions of an ensemble with intervals; see `lyra.uncertainty.Calibration.of_groups`.

        Args:
            coverage: the share of a sequence's measurements that the intervals are to cover, on average.

        Returns:
            for each sequence one row a residue: prediction, sd (the members' standard deviation), lower and upper.

        Raises:
            InputError: the model is no ensemble, or `coverage` is too near to 1 for the sequences held out.
        """
        found = []
        for members in self.predictor_.members_of(self._dataset(X, "predict_interval")):
            predicted, spread = members.mean(1), members.std(1)
            bounds = self.predictor_.interval(predicted, spread, coverage)
            columns = {"prediction": predicted, "sd": spread, "lower": bounds[:, 0], "upper": bounds[:, 1]}
            found.append(pd.DataFrame(columns))
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² over all residues with a number; each counts as much as its sequence.

        Raises:
            InputError: a sequence has not one number for each residue, or fewer than two residues have one.
        """
        predictions = self._predictions(X, "score")
        _, targets = read_pair(X, y, "score")
        weights = row_weights(sample_weight, len(targets), "score")
        rows = Rows(targets, range(len(targets)), "score", "y", len(targets))
        true = [inputs.numbers_of_residues(rows, row) for row in range(len(targets))]
        for row, (one, each) in enumerate(zip(true, predictions, strict=True)):
            if len(one) != len(each):
                raise rows.refuse(row, f"has {len(one)} numbers for a sequence of {len(each)} residues; there must be "
                                  "one for each")  # fmt: skip
        measured, predicted = np.concatenate(true), np.concatenate(predictions)
        counts = np.repeat(np.ones(len(true)) if weights is None else weights, list(map(len, true)))
        known = ~np.isnan(measured) & (counts > 0)
        if known.sum() < 2:
            raise InputError("score: fewer than two residues that count have a number")
        return float(r2_score(measured[known], predicted[known], sample_weight=counts[known]))


def objects(each: list[Any]) -> np.ndarray:
    """(N,) object."""
    found = np.empty(len(each), dtype=object)
    found[:] = each
    return found
