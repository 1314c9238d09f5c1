"""Sequence logos: letters as high as what they change or contribute. Drawn by the package logomaker."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..packages import optional
from ..plots import new_figure, plain
from .pictures import finish, label_positions, shown_stretch, split_columns

COLUMNS = 100  # positions in a row
BASES = {"A": "#109648", "C": "#255c99", "G": "#e69f00", "T": "#d62839", "U": "#d62839"}
KINDS = {  # of residues, by chemistry
    "AVILM": "#333333", "FYW": "#8e44ad", "CGP": "#b8860b", "STNQ": "#109648", "DE": "#d62839", "HKR": "#255c99",
}  # fmt: skip


def check_available() -> None:
    """Raises InputError if logomaker is not installed."""
    optional("logomaker", "a sequence logo")


def draw_effects(path: Path, frame: pd.DataFrame, title: str) -> None:
    """A `mutagenesis` table: each substitution's letter as high as the change that it makes, down where it lowers."""
    matrix = frame.pivot(index="position", columns="letter", values="change").fillna(0.0)
    letters = frame.groupby("position")["wild_type"].first()
    draw(path, matrix, letters, f"change of {frame.attrs['unit']}, letters stacked", title)


def draw_contributions(path: Path, frame: pd.DataFrame, title: str) -> None:
    """An `attributions` table: the sequence's own letters, as high as what they contribute."""
    known = frame[frame["letter"].str.isalpha()]
    matrix = known.pivot(index="position", columns="letter", values="attribution").fillna(0.0)
    matrix = matrix.reindex(frame["position"], fill_value=0.0)
    draw(path, matrix, frame.set_index("position")["letter"], f"part of {frame.attrs['unit']}", title)


def draw(path: Path, matrix: pd.DataFrame, letters: pd.Series, label: str, title: str) -> None:
    """Letters (columns of the matrix) stacked at positions (its index), `COLUMNS` positions a row."""
    logomaker = optional("logomaker", "a sequence logo")
    table, title = shown_stretch(matrix.T, title)
    matrix = table.T
    lines = split_columns(matrix.index.to_numpy(), COLUMNS)
    height = 1.9 if matrix.shape[1] <= 5 else 3.2  # inches of a row
    figure = new_figure(1.4 + 0.19 * max(30, len(lines[0])), 0.5 + height * len(lines))
    axes_list = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    low = float(matrix.clip(upper=0).sum(axis=1).min())
    high = float(matrix.clip(lower=0).sum(axis=1).max())
    margin = 0.04 * ((high - low) or 1.0)
    for axes, positions in zip(axes_list, lines, strict=True):
        part = matrix.loc[positions].reset_index(drop=True)
        logomaker.Logo(part, ax=axes, color_scheme=colours(matrix.columns), show_spines=False, flip_below=False)
        axes.set(xlim=(-0.5, len(lines[0]) - 0.5), ylim=(low - margin, high + margin))
        axes.axhline(0, color="0.3", linewidth=0.6)
        axes.tick_params(axis="y", labelsize=8)
        label_positions(axes, positions, [letters[position] for position in positions])
    figure.supylabel(plain(label), fontsize=9)
    finish(figure, path, title)


def colours(letters: pd.Index) -> dict[str, str]:
    """A colour for each letter: by base, or by the kind of residue."""
    if len(letters) <= 5 and set(letters) <= set(BASES):
        return {letter: BASES[letter] for letter in letters}
    return {letter: next((c for kind, c in KINDS.items() if letter in kind), "#777777") for letter in letters}
