"""Triton's interpreter without what it repeats: most of its time on small programs.

To be imported in a process with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.language import semantic
from triton.runtime import interpreter


@functools.cache
def _languages(function: Any) -> list[Any]:
    return [x for x in function.__globals__.values() if inspect.ismodule(x) and x in (tl, tl.core)]


@functools.cache
def quicken() -> None:
    """Have the interpreter of this process do once what it does again and again."""
    _patch_once()
    _remember_types()
    _remember_shapes()
    _leave_out_sums_for_nothing()
    _leave_out_broadcasts_to_the_same()


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


def _remember_shapes() -> None:
    """It works out the shape of every value anew, in several objects, and checks it."""
    make_block, make_tensor = tl.block_type.__init__, tl.tensor.__init__
    blocks: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, dict[str, Any]] = {}

    @functools.wraps(make_block)
    def block(self: tl.block_type, element_ty: Any, shape: Any) -> None:
        key = _hashable(element_ty), *(n.value if isinstance(n, tl.constexpr) else n for n in shape)
        known = blocks.get(key)
        if known is None:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        else:
            vars(self).update(known)

    @functools.wraps(make_tensor)
    def tensor(self: tl.tensor, handle: Any, type: Any) -> None:
        sizes = tuple(type.shape) if type.is_block() else ()
        known = shapes.get(sizes)
        if known is None:
            make_tensor(self, handle, type)
            shapes[sizes] = {"shape": self.shape, "numel": self.numel}
        else:
            vars(self).update(known, handle=handle, type=type, dtype=type.scalar)

    tl.block_type.__init__, tl.tensor.__init__ = block, tensor


def _hashable(kind: Any) -> Any:
    """A type as a key: pointers have no hash."""
    return (kind.element_ty, kind.address_space, kind.const) if isinstance(kind, tl.pointer_type) else kind


def _leave_out_sums_for_nothing() -> None:
    """Whether whole numbers overflow is seen by doing each sum again in 64 bits, and told only where kernels debug."""
    check = semantic.TritonSemantic.binary_op_sanitize_overflow_impl

    @functools.wraps(check)
    def asked(self: Any, *operands: Any) -> None:
        if self.builder.options.debug:
            check(self, *operands)

    semantic.TritonSemantic.binary_op_sanitize_overflow_impl = asked


def _leave_out_broadcasts_to_the_same() -> None:
    """It compares two shapes by making new ones of both, also where they are equal."""
    broadcast = semantic.TritonSemantic.broadcast_impl_value

    @functools.wraps(broadcast)
    def where_they_differ(self: Any, lhs: tl.tensor, rhs: tl.tensor) -> Any:
        one, other = lhs.type, rhs.type
        if one.is_block() and other.is_block() and one.shape.values == other.shape.values:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    semantic.TritonSemantic.broadcast_impl_value = where_they_differ
