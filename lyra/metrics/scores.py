"""Scores of predictions, by task and by definition: no tolerance, and None where a definition divides zero by zero."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

METRICS = {
    "regression": ("r2", "spearman", "pearson", "rmse", "ndcg", "top_recall"),
    "classification": ("accuracy", "mcc", "auroc", "auprc", "f1"),
    "token": ("accuracy", "mcc", "auroc", "auprc", "f1"),
    "token-regression": ("r2", "spearman", "pearson", "rmse", "mae"),
    "multilabel": ("accuracy", "mcc", "auroc", "auprc", "f1"),
}
MONITORED = {
    "regression": "r2",
    "classification": "auroc",
    "token": "auroc",
    "token-regression": "r2",
    "multilabel": "auroc",
}  # what early stopping watches; more is better
COMPARED = MONITORED  # whether a model beats another
TOP = 10  # percent of the rows that ndcg and top_recall are about, as in ProteinGym


def evaluate(task: str, predictions: np.ndarray, targets: np.ndarray, positive: int = 1) -> dict[str, float | None]:
    """All scores of a task; None where one is undefined.

    - r2 is 1 - (residual sum of squares) / (total sum of squares); undefined where all targets are equal.
    - spearman, pearson: undefined where all targets or all predictions are equal. rmse, and mae, the mean absolute
      error, are in the target's units.
    - ndcg, top_recall: see `ndcg` and `top_recall`.
    - accuracy: share of rows whose most probable class is theirs.
    - mcc: Matthews correlation of predicted and true class (Gorodkin's for more than two); 0 where one class only is
      predicted, undefined where there is one only.
    - auroc: probability that a row of the positive class is ranked above another (ties count half). auprc: average
      precision. f1: 2 tp / (2 tp + fp + fn) of the positive class. Of more than two classes, the mean over each
      against the others (f1: over those that occur or are predicted). Undefined where a class is missing.

    Args:
        task: "regression", "classification", "token" or "token-regression".
        predictions: (N,) numbers, or (N, classes) probabilities (of residues: of all sequences together).
        targets: (N,) numbers, or (N,) class indices.
        positive: of two classes, the index of the one that auprc and f1 are about.
    """
    if "r2" in METRICS[task]:
        found = _regression(METRICS[task], np.asarray(predictions, np.float64), np.asarray(targets, np.float64))
    else:
        found = _classification(np.asarray(predictions, np.float64), np.asarray(targets), positive)
    return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}


def _regression(names: Sequence[str], predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    if len(measured) == 0:
        return dict.fromkeys(names, math.nan)
    residual = predicted - measured
    error = float(np.abs(residual).max())  # squares of what is divided by it neither vanish nor overflow
    rms = error * math.sqrt(np.mean((residual / error) ** 2)) if 0 < error < math.inf else error
    centred = measured - measured[0]  # exact for values close together, whose mean far from zero would be rounded
    centred -= centred.mean()
    spread = float(np.abs(centred).max())
    constant = np.ptp(measured) == 0
    found = dict.fromkeys(names, math.nan) | {"rmse": rms}
    if "mae" in names:
        found["mae"] = error * float(np.mean(np.abs(residual / error))) if 0 < error < math.inf else error
    if constant or not np.isfinite(predicted).all():
        return found
    if "ndcg" in names:
        found |= {"ndcg": ndcg(predicted, measured), "top_recall": top_recall(predicted, measured)}
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
        "mcc": mcc_of(confusion),
        "auroc": float(np.mean([_auroc(score, true) for score, true in ranked])),
        "auprc": float(np.mean([_average_precision(score, true) for score, true in ranked])),
        "f1": f1[positive] if classes == 2 else float(np.mean(f1)),
    }


def mcc_of(confusion: np.ndarray) -> float:
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


def ndcg(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Normalised discounted cumulative gain of the top 10 %: whether the best sequences are ranked first.

    DCG = sum over the ranks r up to k = floor(N / 10) of gain / log2(r + 1), divided by the DCG of the true order, as
    in ProteinGym (Notin et al. 2023): the gain is the target scaled to 0 (least) to 1 (largest). Rows of equal
    prediction share the mean of their gains (McSherry, Najork 2008), where ProteinGym takes them as they come.
    Undefined for fewer than ten rows, and where all targets are equal.
    """
    top = len(measured) * TOP // 100
    spread = float(np.ptp(measured)) if len(measured) else 0.0
    if top == 0 or spread == 0:
        return math.nan
    gains = (measured - measured.min()) / spread
    discounts = np.where(np.arange(len(gains)) < top, 1 / np.log2(np.arange(2, len(gains) + 2)), 0)

    def dcg(scores: np.ndarray) -> float:
        _, group, size = np.unique(-scores, return_inverse=True, return_counts=True)
        mean = np.bincount(group, gains) / size
        return float(np.repeat(mean, size) @ discounts)

    return dcg(predicted) / dcg(measured)


def top_recall(predicted: np.ndarray, measured: np.ndarray) -> float:
    """The share of the truly best 10 % of rows that is among the predicted best 10 %, as ProteinGym counts it.

    Both are the rows at or above the 90th percentile, so that ties at it count as well. Undefined for fewer than ten
    rows, and where all predictions are equal, which puts all rows among the best.
    """
    if len(measured) * TOP < 100 or np.ptp(predicted) == 0:
        return math.nan
    best, chosen = (values >= np.percentile(values, 100 - TOP) for values in (measured, predicted))
    return float((best & chosen).sum() / best.sum())


def class_scores(probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Of each class against the others: how many rows it has, precision, recall, F1, AUROC and AUPRC, or None."""
    chosen, found = probabilities.argmax(-1), {}
    for index, name in enumerate(classes):
        true, taken = targets == index, chosen == index
        hits, rows, predicted = int((true & taken).sum()), int(true.sum()), int(taken.sum())
        score = probabilities[:, index].astype(np.float64)
        values = {
            "precision": hits / predicted if predicted else math.nan,
            "recall": hits / rows if rows else math.nan,
            "f1": 2 * hits / (rows + predicted) if rows + predicted else math.nan,
            "auroc": _auroc(score, true),
            "auprc": _average_precision(score, true),
        }
        found[name] = {"rows": rows} | {key: value if math.isfinite(value) else None for key, value in values.items()}
    return found


OF_SEQUENCES = {"token": ("auroc", "mcc"), "token-regression": METRICS["token-regression"]}


def mean_of_sequences(
    predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], positive: int = 1, task: str = "token"
) -> dict[str, float | int | None]:
    """Of residues, the mean over sequences of each score in `OF_SEQUENCES`, where it is defined.

    Args:
        predictions: probabilities (L, classes), or numbers (L,), of each sequence's labelled residues.
        targets: (L,) their classes or numbers.

    Returns:
        of each score, such as auroc, the mean (None where no sequence has one), and in how many sequences it is defined
        (auroc_defined); sequences: of how many.
    """
    scores = [evaluate(task, *pair, positive) for pair in zip(predictions, targets, strict=True)]
    found: dict[str, float | int | None] = {"sequences": len(scores)}
    for name in OF_SEQUENCES[task]:
        defined = [value for each in scores if (value := each[name]) is not None]
        found |= {name: float(np.mean(defined)) if defined else None, f"{name}_defined": len(defined)}
    return found


def epistasis_scores(measured: np.ndarray, additive: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """How well a model predicts what an additive one leaves over.

    Args:
        measured: (N,) targets; additive: the additive model's predictions; predicted: the model's.

    Returns:
        epistasis_r2: share of the residual's variance that the model explains; epistasis_pearson: correlation
        between the residual and the model's own deviation from additivity.
    """
    residual, deviation = measured - additive, predicted - additive
    variance = float(np.var(residual))
    if variance == 0 or np.ptp(deviation) == 0:
        return {"epistasis_r2": float("nan"), "epistasis_pearson": float("nan")}
    return {
        "epistasis_r2": 1 - float(np.mean((residual - deviation) ** 2)) / variance,
        "epistasis_pearson": float(np.corrcoef(residual, deviation)[0, 1]),
    }
