"""The estimators: of numbers, of classes, and of a class or a number per residue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import r2_score

from ..data.arrays import TARGETS
from ..data.batches import IGNORED
from ..data.targets import limits
from ..errors import InputError
from ..settings.data import INTERVAL
from . import inputs
from .arguments import arguments
from .base import SequenceEstimator, check_lengths, read_pair
from .inputs import Labels, Rows, entries, plain, row_weights
from .numbers import check_names, default_names, names_of, numbers, told


@arguments("class_weights")
class LyraRegressor(RegressorMixin, SequenceEstimator):
    """A number for each sequence, or several, as a scikit-learn regressor.

    y is (N,) numbers, of which some may be limits, texts such as "<0.5" or ">1000", beyond which predictions cost
    nothing. Of several targets it is (N, T) or a table with a column for each, NaN where one is missing; one model
    learns all, called as the columns are, or y0, y1 and so on.

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
        target_transform: the scale on which numbers are learned: "log", log10, or "rank", normal scores of the training
            ranks; predictions, intervals and scores are in the units of y.
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
    several = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _labels(self, rows: Rows) -> Labels:
        return numbers(rows)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) predictions in the units of y; (N, T) of several targets."""
        return np.asarray(self._predictions(X, "predict"))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R2; of several targets the mean of each one's, over the rows that have it. Limits are left out.

        Raises:
            InputError: y has other targets than training, or no row has a value of one.
        """
        predicted = self.predict(X)
        predicted, names = predicted.reshape(len(predicted), -1), self.predictor_.targets.names
        targets = entries(y, TARGETS, "targets", self.several)
        check_lengths(targets, TARGETS, len(predicted), "score")
        read = numbers(Rows(targets, range(len(targets)), "score", TARGETS, len(targets)))
        true = np.array(read.values).reshape(len(predicted), -1)
        if true.shape != predicted.shape:
            raise InputError(f"score: y has {told(true.shape[1])} a row, and the model predicts {predicted.shape[1]}")
        if names != default_names(TARGETS, len(names)):
            check_names(names_of(y, TARGETS), names, "score", TARGETS)
        if read.limits:
            true[limits(read.cells)[1] != 0] = np.nan
        weights, found = row_weights(sample_weight, len(true), "score"), []
        for name, own, real in zip(names or [TARGETS], predicted.T, true.T, strict=True):
            known = ~np.isnan(real)
            if not known.any():
                raise InputError(f"score, column {name}: no row has a value")
            found.append(r2_score(real[known], own[known], sample_weight=None if weights is None else weights[known]))
        return float(np.mean(found))

    def predict_interval(self, X: Any, coverage: float = INTERVAL) -> pd.DataFrame:
        """Predictions of an ensemble with intervals; see `lyra.uncertainty.Calibration`.

        Args:
            coverage: the share of measurements that the intervals are to cover.

        Returns:
            one row a sequence: prediction, sd (the members' standard deviation), lower and upper; of several targets
            these four for each, such as sd_TARGET.

        Raises:
            InputError: the model is no ensemble, or `coverage` is too near to 1 for the rows held out.
        """
        dataset = self._dataset(X, "predict_interval")
        members = np.asarray(self.predictor_.members_of(dataset))
        bounds = self.predictor_.interval(members, coverage)
        said = np.stack([members.mean(1), members.std(1), bounds[..., 0], bounds[..., 1]], axis=-1)
        ends = [f"_{name}" for name in self.predictor_.targets.names] or [""]
        columns = [f"{column}{end}" for end in ends for column in ("prediction", "sd", "lower", "upper")]
        index = X.index if isinstance(X, (pd.Series, pd.DataFrame)) else None
        return pd.DataFrame(said.reshape(len(members), -1), columns=columns, index=index)


@arguments("output", "mix", "target_transform")
class LyraClassifier(ClassifierMixin, SequenceEstimator):
    """A class for each sequence, as a scikit-learn classifier.

    Arguments and attributes are those of `LyraRegressor` but `output`, `mix` and `target_transform`, and

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


@arguments("output", "mix", "pool", "positions", "target_transform")
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
            low, high = self.predictor_.interval(members, coverage).T
            columns = {"prediction": members.mean(1), "sd": members.std(1), "lower": low, "upper": high}
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
