"""What a finished run leaves: model, scores, test predictions, pictures and report."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import baselines, plots
from ..data.batches import IGNORED, SequenceDataset
from ..data.loading import LabelledData
from ..data.replicates import noise_ceiling
from ..files import atomic_text, write_json
from ..metrics import METRICS, MONITORED, evaluate
from ..model_folder import ModelDescription, save_model
from ..prediction import Predictor
from ..scores import Results, score_name
from ..scoring import score, score_each
from ..settings.training import Recipe
from . import report, selection
from .callbacks import History
from .module import LyraModule

REPORT = "report.html"  # written last: a run that has it is finished
TRACKS = 5  # sequences along which classes of residues are drawn
DRAWN = 9  # of several targets, those with a picture
PARTS = {"val": "validation", "test": "test"}  # the parts that are scored, and how they are called


def write_results(
    out: Path, module: LyraModule, data: LabelledData, recipe: Recipe, history: History, title: str,
    graphs: bool, warn: Callable[[str], None],
) -> Results:  # fmt: skip
    """Evaluates the trained module, on its device and with or without CUDA graphs, and writes everything into `out`."""
    description = ModelDescription(data.alphabet, data.targets, module.output, data.source, data.coverage())
    save_model(out / "model", module.model, description)
    predictor = Predictor(module.model, description).use_graphs(None if graphs else False, warn)
    task = data.targets.task
    results = Results(
        out, {}, seconds=history.seconds(), epochs=len(history.rows),
        best_epoch=selection.best_epoch(task, history.rows),
        chosen=selection.reason(task, history.rows, score_name(MONITORED[task], None)), positive=data.targets.positive,
        parameters=sum(parameter.numel() for parameter in module.model.parameters()),
    )  # fmt: skip
    predictions = {}
    for part, name in PARTS.items():
        rows = data.rows(part)
        if len(rows) == 0:
            continue
        dataset = SequenceDataset(data.tokens, data.offsets, rows)
        predictions[part] = predictor.predict_dataset(dataset)
        predicted, true = scored(data, predictions[part], rows)
        results.scores[name] = score(data.targets, predicted, true)
        for target, scores in (score_each(data.targets, predicted, true) if data.targets.names else {}).items():
            results.targets.setdefault(target, {})[name] = scores
        if data.targets.classes and len(only := np.unique(predicted.argmax(-1))) == 1:
            results.one_class[name] = data.targets.classes[only[0]]
    shown = "test" if "test" in predictions else "val"
    if data.errors is not None:
        rows = data.scored(shown)
        results.noise_ceiling = noise_ceiling(np.array(data.values)[rows], data.errors[rows])
    additive = compare_with_baselines(results, data, predictions)
    write_json(out / "metrics.json", results.to_json())
    write_predictions(out / "predictions.csv", data, predictor, shown, predictions[shown])
    pictures = draw(out, data, history, results, shown, predictions[shown], additive)
    report.write_report(out / REPORT, title, data, recipe, results, pictures)
    return results


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
    if data.targets.task == "token":
        real = true != IGNORED
        return predicted[real], true[real]
    if data.censored is not None:
        real = data.censored[rows] == 0
        return predicted[real], true[real]
    return predicted, true


def compare_with_baselines(results: Results, data: LabelledData, predictions: dict[str, Any]) -> np.ndarray | None:
    """Adds the baselines' scores and every model's epistasis scores; returns ridge's predictions of the last part.

    Only for a regression on sequences of one length, short enough for the closed form.
    """
    lengths, letters = np.diff(data.offsets), len(data.alphabet)
    same = lengths.min() == lengths.max() and 0 < lengths[0] * letters <= baselines.MAX_FEATURES
    if data.targets.task != "regression" or data.targets.names or not same or not len(data.scored("val")):
        return None
    tokens = data.tokens.reshape(len(lengths), lengths[0])
    values = np.array(data.values, dtype=np.float64)
    train, val = data.scored("train"), data.scored("val")
    fitted = (tokens[train], values[train], tokens[val], values[val], letters)
    models: dict[str, baselines.Ridge | baselines.SigmoidAdditive] = {
        "one-hot ridge": baselines.fit_ridge(*fitted),
        "one-hot sigmoid": baselines.fit_sigmoid_additive(*fitted),
    }
    results.baselines = {name: {} for name in models}
    additive = None
    for part, name in PARTS.items():
        if part not in predictions:
            continue
        rows, (own, _) = data.scored(part), scored(data, predictions[part], data.rows(part))
        found = {model: fit.predict(tokens[rows]) for model, fit in models.items()}
        additive = found["one-hot ridge"]
        for model, predicted in found.items():
            results.baselines[model][name] = evaluate("regression", predicted, values[rows])
        rivals = [(results.scores[name], own)]
        rivals += [(results.baselines[model][name], found[model]) for model in found if model != "one-hot ridge"]
        for scores, predicted in rivals:
            new = baselines.epistasis_scores(values[rows], additive, predicted)
            scores |= {key: value if np.isfinite(value) else None for key, value in new.items()}
    return additive


def write_predictions(path: Path, data: LabelledData, predictor: Predictor, part: str, predictions: Any) -> None:
    """Row number, sequence (or mutations), target and prediction of each row of a part."""
    table = data.table.iloc[data.rows(part)]
    source, names = data.source.column, data.targets.names or [data.source.target]
    with atomic_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", source, *names, *predictor.columns])
        cells = predictor.cells(predictions)
        labels = table[names].itertuples(index=False)
        for row, sequence, label, cell in zip(table.index, table[source], labels, cells, strict=True):
            writer.writerow([row, sequence, *label, *cell.values()])


def compare_each(
    data: LabelledData, results: Results, predicted: np.ndarray, values: np.ndarray, name: str
) -> list[plots.Comparison]:
    """Predictions of the first of several targets beside what was measured, as far as there is anything."""
    found = []
    for i, target in enumerate(data.targets.names[:DRAWN]):
        known = ~np.isnan(values[:, i])
        if known.any():
            scores = results.targets[target][name]
            found.append(plots.Comparison(predicted[known, i], values[known, i], scores, target, name))
    return found


def draw(
    out: Path,
    data: LabelledData,
    history: History,
    results: Results,
    part: str,
    predictions: Any,
    additive: Any,
) -> dict[str, Path]:
    """The run's pictures; returns {caption: file}."""
    name = PARTS[part]
    predicted, values = scored(data, predictions, data.rows(part))
    scores = results.scores[name]
    pictures = {}
    if data.targets.names:
        drawn = compare_each(data, results, predicted, values, name) if data.targets.task == "regression" else []
        if drawn:
            path = out / "predicted_vs_measured.png"
            plots.predicted_vs_measured(path, *drawn)
            pictures[f"Predicted against measured, {len(values):,} {name} sequences"] = path
    elif data.targets.task == "regression" and len(values):  # not limits alone
        comparison = plots.Comparison(predicted, values, scores, data.source.target, name)
        path = out / "predicted_vs_measured.png"
        plots.predicted_vs_measured(path, comparison)
        pictures[f"Predicted against measured, {len(values):,} {name} sequences"] = path
        plots.summary(out / "summary.png", comparison, history.rows, results.best_epoch)
        if additive is not None and scores.get("epistasis_r2") is not None:
            path = out / "epistasis.png"
            plots.epistasis(path, predicted - additive, values - additive, scores, name)
            pictures["What an additive model leaves over, and what this model makes of it"] = path
    elif data.targets.classes:
        path = out / "confusion.png"
        plots.confusion(path, predicted.argmax(-1), values, data.targets.classes, name)
        pictures[f"Predicted against true class, {len(values):,} of the {name} part"] = path
    if data.targets.task == "token":
        rows = data.rows(part)[:TRACKS]
        tracks = [
            plots.Track(f"row {data.table.index[row]}", one, data.values[row])
            for row, one in zip(rows, predictions[:TRACKS], strict=True)
        ]
        path = out / "along_sequences.png"
        plots.along_sequences(path, tracks, data.targets.classes, data.targets.positive_index, name)
        pictures[f"Predicted and true classes along the first {len(tracks)} sequences of the {name} part"] = path
    path = out / "learning_curve.png"
    plots.learning_curve(path, history.rows, METRICS[data.targets.task][:2], results.best_epoch)
    pictures["Learning curve"] = path
    return pictures
