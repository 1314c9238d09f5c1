"""What autograd's own thread costs: training calls as they are, and with the backward in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import layers, ops
from .cards import Card
from .cases import Case, Row, Side
from .results import SINGLE

CASES = (("rms_norm", (64, 128, 64)), ("S4D", (64, 128, 64)), ("Lyra", (256, 64, 64)))


def specs(tiny: bool) -> list[Row]:
    return [
        {"stage": "host", "subject": subject, "shape": [2, 8, 4] if tiny else list(shape), "precision": "float32"}
        for subject, shape in (CASES[:1] if tiny else CASES)
    ]


def build(spec: Row, card: Card) -> Case:
    """The case of ops or layers with every side twice, gradients only."""
    case = (ops if spec["subject"] in ops.OPS else layers).build(spec, card)

    def single(make: Callable[[], Side]) -> Callable[[], Side]:
        return lambda: replace(make(), single_thread=True)

    sides = {}
    for name, make in case.sides.items():
        if name not in ("attention", layers.TRANSFORMER):
            sides |= {name: make, name + SINGLE: single(make)}
    return Case(case.identity, sides, directions=("training",))
