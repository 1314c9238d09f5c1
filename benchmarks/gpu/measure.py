"""Goes through the sides of a case, one direction after the other, and says a row for each."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from .cards import Card
from .cases import Answers, Case, Pace, Prepared, Row, Say


class Sticky(Exception):
    """The device answers no more in this process; the row that did it has been said."""


def measure(case: Case, card: Card, pace: Pace, say: Say, skip: Collection[tuple[str, str]] = ()) -> None:
    """Times every side of a case but those in `skip`, (direction, side), and says their rows.

    Before anything that may take the process with it, {"trying": row} is said.

    Raises:
        Sticky: the device has to be left to another process.
    """
    answers = Answers(case, card)
    try:
        answers.find_truth()
    except Exception as error:  # then without errors
        case.identity = {**case.identity, "error_failed": one_line(error)}
    card.release()
    for direction in case.directions:
        names = [name for name in case.sides if (direction, name) not in skip]
        Pass(case, direction, card, pace, say, answers).run(names)


class Pass:
    """One direction of a case."""

    def __init__(self, case: Case, direction: str, card: Card, pace: Pace, say: Say, answers: Answers) -> None:
        self.case, self.direction, self.card, self.pace, self.say, self.answers = (
            case, direction, card, pace, say, answers,
        )  # fmt: skip

    def run(self, names: list[str]) -> None:
        """All sides together; those that then lacked memory once more, each by itself."""
        crowded = self.together(names)
        self.card.release()
        for name in crowded:
            self.together([name])
            self.card.release()

    def together(self, names: list[str]) -> list[str]:
        """Prepares and times sides in turn and says their rows; returns those that ran out of memory among others."""
        ready: dict[str, Prepared] = {}
        crowded: list[str] = []

        def attempt(name: str, action: Callable[[str], None], field: str = "failed") -> None:
            row = {**self.case.identity, "direction": self.direction, "side": name}
            self.say({"trying": row})
            try:
                action(name)
                return
            except Exception as error:
                reason, memory = one_line(error), isinstance(error, torch.OutOfMemoryError)
            # Only here, where no traceback holds tensors any more, can memory be given back.
            healthy = self.card.healthy()
            if healthy and field == "graph_failed" and not (memory and len(names) > 1):
                ready[name].row[field] = reason
                ready[name].replay = None
                return
            ready.pop(name, None)
            self.card.release()
            if memory and len(names) > 1:
                crowded.append(name)
                return
            self.say({**row, "failed": reason})
            if not healthy:
                raise Sticky

        def prepare(name: str) -> None:
            ready[name] = Prepared(self.case, name, self.direction, self.card, self.pace, self.answers)

        for name in names:
            attempt(name, prepare)
        slowest = max((side.once for side in ready.values()), default=0.0)
        rounds = self.pace.rounds if slowest < 0.05 else min(3, self.pace.rounds)
        for _ in range(rounds):
            for name in list(ready):
                attempt(name, lambda name: ready[name].round())
        for name in list(ready):
            attempt(name, lambda name: ready[name].capture(self.pace), "graph_failed")
        for _ in range(self.pace.replays if slowest < 0.05 else min(5, self.pace.replays)):
            for name in [n for n, side in ready.items() if side.replay]:
                attempt(name, lambda name: ready[name].replayed(), "graph_failed")
        for side in ready.values():
            self.say(side.finished())
        return crowded


def one_line(error: BaseException, most: int = 240) -> str:
    """The kind of an error and the beginning of what it says, without line breaks."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= most else text[: most - 3] + "..."


def row_side(row: Row) -> tuple[str, str]:
    """What `measure` is told to skip once a row is there."""
    return row["direction"], row["side"]
