"""How far a model was off on rows held out: for each target, on the scale that was learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.batches import known
from ..data.loading import LabelledData
from ..transforms import Rank, Transform, fit_transform, mapped
from ..uncertainty import Calibration


def calibrations(
    data: LabelledData, learned: np.ndarray, held_out: np.ndarray, predicted: Any, members: Any = None
) -> list[Calibration]:
    """A calibration for each target, from the held-out rows that have it; empty where one has no such row.

    Args:
        learned: rows whose targets give the curve of ranks; held_out: rows.
        predicted: (N,) or (N, T) for the latter, in the targets' units, of residues a list of (L,); members: (N, R),
            (N, R, T) or a list of (L, R), what the replicates predict, where their spread says something of the errors.
    """
    if data.targets.per_residue:
        scale = scale_of_errors(data.transform, data.labels_of(learned))
        return [_of_residues(data, held_out, predicted, members, scale)]
    values = np.array(data.values, dtype=np.float64).reshape(len(data.values), -1)
    if data.censored is not None:  # limits are no values
        values[data.censored != 0] = np.nan
    predicted = predicted.reshape(len(held_out), -1)
    members = None if members is None else members.reshape(*members.shape[:2], -1)
    found = []
    for i, column in enumerate(values.T):
        there, training = ~np.isnan(column[held_out]), column[learned]
        if not there.any():
            return []
        scale = scale_of_errors(data.transform, training[~np.isnan(training)])
        spread = None if members is None else members[there, :, i]
        found.append(Calibration.measured(column[held_out][there], predicted[there, i], spread, scale))
    return found


def scale_of_errors(kind: str, values: np.ndarray) -> Transform | None:
    """The scale of a transform, from targets that were learned from, on which all targets differ."""
    scale = fit_transform(kind, values)
    return scale.stretched() if isinstance(scale, Rank) else scale


def _of_residues(
    data: LabelledData, rows: np.ndarray, predicted: list[np.ndarray], members: list[np.ndarray] | None,
    scale: Transform | None,
) -> Calibration:  # fmt: skip
    """From the errors at the labelled residues of rows held out."""
    true = [data.values[i] for i in rows]
    there = [known(values) for values in true]
    sequences = np.repeat(np.arange(len(rows)), [int(here.sum()) for here in there])
    values, own = (
        mapped(scale, np.concatenate([each[here] for each, here in zip(given, there, strict=True)]))
        for given in (true, predicted)
    )
    spread = None
    if members is not None:
        spread = mapped(scale, np.concatenate([each[here] for each, here in zip(members, there, strict=True)])).std(1)
    return Calibration.of_groups(values - own, sequences, spread, scale)
