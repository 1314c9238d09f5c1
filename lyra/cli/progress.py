"""A bar with the time left, for work that is counted."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """Shows the share done and the time left on a terminal; nothing elsewhere. It appears with the first update."""

    def __init__(self, console: Console, description: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                   TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.description = description

    def __enter__(self) -> Bar:
        return self

    def update(self, done: int, total: int) -> None:
        if not self.progress.tasks:
            self.progress.start()
            self.progress.add_task(self.description, total=total)
        self.progress.update(self.progress.tasks[0].id, completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
