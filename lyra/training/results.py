"""What a finished run leaves: model, scores, test predictions, pictures and report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import plots
from ..data.batches import SequenceDataset
from ..data.loading import LabelledData
from ..files import atomic_text, write_json
from ..metrics import METRICS, MONITORED, calibration, class_scores, evaluate, mean_of_sequences
from ..model_folder import ModelDescription, save_model
from ..prediction import Predictor
from ..scores import NetworkFacts, Results, score_name
from ..settings.training import Recipe
from . import report, selection
from .comparison import compare
from .fitting import Fitted
from .networks import Network
from .parts import PARTS, scored, sequence_of_each

REPORT = "report.html"  # written last: a run that has it is finished


def write_results(
    out: Path, fitted: Fitted, data: LabelledData, recipe: Recipe, title: str, graphs: bool, warn: Callable[[str], None]
) -> Results:
    """Evaluates the model, on its device and with or without CUDA graphs, and writes everything into `out`."""
    description = ModelDescription(
        data.alphabet, data.targets, fitted.output, data.source, data.coverage(), fitted.calibration
    )
    save_model(out / "model", fitted.model, description)
    predictor = Predictor(fitted.model, description).use_graphs(None if graphs else False, warn)
    task = data.targets.task
    results = Results(
        out, {}, networks=[network_facts(task, name, each) for name, each in fitted.networks.items()],
        shares=fitted.shares, positive=data.targets.positive,
        parameters=sum(parameter.numel() for parameter in fitted.model.parameters()),
    )  # fmt: skip
    predictions, part_rows = {}, {name: data.rows(name) for name in PARTS}
    for part, name in PARTS.items():
        rows = part_rows[part]
        if part == "val" and recipe.mix == "folds":  # every model but one of each kind has seen it
            rows, predictions[part] = fitted.held_out, fitted.predicted
            part_rows[part] = rows
        elif len(rows) == 0:
            continue
        else:
            predictions[part] = predictor.predict_dataset(SequenceDataset(data.tokens, data.offsets, rows))
        predicted, true = scored(data, predictions[part], rows)
        results.scores[name] = evaluate(task, predicted, true, data.targets.positive_index)
        if data.targets.classes and len(only := np.unique(predicted.argmax(-1))) == 1:
            results.one_class[name] = data.targets.classes[only[0]]
        if data.targets.classes:
            add_class_details(results, data, name, predicted, true, sequence_of_each(data, rows))
    additive = compare(results, data, predictions, part_rows)
    write_json(out / "metrics.json", results.to_json())
    shown = "test" if "test" in predictions else "val"
    write_predictions(out / "predictions.csv", data, predictor, part_rows[shown], predictions[shown])
    history = next(iter(fitted.networks.values())).history
    pictures = draw(out, data, history, results, shown, part_rows[shown], predictions[shown], additive)
    report.write_report(out / REPORT, title, data, recipe, results, pictures)
    return results


def network_facts(task: str, name: str, network: Network) -> NetworkFacts:
    """What the tables say of a network's training."""
    history = network.history
    return NetworkFacts(
        name, len(history), selection.best_epoch(task, history),
        selection.reason(task, history, score_name(MONITORED[task], None)), network.seconds,
    )  # fmt: skip


def add_class_details(
    results: Results, data: LabelledData, name: str, predicted: np.ndarray, true: np.ndarray,
    sequences: np.ndarray | None,
) -> None:  # fmt: skip
    """Calibration; of more than two classes the scores of each; of a class per residue the means over sequences."""
    positive = data.targets.positive_index
    if np.isfinite(predicted).all():
        results.calibration[name] = calibration(predicted, true, positive)
    if len(data.targets.classes) > 2:
        results.per_class[name] = class_scores(predicted, true, data.targets.classes)
    if sequences is not None:
        starts = np.flatnonzero(np.diff(sequences)) + 1
        results.per_sequence[name] = mean_of_sequences(np.split(predicted, starts), np.split(true, starts), positive)


def write_predictions(path: Path, data: LabelledData, predictor: Predictor, rows: np.ndarray, predictions: Any) -> None:
    """Row number, sequence (or mutations), target and prediction of each row."""
    table = data.table.iloc[rows]
    source, target = data.source.column, data.source.target
    with atomic_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", source, target, *predictor.columns])
        cells = predictor.cells(predictions)
        for row, sequence, label, cell in zip(table.index, table[source], table[target], cells, strict=True):
            writer.writerow([row, sequence, label, *cell.values()])


def draw(
    out: Path,
    data: LabelledData,
    history: Sequence[Mapping[str, Any]],
    results: Results,
    part: str,
    rows: np.ndarray,
    predictions: Any,
    additive: Any,
) -> dict[str, Path]:
    """The run's pictures; returns {caption: file}."""
    name = PARTS[part]
    predicted, values = scored(data, predictions, rows)
    scores = results.scores[name]
    best_epoch, pictures = results.networks[0].best_epoch, {}
    if data.targets.task == "regression":
        comparison = plots.Comparison(predictions, values, scores, data.source.target, name)
        path = out / "predicted_vs_measured.png"
        plots.predicted_vs_measured(path, comparison)
        pictures[f"Predicted against measured, {len(values):,} {name} sequences"] = path
        plots.summary(out / "summary.png", comparison, history, best_epoch)
        if additive is not None and scores.get("epistasis_r2") is not None:
            path = out / "epistasis.png"
            plots.epistasis(path, predictions - additive, values - additive, scores, name)
            pictures["What an additive model leaves over, and what this model makes of it"] = path
    else:
        path = out / "confusion.png"
        plots.confusion(path, predicted.argmax(-1), values, data.targets.classes, name)
        pictures[f"Predicted against true class, {len(values):,} of the {name} part"] = path
        if name in results.calibration:
            path, which = out / "calibration.png", results.positive or "the predicted class"
            plots.reliability(path, results.calibration[name], which, name)
            pictures[f"Calibration: probability of {which} against how often it was right, {name} part"] = path
    path = out / "learning_curve.png"
    plots.learning_curve(path, history, METRICS[data.targets.task][:2], best_epoch)
    pictures["Learning curve"] = path
    return pictures
