"""Rows: the journal that they are appended to, and the results of a card that are made from it.

A row is a flat dict: "stage"; what it is about (`IDENTITY`); what was found; "commit" and "date". A row that could not
be made has "failed" with one line instead. Times are lists of microseconds, median, lowest and highest, or the median
alone where no more is known.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RESULTS = Path(__file__).resolve().parent.parent / "results"
IDENTITY = ("stage", "name", "subject", "shape", "precision", "direction", "side", "tool", "file")
FINISHED = "finished"
JOURNAL_VARIABLE = "LYRA_GPU_JOURNAL"  # tells pytest's plugin where its rows go
SINGLE = ", one thread"  # ends the name of a side whose backward runs in the caller's thread
SLOW_SECONDS = 2.0  # tests that took longer are remembered, to come last


def slug(card: str) -> str:
    """The name of a card's files: "NVIDIA H200" -> "nvidia_h200"."""
    return re.sub(r"\W+", "_", card).strip("_").lower()


class Journal:
    """A file of rows, one a line; each is on the disk before `add` returns."""

    def __init__(self, path: Path, stamp: Row) -> None:
        self.path, self.stamp = path, stamp

    def add(self, row: Row) -> None:
        """Appends a row with the stamp: the commit and the date."""
        line = json.dumps({**row, **self.stamp}) + "\n"
        with open(self.path, "a") as file:  # one write: the processes of a run may share the file
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """All that is there; the last line of a run that was killed may be half a row and is left out."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def key(row: Row) -> tuple:
    """What a row is about: of two rows with the same key the later one holds."""
    return tuple(tuple(v) if isinstance(v, list) else v for v in (row.get(name) for name in IDENTITY))


def condense(rows: Iterable[Row]) -> list[Row]:
    """Single tests as one row a file; of the others the last with each key."""
    rows = list(rows)
    found = {key(row): row for row in rows if "test" not in row and "collected" not in row}
    for row in tests_by_file(rows):
        found[key(row)] = row
    return list(found.values())


def tests_by_file(rows: list[Row]) -> list[Row]:
    """Counts, seconds, what failed and what was slow in each file of tests; "left" were collected but not run."""
    collected: Counter[str] = Counter()
    tests: dict[str, Row] = {}
    for row in rows:
        if "collected" in row:
            collected = Counter(row["collected"])
        elif "test" in row and tests.get(row["test"], {}).get("outcome") != "failed":
            tests[row["test"]] = row
    found: dict[str, Row] = {}
    for row in tests.values():
        file = row["test"].split("::")[0]
        kept = {"commit": row.get("commit"), "date": row.get("date")}
        entry = found.setdefault(
            file,
            {"stage": "tests", "file": file, "passed": 0, "skipped": 0, "failed_tests": {}, "seconds": 0.0, "slow": {},
             **kept},
        )  # fmt: skip
        if row["outcome"] == "failed":
            entry["failed_tests"][row["test"]] = row.get("message", "")
        else:
            entry[row["outcome"]] += 1
        entry["seconds"] = round(entry["seconds"] + row["seconds"], 2)
        if row["seconds"] > SLOW_SECONDS:
            entry["slow"][row["test"]] = round(row["seconds"], 1)
    for file, entry in found.items():
        ran = entry["passed"] + entry["skipped"] + len(entry["failed_tests"])
        entry["left"] = max(0, collected[file] - ran)
    return list(found.values())


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """The new rows, and the old ones that they do not replace.

    An old row is replaced by a new one of the same key, and gone when its stage has now finished without it.
    """
    new = condense(new)
    made = {key(row) for row in new}
    finished = {row["stage"] for row in new if row.get("name") == "stage" and row.get("outcome") == FINISHED}
    return [*new, *(row for row in old if key(row) not in made and row["stage"] not in finished)]


def load(file: Path) -> list[Row]:
    """The rows of a card's results; none where there is no file."""
    return json.loads(file.read_text())["rows"] if file.exists() else []


def dump(card: str, rows: list[Row]) -> str:
    """The results of a card as JSON with a row a line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{{"card": {json.dumps(card)}, "rows": [\n{lines}\n]}}\n'


def replace(file: Path, text: str) -> None:
    """Writes a file in one step: nobody ever sees half of it."""
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text(text)
    os.replace(unfinished, file)


def slow_tests(folder: Path = RESULTS) -> dict[str, float]:
    """Seconds of the tests that were slow on any card so far."""
    found: dict[str, float] = {}
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text())
        for row in content["rows"] if isinstance(content, dict) and "card" in content else []:
            found |= row.get("slow", {})
    return found
