"""The one exception for what a user can put right: bad input, a missing file, a full disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


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


Spelling = Callable[[str, object], str]


def in_python(name: str, value: object) -> str:
    """`offset`, or with a value `offset=2`."""
    return name if value is None else f"{name}={value!r}"


_spelling: ContextVar[Spelling] = ContextVar("spelling", default=in_python)


@contextmanager
def arguments_spelled(spelling: Spelling) -> Iterator[None]:
    """While the block runs, messages call arguments as `spelling(name, value)` does."""
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)


def argument(name: str, value: object = None) -> str:
    """An argument, alone or with a value to give it, as who reads the message would write it.

    That is Python, unless the caller of the library has another language (see `arguments_spelled`).
    """
    return _spelling.get()(name, value)


def refuse_without_effect(given: Collection[str], names: Iterable[str], reason: str) -> None:
    """Raises InputError if a setting was given that makes no difference here: who gave it expected something of it."""
    for name in names:
        if name in given:
            raise InputError(f"{argument(name)}: has no effect, {reason}; leave it out")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raises InputError if a setting is none of the values that it may have."""
    if value not in allowed:
        raise InputError(f"{argument(name)} {shorten(value)}: must be one of {', '.join(allowed)}")
