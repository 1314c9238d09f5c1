"""The scores of a training run, and how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NAMES = {
    "r2": "R²", "spearman": "Spearman", "pearson": "Pearson", "rmse": "RMSE",
    "accuracy": "Accuracy", "mcc": "MCC", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1",
    "epistasis_r2": "Epistasis R²", "epistasis_pearson": "Epistasis Pearson",
}  # fmt: skip


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
        scores: {"validation": {metric: value}, "test": {...}}; "test" is absent without a test part.
        baselines: scores of the models of `lyra.baselines` on the same parts, {model: {part: {metric: value}}}, for
            a regression on sequences of one length; else empty.
        networks: how each was trained.
        shares: of the kinds of models in a mix, their weights; empty where nothing is mixed.
        positive: of two classes, the one whose F1 and AUPRC these are.
        one_class: {part: class} where the model predicts nothing else.
    """

    out: Path
    scores: dict[str, dict[str, float | None]]
    baselines: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    networks: list[NetworkFacts] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    positive: str | None = None
    one_class: dict[str, str] = field(default_factory=dict)
    parameters: int = 0

    def training(self) -> str:
        """The training in a line, for people."""
        if len(self.networks) == 1:
            text = str(self.networks[0])
        else:
            epochs = [network.epochs for network in self.networks]
            seconds = sum(network.seconds for network in self.networks)
            text = f"{len(epochs)} networks of {min(epochs)} to {max(epochs)} epochs in {seconds:.0f} s"
        if self.shares:
            text += "; mixed: " + ", ".join(f"{weight:.2f} {kind}" for kind, weight in self.shares.items())
        return text

    def to_json(self) -> dict[str, Any]:
        return {
            **self.scores,
            "baselines": self.baselines,
            "parameters": self.parameters,
            "networks": [asdict(network) | {"seconds": round(network.seconds, 1)} for network in self.networks],
            "mix": self.shares,
            "positive": self.positive,
        }


def score_rows(results: Results) -> list[tuple[str, str, dict[str, float | None]]]:
    """(part, model, scores) for each line of the table that compares this model with the baseline."""
    rows: list[tuple[str, str, dict[str, float | None]]] = []
    for part in ("test", "validation"):
        if part in results.scores:
            rows.append((part, "Lyra", results.scores[part]))
        rows += [(part, model, scores[part]) for model, scores in results.baselines.items() if part in scores]
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
