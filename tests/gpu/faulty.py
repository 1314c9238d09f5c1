"""Cases that go wrong in every way that a card can, for the process that times."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.cards import Card
from benchmarks.gpu.cases import Case, Row, Side

SUBJECTS = ("memory", "crowded", "death", "hang", "argument", "garbage", "drift", "unbuildable", "last")


def specs(tiny: bool) -> list[Row]:
    return [{"stage": "ops", "subject": s, "shape": [2, 3, 4], "precision": "float32"} for s in SUBJECTS]


def build(spec: Row, card: Card) -> Case:
    """A case with a side that works before and one behind the faulty one."""
    if spec["subject"] == "unbuildable":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
    x = torch.randn(2, 3, 4, requires_grad=True)
    faulty: dict[str, Callable[..., Any]] = {
        "memory": no_memory, "crowded": Crowded(), "death": death, "hang": hang, "argument": argument,
        "garbage": garbage, "drift": Drift(),
    }  # fmt: skip
    middle = faulty.get(spec["subject"], torch.sin)
    sides = {"before": torch.sin, "faulty": middle, "behind": torch.sin}
    return Case(
        spec,
        {name: (lambda function=function: Side(function, (x,), (x,))) for name, function in sides.items()},
        truth=lambda: exact(x),
        directions=("forward",),
    )


def exact(x: Tensor) -> Side:
    leaf = x.detach().double().requires_grad_()
    return Side(torch.sin, (leaf,), (leaf,))


def no_memory(x: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n20.00 GiB")


class Crowded:
    """Lacks memory the first time only, as beside other sides that hold theirs."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return no_memory(x) if self.calls == 1 else x.sin()


def death(x: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGSEGV)
    return x


def hang(x: Tensor) -> Tensor:
    time.sleep(3600)
    return x


def argument(x: Tensor) -> Tensor:
    raise ValueError("a is wrong:\n  it must be b")


def garbage(x: Tensor) -> Tensor:
    return x.sin() + 0 * torch.empty_like(x)


class Drift:
    """Gives something else at every call, as a graph does that lacks a kernel."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.sin() * self.calls
