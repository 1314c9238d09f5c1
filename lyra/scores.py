"""The scores of a training run, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = {
    "r2": "R²", "spearman": "Spearman", "pearson": "Pearson", "rmse": "RMSE",
    "accuracy": "Accuracy", "mcc": "MCC", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1",
    "epistasis_r2": "Epistasis R²", "epistasis_pearson": "Epistasis Pearson",
}  # fmt: skip

PARTS = ("test", "validation")  # in the order in which they are shown


@dataclass
class Results:
    """Scores of a run.

    Attributes:
        scores: {"validation": {metric: value}, "test": {...}}; "test" is absent without a test part.
        baselines: scores of the models of `lyra.baselines` on the same parts, {model: {part: {metric: value}}}, for
            a regression on sequences of one length; else empty.
        seconds: spent in training.
        epochs, best_epoch: how many were run, and which one is kept; chosen: by what.
        positive: of two classes, the one whose F1 and AUPRC these are.
        targets: of several targets the scores of each, {target: {part: {metric: value}}}; `scores` are their means.
        noise_ceiling: the R2 that the true values would reach on the test part (the validation part without one), where
            errors of measurement are known.
        one_class: {part: class} where the model predicts nothing else.
    """

    out: Path
    scores: dict[str, dict[str, float | None]]
    baselines: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    seconds: float = 0.0
    epochs: int = 0
    best_epoch: int = 0
    chosen: str = ""
    positive: str | None = None
    targets: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    noise_ceiling: float | None = None
    one_class: dict[str, str] = field(default_factory=dict)
    parameters: int = 0

    def to_json(self) -> dict[str, Any]:
        values = {
            "best_epoch": self.best_epoch, "chosen": self.chosen, "epochs": self.epochs,
            "seconds": round(self.seconds, 1), "positive": self.positive,
        }  # fmt: skip
        return {
            **self.scores,
            "baselines": self.baselines,
            "parameters": self.parameters,
            "noise_ceiling": self.noise_ceiling,
            **({"targets": self.targets} if self.targets else {}),
            **values,
        }


def score_rows(results: Results) -> list[tuple[str, str, dict[str, float | None]]]:
    """(part, model, scores) for each line of the table that compares this model with the baseline, and with noise."""
    rows: list[tuple[str, str, dict[str, float | None]]] = []
    for part in PARTS:
        if part in results.scores:
            rows.append((part, "Lyra, mean" if results.targets else "Lyra", results.scores[part]))
            rows += [(part, target, scores[part]) for target, scores in results.targets.items()]
        rows += [(part, model, scores[part]) for model, scores in results.baselines.items() if part in scores]
        if results.noise_ceiling is not None and part == next(name for name in PARTS if name in results.scores):
            rows.append((part, "noise ceiling", {"r2": results.noise_ceiling}))
    return rows


def score_name(name: str, positive: str | None) -> str:
    """What a score is called; those of one class name it."""
    shown = NAMES.get(name, name)
    return f"{shown} ({positive})" if positive is not None and name in ("auprc", "f1") else shown


def number(name: str, value: float | None) -> str:
    """A score as it is shown: to three digits behind the point, or, with the target's units, to four in all."""
    if value is None:
        return ""
    return f"{value:.4g}" if name == "rmse" else f"{value:.3f}"
