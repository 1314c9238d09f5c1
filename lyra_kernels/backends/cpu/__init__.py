"""The backend of CPUs: C++ kernels in csrc/cpu, compiled for several instruction sets; transforms are PyTorch's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from ... import _torch
from ...schemas import OPS
from .. import composed, native
from ..backend import Backend, Operations
from ..scoped import Scoped
from . import fft_conv

_ISA = Scoped("lyra_kernels CPU instruction set")

CHANNELS_FIRST = frozenset(
    name + suffix
    for name in ("s4d_scan", "s4d_block", "causal_conv", "fft_conv", "gated_fft_conv", "short_conv", "gelu_glu")
    for suffix in ("", "_backward")
)
"""Ops and backward ops whose activations, and gradients of these, may each lie in memory as (B, C, L)."""


def _on_the_cpu(name: str) -> Callable[..., Any]:
    """An op as the dispatcher serves it for CPU tensors."""
    op = OPS[name]

    def call(*args: Any) -> Any:
        with _torch.below_autograd():
            return op(*args)

    call.takes_channels_first = call.takes_others_channels_first = name in CHANNELS_FIRST  # type: ignore[attr-defined]
    return call


@cache
def operations() -> Operations:
    """All of them: the dispatcher has a kernel of each, native or not."""
    return {name: _on_the_cpu(name) for name in OPS}


PYTHON: Operations = {
    "fft_conv": fft_conv.fft_conv,
    "fft_conv_backward": fft_conv.fft_conv_backward,
    "gated_fft_conv": fft_conv.gated_fft_conv,
    "gated_fft_conv_backward": fft_conv.gated_fft_conv_backward,
    "s4d_fft": partial(composed.s4d_fft, _on_the_cpu),
    "s4d_fft_backward": partial(composed.s4d_fft_backward, _on_the_cpu),
    "s4d_block_backward": partial(composed.s4d_block_backward, _on_the_cpu),
}
"""Ops whose kernel is written in Python."""


def availability() -> tuple[bool, str]:
    """Whether the C++ kernels are there, and which."""
    if native.MODULE is None:
        return False, f"lyra_kernels._C was not built or does not load: {native.ERROR}"
    return True, f"instruction set {native.MODULE.cpu_isa()} (of {', '.join(native.MODULE.available_cpu_isas())})"


BACKEND = Backend(name="cpu", devices=("cpu", "meta"), availability=availability, operations=operations)


def cpu_isa() -> str | None:
    """The instruction set that the C++ kernels use in this thread or task, or None where they are not built."""
    return None if native.MODULE is None else native.MODULE.cpu_isa()


def available_cpu_isas() -> tuple[str, ...]:
    """Instruction sets that were built and that this CPU has, in the order in which CPUs got them."""
    return () if native.MODULE is None else tuple(native.MODULE.available_cpu_isas())


@cache
def _ask_at_every_call() -> None:
    """Have the kernels ask for the choice, which costs a microsecond: for processes that make one."""
    assert native.MODULE is not None
    native.MODULE.choose_cpu_isa_by(_ISA.get)


@contextlib.contextmanager
def use_cpu_isa(name: str) -> Iterator[None]:
    """Run the C++ kernels with one instruction set inside the ``with`` block.

    It holds for the thread or asyncio task that is in the block, and for tasks that are started there. Kernels ask when
    they are called, so that compiled code obeys blocks around its calls; a block inside a compiled function ends its
    graph. What ``torch.utils.checkpoint(..., use_reentrant=False)`` recomputes has its forward's instruction set; any
    other backward has that of its own time and thread.

    The environment variable ``LYRA_CPU_ISA`` chooses one from the start, for the whole process.

    ``"amx"`` and ``"avx512_bf16"`` are ``"avx512"`` but for the matrix products of layers whose activations are
    bfloat16: their operands, weights among them, are rounded to bfloat16, and their sums are float32. The others
    multiply such activations in float32. Unasked, a CPU with AMX takes it, and one of AMD's with AVX512-BF16 that.

    Raises:
        ValueError: that instruction set is not available; the message lists those that are.
    """
    if name not in available_cpu_isas():
        known = ", ".join(available_cpu_isas()) or "none (the C++ kernels are not built)"
        raise ValueError(f"CPU instruction set {name!r} is not available; available: {known}")
    _ask_at_every_call()
    with _ISA.chosen(name):
        yield
