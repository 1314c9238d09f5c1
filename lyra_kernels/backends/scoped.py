"""Choices that a with-block makes for what is called inside it: in its own thread or task, and in no other."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from .. import _torch


class Block:
    """A with-block that has been entered.

    Attributes:
        value: what it chose.
        checkpoints: how many checkpoints' forwards or recomputations it was entered inside of.
        over: whether it has ended in another context than it began in: as that of a generator may, which nobody ends
            and the garbage collector does.
    """

    @_torch.never_compiled
    def __init__(self, value: str | None, checkpoints: int) -> None:
        self.value, self.checkpoints, self.over = value, checkpoints, False


class Scoped:
    """A choice that holds inside with-blocks, by the innermost of those of a thread or task that have not ended.

    A forward inside of torch.utils.checkpoint runs twice, the second time during the backward, when the blocks around
    it may have ended and others begun. The second time has the first's choice.

    Attributes:
        blocks: of this thread or task, the innermost last.
        recomputed: what was chosen around each checkpoint's forward. Where this and `blocks` are empty, nothing is
            chosen.
    """

    def __init__(self, name: str) -> None:
        self.blocks: ContextVar[tuple[Block, ...]] = ContextVar(name, default=())
        self.recomputed: dict[weakref.ref[Any], str] = {}

    @_torch.never_compiled
    def get(self) -> str | None:
        """The choice here and now, or None."""
        blocks = self.blocks.get()
        while blocks and blocks[-1].over:
            blocks = blocks[:-1]
            self.blocks.set(blocks)
        block = blocks[-1] if blocks else None
        places = _torch.checkpoints()
        if not places:
            return None if block is None else block.value
        inside = max(len(places) - (0 if block is None else block.checkpoints), 0)
        forwards = []
        for place, recomputing in places[:inside]:  # those that the block is around, the innermost first
            if recomputing:
                value = self.recomputed.get(weakref.ref(place))
                break
            forwards.append(place)
        else:
            value = None if block is None else block.value
        if value is not None:
            for place in forwards:
                self.recomputed[weakref.ref(place, self._forget)] = value
        return value

    @_torch.never_compiled
    def _forget(self, place: weakref.ref[Any]) -> None:
        self.recomputed.pop(place, None)

    @contextlib.contextmanager
    def chosen(self, value: str | None) -> Iterator[None]:
        """Inside, the choice is `value`."""
        block = Block(value, len(_torch.checkpoints()))
        token = self.blocks.set((*self.blocks.get(), block))
        try:
            yield
        finally:
            # Blocks of generators need not end in the order in which they began: only this one is taken out.
            others = tuple(b for b in self.blocks.get() if b is not block)
            try:
                self.blocks.reset(token)
            except ValueError:  # another context than the block's
                block.over = True
            self.blocks.set(others)
