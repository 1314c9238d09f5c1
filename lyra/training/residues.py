"""Numbers per residue: how far predictions are off in sequences held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.batches import SequenceDataset, known
from ..data.loading import LabelledData
from ..models import Ensemble
from ..prediction import predict_replicates
from ..uncertainty import Calibration


def calibrate(
    data: LabelledData, rows: np.ndarray, predicted: Sequence[np.ndarray], spread: Sequence[np.ndarray] | None = None
) -> Calibration:
    """The errors at the labelled residues of rows held out.

    Args:
        predicted, spread: of each of these rows (L,), the latter None where it plays no part.
    """
    true = [data.values[i] for i in rows]
    there = [known(values) for values in true]
    errors = [(values - each)[here] for values, each, here in zip(true, predicted, there, strict=True)]
    apart = None if spread is None else [each[here] for each, here in zip(spread, there, strict=True)]
    sequences = np.repeat(np.arange(len(rows)), [int(here.sum()) for here in there])
    return Calibration.of_groups(np.concatenate(errors), sequences, None if apart is None else np.concatenate(apart))


def calibrate_ensemble(model: Ensemble, data: LabelledData, rows: np.ndarray) -> Calibration:
    """`calibrate` for an ensemble, none of whose members was trained on these rows."""
    members = predict_replicates(model, SequenceDataset(data.tokens, data.offsets, rows), per_token=True)
    return calibrate(data, rows, [each.mean(1) for each in members], [each.std(1) for each in members])
