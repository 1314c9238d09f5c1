"""What the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from ..report import NAMES, number, score_rows

if TYPE_CHECKING:
    from ..training.results import Results


LEFT_OUT = ("pearson",)  # so that the table fits 80 columns; metrics.json and the report have it


def print_scores(results: Results) -> None:
    """The scores of a run beside the baseline's, one line per model, on standard output."""
    rows = score_rows(results)
    metrics = [name for name in dict.fromkeys(name for _, _, scores in rows for name in scores) if name not in LEFT_OUT]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("part", "model"):
        table.add_column(heading, no_wrap=True)
    for name in metrics:
        heading = NAMES.get(name, name)
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    previous = rows[0][0]
    for part, model, scores in rows:
        if part != previous:
            table.add_section()
        previous = part
        table.add_row(part, model, *(number(scores.get(name)) for name in metrics))
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width that the table would have to fit
        console = Console(width=120)
    console.print(table)
    console.print(
        f"{results.parameters:,} parameters; {results.epochs} epochs in {results.seconds:.0f} s, "
        f"epoch {results.best_epoch} kept; everything is in {results.out}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
