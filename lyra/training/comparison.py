"""The model beside the baselines: scores on the same rows, their bootstrap intervals, and who is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.loading import LabelledData
from ..metrics import COMPARED, Draws, differences, draw, epistasis_scores, evaluate, interval
from ..scores import MODEL, Results, number, score_name
from .parts import PARTS, scored, sequence_of_each
from .rivals import ADDITIVE, Rival, fit_rivals

WITH_INTERVALS = {
    "regression": ("r2", "spearman", "ndcg"),
    "classification": ("accuracy", "mcc", "auroc", "auprc"),
    "token": ("accuracy", "mcc", "auroc", "auprc"),
}


def compare(
    results: Results, data: LabelledData, predictions: dict[str, Any], part_rows: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Fits the baselines and adds to the results their scores, intervals of the test part's scores, and the verdict.

    Args:
        results: with the model's own scores of each part in `predictions`, to which those of epistasis are added.
        predictions: of the model, of each part ("val", "test") as the predictor gives them.
        part_rows: the rows that those of each part are of. A part of other rows than the data's own, such as rows held
            out in turn, is not compared: the baselines were fitted to some of them.

    Returns:
        the additive model's predictions of the last part that is compared, where the task has one.
    """
    task, positive = data.targets.task, data.targets.positive_index
    rivals = fit_rivals(data)
    results.fits = {name: rival.to_json() for name, rival in rivals.items()}
    results.baselines = {name: {} for name in rivals}
    additive = None
    for part, name in PARTS.items():
        rows = data.rows(part)
        if part not in predictions or not np.array_equal(part_rows[part], rows):
            continue
        predicted = {MODEL: scored(data, predictions[part], rows)[0]} | _predicted(data, rivals, rows)
        true = scored(data, predictions[part], rows)[1]
        for rival in rivals:
            results.baselines[rival][name] = evaluate(task, predicted[rival], true, positive)
        if ADDITIVE in rivals:
            additive = predicted[ADDITIVE]
            _add_epistasis(results, name, predicted, true)
        if part == "test":
            _add_intervals(results, data, predicted, true)
    return additive


def _predicted(data: LabelledData, rivals: dict[str, Rival], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The baselines' predictions as they are scored."""
    return {name: scored(data, rival.predict(rows), rows)[0] for name, rival in rivals.items()}


def _add_epistasis(results: Results, name: str, predicted: dict[str, np.ndarray], true: np.ndarray) -> None:
    for model, values in predicted.items():
        if model != ADDITIVE:
            new = epistasis_scores(true, predicted[ADDITIVE], values)
            scores = results.scores if model == MODEL else results.baselines[model]
            scores[name] |= {key: value if np.isfinite(value) else None for key, value in new.items()}


def _add_intervals(results: Results, data: LabelledData, predicted: dict[str, np.ndarray], true: np.ndarray) -> None:
    """Intervals of the test part's scores, all those of the model and of the baselines the one that is compared."""
    task = data.targets.task
    compared = COMPARED[task]
    if len(true) < 2 or not all(np.isfinite(values).all() for values in predicted.values()):
        return
    wanted = [WITH_INTERVALS[task] if model == MODEL else (compared,) for model in predicted]
    sequences = sequence_of_each(data, data.rows("test"))
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
        score = scores["test"][compared]
        bounds = interval(differences(draws[MODEL], draws[rival], compared))
        if own is None or score is None or bounds is None:
            continue
        results.differences[rival] = {"score": compared, "difference": own - score, "interval": list(bounds)}
        beaten = beaten and bounds[0] > 0
        if bounds[0] <= 0 and (best is None or score > best[0]):
            best = (score, rival)
    if beaten or best is None:
        return
    score, rival = best
    low, high = results.differences[rival]["interval"]
    results.verdict = (
        f"the model is not better than {rival} on the test part ({score_name(compared, results.positive)} "
        f"{number(compared, own)} against {number(compared, score)}; 95 % interval of the difference "
        f"{number(compared, low)} to {number(compared, high)})"
    )
