"""Pictures of a run, drawn without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .files import atomic_path
from .metrics import Calibration

DPI = 130
LONGEST = 500  # residues of a sequence that can be told apart along it
SHORT = 150  # those of which each has a dot
DENSE = 5000  # points from which density says more than dots


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter of a name that the font lacks is an empty box
        figure.savefig(drawn, dpi=DPI, format="png")
    # 256 colours are enough for a plot, and a third of the bytes.
    image = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with atomic_path(path) as unfinished:
        image.save(unfinished, format="png", optimize=True)


def plain(text: str) -> str:
    """Text as it stands: dollar signs in a name begin no formula."""
    return text.replace("$", r"\$")


def cloud(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Points, or where they are many their density."""
    if len(x) >= DENSE:
        axes.hexbin(x, y, gridsize=80, bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    else:
        axes.plot(x, y, ".", markersize=4, alpha=0.5)


def _diagonal(axes: Any, *values: np.ndarray) -> None:
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)


def _scores(scores: Mapping[str, float | None], names: Mapping[str, str]) -> str:
    return "   ".join(f"{shown} {scores[name]:.3f}" for name, shown in names.items() if scores.get(name) is not None)


@dataclass
class Comparison:
    """Predictions of a part beside what was measured.

    Attributes:
        predicted, measured: (N,) in the target's units.
        scores: those of the part; target: what was measured, for people.
    """

    predicted: np.ndarray
    measured: np.ndarray
    scores: Mapping[str, float | None]
    target: str
    part: str

    def draw(self, axes: Any) -> None:
        cloud(axes, self.measured, self.predicted)
        _diagonal(axes, self.measured, self.predicted)
        axes.set(xlabel=f"measured {plain(self.target)}", ylabel=f"predicted {plain(self.target)}")
        axes.set_title(f"{self.part}: " + _scores(self.scores, {"r2": "R²", "spearman": "Spearman"}), fontsize=10)


def predicted_vs_measured(path: Path, *comparisons: Comparison) -> None:
    """Measured values along x, predictions along y, and the diagonal where they agree; targets side by side."""
    columns = min(len(comparisons), 3)
    rows = -(-len(comparisons) // columns)
    figure = new_figure(5.2 * columns, 4.8 * rows)
    for place, comparison in enumerate(comparisons, 1):
        comparison.draw(figure.add_subplot(rows, columns, place))
    save_figure(figure, path)


def summary(path: Path, comparison: Comparison, rows: Sequence[Mapping[str, Any]], best_epoch: int) -> None:
    """Predicted against measured, and the learning curve beside it, in one picture."""
    figure = new_figure(9.2, 4.2)
    left, right = figure.subplots(1, 2)
    comparison.draw(left)
    _losses(right, rows, best_epoch)
    right.set_title(f"learning curve, epoch {best_epoch} kept", fontsize=10)
    save_figure(figure, path)


def epistasis(
    path: Path, deviation: np.ndarray, residual: np.ndarray, scores: Mapping[str, float | None], part: str
) -> None:
    """What remains of the measurement after the additive model (x) against the model's share of it (y)."""
    figure = new_figure(5.2, 4.8)
    axes = figure.add_subplot()
    cloud(axes, residual, deviation)
    _diagonal(axes, residual, deviation)
    axes.set(xlabel="measured minus additive (one-hot ridge)", ylabel="predicted minus additive")
    names = {"epistasis_r2": "R²", "epistasis_pearson": "Pearson"}
    axes.set_title(f"{part}: residual epistasis, " + _scores(scores, names), fontsize=10)
    save_figure(figure, path)


def _losses(axes: Any, rows: Sequence[Mapping[str, Any]], best_epoch: int) -> None:
    epochs = [row["epoch"] for row in rows]
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        axes.plot(epochs, [row[name] for row in rows], label=label, marker="." if len(rows) < 5 else None)
    if min(row[name] for row in rows for name in ("train_loss", "val_loss")) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    _finish_epochs(axes, best_epoch)


def _finish_epochs(axes: Any, best_epoch: int) -> None:
    axes.axvline(best_epoch, color="0.6", linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)


def learning_curve(path: Path, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], best_epoch: int) -> None:
    """Losses and validation scores per epoch; the epoch that was kept is marked."""
    epochs = [row["epoch"] for row in rows]
    figure = new_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    _losses(left, rows, best_epoch)
    for name in metrics:
        values = [np.nan if row[f"val_{name}"] is None else row[f"val_{name}"] for row in rows]
        right.plot(epochs, values, label=name, marker="." if len(rows) < 5 else None)
    right.set(xlabel="epoch", ylabel="validation score")
    _finish_epochs(right, best_epoch)
    save_figure(figure, path)


def confusion(path: Path, predicted: np.ndarray, true: np.ndarray, classes: Sequence[str], part: str) -> None:
    """Counts of true class (rows) by predicted class (columns), coloured by the share of the row."""
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (true, predicted), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.5 * min(len(classes), 16)
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class")
    if len(classes) <= 20:
        for (i, j), count in np.ndenumerate(counts):
            axes.text(
                j,
                i,
                f"{count:,}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.6 else "black",
            )
        axes.set_xticks(range(len(classes)), [plain(name[:12]) for name in classes], rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), [plain(name[:12]) for name in classes])
    axes.set(xlabel="predicted", ylabel="true", title=part)
    save_figure(figure, path)


@dataclass
class Track:
    """A sequence with a class, or a number, per residue.

    Attributes:
        name: what it is called.
        predicted: (L, classes) probabilities, or (L,) numbers.
        true: (L,) class indices, below 0 for none, or numbers, NaN for none.
    """

    name: str
    predicted: np.ndarray
    true: np.ndarray

    @property
    def title(self) -> str:
        length = len(self.true)
        return self.name if length <= LONGEST else f"{self.name}, the first {LONGEST:,} of {length:,} residues"


def along_sequences(path: Path, tracks: Sequence[Track], classes: Sequence[str], positive: int, part: str) -> None:
    """Predicted probabilities along sequences, and the true classes; residues without a label are grey.

    Of two classes it is the probability of the positive one, and residues of that class stand at 1, the others at 0.
    Of more, it is a row of colours for each class, with a dot on the true one.
    """
    two = len(classes) == 2
    height = 1.6 if two else 0.8 + 0.22 * min(len(classes), 16)
    figure = new_figure(9.2, height * len(tracks) + 0.5)
    for axes, track in zip(np.atleast_1d(figure.subplots(len(tracks), 1)), tracks, strict=True):
        probabilities, labels = track.predicted[:LONGEST], track.true[:LONGEST]
        places, known = np.arange(1, len(labels) + 1), labels >= 0
        if two:
            axes.plot(places, probabilities[:, positive], linewidth=1, label=f"predicted {plain(classes[positive])}")
            true = (labels[known] == positive).astype(float)
            axes.plot(places[known], true, "|", markersize=6, color="C1", label="true")
            axes.set(ylim=(-0.1, 1.1), ylabel="probability")
        else:
            extent = (0.5, len(places) + 0.5, len(classes) - 0.5, -0.5)
            axes.imshow(probabilities.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent)
            axes.plot(places[known], labels[known], ".", markersize=3, color="C1", label="true")
            if len(classes) <= 20:
                axes.set_yticks(range(len(classes)), [plain(name[:12]) for name in classes], fontsize=7)
        _finish_track(axes, track, known, zorder=0 if two else 2)
    _finish_tracks(figure, part)
    save_figure(figure, path)


def numbers_along_sequences(path: Path, tracks: Sequence[Track], target: str, part: str) -> None:
    """Predicted and measured numbers along sequences, as lines; residues without a measurement are grey."""
    figure = new_figure(9.2, 1.6 * len(tracks) + 0.5)
    for axes, track in zip(np.atleast_1d(figure.subplots(len(tracks), 1)), tracks, strict=True):
        predicted, measured = track.predicted[:LONGEST], track.true[:LONGEST]
        places = np.arange(1, len(measured) + 1)
        mark = "." if len(places) <= SHORT else None  # one between two missing makes no line
        axes.plot(places, measured, color="C1", linewidth=1, marker=mark, markersize=3, label="measured")
        axes.plot(places, predicted, color="C0", linewidth=1, label="predicted")
        axes.set_ylabel(plain(target[:20]), fontsize=9)
        _finish_track(axes, track, ~np.isnan(measured), zorder=0)
    _finish_tracks(figure, part)
    save_figure(figure, path)


def _finish_track(axes: Any, track: Track, known: np.ndarray, zorder: int) -> None:
    """Grey where nothing is known (L,), the whole sequence from left to right, and its name."""
    places, whole = np.arange(1, len(known) + 1), axes.get_xaxis_transform()
    spans = [(at - 0.5, 1) for at in places[~known]]
    axes.broken_barh(spans, (0, 1), transform=whole, color="0.85", linewidth=0, zorder=zorder)
    axes.set_xlim(0.5, len(places) + 0.5)
    axes.set_title(plain(track.title), fontsize=9, loc="left")


def _finish_tracks(figure: Figure, part: str) -> None:
    figure.axes[-1].set(xlabel=f"position ({part} part)")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def reliability(path: Path, calibration: Calibration, which: str, part: str) -> None:
    """Probabilities along x, how often they came true along y, a dot for each bin, and the diagonal of the ideal."""
    figure = new_figure(5.2, 4.8)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.4", linewidth=0.8)
    axes.plot(calibration.predicted, calibration.observed, marker="o", markersize=4)
    axes.set(
        xlabel=f"probability of {plain(which[:30])}", ylabel="share of which it was true", xlim=(0, 1), ylim=(0, 1)
    )
    axes.set_title(f"{part}: calibration error {calibration.ece:.3f}, Brier {calibration.brier:.3f}", fontsize=10)
    save_figure(figure, path)
