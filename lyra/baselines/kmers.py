"""Linear models of how often each k-mer occurs in a sequence, whatever its length; and of letters, where it is one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from .latent import Units, row_weights, squared_error

LONGEST = 6
MAX_COLUMNS = 20_000  # k-mers that there may be: k up to 3 for proteins, 6 for nucleotides
ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)  # penalties of the ridge regression
CS = (0.1, 1.0, 10.0, 100.0)  # inverse penalties of the logistic regression
MAX_RESIDUES = 2_000_000  # training residues that are counted: beyond, sequences are drawn
MAX_ROWS = 20_000  # training rows that are fitted


@dataclass
class Part:
    """Encoded sequences end to end, and their targets.

    Attributes:
        tokens: (sum L,), -1 for unknown; lengths: (N,); values: (N,) numbers or class indices.
        weights: (N,) of the sequences; None where all count alike.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    values: np.ndarray
    weights: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Part:
        """The part's rows of these numbers."""
        ends = np.cumsum(self.lengths)
        pieces = [self.tokens[ends[row] - self.lengths[row] : ends[row]] for row in rows]
        weights = None if self.weights is None else self.weights[rows]
        return Part(np.concatenate(pieces), self.lengths[rows], self.values[rows], weights)

    def fewer(self, rows: int, residues: int, seed: int = 0) -> Part:
        """At most so many rows and residues, drawn at random; at least one row."""
        if len(self.lengths) <= rows and self.lengths.sum() <= residues:
            return self
        order = np.random.default_rng(seed).permutation(len(self.lengths))[:rows]
        fitting = max(1, int(np.searchsorted(np.cumsum(self.lengths[order]), residues, side="right")))
        return self.take(np.sort(order[:fitting]))


def kmer_counts(tokens: np.ndarray, lengths: np.ndarray, letters: int, k: int) -> sparse.csr_matrix:
    """(N, letters**k) counts of the k-mers, column by the number that their tokens spell; none with an unknown residue.

    Args:
        tokens: (sum L,) of all sequences end to end; lengths: (N,).
    """
    shape = (len(lengths), letters**k)
    if len(tokens) < k:
        return sparse.csr_matrix(shape)
    starts, tokens = len(tokens) - k + 1, tokens.astype(np.int64)
    codes, known = np.zeros(starts, np.int64), np.ones(starts, bool)
    for place in range(k):
        letter = tokens[place : place + starts]
        codes, known = codes * letters + letter, known & (letter >= 0)
    row = np.repeat(np.arange(len(lengths)), lengths)
    inside = known & (row[:starts] == row[k - 1 :])
    found = sparse.coo_matrix((np.ones(inside.sum()), (row[:starts][inside], codes[inside])), shape)
    return found.tocsr()  # which adds up what is there more than once


@dataclass
class Linear:
    """A fitted linear model of features.

    Attributes:
        steps: of scikit-learn, from features to predictions; chosen: what the validation part decided.
        rows: that it was fitted on; units: of a number, those of the fit.
    """

    steps: Any
    chosen: dict[str, float]
    rows: int
    units: Units | None = None

    def predict(self, features: Any) -> np.ndarray:
        """(N,) numbers or (N, classes) probabilities."""
        if self.units is not None:
            return np.asarray(self.steps.predict(features)).reshape(-1) * self.units.std + self.units.mean
        return probabilities(self.steps, features)


def probabilities(steps: Any, features: Any) -> np.ndarray:
    """(N, classes): of all classes the model was told of, with zeros for those that it never saw."""
    found = np.zeros((features.shape[0], steps.number_of_classes))
    found[:, steps.classes_] = steps.predict_proba(features)
    return found


def log_loss(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of -ln p of the true class; weights have a mean of 1."""
    return float(-(weights * np.log(np.maximum(predicted[np.arange(len(true)), true], 1e-12))).mean())


def lengths_of_kmers(letters: int) -> Sequence[int]:
    """The k to choose from."""
    return [k for k in range(1, LONGEST + 1) if letters**k <= MAX_COLUMNS]


class KmerModel:
    """A linear model of k-mers: ridge regression of their counts, or logistic regression of their TF-IDF."""

    def __init__(self, letters: int, linear: Linear, k: int) -> None:
        self.letters, self.linear, self.k = letters, linear, k
        self.chosen, self.rows = linear.chosen | {"k": k}, linear.rows

    def predict(self, part: Part) -> np.ndarray:
        """(N,) numbers or (N, classes) probabilities."""
        return self.linear.predict(kmer_counts(part.tokens, part.lengths, self.letters, self.k))


def fit_kmers(train: Part, validation: Part, letters: int, classes: int = 0) -> KmerModel:
    """Fits a k-mer model; k and the penalty are those with the least validation error or log loss.

    Args:
        classes: how many; 0 for a regression.
    """
    train = train.fewer(MAX_ROWS, MAX_RESIDUES)
    best: tuple[float, KmerModel] | None = None
    for k in lengths_of_kmers(letters):
        if k > 1 and int(train.lengths.max(initial=0)) < k:
            break
        features = [kmer_counts(part.tokens, part.lengths, letters, k) for part in (train, validation)]
        fit = fit_logistic if classes else fit_linear
        loss, linear = fit(
            features[0], train.values, features[1], validation.values, classes,
            weights=train.weights, val_weights=validation.weights,
        )  # fmt: skip
        if best is None or loss < best[0]:
            best = (loss, KmerModel(letters, linear, k))
    assert best is not None
    return best[1]


def fit_linear(
    x: Any, y: np.ndarray, val_x: Any, val_y: np.ndarray, classes: int = 0, *, weights: np.ndarray | None = None,
    val_weights: np.ndarray | None = None,
) -> tuple[float, Linear]:  # fmt: skip
    """Ridge regression of sparse features, each divided by its largest; the validation error, and the model.

    Args:
        weights, val_weights: (N,) of rows, in the fit and in the choice of the penalty.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    rows, checked = row_weights(weights, len(y)), row_weights(val_weights, len(val_y))
    units = Units.of(y, rows)
    best: tuple[float, Linear] | None = None
    for alpha in ALPHAS:
        ridge = Ridge(alpha, solver="sparse_cg", tol=1e-6)
        steps = make_pipeline(MaxAbsScaler(), ridge)
        steps.fit(x, (y - units.mean) / units.std, ridge__sample_weight=rows)
        loss = squared_error(steps.predict(val_x), (val_y - units.mean) / units.std, checked)
        if best is None or loss < best[0]:
            best = (loss, Linear(steps, {"penalty": alpha}, len(y), units))
    assert best is not None
    return best


def fit_logistic(
    x: Any, y: np.ndarray, val_x: Any, val_y: np.ndarray, classes: int, *, tf_idf: bool = True,
    candidates: Sequence[float] = CS, iterations: int = 200, weights: np.ndarray | None = None,
    val_weights: np.ndarray | None = None,
) -> tuple[float, Linear]:  # fmt: skip
    """Logistic regression of sparse features by L-BFGS; the validation log loss, and the model.

    Args:
        weights, val_weights: (N,) of rows, in the fit and in the choice of the penalty.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows, checked = row_weights(weights, len(y)), row_weights(val_weights, len(val_y))
    best: tuple[float, Linear] | None = None
    for c in candidates:
        logistic = LogisticRegression(C=c, max_iter=iterations)
        logistic = logistic if len(np.unique(y)) > 1 else DummyClassifier()  # of drawn rows, all may be of one class
        steps = make_pipeline(TfidfTransformer(sublinear_tf=True), logistic) if tf_idf else make_pipeline(logistic)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that is nearly done is a baseline as well
            steps.fit(x, y, **{f"{steps.steps[-1][0]}__sample_weight": rows})
        steps.number_of_classes = classes
        loss = log_loss(probabilities(steps, val_x), val_y, checked)
        if best is None or loss < best[0]:
            best = (loss, Linear(steps, {"C": c}, len(y)))
    assert best is not None
    return best
