"""Scores of a model's targets: one for all where there is one target, else of each and their mean."""

from __future__ import annotations

import numpy as np

from .data.targets import Targets
from .metrics import METRICS, evaluate

Scores = dict[str, float | None]


def score_each(targets: Targets, predicted: np.ndarray, true: np.ndarray) -> dict[str, Scores]:
    """Scores of each of several targets, over the rows that have it.

    Args:
        predicted: (N, T) numbers or probabilities; true: (N, T), NaN where one is missing.
    """
    found = {}
    for i, name in enumerate(targets.names):
        known = ~np.isnan(true[:, i])
        one, real = predicted[known, i], true[known, i]
        if targets.task == "multilabel":
            found[name] = evaluate("classification", np.stack([1 - one, one], axis=-1), real.astype(np.int64))
        else:
            found[name] = evaluate("regression", one, real)
    return found


def score(targets: Targets, predicted: np.ndarray, true: np.ndarray) -> Scores:
    """`metrics.evaluate`; of several targets the mean of each score over those for which it is defined.

    The RMSE has no mean: targets have units of their own.
    """
    if not targets.names:
        return evaluate(targets.task, predicted, true, targets.positive_index)
    each, mean = score_each(targets, predicted, true), {}
    for metric in METRICS[targets.task]:
        values = [value for scores in each.values() if (value := scores[metric]) is not None]
        mean[metric] = float(np.mean(values)) if values and metric != "rmse" else None
    return mean
