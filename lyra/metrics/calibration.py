"""Whether probabilities are what they say: of the rows to which 0.8 was given, how many were of the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10


@dataclass
class Calibration:
    """A reliability curve and what it comes to.

    Attributes:
        predicted, observed, rows: of each bin the mean probability, the share of rows of which it was true, and how
            many they are.
        ece: expected calibration error, the mean over rows of |observed - predicted| of their bin (Naeini et al. 2015,
            with bins of equal mass).
        brier: mean of the squared differences between probabilities and what came out (Brier 1950): of the positive
            class for two classes (0 to 1), summed over the classes for more (0 to 2).
    """

    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray
    ece: float
    brier: float

    def to_json(self) -> dict[str, Any]:
        bins = zip(self.predicted.tolist(), self.observed.tolist(), self.rows.tolist(), strict=True)
        return {
            "ece": self.ece,
            "brier": self.brier,
            "bins": [{"predicted": p, "observed": o, "rows": n} for p, o, n in bins],
        }


def calibration(probabilities: np.ndarray, targets: np.ndarray, positive: int = 1) -> Calibration:
    """The reliability of the positive class's probability, or of more than two classes, of the most probable one's.

    The rows are cut into ten bins of as many rows each, or fewer bins where rows of equal probability, which stay
    together, fill more than one.

    Args:
        probabilities: (N, classes), N > 0; targets: (N,) class indices.
    """
    probabilities = np.asarray(probabilities, np.float64)
    classes = probabilities.shape[1]
    if classes == 2:
        said, true = probabilities[:, positive], targets == positive
        brier = float(np.mean((said - true) ** 2))
    else:
        said, true = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
        brier = float(np.mean(((probabilities - np.eye(classes)[targets]) ** 2).sum(axis=1)))
    order = np.argsort(said, kind="stable")
    said, true = said[order], true[order]
    cuts = np.round(np.arange(1, BINS) * len(said) / BINS).astype(int)
    starts = np.unique(np.searchsorted(said, said[np.concatenate([[0], cuts[cuts < len(said)]])]))
    rows = np.diff(np.append(starts, len(said)))
    predicted, observed = np.add.reduceat(said, starts) / rows, np.add.reduceat(true.astype(float), starts) / rows
    ece = float(np.abs(observed - predicted) @ rows / len(said))
    return Calibration(predicted, observed, rows, ece, brier)
