"""Triton's interpreter without what it repeats: half of its time on small programs.

To be imported in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


@functools.cache
def _languages(function: Any) -> list[Any]:
    return [x for x in function.__globals__.values() if inspect.ismodule(x) and x in (tl, tl.core)]


@functools.cache
def quicken() -> None:
    """Have the interpreter of this process do once what it does again and again."""
    _patch_once()
    _remember_types()


def _remember_types() -> None:
    """It makes a table of all types whenever it asks what numpy calls one."""
    look_up = interpreter._get_np_dtype
    scalar = functools.cache(look_up)

    @functools.wraps(look_up)
    def remembered(kind: Any) -> Any:
        kind = kind.element_ty if isinstance(kind, tl.block_type) else kind
        return look_up(kind) if isinstance(kind, tl.pointer_type) else scalar(kind)  # pointers have no hash

    interpreter._get_np_dtype = remembered


def _patch_once() -> None:
    """Have the interpreter replace ``triton.language`` once a launch, and not anew for each function that is called.

    At each call it looks through all names of the language for what is still to be replaced. Inside a launch there is
    nothing: what it replaces is no builtin any more.
    """
    replace: Callable[[Any], Any] = interpreter._patch_lang

    @functools.wraps(replace)
    def replace_once(function: Any) -> Any:
        if any(tl.core.is_builtin(language.load) for language in _languages(function)):
            return replace(function)
        return None  # only a launch asks for what is to be restored, and none begins inside another

    interpreter._patch_lang = replace_once
