"""The parts that are scored, and predictions and targets in the form in which they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.batches import known
from ..data.loading import LabelledData

PARTS = {"val": "validation", "test": "test"}  # the parts that are scored, and how they are called


def flat(values: Any) -> np.ndarray:
    """Predictions or targets of all sequences as one array; residues of all sequences end to end."""
    if isinstance(values, np.ndarray):
        return values
    return np.concatenate(values) if values[0].ndim else np.stack(values)


def scored(data: LabelledData, predictions: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets of a part as they are scored: without limits; residues end to end, labelled ones."""
    predicted, true = flat(predictions), flat([data.values[i] for i in rows])
    if data.targets.names:
        return predicted, true.reshape(len(true), -1)
    if data.targets.per_residue:
        real = known(true)
        return predicted[real], true[real]
    if data.censored is not None:
        real = data.censored[rows] == 0
        return predicted[real], true[real]
    return predicted, true


def sequence_of_each(data: LabelledData, rows: np.ndarray) -> np.ndarray | None:
    """Of the residues that are scored, the place among `rows` of the sequence that each is in; None for other tasks."""
    if not data.targets.per_residue:
        return None
    return np.repeat(np.arange(len(rows)), [int(known(data.values[i]).sum()) for i in rows])
