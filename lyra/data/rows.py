"""How many rows were read, used and set aside, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class RowCount:
    """Rows of an input.

    Attributes:
        used: rows that take part; aside: for each reason, how many do not.
    """

    used: int = 0
    aside: Counter[str] = field(default_factory=Counter)

    @property
    def set_aside(self) -> int:
        return sum(self.aside.values())

    @property
    def read(self) -> int:
        return self.used + self.set_aside

    def __str__(self) -> str:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.aside.items() if count)
        return f"{self.read:,} read, {self.used:,} used, {self.set_aside:,} set aside" + (
            f" ({reasons})" if reasons else ""
        )
