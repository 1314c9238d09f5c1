"""Scores of predictions, by task."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy import stats
from torchmetrics.functional import classification as scores
from torchmetrics.functional import regression

METRICS = {
    "regression": ("r2", "spearman", "pearson", "rmse"),
    "classification": ("accuracy", "mcc", "auroc", "f1"),
    "token": ("accuracy", "mcc", "auroc", "f1"),
}
MONITORED = {
    "regression": "r2",
    "classification": "mcc",
    "token": "mcc",
}  # what early stopping watches; more is better


def evaluate(task: str, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """All scores of a task; None where one is undefined (a single class, constant predictions, too few rows).

    Args:
        task: "regression", "classification" or "token".
        predictions: (N,) numbers, or (N, classes) probabilities (token: of all residues together).
        targets: (N,) numbers, or (N,) class indices.
    """
    found = _regression(predictions, targets) if task == "regression" else _classification(predictions, targets)
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _regression(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    if len(targets) < 2:
        return dict.fromkeys(METRICS["regression"], float("nan"))
    predicted = torch.from_numpy(np.asarray(predictions, dtype=np.float64))
    measured = torch.from_numpy(np.asarray(targets, dtype=np.float64))
    constant = bool(np.ptp(targets) == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant input is answered with NaN, which is what we want
        return {
            "r2": float("nan") if constant else float(regression.r2_score(predicted, measured)),
            "spearman": float(stats.spearmanr(predictions, targets).statistic),
            "pearson": float(stats.pearsonr(predictions, targets).statistic),
            "rmse": float(regression.mean_squared_error(predicted, measured, squared=False)),
        }


def _classification(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    classes = probabilities.shape[1]
    predicted, target = torch.from_numpy(probabilities).float(), torch.from_numpy(targets).long()
    if len(target) == 0:
        return dict.fromkeys(METRICS["classification"], float("nan"))
    result = {
        "accuracy": float(scores.multiclass_accuracy(predicted, target, classes, average="micro")),
        "mcc": float(scores.multiclass_matthews_corrcoef(predicted, target, classes)),
    }
    complete = len(target.unique()) == classes
    if classes == 2:
        result["auroc"] = float(scores.binary_auroc(predicted[:, 1], target)) if complete else float("nan")
        result["f1"] = float(scores.binary_f1_score(predicted[:, 1], target))
    else:
        auroc = scores.multiclass_auroc(predicted, target, classes, average="macro") if complete else float("nan")
        result["auroc"] = float(auroc)
        result["f1"] = float(scores.multiclass_f1_score(predicted, target, classes, average="macro"))
    return result
