"""The page about a run: scores, pictures, settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..data.loading import LabelledData
from ..html import fact_table, picture, table, write_page
from ..scores import Results, number, score_name, score_rows
from ..settings.training import Recipe


def write_report(
    path: Path, title: str, data: LabelledData, recipe: Recipe, results: Results, pictures: Mapping[str, Path]
) -> None:
    """Writes the page; `pictures` maps captions to PNG files, which are put into the page."""
    facts: dict[str, object] = {part: f"{len(data.rows(part)):,} sequences" for part in ("train", "val", "test")}
    facts |= {
        "task": f"{data.targets.task} of {data.source.target}",
        "alphabet": data.alphabet.name,
        "parameters": f"{results.parameters:,}",
        "training": f"{results.epochs} epochs in {results.seconds:.0f} s; epoch {results.best_epoch} is kept, chosen "
        f"{results.chosen}",
        "rows": str(data.rows_read),
    }
    if data.guesses:
        facts["guessed"] = "; ".join(data.guesses)
    for note in data.notes:
        name, _, value = note.partition(": ")
        facts[name] = value
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


def _score_table(results: Results) -> str:
    rows = score_rows(results)
    shown = {name: score_name(name, results.positive) for _, _, scores in rows for name in scores}
    frame = pd.DataFrame(
        [
            {"part": part, "model": model} | {shown[name]: number(name, scores.get(name)) for name in shown}
            for part, model, scores in rows
        ]
    )
    return table(frame, shown.values())
