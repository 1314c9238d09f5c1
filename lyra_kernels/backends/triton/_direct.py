"""A launch like one before it, by the compiled kernel's own launcher.

Triton finds out at every launch, in Python, which of a kernel's compiled versions serves it, which takes longer than
many kernels run. Here that is remembered for all that Triton compiles a kernel anew for: the types and alignments of
tensors, the classes of integers, constants and options. Whoever watches launches through Triton gets its own path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import Parameter
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import JITFunction, driver

from ... import _torch

MOST_LAUNCHES = 4096
"""That are remembered of one kernel; so many differ only where something is wrong."""

VERSIONS = ("3.6", "3.7")
"""Of Triton, in which a compiled kernel's launcher takes what it is given here, and kernels are compiled anew for what
is looked at here. Another version launches by itself."""

# Not on AMD cards, where Triton looks at the sizes of tensors, too.
_KNOWN = torch.version.hip is None and ".".join(triton.__version__.split(".")[:2]) in VERSIONS
current_device: Callable[[], int] | None = _torch.current_cuda_device if _KNOWN else None
"""The number of the card that launches go to; None where nothing is remembered."""


class Launch(NamedTuple):
    """What a launch needs beside its grid and arguments."""

    place: int
    """Of the configuration among those given."""
    device: int
    stream: Callable[[int], int]
    """The current one of a device."""
    run: Callable[..., None]
    function: Any
    metadata: Any
    in_order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    """Puts arguments, constants and blocks into the kernel's order; None where they are."""
    compiled: Any


class _Kernel(NamedTuple):
    kernel: Any
    """Found by its id, so it must live."""
    unspecialized: frozenset[str]
    launches: dict[tuple, Launch]


_kernels: dict[int, _Kernel] = {}


def _of(kernel: Any) -> _Kernel:
    found = _kernels.get(id(kernel))
    if found is None:
        names = frozenset(getattr(kernel, "do_not_specialize", None) or ())
        found = _kernels[id(kernel)] = _Kernel(kernel, names, {})
    return found


def key(kernel: Any, args: dict[str, Any], constants: dict[str, Any], configs: Sequence[Any]) -> tuple | None:
    """What a launch has in common with those that the same compiled kernel serves; None: ask Triton.

    Where there are several configurations, also what the choice between them depends on.
    """
    if current_device is None:
        return None
    unspecialized = _of(kernel).unspecialized
    device = -1
    parts: list[Any] = []
    sizes: list[int] = []
    for name, value in args.items():
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            if device < 0:
                device = value.get_device()
            parts += (name, value.dtype, value.data_ptr() & 15 == 0)
        elif kind is int:
            bits = value.bit_length()  # of -2^31 it is 32: a class of its own, which costs a look-up
            if bits > 63:
                return None
            if name in unspecialized:
                parts += (name, bits > 31)
            else:
                parts += (name, bits > 31, value == 1, value & 15 == 0)
            sizes.append((value - 1).bit_length() if value > 0 else 0)
        elif value is None:
            parts += (name, None)
        elif kind is float:
            parts += (name, float)
        elif kind is bool:
            parts += (name, bool, value)
        else:
            return None
    if device < 0 or device != current_device():  # in main memory, for the interpreter: there may be no card to ask
        return None
    if len(configs) == 1:
        config = configs[0]
        options: tuple = (config.num_warps, config.num_stages, *config.blocks.items())
    else:
        options = (
            torch.are_deterministic_algorithms_enabled(),
            *sizes,
            *[(config.num_warps, config.num_stages, *config.blocks.items()) for config in configs],
        )
    values = constants.values()  # with their types: to a dict True is 1
    return device, tuple(parts), tuple(constants), tuple(values), tuple(map(type, values)), options


def watched() -> bool:
    """Whether somebody looks on at launches, or wants kernels compiled in another way than usual.

    What the environment asks for was so before the first launch, see :func:`remember`: to read it takes microseconds.
    """
    runtime = knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(
        getattr(enter, "calls", enter)
        or getattr(leave, "calls", leave)
        or ("debug" in runtime.__dict__ and runtime.debug)
        or getattr(runtime, "add_stages_inspection_hook", None)
        or "instrumentation_mode" in knobs.compilation.__dict__
    )


def find(kernel: Any, key: tuple) -> Launch | None:
    """The launch that was remembered, unless it is watched."""
    found = _kernels[id(kernel)].launches.get(key)
    return None if found is None or kernel.pre_run_hooks or watched() else found


def remember(kernel: Any, key: tuple, place: int, compiled: Any, names: Sequence[str]) -> None:
    """Keep what a launch through Triton has found.

    Args:
        place: of the configuration that was taken.
        compiled: what Triton returned.
        names: of arguments, constants and blocks as they come.
    """
    if not isinstance(kernel, JITFunction) or not isinstance(compiled, CompiledKernel):
        return  # the interpreter's, or a promise of one
    if kernel.pre_run_hooks or watched() or knobs.runtime.debug or knobs.compilation.instrumentation_mode:
        return
    launches = _kernels[id(kernel)].launches
    if len(launches) >= MOST_LAUNCHES:
        launches.clear()
    in_order = None
    if list(names) != list(kernel.arg_names):
        in_order = itemgetter(*map(list(names).index, kernel.arg_names))
    stream = driver.active.get_current_stream
    launches[key] = Launch(
        place, key[0], stream, compiled.run, compiled.function, compiled.packed_metadata, in_order, compiled
    )
