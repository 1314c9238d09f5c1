"""How far scores would vary with other rows: the bootstrap (Efron 1979), with percentile intervals.

A resample is how often each row was drawn. Scores are computed from those counts, from orders and ranks that are
found once: nothing is sorted again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .scores import METRICS, TOP, mcc_of

RESAMPLES = 1000
FEWEST = 100
WORK = 1e8  # rows times resamples that a score is computed for at most, before resamples become fewer
COVERAGE = 95  # percent

Statistic = Callable[[np.ndarray], float]  # from how often each row counts, (N,) float64, to a score or nan
Draws = dict[str, np.ndarray]  # a score in each resample


def draw(
    task: str, predictions: Sequence[np.ndarray], targets: np.ndarray, names: Sequence[Sequence[str]],
    positive: int = 1, sequences: np.ndarray | None = None, seed: int = 0,
) -> list[Draws]:  # fmt: skip
    """Scores of several models in the same resamples of the rows.

    Args:
        predictions: of each model, as `evaluate` takes them; targets: those of all.
        names: of each model, which scores.
        sequences: (N,) of residues, the number of the sequence that each is in: whole sequences are then drawn, for
            their residues are not independent. None draws rows.

    Returns:
        of each model {score: (resamples,)}, nan where it is undefined. Of very many rows there are fewer resamples
        than `RESAMPLES`.
    """
    ranked = predictions[0].shape[1] if predictions[0].ndim == 2 and predictions[0].shape[1] > 2 else 1
    resamples = int(min(RESAMPLES, max(FEWEST, WORK // max(1, len(targets) * ranked))))
    models = [
        statistics(task, predicted, targets, wanted, positive)
        for predicted, wanted in zip(predictions, names, strict=True)
    ]
    found = [{name: np.full(resamples, math.nan) for name in model} for model in models]
    units = len(targets) if sequences is None else int(sequences.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    for resample in range(resamples):
        counts = np.bincount(rng.integers(0, units, units), minlength=units).astype(np.float64)
        rows = counts if sequences is None else counts[sequences]
        for model, values in zip(models, found, strict=True):
            for name, statistic in model.items():
                values[name][resample] = statistic(rows)
    return found


def interval(draws: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval that holds 95 % of the draws, undefined ones left out; None if they are most of them."""
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws):
        return None
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


def differences(one: Draws, other: Draws, name: str) -> np.ndarray:
    """By how much the score of one model is above another's, in each resample."""
    return one[name] - other[name]


def statistics(
    task: str, predicted: np.ndarray, targets: np.ndarray, names: Sequence[str], positive: int = 1
) -> Mapping[str, Statistic]:
    """The scores of the given names as functions of how often each row counts; defined as in `evaluate`.

    Of numbers there are r2, spearman and ndcg; of classes accuracy, mcc, auroc and auprc.
    """
    predicted = np.asarray(predicted, np.float64)
    if "r2" in METRICS[task]:
        made = {"r2": _r2, "spearman": _spearman, "ndcg": _ndcg}
        return {name: made[name](predicted, np.asarray(targets, np.float64)) for name in names}
    classes = predicted.shape[1]
    chosen = [positive] if classes == 2 else list(range(classes))
    found: dict[str, Statistic] = {}
    for name in names:
        if name in _OF_CLASSES:
            found[name] = _OF_CLASSES[name](targets * classes + predicted.argmax(-1), classes)
        else:
            found[name] = _mean([_RANKED[name](predicted[:, index], targets == index) for index in chosen])
    return found


def _accuracy(pairs: np.ndarray, classes: int) -> Statistic:
    right = (pairs // classes == pairs % classes).astype(np.float64)
    return lambda rows: float(rows @ right / rows.sum())


def _mcc(pairs: np.ndarray, classes: int) -> Statistic:
    return lambda rows: mcc_of(np.bincount(pairs, rows, classes**2).reshape(classes, classes))


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    return lambda rows: float(np.mean([statistic(rows) for statistic in statistics]))


class _Order:
    """Rows by a score, those of an equal score as one group."""

    def __init__(self, scores: np.ndarray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        first = np.append(True, ordered[1:] != ordered[:-1]) if len(ordered) else np.zeros(0, bool)
        self.starts = np.flatnonzero(first)
        self.group = np.empty(len(scores), np.int64)
        self.group[self.order] = np.cumsum(first) - 1
        self.single = len(self.starts) == len(scores)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(groups,) sums of the values (N,) in each, from the least score to the largest."""
        ordered = values[self.order]
        return ordered if self.single else np.add.reduceat(ordered, self.starts)

    def ranks(self, rows: np.ndarray) -> np.ndarray:
        """(N,) mean ranks of the rows where each counts so often."""
        sizes = self.sums(rows)
        return (np.cumsum(sizes) - (sizes - 1) / 2)[self.group]


def _r2(predicted: np.ndarray, measured: np.ndarray) -> Statistic:
    centred = measured - measured[0]
    centred -= centred.mean()
    spread = float(np.abs(centred).max()) or 1.0
    errors, centred = ((predicted - measured) / spread) ** 2, centred / spread
    squares = centred**2

    def statistic(rows: np.ndarray) -> float:
        total = rows @ squares - (rows @ centred) ** 2 / rows.sum()
        return 1 - rows @ errors / total if total > 1e-12 * (rows @ squares) else math.nan

    return statistic


def _spearman(predicted: np.ndarray, measured: np.ndarray) -> Statistic:
    orders = _Order(predicted), _Order(measured)

    def statistic(rows: np.ndarray) -> float:
        middle = (rows.sum() + 1) / 2
        one, other = (order.ranks(rows) - middle for order in orders)
        weighted = rows * one
        spread = (weighted @ one) * (rows @ other**2)
        return float(weighted @ other / math.sqrt(spread)) if spread > 0 else math.nan

    return statistic


def _ndcg(predicted: np.ndarray, measured: np.ndarray) -> Statistic:
    orders = _Order(-predicted), _Order(-measured)
    top = len(measured) * TOP // 100
    cumulated = np.append(0, np.cumsum(1 / np.log2(np.arange(2, top + 2))))

    def dcg(order: _Order, rows: np.ndarray, gains: np.ndarray) -> float:
        sizes, sums = order.sums(rows), order.sums(rows * gains)
        ends = np.cumsum(sizes).astype(np.int64)
        last = int(np.searchsorted(ends, top)) + 1
        sizes, sums, ends = sizes[:last], sums[:last], ends[:last]
        starts = ends - sizes.astype(np.int64)
        discounts = cumulated[np.minimum(ends, top)] - cumulated[np.minimum(starts, top)]
        return float(np.sum(sums / np.maximum(sizes, 1) * discounts))

    def statistic(rows: np.ndarray) -> float:
        drawn = measured[rows > 0]
        low, high = drawn.min(), drawn.max()
        if top == 0 or low == high:
            return math.nan
        gains = (measured - low) / (high - low)
        return dcg(orders[0], rows, gains) / dcg(orders[1], rows, gains)

    return statistic


def _auroc(scores: np.ndarray, true: np.ndarray) -> Statistic:
    order, positive = _Order(scores), true.astype(np.float64)

    def statistic(rows: np.ndarray) -> float:
        hits, sizes = order.sums(rows * positive), order.sums(rows)
        others = sizes - hits
        pairs = hits.sum() * others.sum()
        return float(hits @ (np.cumsum(others) - others / 2) / pairs) if pairs else math.nan

    return statistic


def _auprc(scores: np.ndarray, true: np.ndarray) -> Statistic:
    order, positive = _Order(-scores), true.astype(np.float64)

    def statistic(rows: np.ndarray) -> float:
        hits, sizes = order.sums(rows * positive), order.sums(rows)
        positives = hits.sum()
        if positives in (0, sizes.sum()):
            return math.nan
        return float(hits @ (np.cumsum(hits) / np.maximum(np.cumsum(sizes), 1)) / positives)

    return statistic


_OF_CLASSES = {"accuracy": _accuracy, "mcc": _mcc}
_RANKED = {"auroc": _auroc, "auprc": _auprc}
