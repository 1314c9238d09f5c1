"""Whose bytes are counted: ops at shapes that are measured. What is compiled comes from :mod:`.product`.

A case runs in Triton's interpreter, with fewer channels than it stands for where channels are independent: bytes and
operations are then multiplied by ``scale``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from lyra_kernels.schemas import CONTRACTS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One call of an op and its backward.

    Args:
        name: of the case; shape: what the rows of the table say.
        op: of ``torch.ops.lyra``.
        arguments: makes the op's arguments, in a storage type.
        limit: the most bytes over the floor, or None where no limit is set.
        scale: channels of the shape over channels of the arguments.
        segment: tokens of a row of the scan by storage type, where a card takes less than whole sequences.
        rows: sequences that a program of the FFT convolution takes on a card.
    """

    name: str
    op: str
    arguments: Callable[[torch.dtype], list[Any]]
    shape: tuple[int, int, int]
    limit: float | None = None
    scale: int = 1
    segment: dict[str, int] | None = None
    rows: int | None = None
    reduced: bool = False
    dtypes: tuple[str, ...] = ("fp32", "bf16")


def spectrum(channels: int, modes: int, *leading: int) -> list[Tensor]:
    """log_dt, log_A_real, A_imag and C, initialised as the layer does."""
    return [
        torch.linspace(math.log(1e-3), math.log(0.1), channels),
        torch.full((channels, modes), math.log(0.5)),
        (math.pi * torch.arange(modes, dtype=torch.float32)).repeat(channels, 1),
        torch.randn(*leading, channels, modes, 2),
    ]


def _gated(batch: int, length: int, channels: int, width: int) -> Callable:
    def make(dtype: torch.dtype) -> list[Any]:
        xv = torch.randn(batch, length, 2 * channels).to(dtype)
        parameters = (torch.randn(channels, 1, width), torch.randn(channels), torch.randn(2 * channels))
        return [xv, *parameters, None, None, 1e-8, False]

    return make


def _kernel(channels: int, modes: int, length: int) -> Callable:
    return lambda dtype: [*spectrum(channels, modes), length]


def _scan(batch: int, length: int, channels: int, modes: int, directions: int = 1) -> Callable:
    def make(dtype: torch.dtype) -> list[Any]:
        u = torch.randn(batch, length, channels).to(dtype)
        return [u, *spectrum(channels, modes, directions), torch.randn(channels), None, None, None]

    return make


def _pgc(batch: int, length: int, channels: int, inner: int) -> Callable:
    def make(dtype: torch.dtype) -> list[Any]:
        u = torch.randn(batch, length, channels).to(dtype)
        projection = (torch.randn(2 * inner, channels), torch.randn(2 * inner), torch.randn(2 * inner))
        convolution = (torch.randn(inner, 1, 3), torch.randn(inner))
        output = (torch.randn(channels, inner), torch.randn(channels), torch.randn(channels))
        return [u, *projection, *convolution, *output, None, None, None, 1e-8, False]

    return make


def _direct(batch: int, length: int, channels: int, reverse: bool = False) -> Callable:
    def make(dtype: torch.dtype) -> list[Any]:
        taps = torch.randn(2, channels, length)
        u = torch.randn(batch, length, channels).to(dtype)
        return [u, taps[0], taps[1] if reverse else None, torch.randn(channels), None, None]

    return make


def _fft(batch: int, length: int, channels: int, modes: int, directions: int = 1) -> Callable:
    return lambda dtype: _scan(batch, length, channels, modes, directions)(dtype)[:-1]


def _norm(rows: int, channels: int) -> Callable:
    return lambda dtype: [torch.randn(rows, channels).to(dtype), torch.randn(channels), 1e-8]


def _tail(batch: int, length: int, channels: int) -> Callable:
    def make(dtype: torch.dtype) -> list[Any]:
        y, residual = torch.randn(2, batch, length, channels).to(dtype)
        weight = torch.randn(2 * channels, channels)
        return [y, weight, torch.randn(2 * channels), None, residual, None, None]

    return make


MEASURED = [
    Case("gated_conv", "gated_conv", _gated(1, 512, 64, 3), (8, 2048, 64), 1.15, scale=32, reduced=True),
    Case("s4d_kernel", "s4d_kernel", _kernel(1, 32, 8192), (1, 8192, 64), 1.15, 64, reduced=True, dtypes=("fp32",)),
    Case("s4d_scan, short", "s4d_scan", _scan(64, 128, 1, 32), (64, 128, 64), 2.0, 64),
    Case("s4d_scan", "s4d_scan", _scan(8, 2048, 1, 32), (8, 2048, 64), 2.0, 64, segment={"fp32": 512}, reduced=True),
    Case(
        "s4d_scan, long",
        "s4d_scan",
        _scan(1, 16384, 1, 32),
        (1, 16384, 64),
        2.0,
        64,
        segment={"fp32": 512, "bf16": 1024},
    ),
    Case("s4d_fft", "s4d_fft", _fft(8, 1024, 1, 32), (8, 1024, 64), 2.0, 64, rows=4),
    Case("s4d_fft, long", "s4d_fft", _fft(8, 4096, 1, 32), (8, 4096, 64), 2.0, 64, rows=4, reduced=True),
    Case("fft_conv", "fft_conv", _direct(8, 4096, 1), (8, 4096, 64), 2.0, 64, rows=4),
    Case("rms_norm", "rms_norm", _norm(512, 64), (8, 2048, 64), None, 32, reduced=True),
    Case("pgc", "pgc", _pgc(1, 256, 64, 64), (8, 2048, 64), None, 64, reduced=True),
    Case("causal_conv", "causal_conv", _direct(64, 128, 1), (64, 128, 64), None, 64),
    Case("gelu_glu", "gelu_glu", _tail(1, 256, 64), (8, 2048, 64), None, 64, reduced=True),
]


def cases(which: str) -> list[Case]:
    """The cases of a run: all, reduced, or those whose name or op contains ``which``."""
    if which not in ("all", "reduced"):
        return [c for c in MEASURED if which in c.name or which in c.op]
    return [c for c in MEASURED if c.reduced or which == "all"]


@contextlib.contextmanager
def on_a_card(segment: int | None, rows: int | None = None) -> Iterator[None]:
    """The scan's rows as long, and the FFT's groups of rows as large as a card makes them."""
    from lyra_kernels.backends.triton import fft_conv, fft_conv_backward, s4d_scan, s4d_scan_backward

    with contextlib.ExitStack() as patches:
        if segment is not None:
            for module in (s4d_scan, s4d_scan_backward):
                patches.enter_context(mock.patch.object(module, "segment_length", lambda *_: segment))
        if rows is not None:
            for module in (fft_conv, fft_conv_backward):
                patches.enter_context(mock.patch.object(module, "rows_per_program", lambda *_: rows))
        yield


def size(values: Any) -> int:
    """Bytes of all tensors in a tuple."""
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def run_forward(case: Case, args: list[Any]) -> tuple[tuple, int]:
    """The op's outputs, and the bytes of its inputs and outputs, each once."""
    from lyra_kernels.backends.triton import IMPLEMENTATIONS

    more = [False] if case.op == "s4d_scan" else []
    out = IMPLEMENTATIONS[case.op](*args, *more)
    out = out if isinstance(out, tuple) else (out,)
    return out, size(args) + size(out)


def backward_arguments(case: Case, args: list[Any], out: tuple) -> list[Any]:
    """The arguments of the op's backward."""
    from lyra_kernels.backends.triton import IMPLEMENTATIONS

    grad = torch.randn(out[0].shape).to(out[0].dtype)
    if case.op == "s4d_scan":
        checkpoints = IMPLEMENTATIONS[case.op](*args, True)[2]
        return [grad, None, *args, checkpoints]
    if case.op == "s4d_kernel":
        return [grad, *args[:4]]
    if case.op in ("gelu_glu", "pgc"):
        where = CONTRACTS[case.op].residuals[0]
        return [grad, *args[:where], *args[where + 1 :]]
    return [grad, *args]


def run_backward(case: Case, args: list[Any]) -> int:
    """Run the backward; the bytes of its inputs and outputs, each once."""
    from lyra_kernels.backends.triton import IMPLEMENTATIONS

    return size(args) + size(IMPLEMENTATIONS[f"{case.op}_backward"](*args))
