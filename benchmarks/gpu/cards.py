"""The device that is measured: a CUDA card, or for a dry run a stand-in on the CPU that does the same slowly."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lyra_kernels import backends

Step = Callable[[], Any]


class Card:
    """A CUDA device: its streams, events, graphs and memory."""

    kind = "cuda"
    candidates = ("triton", "cuda")

    def __init__(self) -> None:
        self.device = torch.device(self.kind)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name()

    def backends(self) -> tuple[str, ...]:
        """Our backends that work here, of those that a card has."""
        return tuple(name for name in self.candidates if backends.availability()[name][0])

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, step: Step, inner: int) -> tuple[Step, Any]:
        """`inner` calls of `step` as one CUDA graph: what replays it, and the tensors that the last call writes."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
            step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(inner):
                output = step()
        return graph.replay, output

    def seconds(self, replay: Step) -> float:
        """The time between two events around a replay."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def peak_mb(self, step: Step) -> float:
        """The most MiB that are allocated during a call, beyond what was before it."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def release(self) -> None:
        """Gives back what no tensor holds any more."""
        gc.collect()
        torch.cuda.empty_cache()

    def healthy(self) -> bool:
        """Whether the device still answers; after an illegal access it never does again in the same process."""
        try:
            torch.cuda.synchronize()
            return bool(torch.ones(1, device=self.device).item() == 1)
        except RuntimeError:
            return False


class StandIn(Card):
    """The CPU in a card's place: a graph is a function that calls again, an event is a clock."""

    kind = "cpu"
    name = "dry run"
    candidates = ("cpu", "reference")

    def synchronize(self) -> None:
        pass

    def capture(self, step: Step, inner: int) -> tuple[Step, Any]:
        output = step()

        def replay() -> None:
            for _ in range(inner):
                again = step()
            for kept, new in zip(tensors(output), tensors(again), strict=True):
                kept.copy_(new)

        return replay, output

    def seconds(self, replay: Step) -> float:
        start = time.perf_counter()
        replay()
        return time.perf_counter() - start

    def peak_mb(self, step: Step) -> float:
        """The output alone: the CPU's allocator does not count."""
        return sum(t.numel() * t.element_size() for t in tensors(step())) / 2**20

    def release(self) -> None:
        gc.collect()

    def healthy(self) -> bool:
        return True


def make(kind: str) -> Card:
    """The device of a kind: "cuda" or "cpu"."""
    return {"cuda": Card, "cpu": StandIn}[kind]()


def tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of what a step returns, which may be one, several, or none in some places."""
    found = output if isinstance(output, (tuple, list)) else [output]
    return [t for t in found if isinstance(t, torch.Tensor)]


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, memory that is allocated without a value holds NaN: whoever reads what nobody wrote shows it."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
