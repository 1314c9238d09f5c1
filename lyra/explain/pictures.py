"""Heat maps of substitutions and pairs, bars of attributions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..errors import argument
from ..plots import cloud, new_figure, plain, save_figure
from .epistasis import as_matrix
from .spreads import CERTAIN, uncertain

# Rows of a protein's heat map, by what the residues have in common: small and aliphatic, aromatic, special, polar,
# negative, positive.
GROUPS = ("AVILM", "FYW", "CGP", "STNQ", "DE", "HKR")
COLUMNS = 80  # positions side by side; more go into the next line
LINES = 6
NARROWEST = 24  # columns' width that a title needs
CELL = 0.145  # inches
CHANGES = "RdBu"  # red is less, blue is more, and white is no change; told apart by the colour-blind, too
NOTHING = "0.88"  # grey: nothing was predicted here


def draw_mutagenesis(path: Path, frame: pd.DataFrame, title: str) -> None:
    """The `change` of a `mutagenesis` table: letters as rows, positions as columns, a dot on the wild type's letter.

    The strip below is the mean of each position. Where an ensemble's members disagree on a change, a stroke is through
    it. Of a sequence too long to draw, the stretch whose substitutions
    matter most is drawn, and the title says so.
    """
    rows = letter_rows({*frame["letter"], *frame["wild_type"]})
    table = frame.pivot(index="letter", columns="position", values="change").reindex(list("".join(rows)))
    wild_type = frame.groupby("position")["wild_type"].first()
    doubtful = frame.assign(doubt=uncertain(frame)).pivot(index="letter", columns="position", values="doubt")
    doubtful = doubtful.reindex(table.index).fillna(False)
    if doubtful.to_numpy().any():
        title += f"\nstruck through: changes below {CERTAIN:g} standard deviations over the members"
    table, title = shown_stretch(table, title)
    values = table.to_numpy()
    scale = centred(values)
    lines = split_columns(table.columns.to_numpy())
    height = len(table) * CELL + 0.95
    figure = new_figure(1.6 + CELL * max(NARROWEST, len(lines[0])), 0.5 + height * len(lines))
    axes_list = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, positions in zip(axes_list, lines, strict=True):
        part = table[positions].to_numpy()
        image = cells(axes, part, scale)
        strip = np.nanmean(part, axis=0, keepdims=True)
        axes.imshow(strip, cmap=image.cmap, norm=scale, aspect="auto", interpolation="nearest",
                    extent=(-0.5, len(positions) - 0.5, len(table) + 1, len(table)))  # fmt: skip
        places = table.index.get_indexer(wild_type[positions])
        axes.plot(range(len(positions)), places, ".", color="0.15", markersize=3.5)
        strike(axes, doubtful[positions].to_numpy(dtype=bool))
        edge = 0
        for group in rows[:-1]:
            edge += len(group)
            axes.axhline(edge - 0.5, color="white", linewidth=0.8)
        axes.set(xlim=(-0.5, len(lines[0]) - 0.5), ylim=(len(table) + 1, -0.5))
        axes.set_yticks([*range(len(table)), len(table) + 0.5], [*table.index, "mean"], fontsize=7)
        label_positions(axes, positions, [wild_type[position] for position in positions])
    bar = figure.colorbar(image, ax=axes_list, shrink=min(1, 2.8 / (height * len(lines))), aspect=22, pad=0.01,
                          anchor=(0, 1), extend=extension(values, scale))  # fmt: skip
    label = textwrap.fill(f"change of {frame.attrs['unit']}", int(13 * min(2.8, height * len(lines))))
    bar.set_label(plain(label), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    finish(figure, path, title)


def draw_attributions(path: Path, frame: pd.DataFrame, title: str) -> None:
    """A bar for each position of an `attributions` table, its letter above."""
    table, title = shown_stretch(frame.set_index("position")[["attribution"]].T, title)
    letters = frame.set_index("position")["letter"]
    lines = split_columns(table.columns.to_numpy())
    figure = new_figure(1.4 + CELL * max(NARROWEST, len(lines[0])), 0.5 + 1.9 * len(lines))
    axes_list = figure.subplots(len(lines), 1, squeeze=False, sharey=True)[:, 0]
    for axes, positions in zip(axes_list, lines, strict=True):
        values = table[positions].to_numpy()[0]
        # the colours that the heat map has at its ends
        axes.bar(range(len(positions)), values, width=0.85, color=np.where(values < 0, "#b2182b", "#2166ac"))
        axes.axhline(0, color="0.3", linewidth=0.6)
        axes.set_xlim(-0.5, len(lines[0]) - 0.5)
        axes.tick_params(axis="y", labelsize=8)
        label_positions(axes, positions, [letters[position] for position in positions])
    figure.supylabel(plain(textwrap.fill(f"part of {frame.attrs['unit']}", 30)), fontsize=9)
    finish(figure, path, title)


def draw_epistasis(path: Path, frame: pd.DataFrame, title: str, wild_type: dict[int, str]) -> None:
    """An `epistasis` table as two maps of positions by positions: root mean square, and mean with its sign."""
    rms, mean = as_matrix(frame), as_matrix(frame, "mean")
    side = 1.2 + 0.085 * max(30, len(rms))
    figure = new_figure(2 * side + 1.6, side + 0.4)
    axes_list = figure.subplots(1, 2)
    size = Normalize(0, max(np.nanmax(rms.to_numpy()), 1e-12))
    for axes, matrix, scale, colours, name in (
        (axes_list[0], rms, size, "magma_r", "root mean square"),
        (axes_list[1], mean, centred(mean.to_numpy()), CHANGES, "mean"),
    ):
        image = cells(axes, matrix.to_numpy(), scale, colours)
        axes.set_aspect("equal")
        positions = matrix.index.to_numpy()
        places = list(range(len(positions))) if len(positions) <= 20 else numbered_places(positions)
        names = [f"{wild_type[positions[place]]}{positions[place]}" for place in places]
        axes.set_xticks(places, names, fontsize=7, rotation=90)
        axes.set_yticks(places, names, fontsize=7)
        axes.set_title(name, fontsize=9)
        extend = "neither" if name != "mean" else extension(matrix.to_numpy(), scale)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02, extend=extend)
        bar.set_label(f"epistasis in {plain(frame.attrs['unit'])}", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    finish(figure, path, title)


def strike(axes: Any, marked: np.ndarray) -> None:
    """A stroke through each cell of an image that is marked."""
    strokes = [((x - 0.3, y + 0.3), (x + 0.3, y - 0.3)) for y, x in np.argwhere(marked)]
    axes.add_collection(LineCollection(strokes, colors="0.35", linewidths=0.7))


def draw_pair_map(path: Path, frame: pd.DataFrame, title: str) -> None:
    """A `pair_map` table as two maps of letters by letters: what is predicted, and the epistasis; the sequence's own
    letters are framed."""
    first, second = frame["position_1"].iloc[0], frame["position_2"].iloc[0]
    own = frame.attrs["wild_type"]
    order = list("".join(letter_rows(set(frame["letter_1"]))))
    side = 1.4 + 0.2 * max(len(order), 8)
    figure = new_figure(2 * side + 1.8, side + 0.5)
    for axes, column, colours in zip(
        figure.subplots(1, 2), ("predicted", "epistasis"), ("viridis", CHANGES), strict=True
    ):
        matrix = frame.pivot(index="letter_1", columns="letter_2", values=column).reindex(index=order, columns=order)
        values = matrix.to_numpy()
        scale = centred(values) if column == "epistasis" else Normalize(float(values.min()), float(values.max()))
        image = cells(axes, values, scale, colours)
        axes.set_aspect("equal")
        corner = order.index(own[1]) - 0.5, order.index(own[0]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="0.1", linewidth=1.3))
        axes.set_xticks(range(len(order)), order, fontsize=8)
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set(xlabel=f"letter at {second} ({own[1]} in the sequence)", ylabel=f"letter at {first} ({own[0]})")
        axes.set_title(column, fontsize=9)
        extend = extension(values, scale)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02, extend=extend)
        label = f"{'epistasis in ' if column == 'epistasis' else ''}{frame.attrs['unit']}"
        bar.set_label(plain(label), fontsize=8)
        bar.ax.tick_params(labelsize=8)
    finish(figure, path, title)


def draw_measured(path: Path, frame: pd.DataFrame, title: str) -> None:
    """A `measured_epistasis` table: measured epistasis along x, the predicted one along y."""
    figure = new_figure(5.6, 5.0)
    axes = figure.add_subplot()
    measured, predicted = frame["measured_epistasis"].to_numpy(), frame["predicted_epistasis"].to_numpy()
    cloud(axes, measured, predicted)
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.axvline(0, color="0.6", linewidth=0.6)
    axes.set(xlabel="measured epistasis", ylabel=f"predicted epistasis in {plain(frame.attrs['unit'])}")
    scores = [f"{name.capitalize()} {frame.attrs[name]:.3f}" for name in ("pearson", "spearman")
              if frame.attrs[name] is not None]  # fmt: skip
    finish(figure, path, f"{title}\n{len(frame):,} double mutants   {'   '.join(scores)}")


def finish(figure: Figure, path: Path, title: str) -> None:
    """Puts the title on, in as many lines as it needs, and saves."""
    width = int(figure.get_figwidth() * 11)
    lines = [line for part in title.split("\n") for line in textwrap.wrap(part, width)]
    figure.suptitle(plain("\n".join(lines)), fontsize=10)
    save_figure(figure, path)


def letter_rows(here: set[str]) -> list[str]:
    """The letters in groups of their kind: GROUPS for a protein, else one group in the alphabet's order."""
    if len(here) > 5 and here <= set("".join(GROUPS)):
        return [group for letters in GROUPS if (group := "".join(letter for letter in letters if letter in here))]
    return ["".join(sorted(here))]


def centred(values: np.ndarray) -> Normalize:
    """A scale with zero in its middle; one value in two hundred may lie beyond its ends."""
    sizes = abs(values[np.isfinite(values)])
    limit = float(np.quantile(sizes, 0.995)) if sizes.size else 0.0
    return Normalize(-(limit or 1.0), limit or 1.0)


def extension(values: np.ndarray, scale: Normalize) -> str:
    """Which ends of the colour bar have values beyond them."""
    assert scale.vmin is not None and scale.vmax is not None
    below, above = np.nanmin(values) < scale.vmin, np.nanmax(values) > scale.vmax
    return {(False, False): "neither", (True, False): "min", (False, True): "max"}.get((below, above), "both")


def cells(axes: Any, values: np.ndarray, scale: Normalize, colours: str = CHANGES) -> Any:
    """An image of one cell a value; NaN is grey."""
    colour_map = colormaps[colours].with_extremes(bad=NOTHING)
    return axes.imshow(np.ma.masked_invalid(values), cmap=colour_map, norm=scale, aspect="auto",
                       interpolation="nearest")  # fmt: skip


def shown_stretch(table: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """The columns (positions) that fit the picture, and the title, which says so where they are not all."""
    room = COLUMNS * LINES
    if table.shape[1] <= room:
        return table, title
    weight = np.nan_to_num(np.square(table.to_numpy())).sum(0)
    start = int(np.argmax(np.convolve(weight, np.ones(room), "valid")))
    part = table.iloc[:, start : start + room]
    where = f"positions {part.columns[0]:,} to {part.columns[-1]:,}, where most happens, of {table.shape[1]:,}"
    return part, f"{title}\n{where}; {argument('positions')} shows others"


def split_columns(positions: np.ndarray, width: int = COLUMNS) -> list[np.ndarray]:
    """Positions in lines of about the same length, `width` at most, the first one longest."""
    lines = math.ceil(len(positions) / width)
    return np.array_split(positions, lines)


def numbered_places(positions: np.ndarray) -> list[int]:
    """Where a number stands: at round positions, and at the first after a gap."""
    after_gap = np.diff(positions, prepend=positions[0] - 1) != 1
    step = 5 if len(positions) <= COLUMNS else 10
    return [i for i in range(len(positions)) if positions[i] % step == 0 or after_gap[i]]


def label_positions(axes: Any, positions: np.ndarray, letters: Sequence[str]) -> None:
    """Numbers below, the sequence above."""
    places = list(range(len(positions))) if len(positions) <= 10 else numbered_places(positions)
    axes.set_xticks(places, [str(positions[place]) for place in places], fontsize=7)
    axes.set_title(
        " ", fontsize=7, pad=3
    )  # the letters' room: they themselves take no part in the layout, which is slow
    for place, letter in enumerate(letters):
        axes.text(place, 1.01, letter, fontsize=7, ha="center", va="bottom", in_layout=False,
                  transform=axes.get_xaxis_transform())  # fmt: skip
