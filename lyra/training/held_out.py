"""How far a model was off on rows held out: for each target, on the scale that was learned."""

from __future__ import annotations

import numpy as np

from ..data.loading import LabelledData
from ..transforms import Rank, fit_transform
from ..uncertainty import Calibration


def calibrations(
    data: LabelledData, learned: np.ndarray, held_out: np.ndarray, predicted: np.ndarray,
    members: np.ndarray | None = None,
) -> list[Calibration]:  # fmt: skip
    """A calibration for each target, from the held-out rows that have it; empty where one has no such row.

    Args:
        learned: rows whose targets give the curve of ranks; held_out: rows.
        predicted: (N,) or (N, T) for the latter, in the targets' units; members: (N, R) or (N, R, T), what the
            replicates predict, where their spread says something of the errors.
    """
    values = np.array(data.values, dtype=np.float64).reshape(len(data.values), -1)
    if data.censored is not None:  # limits are no values
        values[data.censored != 0] = np.nan
    predicted = predicted.reshape(len(held_out), -1)
    members = None if members is None else members.reshape(*members.shape[:2], -1)
    found = []
    for i, column in enumerate(values.T):
        known, training = ~np.isnan(column[held_out]), column[learned]
        if not known.any():
            return []
        scale = fit_transform(data.transform, training[~np.isnan(training)])
        spread = None if members is None else members[known, :, i]
        found.append(
            Calibration.measured(
                column[held_out][known], predicted[known, i], spread,
                scale.stretched() if isinstance(scale, Rank) else scale,
            )
        )  # fmt: skip
    return found
