"""Everything about one sequence: rows of the tables, pictures, and what the summary says."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from ..settings.explain import Contents
from . import logos, pictures
from .attributions import integrated_gradients
from .epistasis import as_matrix, epistasis_table
from .items import Item
from .measured import Measurements, measured_epistasis_table
from .mutagenesis import mutagenesis_table, sensitive_positions
from .page import Explanation
from .pair_maps import pair_map_table
from .subject import Progress, Score, Subject


class Tables:
    """The CSV files of a folder, written sequence by sequence."""

    def __init__(self, folder: Path, stack: ExitStack, digits: int) -> None:
        self.folder, self.stack = folder, stack
        self.numbers = f"%.{digits}g"
        self.files: dict[str, IO[str]] = {}

    def add(self, name: str, id: str, frame: pd.DataFrame) -> None:
        """Adds rows to NAME.csv, with the sequence's id before them."""
        first = name not in self.files
        if first:
            file = open(self.folder / f"{name}.csv", "w", encoding="utf-8", newline="", errors="backslashreplace")
            self.files[name] = self.stack.enter_context(file)
        frame.insert(0, "id", id)
        frame.to_csv(self.files[name], index=False, header=first, float_format=self.numbers, lineterminator="\n")


def explain_one(
    score: Score,
    item: Item,
    tables: Tables,
    contents: Contents,
    number: int,
    measured: Measurements | None,
    progress: Progress,
) -> Explanation:
    """Everything about one sequence: rows into the tables, pictures, and what the summary says."""
    options = item.options
    subject = Subject(score, item.sequence, options, item.where)
    explanation = Explanation(
        {"id": item.id, "length": subject.length, "offset": options.offset}, score.unit, score.digits
    )
    if not score.per_position:
        if score.by_class:
            explanation.facts["class"] = subject.class_names(np.zeros(1, dtype=np.int64))[0]
        explanation.facts["predicted"] = float(subject.predicted[0])
    own_stem = f"{number}_{safe_name(item.id)}"

    def draw(
        kind: str, frame: pd.DataFrame, title: str, picture: Callable[..., None], *more: Any, stem: str = own_stem
    ) -> None:
        if number <= contents.pictures and len(frame):
            name = f"{kind}_{stem}.png"
            picture(tables.folder / name, frame, title, *more)
            explanation.pictures[title] = name

    if contents.mutagenesis:
        frame = mutagenesis_table(subject, progress)
        order = frame.sort_values("change", kind="stable")
        explanation.sensitive = sensitive_positions(frame)
        explanation.lowest, explanation.highest = order.head(5), order.tail(5).iloc[::-1]
        draw("mutagenesis", frame, f"{item.id}: every substitution", pictures.draw_mutagenesis)
        if contents.logo:
            draw("effect_logo", frame, f"{item.id}: substitutions by their change", logos.draw_effects)
        tables.add("mutagenesis", item.id, frame)
    if contents.attributions:
        frame = integrated_gradients(subject, progress)
        for name in ("baseline_predicted", "completeness_error", "sum_of_absolutes"):
            explanation.facts[name] = frame.attrs[name]
        title = (
            f"{item.id}: what leads from {frame.attrs['baseline_predicted']:.{score.digits}g} (baseline: "
            f"{options.baseline}) to the predicted {frame.attrs['predicted']:.{score.digits}g}"
        )
        draw("attributions", frame, title, pictures.draw_attributions)
        if contents.logo:
            draw("attribution_logo", frame, f"{item.id}: letters by their contribution", logos.draw_contributions)
        tables.add("attributions", item.id, frame)
    if contents.pairs:
        frame = epistasis_table(subject, progress)
        explanation.pairs = frame.sort_values("rms", ascending=False, kind="stable").head(10)
        letters = {site + options.offset: subject.letters[site] for site in subject.open}
        draw("epistasis", frame, f"{item.id}: epistasis of pairs of positions", pictures.draw_epistasis, letters)
        if number <= contents.pictures:
            as_matrix(frame).to_csv(
                tables.folder / f"epistasis_{own_stem}.csv", float_format="%.7g", lineterminator="\n"
            )
        tables.add("epistasis", item.id, frame)
    for first, second in contents.maps or ():
        frame = pair_map_table(subject, (first, second), progress)
        title = f"{item.id}: letters at {first} and {second}"
        draw("map", frame, title, pictures.draw_pair_map, stem=f"{own_stem}_{first}_{second}")
        tables.add("map", item.id, frame)
    if measured is not None:
        frame = measured_epistasis_table(subject, measured, progress)
        for name in ("doubles", "pearson", "spearman"):
            explanation.facts[f"measured_{name}"] = frame.attrs[name]
        draw("measured_epistasis", frame, f"{item.id}: epistasis of double mutants", pictures.draw_measured)
        tables.add("measured_epistasis", item.id, frame)
    return explanation


def safe_name(id: str) -> str:
    """The id as a part of a file name, on any system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", id)[:40].strip("._") or "sequence"
