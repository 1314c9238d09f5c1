"""The models to beat, in which every position counts on its own: an additive one, and one seen through a sigmoid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, sparse, special

PENALTIES = tuple(10.0**power for power in range(-2, 5))
LATENT_PENALTIES = (1e-6, 1e-5, 1e-4)  # of the squared weights, beside the mean squared error in units of variance
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


@dataclass
class SigmoidAdditive:
    """y = low + (high - low) * sigmoid(intercept + sum over positions of weight[position, letter])."""

    letters: int
    weights: np.ndarray
    intercept: float
    low: float
    high: float

    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """(N, L) tokens -> (N,) predictions."""
        latent = one_hot(tokens, self.letters) @ self.weights + self.intercept
        return self.low + (self.high - self.low) * special.expit(latent)


def fit_sigmoid_additive(
    tokens: np.ndarray, values: np.ndarray, val_tokens: np.ndarray, val_values: np.ndarray, letters: int
) -> SigmoidAdditive:
    """ "Global epistasis": an additive latent quantity measured through a learned sigmoid, by L-BFGS.

    The penalty is the one of `LATENT_PENALTIES` with the least validation error. Arguments as for `fit_ridge`.
    """
    x = one_hot(tokens, letters)
    transposed = x.T.tocsr()
    scale = float(np.std(values)) or 1.0
    y = (values - values.mean()) / scale
    start = np.zeros(x.shape[1] + 3)
    start[-2:] = np.quantile(y, [0.01, 0.99])

    def objective(parameters: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        weights, (intercept, low, high) = parameters[:-3], parameters[-3:]
        share = special.expit(x @ weights + intercept)
        error = low + (high - low) * share - y
        slope = 2 / len(y) * error
        latent = slope * (high - low) * share * (1 - share)
        gradient = np.concatenate(
            [transposed @ latent + 2 * penalty * weights, [latent.sum(), slope @ (1 - share), slope @ share]]
        )
        return float(error @ error) / len(y) + penalty * float(weights @ weights), gradient

    best: tuple[float, SigmoidAdditive] | None = None
    for penalty in LATENT_PENALTIES:
        start = optimize.minimize(
            objective, start, args=(penalty,), jac=True, method="L-BFGS-B", options={"maxiter": 300}
        ).x
        low, high = start[-2:] * scale + values.mean()
        model = SigmoidAdditive(letters, start[:-3].copy(), float(start[-3]), float(low), float(high))
        loss = float(np.mean((model.predict(val_tokens) - val_values) ** 2))
        if best is None or loss < best[0]:
            best = (loss, model)
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
