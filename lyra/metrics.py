"""Scores of predictions, by task and by definition: no tolerance, and None where a definition divides zero by zero."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import stats

METRICS = {
    "regression": ("r2", "spearman", "pearson", "rmse"),
    "classification": ("accuracy", "mcc", "auroc", "auprc", "f1"),
    "token": ("accuracy", "mcc", "auroc", "auprc", "f1"),
    "multilabel": ("accuracy", "mcc", "auroc", "auprc", "f1"),
}
MONITORED = {
    "regression": "r2",
    "classification": "mcc",
    "token": "mcc",
    "multilabel": "auroc",
}  # what early stopping watches; more is better


def evaluate(task: str, predictions: np.ndarray, targets: np.ndarray, positive: int = 1) -> dict[str, float | None]:
    """All scores of a task; None where one is undefined.

    - r2 is 1 - (residual sum of squares) / (total sum of squares); undefined where all targets are equal.
    - spearman, pearson: undefined where all targets or all predictions are equal. rmse is in the target's units.
    - accuracy: share of rows whose most probable class is theirs.
    - mcc: Matthews correlation of predicted and true class (Gorodkin's for more than two); 0 where one class only is
      predicted, undefined where there is one only.
    - auroc: probability that a row of the positive class is ranked above another (ties count half). auprc: average
      precision. f1: 2 tp / (2 tp + fp + fn) of the positive class. Of more than two classes, the mean over each
      against the others (f1: over those that occur or are predicted). Undefined where a class is missing.

    Args:
        task: "regression", "classification" or "token".
        predictions: (N,) numbers, or (N, classes) probabilities (token: of all residues together).
        targets: (N,) numbers, or (N,) class indices.
        positive: of two classes, the index of the one that auprc and f1 are about.
    """
    if task == "regression":
        found = _regression(np.asarray(predictions, np.float64), np.asarray(targets, np.float64))
    else:
        found = _classification(np.asarray(predictions, np.float64), np.asarray(targets), positive)
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


def _regression(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    if len(measured) == 0:
        return dict.fromkeys(METRICS["regression"], math.nan)
    residual = predicted - measured
    error = float(np.abs(residual).max())  # squares of what is divided by it neither vanish nor overflow
    rms = error * math.sqrt(np.mean((residual / error) ** 2)) if 0 < error < math.inf else error
    centred = measured - measured[0]  # exact for values close together, whose mean far from zero would be rounded
    centred -= centred.mean()
    spread = float(np.abs(centred).max())
    constant = np.ptp(measured) == 0
    found = {"r2": math.nan, "spearman": math.nan, "pearson": math.nan, "rmse": rms}
    if constant:
        return found
    found["r2"] = 1 - float(np.sum((residual / spread) ** 2) / np.sum((centred / spread) ** 2))
    if np.ptp(predicted) > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about nearly constant input: the number is what it is
            # Centred first, with their ranges as units: correlations do not change, and no digits are lost.
            units = [(values - values.mean()) / np.ptp(values) for values in (predicted, measured)]
            found["pearson"] = float(stats.pearsonr(*units).statistic)
            found["spearman"] = float(stats.spearmanr(predicted, measured).statistic)
    return found


def _classification(probabilities: np.ndarray, targets: np.ndarray, positive: int) -> dict[str, float]:
    if len(targets) == 0 or np.isnan(probabilities).any():
        return dict.fromkeys(METRICS["classification"], math.nan)
    classes = probabilities.shape[1]
    pairs = targets * classes + probabilities.argmax(-1)
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)  # rows: true, columns: predicted
    f1 = [_f1(confusion, each) for each in range(classes)]
    if classes == 2:
        chosen = [positive]
    else:
        chosen = list(range(classes))
        f1 = [value for value in f1 if not math.isnan(value)]
    ranked = [(probabilities[:, each], targets == each) for each in chosen]
    return {
        "accuracy": float(np.trace(confusion) / len(targets)),
        "mcc": _mcc(confusion),
        "auroc": float(np.mean([_auroc(score, true) for score, true in ranked])),
        "auprc": float(np.mean([_average_precision(score, true) for score, true in ranked])),
        "f1": f1[positive] if classes == 2 else float(np.mean(f1)),
    }


def _mcc(confusion: np.ndarray) -> float:
    table = [[int(count) for count in row] for row in confusion]  # whole numbers of any size
    true, predicted = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    total, right = sum(true), sum(row[i] for i, row in enumerate(table))
    spread_true = total**2 - sum(count**2 for count in true)
    spread_predicted = total**2 - sum(count**2 for count in predicted)
    if spread_true == 0:
        return math.nan
    if spread_predicted == 0:
        return 0.0
    covariance = right * total - sum(t * p for t, p in zip(true, predicted, strict=True))
    return covariance / math.sqrt(spread_true * spread_predicted)


def _f1(confusion: np.ndarray, positive: int) -> float:
    hits = int(confusion[positive, positive])
    both = int(confusion[positive].sum() + confusion[:, positive].sum())  # 2 tp + fp + fn
    return 2 * hits / both if both else math.nan


def _auroc(scores: np.ndarray, true: np.ndarray) -> float:
    positives = int(true.sum())
    pairs = positives * (len(true) - positives)
    if pairs == 0:
        return math.nan
    ranks = stats.rankdata(scores)
    return float(ranks[true].sum() - positives * (positives + 1) / 2) / pairs


def _average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    positives = int(true.sum())
    if positives in (0, len(true)):
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # rows of equal score come together
    hits = np.cumsum(true[order])[ends]
    precision = hits / (ends + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / positives)
