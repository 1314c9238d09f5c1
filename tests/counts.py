"""Counting what the host does for a call: deterministic, where its time is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def python_calls(f: Callable[[], Any]) -> int:
    """Functions of Python that a call runs once it has run before."""
    for _ in range(3):
        f()
    count = 0

    def see(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        f()
    finally:
        sys.setprofile(before)
    return count
