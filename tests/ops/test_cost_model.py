"""The choice of algorithm at its boundaries, and that "auto" follows it."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels import backends
from lyra_kernels.ops import cost_model, s4d_conv

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
    # batch L (L + 1) / 2 + 6 M L = 6 batch M L  at  L + 1 = 12 M (batch - 1) / batch
    meeting = 12 * modes * (batch - 1) / batch - 1
    below, above = math.floor(meeting - 1e-9), math.floor(meeting) + 1
    cheap_fft = cost_model.Constants(direct=1.0, scan=1.0, fft=1e9, kernel=1.0)
    if below >= 1:
        assert cost_model.choose(batch, below, modes, constants=cheap_fft) == "direct"
    assert cost_model.choose(batch, above, modes, constants=cheap_fft) == "scan"


def test_the_transform_wins_where_modes_outnumber_its_stages():
    # 6 batch M L against batch L log2(2 L) + 6 M L
    batch, length = 4, 4096
    stages = math.log2(2 * length)
    meeting = batch * stages / (6 * (batch - 1))
    never = cost_model.Constants(direct=1e9, scan=1.0, fft=1.0, kernel=1.0)
    assert cost_model.choose(batch, length, math.floor(meeting), constants=never) == "scan"
    assert cost_model.choose(batch, length, math.floor(meeting) + 1, constants=never) == "fft"


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
    monkeypatch.setattr(cost_model, "choose", lambda *_: algorithm)
    space = lk.S4DKernel(3, 4)
    u = torch.randn(2, 10, 3)
    s4d_conv(u, space.log_dt, space.log_A_real, space.A_imag, space.C)
    assert called == [algorithm]


def test_a_card_is_asked_about_as_a_card(monkeypatch):
    """Shapes alone decide: no value of a tensor on the device is read."""
    asked = []
    monkeypatch.setattr(backends, "default_backend", lambda device: "cuda")
    monkeypatch.setattr(cost_model, "choose_on_gpu", lambda *a, **k: asked.append((*a, k)) or "fft")
    module = __import__("sys").modules["lyra_kernels.ops.s4d_conv"]
    u = SimpleNamespace(shape=(2, 100, 3), device=SimpleNamespace(type="cuda"), element_size=lambda: 2)
    assert module._choose(u, 8, 1, None, states=False) == "fft"
    assert asked == [(2, 100, 3, 8, 1, 2, {"limits": CUDA})]
    packed = SimpleNamespace(shape=(1, 1000, 3), device=u.device, element_size=lambda: 4)
    assert module._choose(packed, 8, 2, SimpleNamespace(shape=(11,)), states=False) == "scan"
    assert module._choose(packed, 200, 2, SimpleNamespace(shape=(11,)), states=False) == "scan"
    assert module._choose(u, 8, 1, None, states=True) == "scan" and len(asked) == 1
    monkeypatch.setattr(backends, "default_backend", lambda device: "triton")
    assert module._choose(packed, 200, 2, SimpleNamespace(shape=(11,)), states=False) == "fft"


@pytest.mark.parametrize(
    ("batch", "length", "channels", "modes", "size", "expected"),
    [
        (1, 512, 64, 32, 4, "fft"),  # a transform is one step, the recurrence sixteen
        (8, 2048, 64, 32, 4, "fft"),
        (64, 2048, 64, 32, 4, "scan"),  # the card is full: fewest operations
        (1, 1_048_576, 64, 32, 4, "scan"),
        (1, 1_048_576, 64, 32, 2, "scan"),
        (64, 32, 512, 32, 4, "scan"),
        (512, 16, 64, 64, 4, "direct"),  # half a chunk
        (64, 32, 512, 200, 4, "direct"),  # more modes than the scan's kernel takes
        (8, 100_000, 64, 200, 4, "fft"),
    ],
)
def test_choices_on_a_card(batch, length, channels, modes, size, expected):
    assert cost_model.choose_on_gpu(batch, length, channels, modes, size=size, limits=TRITON) == expected


def test_what_a_card_waits_for():
    """Launches alone where there is nothing to do; then steps; then bytes or operations, whatever is the most."""
    card = cost_model.Card(bandwidth=1e12, tf32=1e15, half=1e15, processors=1, launch=1e-6, step=1e-9)
    nothing = cost_model.gpu_costs(0, 0, 0, 32, limits=TRITON, card=card)
    assert nothing["scan"] == pytest.approx(3e-6, rel=0.01) and nothing["fft"] == pytest.approx(1e-6, rel=0.01)
    moved = cost_model.gpu_costs(1024, 2048, 64, 32, limits=TRITON, card=card)["scan"] - 3e-6
    assert moved == pytest.approx(2 * 4 * 1024 * 2048 * 64 / 1e12)
    slow = dataclasses.replace(card, tf32=1e12)
    flops = cost_model.gpu_costs(1024, 2048, 64, 32, limits=TRITON, card=slow)["scan"] - 3e-6
    assert flops == pytest.approx(3 * (2 * 32 + 8 * 32) * 1024 * 2048 * 64 / 1e12)
    waits = cost_model.gpu_costs(1024, 2048, 64, 32, limits=TRITON, card=dataclasses.replace(card, step=1.0))["scan"]
    assert waits == pytest.approx(64.0, rel=1e-4)
    halves = cost_model.gpu_costs(1024, 2048, 64, 32, size=2, limits=TRITON, card=dataclasses.replace(card, half=1e12))[
        "scan"
    ]
    assert halves - 3e-6 == pytest.approx(2 / 3 * flops)


def test_direct_gives_way_to_the_scan_on_a_card():
    """Where bytes decide: b (b + 1) / 2 tiles against one reading, so that direct is never ahead for long."""
    card = cost_model.Card(bandwidth=1e12, tf32=1e18, half=1e18, processors=1, launch=0.0, step=0.0)
    costs = [cost_model.gpu_costs(16, 32 * b, 1, 32, limits=TRITON, card=card) for b in range(1, 8)]
    assert [c["direct"] < c["scan"] for c in costs] == sorted((c["direct"] < c["scan"] for c in costs), reverse=True)
    assert costs[-1]["direct"] > costs[-1]["scan"]


def test_the_transform_leaves_the_chip_beyond_its_longest():
    inside, outside = (cost_model.gpu_costs(64, length, 64, 32, limits=TRITON)["fft"] for length in (4096, 4097))
    card = cost_model.A100
    assert outside - 7 * card.launch > 88 * 64 * 4097 * 64 / card.bandwidth
    # the batch's transforms and the kernel's own, and its powers
    assert inside == pytest.approx(card.launch + 3 * (640 * 65 + 4 * 32) * 4096 * 64 / card.tf32)


def test_without_triton_no_transform_is_fused_and_no_number_of_modes_too_large():
    fused, plain = (cost_model.gpu_costs(8, 2048, 64, 32, limits=limits)["fft"] for limits in (TRITON, CUDA))
    assert plain - fused > 7 * cost_model.A100.launch
    assert cost_model.choose_on_gpu(64, 2048, 64, 200, limits=CUDA) == "scan"
    assert cost_model.gpu_costs(64, 2048, 64, 200, limits=TRITON)["scan"] == float("inf")
