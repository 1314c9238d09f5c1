"""The choice of algorithm at its boundaries, and that "auto" follows it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels import backends
from lyra_kernels.ops import cost_model, s4d_conv
from lyra_kernels.ops.cost_model import Why

TRITON, CUDA = backends.limits("triton"), backends.limits("cuda")

ONE = cost_model.Constants(direct=1.0, scan=1.0, fft=1.0, kernel=1.0)


@pytest.mark.parametrize(
    ("batch", "length", "modes", "expected"),
    [
        (64, 128, 32, "direct"),  # one kernel for many short sequences
        (1, 128, 32, "scan"),  # the kernel would cost as much as the recurrence
        (8, 8192, 32, "scan"),
        (1, 1_048_576, 32, "scan"),
        (64, 8192, 4096, "fft"),  # so many modes that a transform is cheaper than carrying them
    ],
)
def test_choices_on_a_cpu(batch, length, modes, expected):
    assert cost_model.choose(batch, length, modes) == expected


@pytest.mark.parametrize(("batch", "length"), [(0, 100), (1, 0), (0, 0)])
def test_nothing_to_do_is_no_trouble(batch, length):
    assert cost_model.choose(batch, length, 32) in ("direct", "scan", "fft")


@pytest.mark.parametrize("modes", [1, 8, 32, 512])
@pytest.mark.parametrize("batch", [2, 64])
def test_direct_gives_way_to_the_scan_where_their_costs_meet(batch, modes):
    # batch L (L + 1) / 2 + 6 M L = batch L (6 M + 64)  at  L + 1 = 12 M (batch - 1) / batch + 128
    meeting = 12 * modes * (batch - 1) / batch + 127
    below, above = math.floor(meeting - 1e-9), math.floor(meeting) + 1
    cheap_fft = cost_model.Constants(direct=1.0, scan=1.0, fft=1e9, kernel=1.0)
    if below >= 1:
        assert cost_model.choose(batch, below, modes, constants=cheap_fft) == "direct"
    assert cost_model.choose(batch, above, modes, constants=cheap_fft) == "scan"


def test_the_transform_wins_where_modes_outnumber_its_stages():
    # batch L (6 M + 64) against 10 batch L log2(2 L) (1 + (L / 2^14)^2) + 6 M L
    batch, length = 4, 4096
    stages = math.log2(2 * length) * (1 + 1 / 16)
    meeting = batch * (10 * stages - 64) / (6 * (batch - 1))
    never = cost_model.Constants(direct=1e9, scan=1.0, fft=10.0, kernel=1.0)
    assert cost_model.choose(batch, length, math.floor(meeting), constants=never) == "scan"
    assert cost_model.choose(batch, length, math.floor(meeting) + 1, constants=never) == "fft"


def test_a_stage_of_a_large_transform_costs_twice_as_much():
    def stage(length):
        return cost_model.units(1, length, 7)["fft"] / length / math.log2(2 * length)

    assert stage(16) == pytest.approx(1, rel=1e-5) and stage(2**14) == stage(2**20) == 2


def test_a_second_direction_doubles_all_but_the_transform():
    one, two = (cost_model.units(3, 50, 7, directions) for directions in (1, 2))
    assert {name: two[name] / one[name] for name in one} == {"direct": 2, "scan": 2, "fft": 1, "kernel": 2}


@pytest.mark.parametrize("algorithm", ["scan", "direct", "fft"])
def test_auto_calls_what_the_model_says(algorithm, monkeypatch):
    called = []
    ops = {"scan": "s4d_scan_op", "direct": "causal_conv_op", "fft": "fft_conv_op"}
    module = __import__("sys").modules["lyra_kernels.ops.s4d_conv"]
    for name, op in ops.items():
        original = getattr(module, op)
        monkeypatch.setattr(module, op, lambda *a, name=name, op=original: called.append(name) or op(*a))
    monkeypatch.setattr(cost_model, "choose", lambda *_, **__: algorithm)
    space = lk.S4DKernel(3, 4)
    u = torch.randn(2, 10, 3)
    s4d_conv(u, space.log_dt, space.log_A_real, space.A_imag, space.C)
    assert called == [algorithm]


def test_a_card_is_asked_about_as_a_card(monkeypatch):
    """Shapes alone decide: no value of a tensor on the device is read."""
    asked = []
    real = cost_model.choose_on_gpu
    monkeypatch.setattr(backends, "default_backend", lambda device: "cuda")
    monkeypatch.setattr(cost_model, "choose_on_gpu", lambda *a: asked.append(a) or real(*a))
    module = __import__("sys").modules["lyra_kernels.ops.s4d_conv"]
    u = SimpleNamespace(shape=(2, 100, 3), device=SimpleNamespace(type="cuda"))
    packed, cu_seqlens = SimpleNamespace(shape=(1, 100, 3), device=u.device), SimpleNamespace(shape=(11,))
    assert module.decide(u, 200, 1, None, states=False)[0] == "scan"
    assert asked == [(100, 200, CUDA)]
    assert module.decide(u, 8, 1, None, states=True)[0] == "scan" and len(asked) == 1
    monkeypatch.setattr(backends, "default_backend", lambda device: "triton")
    assert module.decide(u, 64, 1, None, states=False)[0] == "scan"
    assert module.decide(u, 65, 1, None, states=False)[0] == "direct"
    assert module.decide(packed, 64, 2, cu_seqlens, states=False)[0] == "scan"
    assert module.decide(packed, 65, 2, cu_seqlens, states=False)[0] == "fft"


@pytest.mark.parametrize(
    ("tokens", "sequences", "expected"),
    [
        (2048, 8, ("direct", Why.COSTS, (8, 256))),
        (2056, 8, ("scan", Why.LONG_PACKED, None)),
        (250, 1, ("scan", Why.COSTS, (1, 250))),
        (0, 0, ("direct", Why.COSTS, (1, 0))),
    ],
)
def test_packed_sequences_on_a_cpu_are_taken_to_be_as_long_as_their_mean(tokens, sequences, expected):
    u = SimpleNamespace(shape=(1, tokens, 3), device=SimpleNamespace(type="cpu"))
    module = __import__("sys").modules["lyra_kernels.ops.s4d_conv"]
    assert module.decide(u, 32, 1, SimpleNamespace(shape=(sequences + 1,)), states=False) == expected


@pytest.mark.parametrize(
    ("length", "modes", "expected"),
    [(16, 64, "scan"), (1_048_576, 1, "scan"), (128, 65, "direct"), (129, 65, "fft"), (100_000, 200, "fft")],
)
def test_choices_on_a_card(length, modes, expected):
    assert cost_model.choose_on_gpu(length, modes, TRITON)[0] == expected
    assert cost_model.choose_on_gpu(length, modes, CUDA)[0] == "scan"  # takes any number of modes


def test_the_figures_of_a_card_are_those_of_its_page():
    """Newer results may differ by what a card's runs do."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "nvidia_h200.json"
    page = {
        (row["side"], row["subject"], *row["shape"], row["direction"]): row["graph_us"][0]
        for row in json.loads(path.read_text())["rows"]
        if row["stage"] == "ops" and row.get("precision") == "float32" and "graph_us" in row
    }
    for backend, shapes in cost_model.MEASURED.items():
        for (batch, length), algorithms in shapes.items():
            for algorithm, times in algorithms.items():
                for direction, us in zip(("forward", "training"), times, strict=True):
                    measured = page[(backend, f"s4d_{algorithm}", batch, length, 64, direction)]
                    assert us == pytest.approx(measured, rel=0.1), (backend, batch, length, algorithm, direction)


def test_the_nearest_shape_that_was_measured():
    assert cost_model.measured("cpu", 8, 2048) is None
    for (batch, length), nearest in {(8, 2000): (8, 2048), (1, 10**6): (1, 131072), (0, 0): (64, 128)}.items():
        assert cost_model.measured("triton", batch, length)[0] == nearest
