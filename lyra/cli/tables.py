"""What the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..report import NAMES, number, score_rows

if TYPE_CHECKING:
    from ..training.results import Results


def print_scores(results: Results) -> None:
    """The scores of a run beside the baseline's, one line per metric, on standard output."""
    rows = score_rows(results)
    metrics = list(dict.fromkeys(name for _, _, scores in rows for name in scores))
    table = Table("", *(f"{model}\n{part}" for part, model, _ in rows))
    for column in table.columns[1:]:
        column.justify = "right"
    for name in metrics:
        table.add_row(NAMES.get(name, name), *(number(scores.get(name)) for _, _, scores in rows))
    console = Console()
    console.print(table)
    console.print(
        f"{results.parameters:,} parameters; {results.epochs} epochs in {results.seconds:.0f} s, "
        f"epoch {results.best_epoch} kept; everything is in {results.out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
