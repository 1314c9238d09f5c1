"""The scores of a training run, and how they are shown."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .metrics import Calibration

MODEL = "Lyra"  # what the trained model is called beside others
NAMES = {
    "r2": "R²", "spearman": "Spearman", "pearson": "Pearson", "rmse": "RMSE", "mae": "MAE",
    "ndcg": "NDCG", "top_recall": "Top-10 % recall",
    "accuracy": "Accuracy", "mcc": "MCC", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1",
    "epistasis_r2": "Epistasis R²", "epistasis_pearson": "Epistasis Pearson",
}  # fmt: skip

OUT_OF_FOLD = "out of fold"  # the part that training rows make, each predicted by models that had not seen it
PARTS = ("test", "validation", OUT_OF_FOLD)  # in the order in which they are shown

DETAILS = (
    "pearson",
    "ndcg",
    "top_recall",
    "epistasis_pearson",
)  # no room in a terminal; the report has it


@dataclass(frozen=True)
class NetworkFacts:
    """One network's training: how many epochs were run, which one is kept, by what it was chosen, seconds spent."""

    name: str
    epochs: int
    best_epoch: int
    chosen: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.epochs} epochs in {self.seconds:.0f} s, epoch {self.best_epoch} kept, chosen {self.chosen}"


@dataclass
class Results:
    """Scores of a run.

    Attributes:
        task: of the model.
        scores: {"validation": {metric: value}, "test": {...}}; "test" is absent without a test part.
        networks: how each was trained.
        shares: of the kinds of models in a mix, their weights; empty where nothing is mixed.
        baselines: scores of the models of `lyra.baselines` on the same parts, {model: {part: {metric: value}}}.
        fits: of each baseline what the validation part chose for it and how many rows it was fitted to.
        intervals: {model: {metric: (low, high)}} of scores of the test part, by `interval_method`.
        differences: {baseline: by how much the model's score on the test part is above it, with an interval}.
        verdict: a line that says that the model is not better than a baseline; None where it is better than all.
        calibration: {part: of the predicted probabilities}; per_class: {part: {class: scores}} of more than two
            classes; per_sequence: {part: means over sequences} of residues.
        folds: {model: scores of each fold's test rows}, where there are folds; `scores` are of all of them together.
        positive: of two classes, the one whose F1 and AUPRC these are.
        targets: of several targets the scores of each, {target: {part: {metric: value}}}; `scores` are their means.
        baseline_targets: the same of each baseline, {baseline: {target: {part: {metric: value}}}}.
        noise_ceiling: the R2 that the true values would reach on the test part (the validation part without one), where
            errors of measurement are known.
        one_class: {part: class} where the model predicts nothing else.
    """

    out: Path
    task: str
    scores: dict[str, dict[str, float | None]]
    baselines: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    networks: list[NetworkFacts] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    fits: dict[str, dict[str, Any]] = field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    interval_method: str = ""
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdict: str | None = None
    calibration: dict[str, Calibration] = field(default_factory=dict)
    per_class: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    per_sequence: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    folds: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)
    positive: str | None = None
    targets: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    baseline_targets: dict[str, dict[str, dict[str, dict[str, float | None]]]] = field(default_factory=dict)
    noise_ceiling: float | None = None
    one_class: dict[str, str] = field(default_factory=dict)
    parameters: int = 0

    def training(self) -> str:
        """The training in a line, for people."""
        if len(self.networks) == 1:
            text = str(self.networks[0])
        else:
            epochs = [network.epochs for network in self.networks]
            seconds = sum(network.seconds for network in self.networks)
            span = " to ".join(map(str, dict.fromkeys([min(epochs), max(epochs)])))
            text = f"{len(epochs)} networks of {span} epochs in {seconds:.0f} s"
        if self.shares:
            text += "; mixed: " + ", ".join(f"{weight:.2f} {kind}" for kind, weight in self.shares.items())
        return text

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "baselines": self.baselines, "baseline_fits": self.fits, "intervals": self.intervals,
            "interval_method": self.interval_method, "differences": self.differences, "verdict": self.verdict,
            "parameters": self.parameters, "mix": self.shares, "positive": self.positive,
            "noise_ceiling": self.noise_ceiling,
            "networks": [asdict(network) | {"seconds": round(network.seconds, 1)} for network in self.networks],
        }  # fmt: skip
        details: dict[str, Any] = {
            "calibration": {part: each.to_json() for part, each in self.calibration.items()},
            "per_class": self.per_class,
            "per_sequence": self.per_sequence,
            "folds": self.folds,
            "targets": self.targets,
            "baseline_targets": self.baseline_targets,
        }
        return {**self.scores, **values, **{name: each for name, each in details.items() if each}}


def fold_lines(results: Results, metric: str) -> list[str]:
    """For each model the mean and standard deviation over the folds of a score, for people; empty without folds."""
    lines = []
    for model, folds in results.folds.items():
        values = [value for scores in folds if (value := scores.get(metric)) is not None]
        if len(values) > 1:
            mean, sd = statistics.mean(values), statistics.stdev(values)
            lines.append(f"{model} {number(metric, mean)} ± {number(metric, sd)}")
    return lines


def score_rows(results: Results) -> list[tuple[str, str, dict[str, float | None]]]:
    """(part, model, scores) for each line of the table that compares this model with the baselines, and with noise."""
    rows: list[tuple[str, str, dict[str, float | None]]] = []
    for part in PARTS:
        if part in results.scores:
            rows.append((part, f"{MODEL}, mean" if results.targets else MODEL, results.scores[part]))
            rows += [(part, target, scores[part]) for target, scores in results.targets.items()]
        for model, of_parts in results.baselines.items():
            if part in of_parts:
                each = results.baseline_targets.get(model, {})
                rows.append((part, f"{model}, mean" if each else model, of_parts[part]))
                rows += [(part, f"{model}, {target}", scores[part]) for target, scores in each.items()]
        if results.noise_ceiling is not None and part == next(name for name in PARTS if name in results.scores):
            rows.append((part, "noise ceiling", {"r2": results.noise_ceiling}))
    return rows


def cell(results: Results | None, part: str, model: str, name: str, value: float | None) -> str:
    """A score of a line of `score_rows`, with its interval if the results have one: .938 (.934-.942)."""
    intervals = {} if results is None or part != "test" or value is None else results.intervals
    bounds = intervals.get(model, {}).get(name)
    shown = number(name, value)
    return shown if bounds is None else f"{shown} ({number(name, bounds[0])}-{number(name, bounds[1])})"


def score_name(name: str, positive: str | None) -> str:
    """What a score is called; those of one class name it."""
    shown = NAMES.get(name, name)
    return f"{shown} ({positive})" if positive is not None and name in ("auprc", "f1") else shown


def number(name: str, value: float | None) -> str:
    """A score as it is shown: to three digits behind the point, or, with the target's units, to four in all."""
    if value is None:
        return ""
    if name in ("rmse", "mae"):
        return f"{value:.4g}"
    shown = f"{value:.3f}"
    return shown.replace("0.", ".", 1) if abs(value) < 0.9995 else shown
