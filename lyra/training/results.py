"""What a finished run leaves: model, scores, test predictions, pictures and report."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import plots
from ..data.batches import SequenceDataset
from ..data.loading import LabelledData
from ..data.replicates import noise_ceiling
from ..files import atomic_text, write_json
from ..metrics import METRICS, MONITORED, calibration, class_scores, mean_of_sequences
from ..model_folder import save_model
from ..prediction import Predictor, mean_of_members
from ..prediction_columns import Columns
from ..scores import OUT_OF_FOLD, NetworkFacts, Results, score_name
from ..scoring import score, score_each
from ..settings.training import Recipe
from . import report, selection
from .comparison import compare, compare_folds
from .fitting import describe_model
from .mixing import Fitted
from .networks import Network
from .parts import PARTS, scored, sequence_of_each
from .rivals import fit_rivals

REPORT = "report.html"  # written last: a run that has it is finished
TRACKS = 5  # sequences along which classes or numbers of residues are drawn
DRAWN = 9  # of several targets, those with a picture


def write_results(
    out: Path, fitted: Fitted, data: LabelledData, recipe: Recipe, title: str, graphs: bool, warn: Callable[[str], None]
) -> Results:
    """Evaluates the model, on its device and with or without CUDA graphs, and writes everything into `out`."""
    description = describe_model(data, fitted)
    save_model(out / "model", fitted.model, description)
    predictor = Predictor(fitted.model, description).use_graphs(None if graphs else False, warn)
    task = data.targets.task
    networks = [network_facts(task, name, each, recipe.keep) for name, each in fitted.networks.items()]
    results = Results(
        out, task, {}, networks=networks,
        shares=fitted.shares, positive=data.targets.positive,
        parameters=sum(parameter.numel() for parameter in fitted.model.parameters()),
    )  # fmt: skip
    evaluated = evaluations(fitted, data, recipe, predictor)
    for name, each in evaluated.items():
        add_scores(results, data, name, each.rows, each.predictions)
    if data.folds:
        test = evaluated["test"]
        additive = compare_folds(results, data, test.rows, test.predictions, fitted.rivals)
    else:
        predicted = {part: evaluated[name].predictions for part, name in PARTS.items() if name in evaluated}
        additive = compare(results, data, predicted, fitted.rivals[0] if fitted.rivals else fit_rivals(data))
    shown = "test" if "test" in evaluated else next(iter(evaluated))
    rows, predictions, members = evaluated[shown]
    if data.errors is not None:
        known = data.measured(rows)
        results.noise_ceiling = noise_ceiling(np.array(data.values)[known], data.errors[known])
    write_json(out / "metrics.json", results.to_json())
    write_predictions(out / "predictions.csv", data, predictor, rows, predictions, members)
    history = next(iter(fitted.networks.values())).history
    pictures = draw(out, data, history, results, shown, rows, predictions, additive)
    report.write_report(out / REPORT, title, data, recipe, results, pictures)
    return results


class Evaluation(NamedTuple):
    """Rows and what the model predicts for them.

    Attributes:
        members: (N, R, ...), of residues a list of (L, R), what the members of an ensemble do, of the test part; None
            where the whole model has not predicted the rows.
    """

    rows: np.ndarray
    predictions: Any
    members: np.ndarray | list[np.ndarray] | None = None


def evaluations(fitted: Fitted, data: LabelledData, recipe: Recipe, predictor: Predictor) -> dict[str, Evaluation]:
    """An evaluation of each part, by what the part is called."""
    if data.folds:
        return {"test": Evaluation(fitted.held_out, fitted.predicted)}
    found: dict[str, Evaluation] = {}
    for part, name in PARTS.items():
        rows = data.rows(part)
        dataset = SequenceDataset(data.tokens, data.offsets, rows)
        if part == "val" and recipe.mix == "folds":  # which every model but one of each kind has seen
            found[OUT_OF_FOLD] = Evaluation(fitted.held_out, fitted.predicted)
        elif part == "test" and len(rows) and Columns(predictor).ensemble:
            members = predictor.members_of(dataset)
            found[name] = Evaluation(rows, mean_of_members(members), members)
        elif len(rows):
            found[name] = Evaluation(rows, predictor.predict_dataset(dataset))
    return found


def add_scores(results: Results, data: LabelledData, name: str, rows: np.ndarray, predictions: Any) -> None:
    """The model's own scores of a part."""
    predicted, true = scored(data, predictions, rows)
    results.scores[name] = score(data.targets, predicted, true)
    if data.targets.names:
        for target, scores in score_each(data.targets, predicted, true).items():
            results.targets.setdefault(target, {})[name] = scores
    if data.targets.classes:
        if len(only := np.unique(predicted.argmax(-1))) == 1:
            results.one_class[name] = data.targets.classes[only[0]]
        add_class_details(results, data, name, predicted, true)
    if (sequences := sequence_of_each(data, rows)) is not None:
        starts = np.flatnonzero(np.diff(sequences)) + 1
        each, positive = (np.split(predicted, starts), np.split(true, starts)), data.targets.positive_index
        results.per_sequence[name] = mean_of_sequences(*each, positive, data.targets.task)


def network_facts(task: str, name: str, network: Network, keep: str | None) -> NetworkFacts:
    """What the tables say of a network's training."""
    history = network.history
    if keep == "last":
        return NetworkFacts(name, len(history), len(history), "as the last of the schedule", network.seconds)
    return NetworkFacts(
        name, len(history), selection.best_epoch(task, history),
        selection.reason(task, history, score_name(MONITORED[task], None)), network.seconds,
    )  # fmt: skip


def add_class_details(results: Results, data: LabelledData, name: str, predicted: np.ndarray, true: np.ndarray) -> None:
    """Calibration; of more than two classes the scores of each."""
    positive = data.targets.positive_index
    if np.isfinite(predicted).all():
        results.calibration[name] = calibration(predicted, true, positive)
    if len(data.targets.classes) > 2:
        results.per_class[name] = class_scores(predicted, true, data.targets.classes)


def write_predictions(
    path: Path, data: LabelledData, predictor: Predictor, rows: np.ndarray, predictions: Any,
    members: np.ndarray | list[np.ndarray] | None,
) -> None:  # fmt: skip
    """Row number, sequence (or mutations), target and prediction of each row; of an ensemble what its members say."""
    table = data.table.iloc[rows]
    source, targets = data.source.column, data.targets.names or [data.source.target]
    columns = Columns(predictor)
    cells: Iterable[list[str]]
    if members is not None:
        names, cells = columns.names, columns.of_members(members, SequenceDataset(data.tokens, data.offsets, rows))
    else:
        names, cells = predictor.columns, ([*cell.values()] for cell in predictor.cells(predictions))
    with atomic_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", source, *targets, *names])
        labels = table[targets].itertuples(index=False)
        for row, sequence, label, cell in zip(table.index, table[source], labels, cells, strict=True):
            writer.writerow([row, sequence, *label, *cell])


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
    history: Sequence[Mapping[str, Any]],
    results: Results,
    name: str,
    rows: np.ndarray,
    predictions: Any,
    additive: Any,
) -> dict[str, Path]:
    """The run's pictures, of the part of this name; returns {caption: file}."""
    predicted, values = scored(data, predictions, rows)
    scores = results.scores[name]
    best_epoch, pictures = results.networks[0].best_epoch, {}
    if data.targets.names:
        drawn = compare_each(data, results, predicted, values, name) if data.targets.task == "regression" else []
        if drawn:
            path = out / "predicted_vs_measured.png"
            plots.predicted_vs_measured(path, *drawn)
            pictures[f"Predicted against measured, {len(values):,} {name} sequences"] = path
    elif data.targets.numeric and len(values):  # not limits alone
        comparison = plots.Comparison(predicted, values, scores, data.source.target, name)
        path = out / "predicted_vs_measured.png"
        plots.predicted_vs_measured(path, comparison)
        what = "residues" if data.targets.per_residue else "sequences"
        pictures[f"Predicted against measured, {len(values):,} {name} {what}"] = path
        plots.summary(out / "summary.png", comparison, history, best_epoch)
        if additive is not None and scores.get("epistasis_r2") is not None:
            path = out / "epistasis.png"
            plots.epistasis(path, predicted - additive, values - additive, scores, name)
            pictures["What an additive model leaves over, and what this model makes of it"] = path
    elif data.targets.classes:
        path = out / "confusion.png"
        plots.confusion(path, predicted.argmax(-1), values, data.targets.classes, name)
        pictures[f"Predicted against true class, {len(values):,} of the {name} part"] = path
        if name in results.calibration:
            path, which = out / "calibration.png", results.positive or "the predicted class"
            plots.reliability(path, results.calibration[name], which, name)
            pictures[f"Calibration: probability of {which} against how often it was right, {name} part"] = path
    if data.targets.per_residue:
        tracks = [
            plots.Track(f"row {data.table.index[row]}", one, data.values[row])
            for row, one in zip(rows[:TRACKS], predictions[:TRACKS], strict=True)
        ]
        path = out / "along_sequences.png"
        if data.targets.numeric:
            plots.numbers_along_sequences(path, tracks, data.source.target, name)
        else:
            plots.along_sequences(path, tracks, data.targets.classes, data.targets.positive_index, name)
        what = "measured numbers" if data.targets.numeric else "true classes"
        pictures[f"Predicted and {what} along the first {len(tracks)} sequences of the {name} part"] = path
    path = out / "learning_curve.png"
    plots.learning_curve(path, history, METRICS[data.targets.task][:2], best_epoch)
    pictures["Learning curve"] = path
    return pictures
