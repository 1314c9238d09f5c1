"""The model beside the baselines: scores on the same rows, their bootstrap intervals, and who is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.loading import LabelledData
from ..metrics import COMPARED, Draws, differences, draw, epistasis_scores, interval
from ..scores import MODEL, Results, number, score_name
from ..scoring import score, score_each
from .parts import PARTS, scored, sequence_of_each
from .rivals import ADDITIVE, Rivals, fit_rivals

WITH_INTERVALS = {
    "regression": ("r2", "spearman", "ndcg"),
    "classification": ("accuracy", "mcc", "auroc", "auprc"),
    "token": ("accuracy", "mcc", "auroc", "auprc"),
    "token-regression": ("r2", "spearman"),
}


def compare(results: Results, data: LabelledData, predictions: dict[str, Any], rivals: Rivals) -> np.ndarray | None:
    """Adds to the results the baselines' scores, intervals of the test part's scores, and the verdict.

    Args:
        results: with the model's own scores of each part in `predictions`, to which those of epistasis are added.
        predictions: of the model, of each part ("val", "test") as the predictor gives them.
        rivals: the fitted baselines, see `fit_rivals`.

    Returns:
        the additive model's predictions of the last part, where the task has one.
    """
    results.fits = {name: rival.to_json() for name, rival in rivals.items()}
    additive = None
    for part, name in PARTS.items():
        if part in predictions:
            rows = data.rows(part)
            additive = _add_part(results, data, name, rows, predictions[part], _predicted(data, rivals, rows))
    return additive


def compare_folds(
    results: Results, data: LabelledData, rows: np.ndarray, predictions: Any, fitted: Sequence[Rivals]
) -> np.ndarray | None:
    """`compare` for rows that were left out fold by fold, by baselines fitted to the other rows of each fold.

    Args:
        rows: the folds' test rows, end to end; predictions: the model's for these.
        fitted: the baselines of each fold; empty fits them.
    """
    found: dict[str, list[np.ndarray]] = {}
    own, tests, start = [], [], 0
    for index, (name, parts) in enumerate(zip(data.fold_names, data.folds, strict=True)):
        fold = replace(data, parts=parts)
        test, rivals = fold.rows("test"), fitted[index] if fitted else fit_rivals(fold)
        tests.append(test)
        own.append(predictions[start : start + len(test)])
        start += len(test)
        results.fits |= {f"{rival}, fold {name}": each.to_json() for rival, each in rivals.items()}
        for rival, values in _predicted(data, rivals, test).items():
            found.setdefault(rival, []).append(values)
    for model, each in {MODEL: [scored(data, *pair)[0] for pair in zip(own, tests, strict=True)], **found}.items():
        truths = [scored(data, *pair)[1] for pair in zip(own, tests, strict=True)]
        results.folds[model] = [score(data.targets, p, true) for p, true in zip(each, truths, strict=True)]
    pooled = {rival: np.concatenate(values) for rival, values in found.items()}
    return _add_part(results, data, "test", rows, predictions, pooled)


def _add_part(
    results: Results, data: LabelledData, name: str, rows: np.ndarray, own: Any, rivals: dict[str, np.ndarray]
) -> np.ndarray | None:
    """The scores of a part; returns the additive model's predictions of one target, if there is one."""
    predicted = {MODEL: scored(data, own, rows)[0]} | rivals
    true = scored(data, own, rows)[1]
    for rival, values in rivals.items():
        scores = score(data.targets, values, true)
        results.baselines.setdefault(rival, {})[name] = scores
        if data.targets.names:
            for target, of_target in score_each(data.targets, values, true).items():
                results.baseline_targets.setdefault(rival, {}).setdefault(target, {})[name] = of_target
    if data.targets.names:
        return None
    if ADDITIVE in rivals:
        _add_epistasis(results, name, predicted, true)
    if name == "test":
        _add_intervals(results, data, rows, predicted, true)
    return rivals.get(ADDITIVE)


def _predicted(data: LabelledData, rivals: Rivals, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The baselines' predictions as they are scored."""
    return {name: scored(data, rival.predict(rows), rows)[0] for name, rival in rivals.items()}


def _add_epistasis(results: Results, name: str, predicted: dict[str, np.ndarray], true: np.ndarray) -> None:
    for model, values in predicted.items():
        if model != ADDITIVE:
            new = epistasis_scores(true, predicted[ADDITIVE], values)
            scores = results.scores if model == MODEL else results.baselines[model]
            scores[name] |= {key: value if np.isfinite(value) else None for key, value in new.items()}


def _add_intervals(
    results: Results, data: LabelledData, rows: np.ndarray, predicted: dict[str, np.ndarray], true: np.ndarray
) -> None:
    """Intervals of the test part's scores, all those of the model and of the baselines the one that is compared."""
    task = data.targets.task
    compared = COMPARED[task]
    if len(true) < 2 or not all(np.isfinite(values).all() for values in predicted.values()):
        return
    wanted = [WITH_INTERVALS[task] if model == MODEL else (compared,) for model in predicted]
    sequences = sequence_of_each(data, rows)
    drawn = draw(task, list(predicted.values()), true, wanted, data.targets.positive_index, sequences)
    draws = dict(zip(predicted, drawn, strict=True))
    for model, values in draws.items():
        found = {name: interval(each) for name, each in values.items()}
        results.intervals[model] = {name: bounds for name, bounds in found.items() if bounds is not None}
    resamples = len(draws[MODEL][compared])
    unit = "rows" if sequences is None else "whole sequences"
    results.interval_method = f"95 % percentile intervals of {resamples:,} bootstrap resamples of {unit}"
    _judge(results, compared, draws)


def _judge(results: Results, compared: str, draws: dict[str, Draws]) -> None:
    """Says so where the model is not better than a baseline by more than the resamples vary."""
    own, beaten = results.scores["test"][compared], True
    best: tuple[float, str] | None = None
    for rival, scores in results.baselines.items():
        theirs = scores["test"][compared]
        bounds = interval(differences(draws[MODEL], draws[rival], compared))
        if own is None or theirs is None or bounds is None:
            continue
        results.differences[rival] = {"score": compared, "difference": own - theirs, "interval": list(bounds)}
        beaten = beaten and bounds[0] > 0
        if bounds[0] <= 0 and (best is None or theirs > best[0]):
            best = (theirs, rival)
    if beaten or best is None:
        return
    theirs, rival = best
    low, high = results.differences[rival]["interval"]
    clearly = "clearly " if own is not None and own > theirs else ""
    results.verdict = (
        f"the model is not {clearly}better than {rival} on the test part ({score_name(compared, results.positive)} "
        f"{number(compared, own)} against {number(compared, theirs)}; 95 % interval of the difference "
        f"{number(compared, low)} to {number(compared, high)})"
    )
