"""What the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from ..metrics import COMPARED
from ..scores import DETAILS, Results, cell, score_name, score_rows
from . import consoles
from .consoles import heading

if TYPE_CHECKING:
    import pandas as pd

    from ..explain.page import Explanation


LEFT_OUT = (
    "pearson",
    "ndcg",
    "top_recall",
    "epistasis_pearson",
)


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
    if results.verdict is not None:
        console.print(heading(results.verdict, console), soft_wrap=True)
    console.print(
        f"{results.parameters:,} parameters; {results.epochs} epochs in {results.seconds:.0f} s, "
        f"epoch {results.best_epoch} kept, chosen {heading(results.chosen, console)}; everything is in {results.out}",
        soft_wrap=True,
    )  # fmt: skip


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
    return ", ".join(f"{row.mutant} {row.change:+.3g}" for row in frame.itertuples())


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
