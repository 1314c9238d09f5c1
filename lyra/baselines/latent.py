"""The fit of a latent quantity of the letters, and of the sigmoid that it is measured through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, special

from .features import Differences
from .positions import Saturating

# At scipy's own limits the fit of 20,000 double mutants is not done, and R² .001 lower.
OPTIONS = {"maxiter": 1000, "maxcor": 20}
MARGIN = 0.5  # how far the sigmoid's ends may lie outside of the targets, by their range: from few rows they run away


def row_weights(weights: np.ndarray | None, rows: int) -> np.ndarray:
    """Weights of rows with a mean of 1, so that penalties mean the same whatever their unit; ones if there are none."""
    return np.ones(rows) if weights is None else weights * (rows / weights.sum())


def squared_error(predicted: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of the squared errors."""
    return float(np.mean(weights * (predicted - values) ** 2))


@dataclass
class Units:
    """The target's mean and standard deviation, in which it is fitted."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Units:
        mean = float(np.average(values, weights=weights))
        spread = float(np.abs(values - mean).max()) or 1.0  # squares of what is divided by it do not vanish
        return cls(mean, spread * float(np.sqrt(np.average(((values - mean) / spread) ** 2, weights=weights))) or 1.0)


class Problem:
    """Rows to be fitted by low + (high - low) * sigmoid(intercept + weights + products of pairs of vectors).

    Parameters are one array: weights (L, letters), vectors (L, letters, rank), intercept, low and high; the latter
    in the target's `units`.
    """

    def __init__(
        self, tokens: np.ndarray, values: np.ndarray, weights: np.ndarray, letters: int, units: Units, rank: int = 0
    ) -> None:
        self.x, self.rows = Differences(tokens, letters), weights
        self.y = (values - units.mean) / units.std
        self.shape = (tokens.shape[1], letters, rank)
        self.size = tokens.shape[1] * letters
        low, high = float(self.y.min(initial=0)), float(self.y.max(initial=0))
        self.ends = (low - MARGIN * (high - low), high + MARGIN * (high - low))

    def split(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights (L, letters, 1), vectors (L, letters, rank), and (intercept, low, high)."""
        weights, vectors = parameters[: self.size], parameters[self.size : -3]
        return weights.reshape(*self.shape[:2], 1), vectors.reshape(self.shape), parameters[-3:]

    def shares(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) sigmoids of the latent quantity, and the sums (N, rank) of vectors."""
        weights, vectors, (intercept, _, _) = self.split(parameters)
        sums = self.x.sums(vectors)  # the products of all pairs are half of (sum of vectors)² - sum of (vectors²)
        single = self.x.sums(weights - np.square(vectors).sum(axis=2, keepdims=True) / 2)[:, 0]
        return special.expit(single + np.square(sums).sum(axis=1) / 2 + intercept), sums

    def error(self, parameters: np.ndarray) -> float:
        """The mean squared error."""
        share, _ = self.shares(parameters)
        low, high = parameters[-2:]
        return squared_error(low + (high - low) * share, self.y, self.rows)

    def objective(self, parameters: np.ndarray, penalty: float, pairs: float) -> tuple[float, np.ndarray]:
        """The mean squared error with the penalties of squared weights and vectors, and its derivatives."""
        weights, vectors, (_, low, high) = self.split(parameters)
        share, sums = self.shares(parameters)
        error = low + (high - low) * share - self.y
        slope = 2 / len(error) * self.rows * error
        latent = (slope * (high - low) * share * (1 - share))[:, None]
        single = self.x.gradient(latent)
        derivatives = (
            single + 2 * penalty * weights,
            self.x.gradient(latent * sums) + (2 * pairs - single) * vectors,
            np.array([latent.sum(), slope @ (1 - share), slope @ share]),
        )
        penalties = penalty * float(np.sum(weights**2)) + pairs * float(np.sum(vectors**2))
        value = float(error @ (self.rows * error)) / len(error) + penalties
        return value, np.concatenate([part.ravel() for part in derivatives])

    def minimize(
        self, start: np.ndarray, penalty: float, pairs: float = 0.0, seen: Callable[[np.ndarray], None] | None = None
    ) -> np.ndarray:
        """The parameters that L-BFGS finds from `start`; `seen` is shown each iteration's, may raise StopIteration."""
        bounds = [(None, None)] * (len(start) - 2) + [self.ends] * 2
        found = optimize.minimize(
            self.objective, start, args=(penalty, pairs), jac=True, method="L-BFGS-B", bounds=bounds, options=OPTIONS,
            callback=seen,
        )  # fmt: skip
        return found.x


def fill(model: Saturating, parameters: np.ndarray, units: Units) -> None:
    """Sets a model's weights, intercept and ends (what vectors it has are left) from a problem's parameters."""
    model.weights.copy_(torch.from_numpy(parameters[: model.weights.numel()]).view_as(model.weights))
    model.intercept.fill_(float(parameters[-3]))
    for end, value in zip((model.low, model.high), parameters[-2:], strict=True):
        end.fill_(float(value) * units.std + units.mean)
