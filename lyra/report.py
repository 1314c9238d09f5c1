"""One self-contained HTML page about a run: scores, pictures, settings. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .files import atomic_text

if TYPE_CHECKING:
    from .data.loading import LabelledData
    from .settings.training import Recipe
    from .training.results import Results

NAMES = {
    "r2": "R²", "spearman": "Spearman", "pearson": "Pearson", "rmse": "RMSE",
    "accuracy": "Accuracy", "mcc": "MCC", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1",
    "epistasis_r2": "Epistasis R²", "epistasis_pearson": "Epistasis Pearson",
}  # fmt: skip

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; }
"""


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


def _score_table(results: Results) -> str:
    rows = score_rows(results)
    metrics = list(dict.fromkeys(name for _, _, scores in rows for name in scores))
    head = "".join(f"<th>{escape(score_name(name, results.positive))}</th>" for name in metrics)
    body = "".join(
        f"<tr><td>{part}</td><td>{model}</td>"
        + "".join(f'<td class="number">{number(name, scores.get(name))}</td>' for name in metrics)
        + "</tr>"
        for part, model, scores in rows
    )
    return f"<table><tr><th>part</th><th>model</th>{head}</tr>{body}</table>"


def fact_table(facts: Mapping[str, object]) -> str:
    """A table of names and what they are, as HTML."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return f"<table>{rows}</table>"


def picture(caption: str, path: Path) -> str:
    """A PNG file with its caption, as HTML that holds the picture itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    shown = escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


def write_report(
    path: Path, title: str, data: LabelledData, recipe: Recipe, results: Results, pictures: Mapping[str, Path]
) -> None:
    """Writes the page; `pictures` maps captions to PNG files, which are put into the page."""
    facts: dict[str, object] = {part: f"{len(data.rows(part)):,} sequences" for part in ("train", "val", "test")}
    facts |= {
        "task": f"{data.targets.task} of {data.source['target']}",
        "alphabet": data.alphabet.name,
        "parameters": f"{results.parameters:,}",
        "training": f"{results.epochs} epochs in {results.seconds:.0f} s; epoch {results.best_epoch} is kept, chosen "
        f"{results.chosen}",
        "rows": str(data.rows_read),
    }
    if data.guesses:
        facts["guessed"] = "; ".join(data.guesses)
    for part, name in results.one_class.items():
        facts[f"{part} part"] = f"every prediction is {name}"
    settings = {name: value for name, value in recipe.to_json().items() if value is not None}
    parts = [
        _score_table(results),
        *(picture(caption, file) for caption, file in pictures.items()),
        "<h2>Data and model</h2>",
        fact_table(facts),
        "<h2>Settings</h2>",
        fact_table(settings),
    ]
    write_page(path, title, parts)


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Writes a page of its own from its title and pieces of HTML."""
    with atomic_text(path) as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        )
        for part in parts:
            file.write(part + "\n")
        file.write("</body></html>\n")
