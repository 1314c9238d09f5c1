"""The terminal, on which text is what it is: brackets, dollar signs and colons in names are no markup."""

from __future__ import annotations

import sys

from rich.console import Console


def messages() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, markup=False, highlight=False, emoji=False)


def results() -> Console:
    """Standard output; a pipe or a file has no width that a table would have to fit."""
    console = Console(markup=False, highlight=False, emoji=False)
    return console if console.is_terminal else Console(width=120, markup=False, highlight=False, emoji=False)


def heading(text: str, console: Console) -> str:
    """A heading for a terminal that may know ASCII only."""
    return text if console.encoding.lower().startswith("utf") else text.replace("\u00b2", "2")
