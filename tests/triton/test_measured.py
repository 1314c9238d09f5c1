"""The timing of kernels on a GPU, driven without one: a clock, a card and CUDA's events are stood in for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("benchmarks.gpu_static.measured")
from benchmarks import timing
from benchmarks.gpu_static import cases, measured, model


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Tesla T4", None),
    ],
)
def test_cards_by_name(device, card):
    found = measured.card_named(device)
    assert (found and found.name) == card


def test_every_measured_case_has_arguments():
    assert all(c.op in measured._FULL for c in cases.MEASURED)


@pytest.mark.interpreter
@pytest.mark.parametrize("case", cases.MEASURED, ids=lambda c: c.name)
def test_steps_run_again_and_again(case, device):
    steps = measured.steps(dataclasses.replace(case, shape=(1, 20, 2)), "fp32", torch.device(device))
    for step in steps.values():
        first, second = (x if isinstance(x, tuple) else (x,) for x in (step(), step()))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class _Clock:
    """A stopwatch of given times."""

    def __init__(self, *times: float) -> None:
        self.times = [*times]

    def __call__(self, function) -> float:
        function()
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


def test_sample_is_the_median_with_its_tenths():
    calls = []
    spread = timing.sample(lambda: calls.append(1), _Clock(9.0, 1.0, 2.0, 3.0, 4.0), seconds=0.0)
    assert len(calls) == 6  # the first is not timed
    assert spread.median == 3.0 and spread.low == pytest.approx(1.4) and spread.high == pytest.approx(7.0)


def test_measured_stands_beside_predicted(tmp_path, monkeypatch):
    case = next(c for c in cases.MEASURED if c.op == "rms_norm")
    launch = {"loaded": 10**6, "stored": 10**6, "product_flops": 0, "vector_flops": 0, "constants": {}}
    row = {"case": case.name, "dtype": "fp32", "direction": "forward", "launches": [launch], "scale": 2}
    file = tmp_path / "gpu_static.json"
    file.write_text(json.dumps({"rows": [row]}))
    known = measured.predictions(file)
    monkeypatch.setattr(measured, "predictions", lambda: known)
    monkeypatch.setattr(measured, "sample", lambda step, watch: timing.sample(step, watch, seconds=0.0))

    def record(device, graph, direction="forward"):
        return measured.measure(case, "fp32", direction, lambda: None, graph, _Clock(4e-6), device)

    found = record("NVIDIA A100-SXM4-80GB", lambda: None)
    assert found["predicted"] == pytest.approx(4e6 / model.CARDS[0].bandwidth)
    assert found["graph"] == pytest.approx([4e-6] * 3) and json.loads(json.dumps(found)) == found
    lines = measured.table([found, record("Tesla T4", None), record("NVIDIA H200", None, "backward")])
    assert "| rms_norm | 8, 2048, 64 | fp32 | forward | 2.0 | 4.0 (4.0 to 4.0) | 2.04 | 4.0 (4.0 to 4.0) |" in lines
    assert "| rms_norm | 8, 2048, 64 | fp32 | forward |  |  |  | 4.0 (4.0 to 4.0) |" in lines
    assert measured.table([]) == []


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


def test_a_graph_is_captured_after_a_call_that_compiles(monkeypatch):
    order = []
    stream = SimpleNamespace(wait_stream=lambda other: order.append("wait"))
    graph = SimpleNamespace(replay=lambda: order.append("replay"))

    @contextlib.contextmanager
    def inside(what):
        order.append("capture" if what is graph else "side")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda: "side stream")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "graph", inside)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    replay = measured.captured(lambda: order.append("call"))
    replay()
    assert order == ["side", "call", "wait", "capture", "call", "replay"]
