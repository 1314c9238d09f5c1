"""The rows of the table of times: every op at every measured shape, as public calls on the fake card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lyra_kernels as lk

from .launches import Aten, Calls, fake_card
from .record import Launch

SHAPES = ((8, 2048, 64), (64, 4096, 64), (64, 128, 64), (1, 131072, 64))
"""B, L, H."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = 32
ALGORITHMS = ("scan", "fft", "direct", "auto")
LONGEST_DIRECT = 2048  # beyond, the direct convolution is not measured
LONGEST_FUSED = 4096  # beyond, PyTorch's own transforms serve, of which there is no model


@dataclass(frozen=True)
class Row:
    """One row: an op on ``(B, L, H)`` activations, forward or as a training step (forward and backward)."""

    op: str
    shape: tuple[int, int, int]
    dtype: str
    direction: str

    def __str__(self) -> str:
        return f"{self.op} {'x'.join(map(str, self.shape))} {self.dtype} {self.direction}"


def _make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, device="cuda", dtype=dtype)


def _rms_norm(B: int, L: int, H: int, dtype: torch.dtype) -> None:
    lk.rms_norm(_make(B, L, H, dtype=dtype), _make(H))


def _gated_conv(B: int, L: int, H: int, dtype: torch.dtype) -> None:
    lk.gated_conv(_make(B, L, 2 * H, dtype=dtype), _make(H, 1, 3), _make(H), _make(2 * H))


def _pgc(B: int, L: int, H: int, dtype: torch.dtype) -> None:
    projection = (_make(2 * H, H), _make(2 * H), _make(2 * H))
    lk.pgc(_make(B, L, H, dtype=dtype), *projection, _make(H, 1, 3), _make(H), _make(H, H), _make(H), _make(H))


def _gelu_glu(B: int, L: int, H: int, dtype: torch.dtype) -> None:
    y, residual = _make(B, L, H, dtype=dtype), _make(B, L, H, dtype=dtype)
    lk.gelu_glu(y, _make(2 * H, H), _make(2 * H), residual=residual)


def _fft_conv(B: int, L: int, H: int, dtype: torch.dtype) -> None:
    lk.fft_conv(_make(B, L, H, dtype=dtype), _make(H, L), D=_make(H))


def _s4d(algorithm: str, directions: int = 1) -> Callable[..., None]:
    def call(B: int, L: int, H: int, dtype: torch.dtype) -> None:
        C = _make(H, MODES, 2) if directions == 1 else _make(directions, H, MODES, 2)
        spectrum = (_make(H), _make(H, MODES), _make(H, MODES), C)
        u = _make(B, L, H, dtype=dtype)
        lk.s4d_conv(u, *spectrum, D=_make(H), algorithm=algorithm, bidirectional=directions == 2)

    return call


OPS: dict[str, Callable[..., None]] = {
    "rms_norm": _rms_norm,
    "gated_conv": _gated_conv,
    "pgc": _pgc,
    "gelu_glu": _gelu_glu,
    **{f"s4d_{algorithm}": _s4d(algorithm) for algorithm in ALGORITHMS},
    "s4d_bidir": _s4d("auto", 2),
    "fft_conv": _fft_conv,
}


def rows() -> Iterator[Row]:
    """All rows, in the order of the table."""
    for shape in SHAPES:
        for dtype in DTYPES:
            for op in OPS:
                if op == "s4d_direct" and shape[1] > LONGEST_DIRECT:
                    continue
                if op in ("s4d_fft", "fft_conv") and shape[1] > LONGEST_FUSED:
                    continue
                for direction in ("forward", "train"):
                    yield Row(op, shape, dtype, direction)


LAYERS = ((64, 128, 64), (8, 2048, 64), (64, 2048, 64), (8, 16384, 64), (16, 2048, 256))
"""B, L, H of the layers that were measured too: nothing was fitted to them."""


def _layer(kind: str, channels: int) -> torch.nn.Module:
    with torch.device("cuda"):
        made = lk.S4D(channels, 2 * MODES, transposed=False) if kind == "S4D" else lk.PGC(channels, 1.0, 3, 0.0)
    return made.eval()


def layer_rows() -> Iterator[Row]:
    """Single layers, at shapes that no row of the ops has but two."""
    for op in ("S4D", "PGC"):
        for shape in LAYERS:
            for dtype in DTYPES:
                for direction in ("forward", "train"):
                    yield Row(op, shape, dtype, direction)


def launches(call: Callable[[], Any], training: bool = False) -> list[Launch | Aten]:
    """What a call of public functions on tensors of ``device="cuda"`` launches, with the first configuration each."""
    with fake_card(backwards=int(training)) as calls:
        call()
        return _first(calls)


def _first(calls: Calls) -> list[Launch | Aten]:
    return [x for x in calls.launches if isinstance(x, Aten) or not x.alternative]


def of_row(row: Row) -> list[Launch | Aten]:
    """What a row launches."""
    training, dtype = row.direction == "train", DTYPES[row.dtype]
    if row.op in OPS:
        return launches(lambda: OPS[row.op](*row.shape, dtype), training)
    with fake_card(backwards=int(training)) as calls:
        layer = _layer(row.op, row.shape[-1])
        calls.take()  # what initialises the parameters
        layer(_make(*row.shape, dtype=dtype))
        return _first(calls)
