"""Packages that one command needs, and most users do not."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import InputError


def optional(name: str, purpose: str, extra: str = "bio") -> Any:
    """The module; an InputError that says how to get it where it is missing.

    Args:
        purpose: what needs it, for the message.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f'{purpose} needs the package {name}: pip install "lyra-bio[{extra}]"') from None
