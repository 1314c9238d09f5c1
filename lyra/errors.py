"""The one exception for what a user can put right: bad input, a missing file, a full disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class InputError(ValueError):
    """Input that cannot be used. The message is one line: where, what is wrong, what would be right.

    The command line prints it and exits with code 2; a library caller catches it as a ValueError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # a file's name or a cell may have a line break in it


def shorten(text: object, limit: int = 40) -> str:
    """The text as it may appear in a one-line message: quoted, without control characters, cut at `limit`."""
    shown = repr(str(text))
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"


def option(name: str) -> str:
    """A setting's name on the command line."""
    return "--" + name.replace("_", "-")


def refuse_without_effect(given: Collection[str], names: Iterable[str], reason: str) -> None:
    """Raises InputError if a setting was given that makes no difference here: who gave it expected something of it."""
    for name in names:
        if name in given:
            raise InputError(f"{option(name)}: has no effect, {reason}; leave it out")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raises InputError if a setting is none of the values that it may have."""
    if value not in allowed:
        raise InputError(f"{option(name)} {shorten(value)}: must be one of {', '.join(allowed)}")
