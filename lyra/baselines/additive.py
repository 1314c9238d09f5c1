"""The models to beat, in which every position counts on its own: an additive one, and one seen through a sigmoid."""

from __future__ import annotations

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from .features import one_hot
from .latent import Problem, Units, fill, row_weights, squared_error
from .positions import PositionModel, Saturating

PENALTIES = tuple(10.0**power for power in range(-2, 5))
LATENT_PENALTIES = (
    1e-6,
    1e-5,
    1e-4,
    1e-3,
    1e-2,
)  # of the squared weights, beside the mean squared error in units of variance
MAX_FEATURES = 8192  # position-letter pairs: the normal equations are a dense matrix of this size


class Ridge(PositionModel):
    """An additive model: y = intercept + sum over positions of weight[position, letter]."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.latent(x, lengths)


class AdditiveSigmoid(Saturating):
    """y = low + (high - low) * sigmoid(intercept + sum over positions of weight[position, letter]).

    "Global epistasis": Otwinowski, McCandlish, Plotkin 2018 (PNAS 115:E7550).
    """


def fit_ridge(
    tokens: np.ndarray, values: np.ndarray, val_tokens: np.ndarray, val_values: np.ndarray, letters: int,
    weights: np.ndarray | None = None, val_weights: np.ndarray | None = None,
) -> Ridge:  # fmt: skip
    """Closed-form ridge regression; the penalty is the one of `PENALTIES` with the least validation error.

    Args:
        tokens: (N, L) training tokens below `letters`, -1 for unknown; values: (N,).
        val_tokens, val_values: the validation part.
        weights, val_weights: (N,) of rows, in the fit and in the choice of the penalty.
    """
    rows, checked = row_weights(weights, len(values)), row_weights(val_weights, len(val_values))
    x, unseen = one_hot(tokens, letters), one_hot(val_tokens, letters)
    mean, centre = float(np.average(values, weights=rows)), x.T @ rows / len(values)
    weighted = x.multiply(rows[:, None]).tocsr()
    gram = (x.T @ weighted).toarray() - len(values) * np.outer(centre, centre)
    correlation = weighted.T @ (values - mean)
    eigenvalues, vectors = linalg.eigh(gram)
    projected = vectors.T @ correlation
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in PENALTIES:
        found = vectors @ (projected / (np.maximum(eigenvalues, 0) + penalty))
        error = squared_error(unseen @ found + (mean - float(centre @ found)), val_values, checked)
        if best is None or error < best[0]:
            best = (error, penalty, found)
    assert best is not None
    _, penalty, found = best
    model = Ridge(tokens.shape[1], letters, penalty)
    model.weights.copy_(torch.from_numpy(found).view_as(model.weights))
    model.intercept.fill_(mean - float(centre @ found))
    return model


def fit_sigmoid_additive(
    tokens: np.ndarray, values: np.ndarray, val_tokens: np.ndarray, val_values: np.ndarray, letters: int,
    weights: np.ndarray | None = None, val_weights: np.ndarray | None = None,
) -> AdditiveSigmoid:  # fmt: skip
    """An additive latent quantity measured through a learned sigmoid, by L-BFGS.

    The penalty is the one of `LATENT_PENALTIES` with the least validation error. Arguments as for `fit_ridge`.
    """
    rows, checked = row_weights(weights, len(values)), row_weights(val_weights, len(val_values))
    units = Units.of(values, rows)
    train = Problem(tokens, values, rows, letters, units)
    validation = Problem(val_tokens, val_values, checked, letters, units)
    found = np.zeros(train.size + 3)
    found[-2:] = np.quantile(train.y, [0.01, 0.99])
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in LATENT_PENALTIES:
        found = train.minimize(found, penalty)
        error = validation.error(found)
        if best is None or error < best[0]:
            best = (error, penalty, found)
    assert best is not None
    model = AdditiveSigmoid(tokens.shape[1], letters, best[1])
    fill(model, best[2], units)
    return model
