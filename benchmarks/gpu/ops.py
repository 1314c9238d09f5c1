"""The ops, each on every backend of ours and, where there is one, against the published formula in eager PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lyra_kernels as lk

from .. import opponents
from .cards import Card
from .cases import REFERENCE_ELEMENTS, Case, Row, Side

MODES = 32
SHAPES = ((8, 2048, 64), (64, 4096, 64), (64, 128, 64), (1, 131072, 64))
PRECISIONS = ("float32", "bfloat16")
DIRECT_LENGTH = 2048  # the direct sum of the S4D kernel beyond it is no way to do it
OPS = (
    "rms_norm", "gated_conv", "pgc", "gelu_glu", "s4d_scan", "s4d_fft", "s4d_direct", "s4d_auto", "s4d_bidir",
    "fft_conv", "short_conv",
)  # fmt: skip


@dataclass(frozen=True)
class Op:
    """An op ready to call.

    Attributes:
        function: of ours; eager: the published formula, or None.
        tensors: the arguments, all with gradients, the activations first.
        moved: activations of (B, L, H) that a forward and a forward with backward read or write at least.
    """

    function: Callable[..., Any]
    tensors: list[Tensor]
    moved: tuple[int, int]
    eager: Callable[..., Any] | None = None


def specs(tiny: bool) -> list[Row]:
    """The cases in the order of their weight."""
    if tiny:
        return [spec("s4d_auto", (2, 16, 4), "float32"), spec("rms_norm", (2, 16, 4), "bfloat16")]
    return [
        spec(name, shape, precision)
        for shape in SHAPES
        for precision in PRECISIONS
        for name in OPS
        if name != "s4d_direct" or shape[1] <= DIRECT_LENGTH
    ]


def spec(name: str, shape: tuple[int, int, int], precision: str) -> Row:
    return {"stage": "ops", "subject": name, "shape": list(shape), "precision": precision}


def build(spec: Row, card: Card) -> Case:
    """The case of a spec."""
    batch, length, channels = spec["shape"]
    op = make(spec["subject"], (batch, length, channels), getattr(torch, spec["precision"]), card.device)
    inputs = tuple(op.tensors)
    sides: dict[str, Callable[[], Side]] = {
        name: partial(Side, op.function, inputs, inputs, backend=name) for name in card.backends()
    }
    if op.eager is not None:
        sides["eager"] = partial(Side, in_float32(op.eager), inputs, inputs)
    elements = batch * length * channels

    def truth() -> Side:
        exact = tuple(t.detach().double().requires_grad_() for t in inputs)
        return Side(op.function, exact, exact)

    return Case(
        spec,
        sides,
        truth=truth if elements <= REFERENCE_ELEMENTS else None,
        bytes=dict(
            zip(("forward", "training"), (n * elements * inputs[0].element_size() for n in op.moved), strict=True)
        ),
    )


def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The formula on activations in 16 bits, of which there is no FFT: in float32, the result rounded."""

    def call(*tensors: Tensor) -> Tensor:
        return function(*(t.float() for t in tensors)).to(tensors[0].dtype)

    return call


def make(name: str, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Op:
    """An op of `OPS` with random arguments: activations in `dtype`, parameters in float32.

    Raises:
        KeyError: there is no such op.
    """
    torch.manual_seed(0)
    batch, length, channels = shape

    def activation(factor: int = 1) -> Tensor:
        return torch.randn(batch, length, factor * channels, device=device).to(dtype).requires_grad_()

    def parameter(*size: int) -> Tensor:
        return torch.randn(*size, device=device, requires_grad=True)

    def modes() -> list[Tensor]:
        """S4D-Lin with time steps from 0.001 to 0.1: log_dt, log_A_real, A_imag."""
        values = (
            torch.linspace(math.log(1e-3), math.log(0.1), channels),
            torch.full((channels, MODES), math.log(0.5)),
            (math.pi * torch.arange(MODES)).float().repeat(channels, 1),
        )
        return [v.to(device).requires_grad_() for v in values]

    def s4d(algorithm: str, directions: int, moved: tuple[int, int]) -> Op:
        c = parameter(channels, MODES, 2) if directions == 1 else parameter(2, channels, MODES, 2)

        def function(u: Tensor, log_dt: Tensor, log_a: Tensor, a_imag: Tensor, c: Tensor, d: Tensor) -> Tensor:
            return lk.s4d_conv(
                u, log_dt, log_a, a_imag, c, D=d, bidirectional=directions == 2, algorithm=algorithm
            )  # fmt: skip

        eager = opponents.s4d_conv if (algorithm, directions) == ("auto", 1) else None
        return Op(function, [activation(), *modes(), c, parameter(channels)], moved, eager)

    h = channels
    makers: dict[str, Callable[[], Op]] = {
        "rms_norm": lambda: Op(lk.rms_norm, [activation(), parameter(h)], (2, 5), opponents.rms_norm),
        "gated_conv": lambda: Op(
            lk.gated_conv,
            [activation(2), parameter(h, 1, 3), parameter(h), parameter(2 * h)],
            (3, 8),
            opponents.gated_conv,
        ),
        "pgc": lambda: Op(
            lk.pgc,
            [
                activation(), parameter(2 * h, h), parameter(2 * h), parameter(2 * h), parameter(h, 1, 3),
                parameter(h), parameter(h, h), parameter(h), parameter(h),
            ],
            (2, 5),
            opponents.pgc,
        ),
        "gelu_glu": lambda: Op(
            lambda y, weight, bias, residual: lk.gelu_glu(y, weight, bias, residual=residual),
            [activation(), parameter(2 * h, h), parameter(2 * h), activation()],
            (3, 6),
            opponents.gelu_glu,
        ),
        "s4d_bidir": lambda: s4d("auto", 2, (2, 5)),
        "fft_conv": lambda: Op(
            lambda u, kernel, d: lk.fft_conv(u, kernel, D=d),
            [activation(), parameter(h, length), parameter(h)],
            (2, 5),
            opponents.fft_conv,
        ),
        "short_conv": lambda: Op(
            partial(lk.short_conv, activation="silu"), [activation(), parameter(h, 4), parameter(h)], (2, 5),
            lambda u, weight, bias: opponents.short_conv(u.transpose(1, 2), weight, bias).transpose(1, 2),
        ),
    }  # fmt: skip
    for algorithm in ("scan", "fft", "direct", "auto"):
        makers[f"s4d_{algorithm}"] = partial(s4d, algorithm, 1, (2, 5))
    return makers[name]()
