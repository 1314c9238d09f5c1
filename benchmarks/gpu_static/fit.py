"""How well the time model explains the measured rows, and its fitted parameters found anew.

The rows are split in two halves, each of which has every op, size and storage type. Parameters are fitted on the first;
the second says what that is worth. It is not pristine: while the model was built, all rows were looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .calibration import Launched
from .rows import OPS, SHAPES, Row
from .time_model import H200, Card, total

CLOSE, FAR, FAR_SHARE = 1.5, 2.0, 0.1
"""Every row within the first factor, but for a tenth of them, which are within the second."""

_COSTS = ("line", "sector_loaded", "sector_stored", "shared_pass")
_CARD = ("latency_l2", "latency_dram", "gap", "cold", "stream", "dram", "l2", "fp32_products")


@dataclass(frozen=True)
class Prediction:
    """Microseconds of a row, what bounds its longest launch, and what was measured, if it was."""

    row: Row
    us: float
    bound: str
    measured: float | None = None

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        assert self.measured is not None, self.row
        return self.us / self.measured

    def __str__(self) -> str:
        beside = f" / {self.measured:8.1f} = {self.us / self.measured:5.2f}" if self.measured else ""
        return f"{self.row!s:44s} {self.us:8.1f}{beside}  {self.bound}"


def predict(launched: Launched, measured: Mapping[Row, float], card: Card = H200) -> list[Prediction]:
    """Every row of ``launched``."""
    return [Prediction(row, *total(parts, card), measured.get(row)) for row, parts in launched.items()]


def half(row: Row) -> int:
    """Which half a row is in, 0 or 1."""
    return (list(OPS).index(row.op) + SHAPES.index(row.shape) + (row.dtype == "bfloat16")) % 2


def independent(row: Row) -> bool:
    """Whether a row has launches of its own: ``auto`` has those of another algorithm's row."""
    return row.op != "s4d_auto"


def spread(found: list[Prediction]) -> float:
    """Root mean square of log(predicted / measured): 0.1 is ten per cent."""
    return math.sqrt(sum(math.log(p.ratio) ** 2 for p in found) / len(found))


def failures(found: list[Prediction]) -> list[Prediction]:
    """The rows that the model does not explain: those beyond the second factor, or too many beyond the first."""
    off = [(abs(math.log(p.ratio)), p) for p in found]
    beyond = [p for error, p in off if error > math.log(CLOSE)]
    worst = [p for error, p in off if error > math.log(FAR)]
    return beyond if len(beyond) > FAR_SHARE * len(found) else worst


def statistics(found: list[Prediction]) -> dict[str, str]:
    """What to say of a fit."""
    found = [p for p in found if independent(p.row)]

    def within(factor: float) -> int:
        return sum(abs(math.log(p.ratio)) <= math.log(factor) for p in found)

    bias = math.exp(sum(math.log(p.ratio) for p in found) / len(found)) - 1
    return {
        "rows": str(len(found)),
        "within": ", ".join(f"{within(1 + x / 100)} within {x} %" for x in (10, 15, 25, 50)),
        "spread, fitted half": f"{spread([p for p in found if half(p.row) == 0]):.3f}",
        "spread, other half": f"{spread([p for p in found if half(p.row) == 1]):.3f}",
        "bias": f"{bias:+.1%}",
    }


def _changed(card: Card, name: str, factor: float) -> Card:
    if name in _COSTS:
        return replace(card, costs=replace(card.costs, **{name: getattr(card.costs, name) * factor}))
    return replace(card, **{name: getattr(card, name) * factor})


def fit(launched: Launched, measured: Mapping[Row, float], card: Card, say: Callable[[str], None] = print) -> Card:
    """A card whose fitted parameters explain the first half better: one at a time, in steps of 25 % to 6 %.

    Gains below 0.001 are the simulation's own noise and not taken.
    """
    rows = {row: parts for row, parts in launched.items() if independent(row) and half(row) == 0 and row in measured}

    def error(candidate: Card) -> float:
        return spread(predict(rows, measured, candidate))

    best, step = error(card), 0.25
    while step > 0.04:
        for name in (*_COSTS, *_CARD):
            for factor in (1 + step, 1 / (1 + step)):
                while (score := error(trial := _changed(card, name, factor))) < best - 1e-3:
                    best, card = score, trial
                    value = getattr(card.costs if name in _COSTS else card, name)
                    say(f"{best:.3f} {name} {value:.3g}")
        step /= 2
    return card
