"""What the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table

from ..metrics import COMPARED
from ..scores import DETAILS, MODEL, Results, cell, fold_lines, score_name, score_rows
from . import consoles
from .consoles import heading

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ..data.loading import LabelledData
    from ..explain.page import Explanation


MOST_CLASSES = 6  # of which each has a column
WIDE = 105  # characters, from which a terminal has room for the intervals of all scores


def print_scores(results: Results) -> None:
    """The scores of a run beside the baseline's, one line per model, on standard output."""
    rows = score_rows(results)
    metrics = [name for name in dict.fromkeys(name for _, _, scores in rows for name in scores) if name not in DETAILS]
    console = consoles.results()
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=console.width < WIDE)
    for title in ("part", "model"):
        table.add_column(title, no_wrap=True)
    exact = metrics if console.width >= WIDE else COMPARED.values()  # the scores whose intervals are shown
    cells = [
        [cell(results if name in exact else None, part, model, name, scores.get(name)) for name in metrics]
        for part, model, scores in rows
    ]
    for name, column in zip(metrics, zip(*cells, strict=True), strict=True):
        shown = heading(score_name(name, results.positive), console)
        table.add_column(shown, justify="right", min_width=max(map(len, [*shown.split(), *" ".join(column).split()])))
    previous = rows[0][0]
    for (part, model, _), line in zip(rows, cells, strict=True):
        if part != previous:
            table.add_section()
        previous = part
        table.add_row(part, model, *line)
    console.print(table)
    compared = COMPARED[results.task]
    if lines := fold_lines(results, compared):
        what = f"{score_name(compared, results.positive)} over {len(results.folds[MODEL])} folds: {'; '.join(lines)}"
        console.print(heading(what, console), soft_wrap=True)
    if results.verdict is not None:
        console.print(heading(results.verdict, console), soft_wrap=True)
    console.print(
        f"{results.parameters:,} parameters; {heading(results.training(), console)}; everything is in {results.out}",
        soft_wrap=True,
    )  # fmt: skip


def print_split(data: LabelledData, console: Console) -> None:
    """How many rows stand in each part or fold, and how the target is distributed there."""
    if data.folds:
        groups = [(f"fold {name}", parts == "test") for name, parts in zip(data.fold_names, data.folds, strict=True)]
    else:
        groups = [(part, data.parts == part) for part in ("train", "val", "test")]
    table = Table(box=box.SIMPLE, pad_edge=False)
    classes = data.targets.classes
    shown = classes if 0 < len(classes) <= MOST_CLASSES else []
    heads = [f"% {name}" for name in shown] or (
        [] if classes or data.targets.names else ["mean", "sd", "lowest", "highest"]
    )
    for title in ("part", "rows", "share", *heads):
        table.add_column(title, justify="left" if title == "part" else "right", no_wrap=title == "part")
    for name, rows in groups:
        labels = data.labels_of(np.flatnonzero(rows))
        if shown:
            facts = [f"{(labels == i).mean():.1%}" if len(labels) else "" for i in range(len(classes))]
        elif heads and len(labels):
            facts = [f"{value:.3g}" for value in (labels.mean(), labels.std(), labels.min(), labels.max())]
        else:
            facts = ["" for _ in heads]
        table.add_row(name, f"{rows.sum():,}", f"{rows.mean():.1%}", *facts)
    console.print(table)


SHOWN = 3  # sequences that the terminal tells about


def print_explanation(explanations: Sequence[Explanation], out: Path) -> None:
    """What matters most in the first sequences, on standard output."""
    console = consoles.results()
    for explanation in explanations[:SHOWN]:
        facts = explanation.facts
        first = f"{facts['id']}, {facts['length']:,} letters"
        if "predicted" in facts:
            named = f", {facts['class']}" if explanation.unit.endswith("the predicted class") else ""
            first += f": predicted {facts['predicted']:.{explanation.digits}g} ({explanation.unit}{named})"
        console.print(first)
        if explanation.sensitive is not None:
            console.print(_sensitive_table(explanation))
            console.print(f"lowest: {_changes(explanation.lowest)}", soft_wrap=True)
            console.print(f"highest: {_changes(explanation.highest)}", soft_wrap=True)
        if explanation.pairs is not None:
            strongest = "; ".join(
                f"{pair.position_1}-{pair.position_2} (rms {pair.rms:.3g})"
                for pair in explanation.pairs.head(5).itertuples()
            )
            console.print(f"most epistasis between positions {strongest}", soft_wrap=True)
        if "measured_doubles" in facts:
            both = [f"{name.capitalize()} {facts[f'measured_{name}']:.3f}" for name in ("pearson", "spearman")
                    if facts[f"measured_{name}"] is not None]  # fmt: skip
            console.print(
                f"measured and predicted epistasis of {facts['measured_doubles']:,} double mutants: {', '.join(both)}",
                soft_wrap=True,
            )  # fmt: skip
        if "completeness_error" in facts:
            console.print(
                f"attributions sum to {facts['predicted'] - facts['baseline_predicted']:.4g}, the difference from the "
                f"baseline, within {facts['completeness_error']:.2g}",
                soft_wrap=True,
            )  # fmt: skip
    where = f"everything is in {out}; open {out / 'explanation.html'}"
    console.print(where, soft_wrap=True)


def _changes(frame: pd.DataFrame | None) -> str:
    assert frame is not None
    spreads = frame["spread"] if "spread" in frame else [None] * len(frame)
    return ", ".join(
        f"{row.mutant} {row.change:+.3g}" + ("" if spread is None else f" ± {spread:.2g}")
        for row, spread in zip(frame.itertuples(), spreads, strict=True)
    )


def _sensitive_table(explanation: Explanation) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, title_justify="left")
    for title in ("position", "mean change", "rms", "lowest", "", "highest", ""):
        table.add_column(title, justify="right", no_wrap=True)
    assert explanation.sensitive is not None
    for row in explanation.sensitive.itertuples():
        table.add_row(
            f"{row.wild_type}{row.position}", f"{row.mean:+.3g}", f"{row.rms:.3g}", str(row.lowest),
            f"{row.lowest_change:+.3g}", str(row.highest), f"{row.highest_change:+.3g}",
        )  # fmt: skip
    return table
