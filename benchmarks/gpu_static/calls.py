"""Calls of the public functions on a fake card, by what a user can ask for: each option is an axis.

An :class:`Op` says which axes a function has and how to call it with a value of each. Sizes at which a kernel's
configuration changes are not listed: :func:`edges` asks the functions that choose configurations.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification
from lyra_kernels.backends.triton import gated_conv
from lyra_kernels.backends.triton._launch import MOST_ROWS

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HUGE = 2**31 + 5  # tokens that no longer count in 32 bits
BOTH = (True, False)
LAYOUTS = ("dense", "lengths", "packed")
STORED = ("fp32", "fp32, TF32 allowed", "fp16", "bf16")
EVERY = (*STORED, "fp16, TF32 allowed")  # for the kernels that look at both
ALIGNED = ("aligned", "activations not aligned", "nothing aligned")
"""Which pointers are multiples of 16 bytes; a view of a larger tensor may not be."""


@dataclass(frozen=True)
class Op:
    """A function and what there is to choose.

    Args:
        name: of the function.
        axes: every value of every option.
        crossed: of the axes whose values become constants or types of a kernel, the values of which every combination
            is called. Other axes, and these axes' other values, are met with each pair of further values.
        tiles: more axes of which every combination is called, those that decide block sizes: how many registers a
            kernel needs hangs on all of them together.
        call: calls it with one value of each axis, given :class:`Tensors`.
        training: whether gradients are asked for; both only where the forward depends on it.
    """

    name: str
    axes: Mapping[str, Sequence[Any]]
    crossed: Mapping[str, Sequence[Any]]
    call: Callable[..., Any]
    training: tuple[bool, ...] = (True,)
    tiles: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def edges(choice: Callable[[int], Any], last: int) -> tuple[int, ...]:
    """1, ``last``, and the sizes between on both sides of each change of what is chosen for them."""
    chosen = {n: repr(choice(n)) for n in range(1, last + 1)}
    changes = [n for n in range(2, last + 1) if chosen[n] != chosen[n - 1]]
    return tuple(sorted({1, last, *changes, *(n - 1 for n in changes)}))


@dataclass
class Tensors:
    """Makes a call's arguments."""

    stored: str
    aligned: str
    layout: str = "dense"

    @property
    def dtype(self) -> torch.dtype:
        return TYPES[self.stored.split(",")[0]]

    def _make(self, shape: tuple[int, ...], dtype: torch.dtype, aligned: bool) -> Tensor:
        count = torch.Size(shape).numel()
        x = torch.empty(count + (not aligned), dtype=dtype, device="cuda")
        return x[x.numel() - count :].view(shape)

    def activations(self, *shape: int) -> Tensor:
        return self._make(shape, self.dtype, self.aligned == "aligned")

    def weight(self, *shape: int) -> Tensor:
        return self._make(shape, torch.float32, self.aligned != "nothing aligned")

    def optional(self, given: bool, *shape: int) -> Tensor | None:
        return self.weight(*shape) if given else None

    def batch(self, size: int) -> int:
        """Of sequences in a tensor: one where they are packed."""
        return 1 if self.layout == "packed" else size

    def lay(self, sequences: int) -> dict[str, Tensor]:
        """``lengths`` or ``cu_seqlens`` as a keyword argument."""
        if self.layout == "dense":
            return {}
        integers = torch.empty(sequences + (self.layout == "packed"), dtype=torch.int64, device="cuda")
        return {"lengths" if self.layout == "lengths" else "cu_seqlens": integers}


@contextlib.contextmanager
def tf32(stored: str) -> Iterator[None]:
    """torch's switch for its own matrix products, as ``stored`` says."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = stored.endswith("TF32 allowed")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _spectrum(t: Tensors, channels: int, modes: int) -> list[Tensor]:
    return [t.weight(channels), t.weight(channels, modes), t.weight(channels, modes)]


@functools.cache
def gated_limit(width: int) -> int:
    """The most channels that the gated convolution's kernel takes."""

    def taken(channels: int) -> bool:
        x, weight = torch.empty(1, device="meta"), torch.empty(channels, 1, width, device="meta")
        return gated_conv.why_not(x, weight) is None

    return next(n for n in range(4096, 0, -1) if taken(n))


STATES = ("none", "initial", "final", "initial and final", "two directions")


def _s4d(
    t: Tensors, algorithm: str, states: str, skip: bool, rows: str, modes: int, channels: int, points: int = 0
) -> None:
    """Rows of the scan: several a sequence where few channels of few long sequences would leave a card idle."""
    sequences = 2
    length = points or {"one": 70, "many": 40_000, "huge": HUGE}[rows]
    if rows == "one" and not points:
        sequences = 19
    if rows == "huge":
        channels, modes, sequences = min(channels, 4), min(modes, 32), 1
        if t.layout == "packed":
            sequences = MOST_ROWS // 2
    both = states == "two directions"
    C = t.weight(2, channels, modes, 2) if both else t.weight(channels, modes, 2)
    u = t.activations(t.batch(sequences), length, channels)
    lk.s4d_conv(
        u,
        *_spectrum(t, channels, modes),
        C,
        t.optional(skip, channels),
        bidirectional=both,
        initial_state=t.optional("initial" in states, sequences, channels, modes, 2),
        return_final_state="final" in states,
        algorithm=algorithm,
        **t.lay(sequences),
    )


def run_scan(t: Tensors, **chosen: Any) -> None:
    _s4d(t, "scan", **chosen)


def run_fft(t: Tensors, states: str, skip: bool, modes: int, channels: int, points: int) -> None:
    _s4d(t, "fft", states, skip, "one", modes, channels, points)


def run_by(t: Tensors, algorithm: str, states: str, modes: int, channels: int, points: int) -> None:
    _s4d(t, algorithm, states, True, "one", modes, channels, points)


def run_kernel(t: Tensors, modes: int, length: int, channels: int) -> None:
    lk.s4d_kernel(*_spectrum(t, channels, modes), t.weight(channels, modes, 2), length)


def run_convolution(name: str) -> Callable[..., None]:
    def call(t: Tensors, reverse: bool, skip: bool, taps: str, points: int, channels: int, sequences: int) -> None:
        count = {"as many": points, "fewer": max(points // 2, 1), "more": points + 7, "one": 1}[taps]
        getattr(lk, name)(
            t.activations(t.batch(sequences), points, channels),
            t.weight(channels, count),
            D=t.optional(skip, channels),
            reverse_kernel=t.optional(reverse, channels, count),
            **t.lay(sequences),
        )

    return call


def run_gated_conv(t: Tensors, geometry: tuple[int, bool], bias: bool, norm: bool, channels: int, length: int) -> None:
    width, causal = geometry
    channels = min(channels, 8 if length == HUGE else gated_limit(width))
    sequences = 1 if length == HUGE else 3
    lk.gated_conv(
        t.activations(t.batch(sequences), length, 2 * channels),
        t.weight(channels, 1, width),
        t.optional(bias, channels),
        t.optional(norm, 2 * channels),
        causal=causal,
        **t.lay(sequences),
    )


def run_short_conv(
    t: Tensors, silu: bool, bias: bool, state: bool, first: bool, width: int, channels: int, length: int
) -> None:
    """``first``: u lies channels first."""
    sequences = 1 if length == HUGE else 3
    channels = min(channels, 8) if length == HUGE else channels
    u = t.activations(t.batch(sequences), *((channels, length) if first else (length, channels)))
    lk.short_conv(
        u.transpose(1, 2) if first else u,
        t.weight(channels, width),
        t.optional(bias, channels),
        activation="silu" if silu else None,
        initial_state=t.optional(state, sequences, width - 1, channels),
        **t.lay(sequences),
    )


def run_pgc(
    t: Tensors, geometry: tuple[int, bool], in_bias: bool, in_norm: bool, bias: bool, out_bias: bool, out_norm: bool,
    residual: bool, inputs: int, inner: int, outputs: int, length: int,
) -> None:  # fmt: skip
    width, causal = geometry
    if length == HUGE:
        inputs, inner, outputs = (min(n, 8) for n in (inputs, inner, outputs))
    sequences = 1 if length == HUGE else 3
    lk.pgc(
        t.activations(t.batch(sequences), length, inputs),
        t.weight(2 * inner, inputs),
        t.optional(in_bias, 2 * inner),
        t.optional(in_norm, 2 * inner),
        t.weight(inner, 1, width),
        t.optional(bias, inner),
        t.weight(outputs, inner),
        t.optional(out_bias, outputs),
        t.optional(out_norm, outputs),
        causal=causal,
        residual=t.activations(t.batch(sequences), length, outputs) if residual else None,
        **t.lay(sequences),
    )


def run_gelu_glu(t: Tensors, bias: bool, mask: bool, residual: bool, first: bool, channels: int, length: int) -> None:
    """``first``: y lies channels first."""
    if length == HUGE:
        channels = min(channels, 8)
    sequences = 1 if length == HUGE else 3
    shape = batch, _, _ = (t.batch(sequences), length, channels)
    lk.gelu_glu(
        t.activations(batch, channels, length).transpose(1, 2) if first else t.activations(*shape),
        t.weight(2 * channels, channels),
        t.optional(bias, 2 * channels),
        mask=t.optional(mask, sequences, channels),
        residual=t.activations(*shape) if residual else None,
        **t.lay(sequences),
    )


def run_block(
    t: Tensors, norm: bool, bias: bool, mask: bool, residual: bool, skip: bool, first: bool, channels: int, length: int
) -> None:
    """``first``: activations lie channels first."""
    if length == HUGE:
        channels = min(channels, 8)
    sequences = 1 if length == HUGE else 3
    batch = t.batch(sequences)
    u = t.activations(batch, channels, length).transpose(1, 2) if first else t.activations(batch, length, channels)
    lk.s4d_block(
        u,
        *_spectrum(t, channels, 32),
        t.weight(channels, 32, 2),
        t.optional(skip, channels),
        t.weight(2 * channels, channels),
        t.optional(bias, 2 * channels),
        norm_weight=t.optional(norm, channels),
        mask=t.optional(mask, sequences, channels),
        add_input=residual,
        **t.lay(sequences),
    )


def run_rms_norm(t: Tensors, weight: bool, channels: int, rows: int) -> None:
    channels = min(channels, 8) if rows == HUGE else channels
    lk.rms_norm(t.activations(rows, channels), t.optional(weight, channels))


LAYERS: dict[str, Callable[[int], torch.nn.Module]] = {
    "S4D": lambda d: lk.S4D(d, transposed=False, dropout=0.1),
    "S4D, both directions": lambda d: lk.S4D(d, transposed=False, bidirectional=True),
    "PGC": lk.PGC,
    "PGC, causal": lambda d: lk.PGC(d, kernel_size=4, causal=True),
    "Lyra": lambda d: Lyra(d, d),
    "LyraForTokenClassification": lambda d: LyraForTokenClassification(d_input=d, d_model=d, d_output=3),
}


def run_layer(t: Tensors, layer: str, channels: int, length: int) -> None:
    """A layer or model as it is built by default, in training; a model in the type of its input, as it wants to be."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(t.dtype if layer.startswith("Lyra") else before)
        with torch.device("cuda"):
            module = LAYERS[layer](channels)
    finally:
        torch.set_default_dtype(before)
    module(t.activations(t.batch(3), length, channels), **t.lay(3))
