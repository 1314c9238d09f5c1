"""The stopwatch of the benchmarks on a GPU, driven without one: the card and CUDA's events are stood in for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import timing


def test_the_cache_is_flushed_before_the_clock_starts(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            self.name = f"event {len(order)}"

        def record(self):
            order.append("record")

        def synchronize(self):
            order.append("wait")

        def elapsed_time(self, end):
            return 3.0

    flush = SimpleNamespace(zero_=lambda: order.append("flush"))
    monkeypatch.setattr(torch, "empty", lambda *a, **k: flush)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = timing.Stopwatch(SimpleNamespace(type="cuda"))
    assert watch(lambda: order.append("call")) == pytest.approx(3e-3)
    assert order == ["flush", "record", "call", "record", "wait"]
