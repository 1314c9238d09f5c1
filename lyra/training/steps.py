"""Training steps as CUDA graphs: the batch, forward, backward, clipping and the optimizer in one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..graphs import MAX_GRAPHS, without_graphs

Step = Callable[[], None]
WARM_UP = 3  # steps of a shape that run as usual first: kernels are compiled in them, the optimizer makes its state


class CudaGraphs:
    """Records what a function launches on a card. All recordings of one instance share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, step: Step) -> None:
        """Runs it on the stream that it will be recorded on, to which autograd keeps for a parameter."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            step()
        current.wait_stream(self.stream)

    def record(self, step: Step) -> Step:
        """What replays it. It does not run here."""
        current = torch.cuda.current_stream(self.device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                step()
        finally:
            torch.cuda.set_stream(current)  # where the recording fails, torch leaves its own
        return graph.replay


class RecordedSteps:
    """Steps, each replayed from the fourth of its shape on. A step that cannot be recorded runs as usual.

    Args:
        step: makes one training step from rows of the data `(B,)` and the width of their batch. It must not read rows,
            nor anything else that lies on the card.
        graphs: records.
        warn: told once why steps are not replayed, if they are not.
    """

    def __init__(self, step: Callable[[Tensor, int], None], graphs: Any, warn: Callable[[str], None]) -> None:
        self.step, self.graphs, self.warn = step, graphs, warn
        self.works = True
        self._seen: dict[tuple[int, int], int] = {}
        self._recorded: dict[tuple[int, int], tuple[Tensor, Step]] = {}

    def __call__(self, rows: Tensor, width: int) -> None:
        shape = len(rows), width
        found = self._recorded.get(shape) or self._record(rows, width)
        if found is None:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            self.graphs.run(lambda: self.step(rows, width))
            return
        own, replay = found
        own.copy_(rows)
        replay()

    def _record(self, rows: Tensor, width: int) -> tuple[Tensor, Step] | None:
        shape = len(rows), width
        if not self.works or self._seen.get(shape, 0) < WARM_UP or len(self._recorded) >= MAX_GRAPHS:
            return None
        own = rows.clone()
        try:
            self._recorded[shape] = own, self.graphs.record(lambda: self.step(own, width))
        except Exception as error:  # whatever it is, training needs no graphs
            self.works = False
            self.warn(without_graphs(error))
            return None
        return self._recorded[shape]
