"""The model to beat: ridge regression on one-hot residues, every position on its own (additive)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

PENALTIES = tuple(10.0**power for power in range(-2, 5))
MAX_FEATURES = 8192  # position-letter pairs: the normal equations are a dense matrix of this size


def one_hot(tokens: np.ndarray, letters: int) -> sparse.csr_matrix:
    """(N, L) tokens to a sparse (N, L * letters) matrix of ones; nothing at unknown residues."""
    rows, length = tokens.shape
    known = tokens >= 0
    columns = (tokens + letters * np.arange(length))[known]
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(rows, length * letters))


@dataclass
class Ridge:
    """A fitted additive model: y = intercept + sum over positions of weight[position, letter]."""

    letters: int
    weights: np.ndarray
    intercept: float
    penalty: float

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """(N, L) tokens -> (N,) predictions."""
        return one_hot(tokens, self.letters) @ self.weights + self.intercept


def fit_ridge(
    tokens: np.ndarray, values: np.ndarray, val_tokens: np.ndarray, val_values: np.ndarray, letters: int
) -> Ridge:
    """Closed-form ridge regression; the penalty is the one of `PENALTIES` with the least validation error.

    Args:
        tokens: (N, L) training tokens below `letters`; values: (N,).
        val_tokens, val_values: the validation part.
    """
    x = one_hot(tokens, letters)
    mean, centre = float(values.mean()), np.asarray(x.mean(axis=0)).ravel()
    gram = (x.T @ x).toarray() - len(values) * np.outer(centre, centre)
    correlation = x.T @ (values - mean)
    eigenvalues, vectors = linalg.eigh(gram)
    projected = vectors.T @ correlation
    best: tuple[float, Ridge] | None = None
    for penalty in PENALTIES:
        weights = vectors @ (projected / (np.maximum(eigenvalues, 0) + penalty))
        model = Ridge(letters, weights, mean - float(centre @ weights), penalty)
        error = float(np.mean((model.predict(val_tokens) - val_values) ** 2))
        if best is None or error < best[0]:
            best = (error, model)
    assert best is not None
    return best[1]


def epistasis_scores(measured: np.ndarray, additive: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How well a model predicts what an additive one leaves over.

    Args:
        measured: (N,) targets; additive: the additive model's predictions; predicted: the model's.

    Returns:
        epistasis_r2: share of the residual's variance that the model explains; epistasis_pearson: correlation
        between the residual and the model's own deviation from additivity.
    """
    residual, deviation = measured - additive, predicted - additive
    variance = float(np.var(residual))
    if variance == 0 or np.ptp(deviation) == 0:
        return {"epistasis_r2": float("nan"), "epistasis_pearson": float("nan")}
    return {
        "epistasis_r2": 1 - float(np.mean((residual - deviation) ** 2)) / variance,
        "epistasis_pearson": float(np.corrcoef(residual, deviation)[0, 1]),
    }
