"""The page of a card: tables of everything in its results, as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .results import RESULTS, SINGLE

Row = dict[str, Any]
PREDICTED = RESULTS / "gpu_predicted.json"
NAMES = {
    "ours": "ours, default", "triton": "ours, Triton", "cuda": "ours, CUDA C++", "cpu": "ours, C++ for CPUs",
    "reference": "ours, plain PyTorch", "eager": "published, eager", "compile": "published, torch.compile",
    "ours, compiled": "ours, torch.compile", "attention": "attention", "transformer": "transformer",
}  # fmt: skip
MODELS = ("Lyra", "S4D", "PGC")
INTRODUCTION = [
    "Microseconds, medians; the JSON has the lowest and the highest too. *call*: a call in a loop, as a user sees it.",
    "*graph*: calls replayed as a CUDA graph, without what Python and the launches cost. Inputs are random, the sides",
    "of a row take turns in one process. An empty cell was not measured.",
]
FLOOR = [
    "Floor: each input read once, each output written once, at the copy bandwidth; what fits the L2 cache may be",
    "below. Predicted: gpu_predicted.json, for the present Triton kernels, which may have changed since a row was",
    "measured; the model beside the kernels that were measured is in gpu_model.md.",
]


class Page:
    """The rows of one card, and how they are shown.

    Args:
        card: its name.
        rows: as results.py describes them.
        predicted: graph times of the Triton backend in microseconds by (op, shape, dtype, direction).
    """

    def __init__(self, card: str, rows: list[Row], predicted: dict[tuple, float] | None = None) -> None:
        self.card, self.rows, self.predicted = card, rows, predicted or {}
        commits = Counter(row["commit"] for row in rows)
        self.commit = commits.most_common(1)[0][0] if commits else "unknown"

    def of(self, stage: str) -> list[Row]:
        """The rows of a stage, without the one about the stage itself."""
        return [row for row in self.rows if row["stage"] == stage and row.get("name") != "stage"]

    def facts(self) -> dict[str, Any]:
        return {row["name"]: row.get("value") for row in self.of("environment") if "name" in row}

    def text(self) -> str:
        """The whole page."""
        subjects = sorted({row["subject"] for row in self.of("layers") if "subject" in row}, key=MODELS.index)
        sections = [self.head()]
        sections += [self.timed("layers", f"{subject}: call / graph", both, subject) for subject in subjects]
        sections += [
            self.timed("layers", "Layers and models: peak memory, MiB, beyond parameters and input", peak),
            self.ops(), self.timed("ops", "Ops: one call in a loop", call),
            self.timed("ops", "Ops: peak memory, MiB, beyond the arguments", peak),
            self.timed("", "Errors against float64: of the output, or the largest of a gradient", error),
            self.timed("host", "Training calls, with autograd's thread and without: call", call),
            self.tests(), self.sanitizer(), self.facts_of("demo", "The training of `lyra demo`"),
            self.facts_of("build", "The build"), self.failures(), self.stages(),
        ]  # fmt: skip
        return "\n".join(line for section in sections if section for line in [*section, ""]).rstrip("\n") + "\n"

    def head(self) -> list[str]:
        """What was measured, on what."""
        dates = sorted({row["date"] for row in self.rows})
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "no date"
        lines = [f"# {self.card}", ""]
        lines += [f"Commit {self.commit}, {span}. `make gpu` makes this page, its rows are in the JSON file beside it."]
        others = sorted({row["commit"] for row in self.rows} - {self.commit})
        if others:
            lines.append(f"Rows from other commits carry theirs in brackets: {', '.join(others)}.")
        facts = [f"- {r['name']}: {r['value']}{self.mark(r)}" for r in self.of("environment") if "value" in r]
        return [*lines, "", *facts, "", *INTRODUCTION]

    def mark(self, row: Row) -> str:
        return "" if row["commit"] == self.commit else f" [{row['commit']}]"

    def timed(self, stage: str, title: str, cell: Callable[[Row], str], subject: str | None = None) -> list[str]:
        """A table with a column for each side; empty without rows that `cell` shows something of."""
        stages = [stage] if stage else ["ops", "layers"]
        rows = [row for name in stages for row in self.of(name) if "side" in row]
        rows = [row for row in rows if subject in (None, row["subject"])]
        grid: dict[tuple, dict[str, str]] = {}
        for row in rows:
            shown = cell(row)
            if shown:
                grid.setdefault(where(row), {})[row["side"]] = shown + self.mark(row)
        sides = ordered({side for cells in grid.values() for side in cells})
        if not grid:
            return []
        heads = ["", "B, L, H", "", "", *map(heading, sides)]
        body = [[*place, *(cells.get(side, "") for side in sides)] for place, cells in grid.items()]
        return [f"## {title}", "", *table(heads, body)]

    def ops(self) -> list[str]:
        """Graph times beside prediction and floor."""
        bandwidth = self.facts().get("copy bandwidth, TB/s")
        rows = [row for row in self.of("ops") if "side" in row]
        grid: dict[tuple, dict[str, Row]] = {}
        for row in rows:
            grid.setdefault(where(row), {})[row["side"]] = row
        if not grid:
            return []
        sides = ordered({row["side"] for row in rows})
        heads = ["op", "B, L, H", "storage", "", "floor", "predicted", *map(heading, sides)]
        heads += ["Triton / predicted", "Triton, of the copy rate"]
        body = []
        for place, cells in grid.items():
            first, ours = next(iter(cells.values())), cells.get("triton", {})
            moved = next((row["bytes"] for row in cells.values() if "bytes" in row), None)
            floor = moved / bandwidth / 1e6 if moved and bandwidth else None
            predicted = self.predicted.get(prediction_key(first))
            measured = ours["graph_us"][0] if "graph_us" in ours else None
            body.append([
                *place, number(floor), number(predicted),
                *(graph(cells[s]) + self.mark(cells[s]) if s in cells and graph(cells[s]) else "" for s in sides),
                f"{measured / predicted:.2f}" if measured and predicted else "",
                f"{floor / measured:.0%}" if measured and floor else "",
            ])  # fmt: skip
        return ["## Ops: graph", "", *FLOOR, "", *table(heads, body)]

    def tests(self) -> list[str]:
        lines = ["## Tests of the triton and cuda backends", ""]
        lines += [f"- {r['name']}: {r['value']}{self.mark(r)}" for r in self.of("tests") if "value" in r]
        rows = sorted((row for row in self.of("tests") if "file" in row), key=lambda row: row["file"])
        if not rows:
            return lines if len(lines) > 2 else []
        body = []
        for row in rows:
            counts = [str(row["passed"]), str(row["skipped"]), str(len(row["failed_tests"])), str(row["left"])]
            body.append([row["file"], *counts, f"{row['seconds']:.0f}{self.mark(row)}"])
        sums = [sum(row[k] for row in rows) for k in ("passed", "skipped")]
        failed = sum(len(row["failed_tests"]) for row in rows)
        total = ["all", *map(str, sums), str(failed), str(sum(row["left"] for row in rows))]
        body.append([*total, f"{sum(row['seconds'] for row in rows):.0f}"])
        lines += table(["", "passed", "skipped", "failed", "not reached", "s"], body)
        failures = [f"- {name}: {message}" for row in rows for name, message in row["failed_tests"].items()]
        return [*lines, *(["", *failures] if failures else [])]

    def sanitizer(self) -> list[str]:
        rows = self.of("sanitizer")
        body = [
            [row["tool"], heading(row["side"]), row["subject"],
             row.get("found", "failed") + self.mark(row)]
            for row in rows if "tool" in row
        ]  # fmt: skip
        return ["## compute-sanitizer", "", *table(["tool", "backend", "op", "found"], body)] if body else []

    def facts_of(self, stage: str, title: str) -> list[str]:
        """A line for each named value of a stage."""
        rows = [row for row in self.of(stage) if "value" in row]
        return [f"## {title}", "", *(f"- {r['name']}: {r['value']}{self.mark(r)}" for r in rows)] if rows else []

    def failures(self) -> list[str]:
        lines = []
        for row in self.rows:
            for field, part in (("failed", ""), ("graph_failed", " (graph)"), ("error_failed", " (error)")):
                if field in row:
                    about = [row["stage"], row.get("name"), row.get("tool"), *where(row), row.get("side")]
                    name = ", ".join(str(part) for part in about if part)
                    lines.append(f"- {name}{part}: {row[field]}{self.mark(row)}")
        return ["## What failed", "", *lines] if lines else []

    def stages(self) -> list[str]:
        rows = [row for row in self.rows if row.get("name") == "stage"]
        body = [[row["stage"], row["outcome"] + self.mark(row), number(row.get("seconds"))] for row in rows]
        return ["## How the run went", "", *table(["stage", "outcome", "s"], body)] if rows else []


def where(row: Row) -> tuple[str, ...]:
    """The first cells of a row."""
    shape = ", ".join(map(str, row["shape"])) if "shape" in row else ""
    return row.get("subject", ""), shape, row.get("precision", ""), row.get("direction", "")


def both(row: Row) -> str:
    if "failed" in row:
        return "failed"
    return f"{call(row)} / {graph(row)}"


def call(row: Row) -> str:
    return "failed" if "failed" in row else number(row["call_us"][0]) if "call_us" in row else ""


def graph(row: Row) -> str:
    if "failed" in row or "graph_failed" in row:
        return "failed"
    return number(row["graph_us"][0]) if "graph_us" in row else ""


def peak(row: Row) -> str:
    return number(row.get("peak_mb"))


def error(row: Row) -> str:
    if "grad_errors" in row:
        return f"{max(row['grad_errors'], default=0.0):.1e}"
    return f"{row['error']:.1e}" if "error" in row else ""


def number(value: float | None) -> str:
    """Three digits without an exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(heads: list[str], body: Iterable[Iterable[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in [heads, *body]]
    return [lines[0], "|" + "---|" * len(heads), *lines[1:]]


def heading(side: str) -> str:
    """What a side is called: "eager, one thread" -> "published, eager, one thread"."""
    plain = side.removesuffix(SINGLE)
    return NAMES.get(plain, plain) + side[len(plain) :]


def ordered(sides: set[str]) -> list[str]:
    """Sides as in `NAMES`, each beside itself in one thread."""
    rank = {name: place for place, name in enumerate(NAMES)}
    return sorted(sides, key=lambda side: (rank.get(side.removesuffix(SINGLE), len(rank)), side))


def prediction_key(row: Row) -> tuple:
    direction = {"training": "train"}.get(row["direction"], row["direction"])
    return row["subject"], tuple(row["shape"]), row["precision"], direction


def predictions(card: str, file: Path = PREDICTED) -> dict[tuple, float]:
    """Predicted microseconds for this card; they are made for an H200."""
    if "H200" not in card or not file.exists():
        return {}
    entries = json.loads(file.read_text())
    return {(e["op"], tuple(e["shape"]), e["dtype"], e["direction"]): e["us"] for e in entries}


def render(card: str, rows: list[Row]) -> str:
    """The page of a card."""
    return Page(card, rows, predictions(card)).text()
