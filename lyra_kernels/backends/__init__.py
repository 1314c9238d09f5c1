"""Which backends this machine has, and which one serves a call.

========== ===========================================================================================
triton     Triton kernels; NVIDIA and AMD GPUs
cuda       CUDA C++ kernels; NVIDIA GPUs where Triton is not
cpu        C++ kernels; every CPU
reference  plain PyTorch; any device, any dtype, never fast
========== ===========================================================================================

By default a CPU tensor goes to ``cpu``, a CUDA tensor to ``triton``, else ``cuda``, and everything falls back to
``reference``. :func:`use_backend` forces one. A backend is a module here with a ``BACKEND``, and a row in ``_ROWS``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

from .. import _torch
from . import cpu, cuda, native, reference, triton
from .backend import Backend, Limits, Operations
from .cpu import available_cpu_isas, cpu_isa, use_cpu_isa
from .scoped import Scoped

_ROWS = (triton.BACKEND, cuda.BACKEND, cpu.BACKEND, reference.BACKEND)  # fastest first
_BACKENDS = {backend.name: backend for backend in _ROWS}
BACKENDS = tuple(_BACKENDS)

_FORCED = Scoped("lyra_kernels backend")
_blocks, _recomputed = _FORCED.blocks, _FORCED.recomputed
_traced: weakref.WeakKeyDictionary[Any, list[str | None]] = weakref.WeakKeyDictionary()
"""The blocks that torch.compile is inside of, by its attempt to trace: one that it gives up leaves nothing behind."""

__all__ = [
    "BACKENDS",
    "Backend",
    "Limits",
    "Operations",
    "availability",
    "available_backends",
    "available_cpu_isas",
    "check_device",
    "cpu_isa",
    "default_backend",
    "forced",
    "forcing",
    "implementation",
    "limits",
    "redescribed",
    "refresh",
    "runs_reference",
    "server",
    "serving",
    "takes_channels_first",
    "use_backend",
    "use_cpu_isa",
    "why_not",
]


@cache
def availability() -> dict[str, tuple[bool, str]]:
    """For each backend, whether calls can be served by it here, and why not or how."""
    return {name: backend.availability() for name, backend in _BACKENDS.items()}


def available_backends() -> tuple[str, ...]:
    """The names of the backends that can serve a call on this machine, fastest first."""
    return tuple(name for name, (works, _) in availability().items() if works)


@_torch.constant_when_compiled
def default_backend(device: torch.device) -> str:
    """The backend that serves tensors on a device unless another is forced. A constant to torch.compile."""
    return _fastest(device)


@cache
def _fastest(device: torch.device) -> str:
    return next(_working(device))


def _working(device: torch.device) -> Iterator[str]:
    """The backends that work and serve a device, fastest first; last of all the reference."""
    for name, backend in _BACKENDS.items():
        if device.type in backend.devices and availability()[name][0]:
            yield name
    yield "reference"


@_torch.constant_when_compiled
def _forced_when_compiled() -> str | None:
    """:func:`forced` in code that torch.compile traces: a constant, guarded unless a block of that code made it."""
    blocks = _traced.get(_torch.tracing())
    if blocks:
        return blocks[-1]
    _torch.guard_on_result(__name__, "forced")
    return forced()


@_torch.traced_as(_forced_when_compiled)
@_torch.never_compiled
def forced() -> str | None:
    """The backend that :func:`use_backend` asked for, in this thread or task, or None."""
    return _FORCED.get() if _blocks.get() or _recomputed else None


def limits(backend: str) -> Limits:
    """What the kernels of a backend take."""
    return _BACKENDS[backend].limits


def runs_reference(backend: str | None, device: torch.device) -> bool:
    """Whether a call runs the plain formulas, with PyTorch's own autograd."""
    if backend is not None:
        return backend == "reference"
    kind = device.type
    return kind not in ("cuda", "meta") and (kind != "cpu" or native.MODULE is None)


@_torch.constant_when_compiled
def check_device(op: str, backend: str, device: torch.device) -> None:
    """Refuse tensors that a forced backend cannot compute on.

    Raises:
        ValueError: the device is not the backend's; the message says what to do.
    """
    row = _BACKENDS[backend]
    if device.type in (*row.devices, *row.also_takes()):
        return
    place, move = ("the CPU", ".cpu()") if "cpu" in row.devices else ("a GPU", '.to("cuda")')
    raise ValueError(
        f"{op}: backend {backend!r} computes on {place}, but the tensors are on {device}: "
        f"move them there, and the layer, with {move}, or call outside use_backend({backend!r})"
    )


def forcing(name: str | None) -> AbstractContextManager[None]:
    """:func:`use_backend` without its questions."""
    return _FORCED.chosen(name)


def check_available(name: str) -> None:
    """Refuse a backend that cannot work here.

    Raises:
        ValueError: no such backend.
        RuntimeError: that backend cannot work on this machine; the message says why.
    """
    _check_name(name)
    works, reason = availability()[name]
    if not works:
        raise RuntimeError(f"backend {name!r} is not available here: {reason}")


@_torch.constant_when_compiled
def _enter_when_compiled(name: str | None) -> str | None:
    """Returns why not, since an error in here would look like one of the compiler."""
    if name is not None:
        try:
            check_available(name)
        except (ValueError, RuntimeError) as error:
            return str(error)
    _traced.setdefault(_torch.tracing(), []).append(name)
    return None


@_torch.constant_when_compiled
def _leave_when_compiled() -> None:
    _traced[_torch.tracing()].pop()


@contextlib.contextmanager
def _use_backend_when_compiled(name: str | None) -> Iterator[None]:
    """:func:`use_backend` in code that torch.compile traces: a choice for what it traces inside, and nothing later."""
    refusal = _enter_when_compiled(name)
    if refusal is not None:
        raise RuntimeError(refusal) if name in BACKENDS else ValueError(refusal)
    try:
        yield
    finally:
        _leave_when_compiled()


@_torch.traced_as(_use_backend_when_compiled)
@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Serve every call inside the ``with`` block by one backend; None restores the choice.

    It holds for the thread or asyncio task that is in the block, and for tasks that are started there; other threads,
    also those that are started there, choose for themselves. A backward runs where its forward ran, inside the block or
    not, and what ``torch.utils.checkpoint(..., use_reentrant=False)`` recomputes does too; the reentrant kind
    recomputes by the blocks around the backward.

    Code of torch.compile obeys blocks around its calls, for each of which it is compiled, and blocks inside it. What is
    exported or traced inside a block keeps its backend.

    Raises:
        ValueError: no such backend.
        RuntimeError: that backend cannot work on this machine; the message says why.
    """
    if name is not None:
        check_available(name)
    with forcing(name):
        yield


def _check_name(name: str) -> None:
    if name not in _BACKENDS:
        raise ValueError(f"backend {name!r} does not exist: it must be one of {', '.join(_BACKENDS)}")


@contextlib.contextmanager
def redescribed(name: str, **changes: Any) -> Iterator[None]:
    """Change what a backend says of itself inside the ``with`` block: kernels to try out, a card that is not there.

    Args:
        changes: fields of :class:`Backend`.

    Raises:
        ValueError: no such backend.
    """
    _check_name(name)
    before = _BACKENDS[name]
    _BACKENDS[name] = dataclasses.replace(before, **changes)
    refresh()
    try:
        yield
    finally:
        _BACKENDS[name] = before
        refresh()


@cache
def takes_channels_first(op: str, backend: str | None, device: torch.device, others: bool = False) -> bool:
    """Whether an op's (B, L, C) activations, or their gradients, may lie in memory as (B, C, L).

    Args:
        backend: that was asked for, or None for whichever serves the device.
        others: ask for the activations that are not its first argument, such as a residual.
    """
    function = serving(op, device) if backend is None else _operation(op, backend)
    return getattr(function, "takes_others_channels_first" if others else "takes_channels_first", False)


def refresh() -> None:
    """Ask every backend anew whether it works and what it has."""
    availability.cache_clear()
    _operation.cache_clear()
    serving.cache_clear()
    takes_channels_first.cache_clear()
    _fastest.cache_clear()


@cache
def _operation(op: str, backend: str) -> Callable | None:
    return _BACKENDS[backend].operations().get(op)


def implementation(op: str, backend: str) -> Callable:
    """The function that computes a dispatcher op on a backend that was asked for.

    Raises:
        RuntimeError: that backend does not have the op.
    """
    function = _operation(op, backend)
    if function is None:
        raise RuntimeError(f"backend {backend!r} has no op {op!r}")
    return function


@cache
def serving(op: str, device: torch.device) -> Callable:
    """The function that computes a dispatcher op on a device: of the fastest backend that works there and has it."""
    return implementation(op, server(op, device, None))


def server(op: str, device: torch.device, forced: str | None) -> str:
    """The name of the backend that a call of an op goes to, where `forced` or none was asked for.

    Raises:
        ValueError, RuntimeError: that backend does not compute on the device, or does not have the op.
    """
    if runs_reference(forced, device):
        return "reference"
    if forced is not None:
        check_device(op, forced, device)
        implementation(op, forced)
        return forced
    return next(name for name in _working(device) if _operation(op, name) is not None)


def why_not(name: str, op: str, device: torch.device, forced: str | None) -> str:
    """Why a backend does not serve a call that another one serves, which is :func:`server`."""
    row, (works, reason) = _BACKENDS[name], availability()[name]
    if not works:
        return f"it does not work here: {reason}"
    if forced is not None:
        return f"use_backend({forced!r}) is in force"
    if device.type not in row.devices:
        return f"it does not serve tensors on {device.type!r}"
    if _operation(op, name) is None:
        return f"it has no {op}"
    return f"{server(op, device, None)!r} comes before it"
