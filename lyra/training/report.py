"""The page about a run: scores, pictures, settings."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.loading import LabelledData
from ..html import fact_table, picture, table, write_page
from ..metrics import COMPARED
from ..scores import Results, cell, fold_lines, number, score_name, score_rows
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
        "training": results.training(),
        "rows": str(data.rows_read),
    }
    if data.guesses:
        facts["guessed"] = "; ".join(data.guesses)
    for note in data.notes:
        name, _, value = note.partition(": ")
        facts[name] = value
    compared = COMPARED[results.task]
    if lines := fold_lines(results, compared):
        facts[f"{score_name(compared, results.positive)} of the folds"] = "; ".join(lines)
    for part, name in results.one_class.items():
        facts[f"{part} part"] = f"every prediction is {name}"
    for part, means in results.per_sequence.items():
        facts[f"{part} part, means over sequences"] = "; ".join(
            f"{score_name(name, None)} {number(name, means[name])} ({means[f'{name}_defined']:,} of "
            f"{means['sequences']:,} have one)"
            for name in (key.removesuffix("_defined") for key in means if key.endswith("_defined"))
        )
    settings = {name: value for name, value in recipe.to_json().items() if value is not None}
    parts = [
        _score_table(results),
        *(
            f"<p>{escape(text)}</p>"
            for text in (_sentence(results.verdict), _sentence(results.interval_method))
            if text
        ),
        *(_class_table(part, scores) for part, scores in results.per_class.items()),
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
            {"part": part, "model": model}
            | {shown[name]: cell(results, part, model, name, scores.get(name)) for name in shown}
            for part, model, scores in rows
        ]
    )
    return table(frame, shown.values())


def _sentence(text: str | None) -> str:
    return f"<p>{escape(text[:1].upper() + text[1:])}.</p>" if text else ""


def _class_table(part: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores of each class of a part."""
    frame = pd.DataFrame(
        [
            {"class": name, "rows": f"{values['rows']:,}"}
            | {score_name(key, None): number(key, value) for key, value in values.items() if key != "rows"}
            for name, values in scores.items()
        ]
    )
    return f"<h2>Each class, {part} part</h2>" + table(frame, list(frame.columns[1:]))
