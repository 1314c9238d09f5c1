"""What a call costs before and after its kernels: functions of Python, counted, so that nothing creeps back in.

On a card these are most of a small call's time. Ops stand in for a card's and compute nothing: two calls each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lyra_kernels as lk

from ..card import card_without_memory
from ..counts import python_calls

Case = tuple[Callable[[], Any], Sequence[Tensor]]
"""A call, and what its training takes gradients of."""


def r(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=True)


def spectrum(channels: int = 8, modes: int = 4) -> list[Tensor]:
    return [r(channels), r(channels, modes), r(channels, modes), r(channels, modes, 2), r(channels)]


def on_the_card(layer: nn.Module) -> Case:
    layer, u = layer.to("meta"), r(2, 16, 8)
    return lambda: layer(u), [u, *layer.parameters()]


def rms_norm():
    args = r(2, 16, 8), r(8)
    return lambda: lk.rms_norm(*args), args


def gated_conv():
    args = r(2, 16, 16), r(8, 1, 3), r(8), r(16)
    return lambda: lk.gated_conv(*args), args


def pgc():
    args = r(2, 16, 8), r(16, 8), r(16), r(16), r(8, 1, 3), r(8), r(8, 8), r(8), r(8)
    return lambda: lk.pgc(*args), args


def gelu_glu():
    args = r(2, 16, 8), r(16, 8), r(16), r(2, 16, 8)
    return lambda: lk.gelu_glu(*args[:3], residual=args[3]), args


def s4d_conv(algorithm: str):
    # So long that the CPU's cost model, which "meta" tensors are weighed by, scans as every card does.
    args = r(2, 512, 8), *spectrum()
    return lambda: lk.s4d_conv(*args, algorithm=algorithm), args


def padded():
    args, lengths = (r(2, 16, 16), r(8, 1, 3)), torch.empty(2, dtype=torch.int64, device="meta")
    return lambda: lk.gated_conv(*args, lengths=lengths), args


CASES: dict[str, tuple[Callable[[], Case], int, int]] = {
    "rms_norm": (rms_norm, 23, 76),
    "gated_conv": (gated_conv, 24, 82),
    "gated_conv, padded": (padded, 27, 80),
    "pgc": (pgc, 27, 95),
    "gelu_glu": (gelu_glu, 25, 86),
    "s4d_conv, scan": (lambda: s4d_conv("scan"), 24, 92),
    "s4d_conv, auto": (lambda: s4d_conv("auto"), 30, 97),
    "RMSNorm": (lambda: on_the_card(lk.RMSNorm(8)), 27, 80),
    "PGC": (lambda: on_the_card(lk.PGC(8)), 33, 101),
    "S4D": (lambda: on_the_card(lk.S4D(8, d_state=8, transposed=False, algorithm="scan")), 58, 155),
}
"""A call, and the most that it and a training step of it may take."""


@pytest.mark.parametrize("name", CASES)
def test_python_calls(name):
    make, forward, training = CASES[name]
    served: list[str] = []
    with card_without_memory(served):
        call, leaves = make()
        grad = torch.empty_like(call())
        found = {"training": python_calls(lambda: torch.autograd.grad(call(), leaves, grad))}
        with torch.no_grad():
            found["forward"] = python_calls(call)
    assert served and found["forward"] <= forward and found["training"] <= training, found
