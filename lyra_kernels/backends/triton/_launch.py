"""Launching: configurations, precision of products, and the limits of a card."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ... import _torch
from . import _autotune, _direct

VARYING = (
    "B", "K", "KR", "L", "S",
    "min_distance", "num_rows", "num_segments", "num_tiles", "num_tokens", "rows_per_program", "segment_len",
    "stretch_len",
)  # fmt: skip
"""Arguments that change from batch to batch: a kernel is not compiled anew where one is 1 or a multiple of 16."""


def jit(function: Callable[..., Any] | None = None, *, also: Sequence[str] = ()) -> Any:
    """For kernels: ``triton.jit``, compiled once for all lengths and batch sizes below 2^31, and all of ``also``.

    Args:
        also: more arguments that are as good as unknown to a kernel where they are 1 or a multiple of 16.

    Raises:
        ValueError: the kernel has no argument of a name in ``also``.
    """
    if function is None:
        return functools.partial(jit, also=also)
    parameters = inspect.signature(function).parameters
    for name in also:
        if name not in parameters:
            raise ValueError(f"{function.__name__} has no argument {name!r}")
    names = [n for n in (*VARYING, *also) if n in parameters and "constexpr" not in str(parameters[n].annotation)]
    return triton.jit(do_not_specialize=names)(function)


def unspecialized(kernel: Any) -> tuple[str, ...]:
    """The arguments of a kernel that it is not compiled anew for, compiled or interpreted."""
    options = getattr(kernel, "kwargs", None) or {"do_not_specialize": getattr(kernel, "do_not_specialize", None)}
    return tuple(options.get("do_not_specialize") or ())


@dataclass(frozen=True)
class Config:
    """One way to compile a kernel: block sizes (its constexpr arguments), warps and pipeline stages."""

    blocks: dict[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2


def interpreting() -> bool:
    """Whether the kernels run in Triton's interpreter, on CPU tensors."""
    return not isinstance(_probe, triton.runtime.JITFunction)


@triton.jit
def _probe():
    """Does nothing; :func:`interpreting` asks what it is."""


MOST_PROGRAMS = 65535
"""Of a grid's second and third axis; the first takes 2^31 - 1."""
MOST_ROWS = 16 * MOST_PROGRAMS
"""Sequences that kernels take which have a program for sixteen of them on such an axis."""

_stand_in: Callable[..., None] | None = None

_too_big: set[tuple] = set()


@contextlib.contextmanager
def in_place_of_launches(function: Callable[..., None]) -> Iterator[None]:
    """Inside, ``function`` is called with the arguments of every :func:`launch`, and nothing is launched.

    What ``function`` itself launches goes where it would have gone outside.
    """
    global _stand_in
    outside = _stand_in

    def stand_in(*args: Any) -> None:
        global _stand_in
        inside, _stand_in = _stand_in, outside
        try:
            function(*args)
        finally:
            _stand_in = inside

    _stand_in = stand_in
    try:
        yield
    finally:
        _stand_in = outside


class Recorder(Protocol):
    """Wants to know of launches."""

    def launched(self, kernel: Any, found: _direct.Launch | None, grid: Sequence[int], values: dict[str, Any]) -> None:
        """See ``_plans.Recording``."""


_recorder: tuple[int, Recorder] | None = None
"""Of launches from a thread."""


@contextlib.contextmanager
def recorded_by(recorder: Recorder) -> Iterator[None]:
    """Inside, the recorder is told of each launch from this thread; nobody else is recorded meanwhile."""
    global _recorder
    with _recording:
        _recorder = threading.get_ident(), recorder
        try:
            yield
        finally:
            _recorder = None


_recording = threading.Lock()


def observed() -> bool:
    """Whether launches must go through :func:`launch`, one by one: somebody looks on."""
    if _stand_in is not None or _direct.watched():
        return True
    return _recorder is not None and _of_this_thread() is not None


def _of_this_thread() -> Recorder | None:
    found = _recorder  # once: another thread may end its own meanwhile
    return found[1] if found is not None and found[0] == threading.get_ident() else None


def _in_order(kernel: Any, args: dict[str, Any], constants: dict[str, Any], blocks: dict[str, int]) -> list[Any]:
    """All arguments in the kernel's order, which Triton takes faster than by name.

    Raises:
        TypeError: a name is missing, given twice, or not the kernel's.
    """
    names, values = kernel.arg_names, {**args, **constants, **blocks}
    if len(names) == len(values) == len(args) + len(constants) + len(blocks):
        try:
            return [values[name] for name in names]
        except KeyError:
            pass
    wrong = {
        "missing": [n for n in names if n not in values],
        "not its own": [n for n in values if n not in names],
        "given twice": [n for n in values if (n in args) + (n in constants) + (n in blocks) > 1],
    }
    told = "; ".join(f"{what}: {', '.join(some)}" for what, some in wrong.items() if some)
    raise TypeError(f"arguments of {kernel.__name__}: {told}")


def launch(
    kernel: Any,
    grid: Callable[[Config], tuple[int, ...]],
    args: dict[str, Any],
    constants: dict[str, Any],
    configs: Sequence[Config],
) -> None:
    """Run ``kernel`` with the first of ``configs`` whose shared memory the card has, or the fastest by ``_autotune``.

    Args:
        kernel: a ``triton.jit`` function.
        grid: the grid of a configuration; a launch with an empty grid is left out.
        args: tensors, numbers and None by the names of the kernel's arguments.
        constants: constexpr arguments common to all configurations.
        configs: in order of preference. Several only for a kernel that may run twice; see ``_autotune``.

    Raises:
        TypeError: an argument of the kernel is missing, given twice, or not its own.
        ValueError: the grid is beyond a card's.
        OutOfResources: no configuration fits.
    """
    if _stand_in is not None:
        _in_order(kernel, args, constants, configs[0].blocks)
        return _stand_in(kernel, grid, args, constants, configs)
    key = _direct.key(kernel, args, constants, configs)
    found = None if key is None else _direct.find(kernel, key)
    if found is None:
        if _recorder is not None and (recorder := _of_this_thread()) is not None:
            recorder.launched(kernel, None, (), {})
        return _launch_by_triton(kernel, grid, args, constants, configs, key)
    config = configs[found.place]
    cells = grid(config)
    if 0 in cells:
        return
    x, y, z = (*cells, 1, 1)[:3]
    if y > MOST_PROGRAMS or z > MOST_PROGRAMS:
        raise _beyond(kernel, cells)
    if _recorder is not None and (recorder := _of_this_thread()) is not None:
        recorder.launched(kernel, found, (x, y, z), {**args, **constants, **config.blocks})
    values = (*args.values(), *constants.values(), *config.blocks.values())
    if found.in_order is not None:
        values = found.in_order(values)
    found.run(x, y, z, found.stream(found.device), found.function, found.metadata, None, None, None, *values)


def _launch_by_triton(
    kernel: Any,
    grid: Callable[[Config], tuple[int, ...]],
    args: dict[str, Any],
    constants: dict[str, Any],
    configs: Sequence[Config],
    key: tuple | None,
) -> None:
    """:func:`launch`, the first time: what was compiled and chosen is kept under `key`."""
    preferred = configs[0]
    preferred_values = _in_order(kernel, args, constants, preferred.blocks)
    device = next((a.device for a in args.values() if isinstance(a, Tensor)), torch.device("cpu"))
    if 0 in grid(preferred):
        return

    def run(config: Config) -> Any:
        values = preferred_values if config is preferred else _in_order(kernel, args, constants, config.blocks)
        cells = grid(config)
        if max(cells[1:], default=0) > MOST_PROGRAMS:
            raise _beyond(kernel, cells)
        with _on(device):
            return kernel[cells](*values, num_warps=config.num_warps, num_stages=config.num_stages)

    def variant(config: Config) -> tuple:
        values = {**constants, **config.blocks}
        return (id(kernel), device, tuple(values.items()), config.num_warps, config.num_stages)

    candidates = list(range(len(configs)))
    if len(configs) > 1 and _autotune.enabled(device):
        what = _autotune.key(kernel.__name__, args, constants)
        with _on(device):
            best = _autotune.fastest(what, device, configs, run)
        candidates.sort(key=lambda place: configs[place] is not best)
        if torch.cuda.is_current_stream_capturing():
            key = None  # nothing was timed: the choice may be another after the capture
    error: OutOfResources | None = None
    for place in candidates:
        config = configs[place]
        if _too_big and variant(config) in _too_big:
            continue
        try:
            compiled = run(config)
        except OutOfResources as e:
            _too_big.add(variant(config))
            error = e
            continue
        if key is not None:
            _direct.remember(kernel, key, place, compiled, (*args, *constants, *config.blocks))
        return
    raise error if error is not None else RuntimeError(f"no configuration of {kernel.__name__} fits this card")


def _beyond(kernel: Any, cells: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"{kernel.__name__}: its grid {cells} is beyond a card's, which ends at {MOST_PROGRAMS} in y and z"
    )


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def processors(x: Tensor) -> int:
    """Multiprocessors of the card that ``x`` is on; 1 in the interpreter."""
    return _processors(x.device) if x.is_cuda else 1


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def reads_shared_operands(x: Tensor) -> bool:
    """Whether the matrix units of the card that ``x`` is on take operands from shared memory, as capabilities 9 and 10
    do, and the interpreter; others take them from registers, which weights kept for many tiles would fill."""
    return not x.is_cuda or (torch.version.hip is None and _capability(x.device)[0] in (9, 10))


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up; Triton's own, made for kernels, costs a launch microseconds."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(int(n) - 1, 0).bit_length()


def precision(x: Tensor) -> str:
    """How matrix products of fp32 values made from ``x`` are done.

    fp16 and bf16 values are exact in TF32, so one product serves them. On AMD cards fp32 products are exact.
    """
    if torch.version.hip is not None:
        return "ieee"
    if x.dtype != torch.float32 or _torch.tf32_allowed():
        return "tf32"
    return "tf32x3"


def exact() -> str:
    """Products of fp32 values with fp32 accuracy, whatever torch's setting for matrix products."""
    return "ieee" if torch.version.hip is not None else "tf32x3"


def supports(x: Tensor) -> bool:
    """Whether the kernels take activations of this dtype (else: the reference)."""
    return x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def refusal(x: Tensor, limits: str) -> str:
    """Why a call with activations x, which the kernels do not take, is not theirs; ``limits``: what else they want."""
    if not supports(x):
        return f"kernels compute in float32, not in {str(x.dtype).removeprefix('torch.')}"
    return limits if x.numel() else "there is nothing to compute"


def refusing(
    why_not: Callable[..., str | None],
    instead: Callable[..., Any] | None = None,
    parts: Callable[..., Any] | None = None,
) -> Callable[[Any], Any]:
    """Of an op's launcher: leaves at it, for :func:`lyra_kernels.explain_choice`, which calls its kernels do not take.

    Args:
        why_not: takes the op's arguments; the launcher decides by the same function. None: they take them.
        instead: computes what they do not take from other ops: takes a look-up of these and the op's arguments. By
            default the reference formula does.
        parts: takes the same, and calls the ops that are part of what they take.
    """

    def mark(launcher: Any) -> Any:
        launcher.why_not, launcher.instead, launcher.parts = why_not, instead, parts
        return launcher

    return mark
