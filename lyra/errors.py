"""The one exception for what a user can put right: bad input, a missing file, a full disk."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. The message is one line: where, what is wrong, what would be right.

    The command line prints it and exits with code 2; a library caller catches it as a ValueError.
    """


def shorten(text: object, limit: int = 40) -> str:
    """The text as it may appear in a one-line message: quoted, without control characters, cut at `limit`."""
    shown = repr(str(text))
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
