"""The additive model with interactions of all pairs of positions, of low rank, seen through a sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .additive import AdditiveSigmoid, fit_sigmoid_additive
from .features import one_hot
from .latent import Problem, Units, fill, row_weights
from .positions import Saturating, parameter

RANK = 8
PAIR_PENALTIES = (1e-3, 2e-4, 5e-5)  # of the squared vectors
START = 0.03  # standard deviation of the vectors at first: small, so that the fit begins at the additive model
PATIENCE = 100  # iterations without a smaller validation error, which is looked at after every `CHECKED`
CHECKED = 5


class PairwiseSigmoid(Saturating):
    """y = low + (high - low) * sigmoid(b + sum_i w[i, a_i] + sum_{i<j} <v[i, a_i], v[j, a_j]>).

    The latent quantity is a factorization machine (Rendle 2010, ICDM) of the one-hot letters: the interaction of two
    letters at two positions is the scalar product of their vectors, `vectors` (L, letters, rank).
    """

    def __init__(self, length: int, letters: int, rank: int = RANK, penalty: float | None = None) -> None:
        super().__init__(length, letters, penalty)
        self.rank = rank
        self.vectors = parameter(length, letters, rank)

    @property
    def config(self) -> dict[str, Any]:
        return super().config | {"rank": self.rank}

    def latent(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        found = self.entries(x, self.vectors, lengths)
        pairs = (found.sum(1).square() - found.square().sum(1)).sum(-1, keepdim=True) / 2
        return super().latent(x, lengths) + pairs


@dataclass
class Path:
    """The parameters of least validation error that an optimization passes."""

    error: Callable[[np.ndarray], float]
    least: float = math.inf
    found: np.ndarray | None = None
    steps: int = 0
    at: int = 0

    def see(self, parameters: np.ndarray) -> None:
        """Takes note of an iteration; raises StopIteration if there was none better for `PATIENCE`."""
        self.steps += 1
        if self.steps % CHECKED:
            return
        error = self.error(parameters)
        if error < self.least:
            self.least, self.found, self.at = error, parameters.copy(), self.steps
        elif self.steps - self.at >= PATIENCE:
            raise StopIteration


def fit_pairwise(
    tokens: np.ndarray, values: np.ndarray, val_tokens: np.ndarray, val_values: np.ndarray, letters: int,
    weights: np.ndarray | None = None, val_weights: np.ndarray | None = None, *,
    start: AdditiveSigmoid | None = None, rank: int = RANK, seed: int = 0,
) -> PairwiseSigmoid:  # fmt: skip
    """Fits `PairwiseSigmoid` by L-BFGS from the additive model, which it stays if no pairs lower the validation error.

    The penalty of `PAIR_PENALTIES` and the number of iterations are those with the least validation error.

    Args:
        start: the additive model fitted to the same rows; None fits it first.
        rank: numbers in the vector of a letter; seed: of the vectors that the fit begins with.
        Others as for `fit_ridge`.
    """
    given = (tokens, values, val_tokens, val_values, letters, weights, val_weights)
    start = fit_sigmoid_additive(*given) if start is None else start
    rows, checked = row_weights(weights, len(values)), row_weights(val_weights, len(val_values))
    units = Units.of(values, rows)
    train = Problem(tokens, values, rows, letters, units, rank)
    validation = Problem(val_tokens, val_values, checked, letters, units, rank)
    occurs = one_hot(tokens, letters).getnnz(axis=0).reshape(*train.shape[:2], 1) > 0
    vectors = np.random.default_rng(seed).normal(0, START, train.shape) * occurs
    ends = [(end.item() - units.mean) / units.std for end in (start.low, start.high)]
    additive, others = start.weights.numpy().ravel(), [start.intercept.item(), *ends]
    best, chosen = np.concatenate([additive, np.zeros(vectors.size), others]), None
    least, penalty = validation.error(best), start.penalty or 0.0
    for pairs in PAIR_PENALTIES:
        path = Path(validation.error)
        train.minimize(np.concatenate([additive, vectors.ravel(), others]), penalty, pairs, path.see)
        if path.found is not None and path.least < least:
            least, best, chosen = path.least, path.found, pairs
    model = PairwiseSigmoid(*train.shape, chosen)
    fill(model, best, units)
    model.vectors.copy_(torch.from_numpy(train.split(best)[1]))
    return model
