"""Which algorithm and which backend a call takes, and why: asked of the code that decides, without computing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _torch, backends
from .ops import _watch, cost_model
from .ops.s4d_conv import ALGORITHMS, decide
from .schemas import CONTRACTS

_ENDS = {
    "scan": ("s4d_scan", "s4d_block"),
    "direct": ("causal_conv",),
    "fft": ("s4d_fft", "fft_conv"),
}
"""Algorithm to the ops that its calls end with."""


@dataclass(frozen=True)
class Alternative:
    """What was not chosen.

    Attributes:
        name: of an algorithm, such as "fft", or a backend, such as "triton".
        why_not: in words.
    """

    name: str
    why_not: str


@dataclass(frozen=True)
class Choice:
    """What was chosen of several.

    Attributes:
        name: of the algorithm or the backend.
        why: in words.
        alternatives: all the others.
    """

    name: str
    why: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class OpChoice:
    """One op of a call.

    Attributes:
        op: the dispatcher op, ``torch.ops.lyra.<op>``.
        device: of its tensors.
        backend: that computes it.
        algorithm: of the S4D convolution that it is, or a part of; else None.
    """

    op: str
    device: str
    backend: Choice
    algorithm: Choice | None = None


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain_choice` found; ``str()`` of it is a text to read.

    Attributes:
        call: the name of the function or layer.
        ops: in the order in which they run; those of the backward go to the same backends.
    """

    call: str
    ops: tuple[OpChoice, ...]

    @property
    def backend(self) -> str:
        """The name of the backend that serves the call; of several, all of them, as in "triton, reference"."""
        return ", ".join(dict.fromkeys(op.backend.name for op in self.ops))

    @property
    def algorithm(self) -> str | None:
        """The algorithm of the S4D convolution in the call; of several, all of them; None if there is none."""
        return ", ".join(dict.fromkeys(op.algorithm.name for op in self.ops if op.algorithm is not None)) or None

    @property
    def why(self) -> tuple[str, ...]:
        """The reasons for algorithms and backends, each once."""
        return tuple(dict.fromkeys(choice.why for choice in self._choices()))

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """What was not chosen, each with its reason once."""
        return tuple(dict.fromkeys(other for choice in self._choices() for other in choice.alternatives))

    def _choices(self) -> dict[Choice, list[OpChoice]]:
        """Every choice, algorithms first, and whose it is."""
        found: dict[Choice, list[OpChoice]] = {}
        for of in (lambda op: op.algorithm, lambda op: op.backend):
            for op in self.ops:
                if (choice := of(op)) is not None:
                    found.setdefault(choice, []).append(op)
        return found

    def __str__(self) -> str:
        lines = [f"{self.call} on {', '.join(dict.fromkeys(op.device for op in self.ops))}"]
        for choice, ops in self._choices().items():
            kind = "algorithm" if choice.name in ALGORITHMS else "backend"
            names = [f"{n} x {op}" if n > 1 else op for op, n in Counter(op.op for op in ops).items()]
            lines += [f"  {kind} {choice.name} ({', '.join(names)}): {choice.why}"]
            lines += [f"    not {other.name}: {other.why_not}" for other in choice.alternatives]
        return "\n".join(lines)


class _Watcher:
    """Sees a call decide, and computes nothing."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.found: list[OpChoice] = []
        self.under_way: Choice | None = None

    def here(self) -> bool:
        return threading.get_ident() == self.thread

    def algorithm(self, asked: str, taken: str, question: _watch.Question) -> None:
        if self.here():
            self.under_way = _algorithm(asked, taken, question)

    def call(self, op: str, args: Sequence[Any]) -> Any:
        forced, device = backends.forced(), args[0].device
        self._serve(op, args, backends.server(op, device, forced), forced)
        if self.under_way is not None and op in _ENDS[self.under_way.name]:
            self.under_way = None
        return CONTRACTS[op].fake(*args)

    def _serve(self, op: str, args: Sequence[Any], backend: str, forced: str | None, part: str = "") -> None:
        """Write down who computes an op that `backend` is asked for; ``part``: what to say of an op inside another."""
        device = args[0].device
        launcher = backends.implementation(op, backend)
        refused = getattr(launcher, "why_not", lambda *_: None)(*args)
        others = {
            name: Alternative(name, backends.why_not(name, op, device, forced))
            for name in backends.BACKENDS
            if name != backend
        }
        if forced is not None:
            why = f"use_backend({forced!r}) is in force"
        elif backend == "reference":
            why = f"no other backend here serves tensors on {device.type!r}"
        else:
            why = f"of the backends that work here for tensors on {device.type!r} it is the fastest"

        def lookup(reason: str) -> Callable[[str], Callable[..., Any]]:
            def function(name: str) -> Callable[..., Any]:
                def call(*given: Any) -> Any:
                    self._serve(name, given, backend, forced, reason)
                    return CONTRACTS[name].fake(*given)

                return call

            return function

        if refused is None:
            self._add(op, device, Choice(backend, why + part, tuple(others.values())))
            if (parts := getattr(launcher, "parts", None)) is not None:
                parts(lookup(f"; a part of {op}"), *args)
        elif (instead := getattr(launcher, "instead", None)) is not None:
            instead(lookup(f"; in place of {op}: {refused}"), *args)
        else:
            others["reference"] = Alternative(backend, refused)
            why = f"{backend!r} has no kernel for such a call{part}"
            self._add(op, device, Choice("reference", why, tuple(others.values())))

    def _add(self, op: str, device: torch.device, backend: Choice) -> None:
        self.found.append(OpChoice(op, str(device), backend, self.under_way))


def _algorithm(asked: str, taken: str, question: _watch.Question) -> Choice:
    """An S4D convolution's algorithm, with what decides between it and the others."""
    u, modes, directions, cu_seqlens, states = question
    auto, reason, shape = decide(*question)
    others = []
    for name in ALGORITHMS[1:]:
        if name == taken:
            continue
        if states:
            why_not = "it carries no state"
        elif asked != "auto":
            why_not = f"{asked!r} was asked for" + (f"; 'auto' would take it: {reason.value}" if name == auto else "")
        elif shape is None:
            why_not = "'auto' prefers the other"
        elif name == "fft" and cu_seqlens is not None and shape[0] > 1:
            why_not = "it takes every sequence of a packed batch for as long as the longest"
        else:
            why_not = _dearer(name, taken, shape, modes, directions)
        others.append(Alternative(name, why_not + _limit(name, u, modes) + _measured(name, taken, u, cu_seqlens)))
    why = reason.value if asked == "auto" else f"algorithm={asked!r} was asked for"
    return Choice(taken, why, tuple(others))


def _dearer(name: str, taken: str, shape: tuple[int, int], modes: int, directions: int) -> str:
    predicted = cost_model.costs(*shape, modes, directions)
    if not predicted[taken]:
        return "there is nothing to compute"
    return f"predicted to take {predicted[name] / predicted[taken]:.2f} times as long"


def _backend(u: torch.Tensor) -> str:
    return backends.forced() or backends.default_backend(u.device)


def _limit(name: str, u: torch.Tensor, modes: int) -> str:
    most = backends.limits(_backend(u)).scan_modes
    return f"; its kernel takes {most} modes, this call has {modes}" if name == "scan" and modes > most else ""


def _measured(name: str, taken: str, u: torch.Tensor, cu_seqlens: torch.Tensor | None) -> str:
    """What both took on a card that was measured."""
    if u.device.type != "cuda":
        return ""
    batch = u.shape[0] if cu_seqlens is None else max(cu_seqlens.shape[0] - 1, 1)
    found = cost_model.measured(_backend(u), batch, u.shape[0] * u.shape[1] // batch)
    if found is None or name not in found[1] or taken not in found[1]:
        return ""
    (sequences, length), times = found
    us = [f"{kind} {times[name][i]:g} us against {times[taken][i]:g}" for i, kind in enumerate(("forward", "training"))]
    return f"; measured on an H200 at {sequences} x {length} x 64, float32: {', '.join(us)}"


def explain_choice(call: Callable[..., Any], *args: Any, **options: Any) -> Explanation:
    """Which algorithm and which backend a call would take here and now, why, and why not the others.

    The call itself decides, up to the point where it would compute: nothing is computed, no random number drawn.

        print(lk.explain_choice(lk.s4d_conv, u, log_dt, log_A_real, A_imag, C))
        lk.explain_choice(layer, u, lengths=lengths).backend

    Args:
        call: a function or layer of this package, or a module that has some.
        args, options: what it would be called with. Of tensors only shapes, dtypes and devices count.

    Returns:
        An :class:`Explanation`: ``backend``, ``algorithm``, ``why``, ``alternatives``, ``ops``.

    Raises:
        TypeError: `call` cannot be called.
        ValueError: it calls no op of this package.
        Exception: what the call would raise; not what depends on the values of tensors.
    """
    name = getattr(call, "__name__", type(call).__name__)
    if not callable(call):
        raise TypeError(f"explain_choice takes a function or layer and what to call it with, not {name}")
    if _watch.watcher is not None:
        raise RuntimeError("explain_choice is under way already, in this thread or another")
    place, (args, options) = _torch.without_values((args, options))
    watcher = _watch.watcher = _Watcher()
    try:
        with place:
            call(*args, **options)
    finally:
        _watch.watcher = None
    if not watcher.found:
        raise ValueError(f"{name} calls no op of lyra_kernels")
    return Explanation(name, tuple(watcher.found))
