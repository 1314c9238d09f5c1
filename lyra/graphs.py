"""Calls of a model on a card, replayed as CUDA graphs as long as that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lyra_kernels.graphs import CaptureError, Graphed

from .data.batches import Batch

AFTER = 2  # batches of a shape that run as usual first: for a file of a few, recording costs more than it saves
MAX_GRAPHS = 32


class Replayed:
    """The model's outputs for a batch. Where no CUDA graph can be recorded, a warning says why, and it is called.

    Args:
        model: on a CUDA device.
        warn: told once why there are no graphs.
    """

    def __init__(self, model: nn.Module, warn: Callable[[str], None]) -> None:
        self.model, self.warn = model, warn
        self.calls: Any = Graphed(model, max_graphs=MAX_GRAPHS, after=AFTER)

    def __call__(self, batch: Batch) -> Tensor:
        """`(B, ...)` for the batch, whose width should be its bucket's."""
        try:
            return self.calls(batch.tokens, lengths=batch.lengths)
        except CaptureError as error:
            self.warn(without_graphs(error))
            self.calls = self.model
            return self.calls(batch.tokens, lengths=batch.lengths)


def without_graphs(error: Exception) -> str:
    """The warning that the rest goes without graphs."""
    return f"CUDA graphs cannot be used, so it goes on without: {' '.join(str(error).split())[:300]}"
