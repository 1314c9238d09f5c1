"""Who looks on while public functions decide: :func:`lyra_kernels.explain_choice`, and otherwise nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

Question = tuple[Tensor, int, int, "Tensor | None", bool]
"""The arguments of :func:`.s4d_conv.decide`."""


class Watcher(Protocol):
    """Is told what is decided, and answers calls of ops in place of the backends."""

    def here(self) -> bool:
        """Whether it watches this thread."""

    def algorithm(self, asked: str, taken: str, question: Question) -> None:
        """An S4D convolution goes by the algorithm `taken`."""

    def call(self, op: str, args: Sequence[Any]) -> Any:
        """An op is called; returns outputs of the right shapes."""


watcher: Watcher | None = None
"""A call asks for nothing else where nobody watches: one look at a variable."""
