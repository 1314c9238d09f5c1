"""Which epoch is kept: the best validation score, of equal or undefined scores the least validation loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..data.targets import PER_RESIDUE
from ..metrics import MONITORED

Key = tuple[float, float]


def key(task: str, row: Mapping[str, float | int | None]) -> Key:
    """What epochs are compared by, more is better; `row` has val_loss and the scores with val_ before their names."""
    score, loss = row[f"val_{MONITORED[task]}"], row["val_loss"]
    assert loss is not None
    return -math.inf if score is None else float(score), -math.inf if math.isnan(loss) else -float(loss)


def best_epoch(task: str, rows: Sequence[Mapping[str, float | int | None]]) -> int:
    """The number, from 1, of the epoch that is kept; the first of several."""
    keys = [key(task, row) for row in rows]
    return keys.index(max(keys)) + 1


def reason(task: str, rows: Sequence[Mapping[str, float | int | None]], name: str) -> str:
    """Why the best epoch was chosen; `name` is what the score is called."""
    scores = [key(task, row)[0] for row in rows]
    if max(scores) == -math.inf:
        return f"by the least validation loss ({name} is undefined on the validation part)"
    tied = scores.count(max(scores))
    if tied > 1:
        return f"by the least validation loss among {tied:,} epochs of the same validation {name}"
    return f"by the best validation {name}"


def undefined_because(task: str, labels: np.ndarray) -> str | None:
    """Why the score that is watched cannot be computed on a validation part with these labels; None if it can."""
    if len(labels) == 0:
        return "the validation part has no value that is no limit"
    if len(labels) == 1:
        return f"the validation part {'has one labelled residue' if task in PER_RESIDUE else 'is one row'}"
    if len(np.unique(labels)) == 1:
        what = "value" if MONITORED[task] == "r2" else "class"
        return f"the validation part has one {what} only"
    return None
