"""Scales on which a model learns its target, and the way back to the target's own units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

KNOTS = 1001  # of a rank's curve: a thousandth of the training rows between two
FAR = 1e6  # how far a stretched curve goes on, in units of its scores, of which float64 still tells 1e-10
LARGEST_LOG = 150.0  # a power of ten whose square a float64 can hold


class Log:
    """log10, for targets above 0."""

    kind = "log"

    def __call__(self, values: Tensor) -> Tensor:
        return torch.log10(values)

    def invert(self, values: Tensor) -> Tensor:
        return torch.pow(10.0, values.clamp(-LARGEST_LOG, LARGEST_LOG))

    def slope(self, values: np.ndarray) -> np.ndarray:
        """Of log10 at these values: an error of y is one of slope * error of log10(y), as long as it is small."""
        return 1 / (values * math.log(10))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Rank:
    """Normal scores: a value's rank among the training targets as a quantile of the normal distribution.

    Of n targets the one of rank r, ties averaged, has the score z with Phi(z) = (r - 1/2) / n (Hazen 1914). Between
    targets both ways are straight lines; beyond the least and the largest training target both stay at these, so
    that a prediction is never outside of what was measured.

    Args:
        values: (K,) training targets, or `KNOTS` of their quantiles, each above the one before; scores: (K,) theirs.
    """

    kind = "rank"

    def __init__(self, values: np.ndarray, scores: np.ndarray) -> None:
        self.values, self.scores = (torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (values, scores))
        if self.values.shape != self.scores.shape or len(self.values) < 2:
            raise ValueError(f"a rank's curve has {tuple(self.values.shape)} values and {len(self.scores)} scores")
        if not all(bool((x.diff() > 0).all()) for x in (self.values, self.scores)):
            raise ValueError("a rank's curve must rise")

    @classmethod
    def fit(cls, values: np.ndarray) -> Rank:
        scores = special.ndtri((stats.rankdata(values) - 0.5) / len(values))
        values, first = np.unique(values, return_index=True)
        kept = np.unique(np.linspace(0, len(values) - 1, min(KNOTS, len(values))).round().astype(np.int64))
        return cls(values[kept], scores[first][kept])

    def stretched(self) -> Rank:
        """The curve, at both ends going on as steeply as over the tenth of its points there.

        On the curve itself all beyond the training targets is the same, so that no interval would reach them; on this
        one errors are told apart there, too.
        """
        tenth = max(1, len(self.values) // 10)
        ends = []
        for edge, inner, sign in ((0, tenth, -1), (-1, -1 - tenth, 1)):
            slope = (self.values[edge] - self.values[inner]) / (self.scores[edge] - self.scores[inner])
            ends.append((self.values[edge] + sign * FAR * slope, self.scores[edge] + sign * FAR))
        (low, least), (high, most) = ends
        values = torch.cat([low[None], self.values, high[None]]).numpy()
        return Rank(values, torch.cat([least[None], self.scores, most[None]]).numpy())

    def __call__(self, values: Tensor) -> Tensor:
        return _interpolate(values, self.values, self.scores)

    def invert(self, values: Tensor) -> Tensor:
        return _interpolate(values, self.scores, self.values)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": self.values.tolist(), "scores": self.scores.tolist()}


Transform = Log | Rank


def fit_transform(kind: str, values: np.ndarray) -> Transform | None:
    """The scale of a kind for training targets (N,); None for "none"."""
    return {"none": lambda: None, "log": Log, "rank": lambda: Rank.fit(values)}[kind]()


def read_transform(saved: Mapping[str, Any] | None) -> Transform | None:
    """What `to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is none of these.
    """
    if saved is None:
        return None
    arguments = dict(saved)
    return {"log": Log, "rank": Rank}[arguments.pop("kind")](**arguments)


def mapped(scale: Transform | None, values: np.ndarray) -> np.ndarray:
    """Numbers in the target's units on a scale, None for the target's own, in float64."""
    values = np.asarray(values, np.float64)
    return values if scale is None else scale(torch.from_numpy(values)).numpy()


def back(scale: Transform | None, values: np.ndarray) -> np.ndarray:
    """Numbers on a scale in the target's units, in float64."""
    values = np.asarray(values, np.float64)
    return values if scale is None else scale.invert(torch.from_numpy(values)).numpy()


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Straight lines between the points (xs, ys), flat beyond them; differentiable, in float64."""
    xs, ys = xs.to(x.device), ys.to(x.device)
    x = x.double().clamp(xs[0], xs[-1])
    right = torch.searchsorted(xs, x.detach().contiguous()).clamp(1, len(xs) - 1)
    share = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
    return torch.lerp(ys[right - 1], ys[right], share)
