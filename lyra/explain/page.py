"""The page of an explanation: what matters most in each sequence, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..html import fact_table, picture, table, write_page
from .spreads import CERTAIN, uncertain

NAMES = {
    "class_name": "class", "at": "position explained", "pair_samples": "letter pairs a position pair",
    "baseline_predicted": "baseline's prediction", "completeness_error": "error of the attributions' sum",
    "measured_doubles": "double mutants with measured epistasis",
    "measured_pearson": "measured and predicted epistasis: Pearson", "measured_spearman": "Spearman",
    "sum_of_absolutes": "sum of absolute attributions", "offset": "number of the first position",
}  # fmt: skip


@dataclass
class Explanation:
    """What is kept of one sequence for the summary.

    Attributes:
        facts: id, length, offset, and as far as they apply class, predicted, baseline_predicted, completeness_error.
        unit: what the predictions are; digits: how many of one are worth showing.
        sensitive: `sensitive_positions` of its substitutions, or None.
        lowest, highest: the substitutions that lower and raise the prediction most, or None.
        pairs: the pairs of positions with the most epistasis, or None.
        pictures: {caption: file name}.
    """

    facts: dict[str, Any]
    unit: str
    digits: int = 4
    sensitive: pd.DataFrame | None = None
    lowest: pd.DataFrame | None = None
    highest: pd.DataFrame | None = None
    pairs: pd.DataFrame | None = None
    pictures: dict[str, str] = field(default_factory=dict)


def write_explanation(
    path: Path, folder: Path, title: str, settings: Mapping[str, Any], sequences: int, shown: Sequence[Explanation]
) -> None:
    """Writes the page; the pictures, in `folder`, are put into it."""
    facts = {"sequences": f"{sequences:,}", **{NAMES.get(name, name): value for name, value in settings.items()}}
    parts = [fact_table(facts)]
    if len(shown) < sequences:
        parts.append(f"<p>The first {len(shown):,} sequences are shown; the tables beside this page have all.</p>")
    for explanation in shown:
        parts.append(f"<h2>{escape(str(explanation.facts['id']))}</h2>")
        named = {
            NAMES.get(name, name): number(value, explanation.digits if name.endswith("predicted") else 4)
            for name, value in explanation.facts.items()
            if name != "id"
        }
        parts.append(fact_table(named))
        parts += [picture(caption, folder / name) for caption, name in explanation.pictures.items()]
        if explanation.sensitive is not None:
            parts += ["<h3>Positions whose substitutions matter most</h3>", frame_table(explanation.sensitive)]
        for frame, heading in ((explanation.lowest, "decrease"), (explanation.highest, "increase")):
            if frame is not None:
                parts += [f"<h3>Substitutions with the greatest {heading}</h3>", frame_table(with_certainty(frame))]
        if explanation.pairs is not None:
            parts += ["<h3>Pairs of positions with the most epistasis</h3>", frame_table(explanation.pairs)]
    write_page(path, f"What {title} makes of its sequences", parts)


def number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def frame_table(frame: pd.DataFrame) -> str:
    """A table as HTML, numbers to four digits."""
    frame = frame.drop(columns="id", errors="ignore").rename(columns=lambda name: name.replace("_", " "))
    return table(frame.map(number), numbers=frame.select_dtypes("float").columns)


def with_certainty(frame: pd.DataFrame) -> pd.DataFrame:
    """Substitutions of an ensemble with a column that says whether the members agree on them; others as they are."""
    if "spread" not in frame:
        return frame
    return frame.assign(certain=np.where(uncertain(frame), f"no: below {CERTAIN:g} spreads", "yes"))
