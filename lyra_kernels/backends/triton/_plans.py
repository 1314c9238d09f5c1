"""Ops whose launches are planned once for each signature of arguments, and replayed from C++.

The first call of a signature goes the usual way. The second does, too, while it is watched: every launch, every tensor
that is made, every view. What was seen is a plan, see csrc/bind/plans/plan.h, which serves the calls after that: memory
is allocated, pointers are filled in, kernels are launched, without a line of Python. An op that does anything else to
its tensors for such arguments has no plan for them, and goes on as it is.

A plan depends on all that launches depend on: the arguments' types, devices, sizes, strides and alignment, which of
them are one, the numbers and switches among them, and torch's settings for products. Nothing in an op may depend on
what is in a tensor, or on anything that is set between two calls besides these; whoever calls an op keeps autocast off.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _torch
from ...schemas import OPS
from . import _direct, _launch
from ._recording import NotPlanned, Recording

MOST_TABLES = 256
"""Of one op, which differ in numbers such as eps; so many only where something is wrong."""

HAS_REPLAY = hasattr(torch.ops.lyra_plans, "replay")
"""Whether the native library is loaded, and is not one that was built before it had this."""

LAST_WATCHED = 4
"""Of a signature's calls: a kernel that was chosen by time, or compiled, in one call is as it stays in the next."""


def available() -> bool:
    """Whether calls are replayed here: the native library has the code, and launches can be remembered."""
    wanted = os.environ.get("LYRA_PLANS", "1") != "0"
    return wanted and _direct.current_device is not None and HAS_REPLAY


class Planned:
    """An op's function of the Triton backend, which it replaces, with its plans."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        schema = OPS[name]._schema
        kinds = [str(argument.type) for argument in schema.arguments]
        functools.update_wrapper(self, function)  # with what is left at it: which layouts it takes, which calls not
        self.function = function
        self._tensors = [i for i, kind in enumerate(kinds) if kind in ("Tensor", "Optional[Tensor]")]
        self._numbers = [i for i in range(len(kinds)) if i not in self._tensors]
        self._single = len(schema.returns) == 1
        self._replay = torch.ops.lyra_plans.replay.default
        self._tables: dict[tuple, int] = {}
        self.refusals: set[str] = set()
        """Why calls have no plan."""
        self._kernels: dict[int, Any] = {}  # of plans: unloaded when the last who knows them is gone
        self._hooks: list[list] = []

    def __call__(self, *args: Any) -> Any:
        # torch.compile looks into a backend that was asked for, with tensors that are nowhere.
        if torch.compiler.is_compiling() or _launch.observed() or any(self._hooks):
            return self.function(*args)
        key = (
            *[args[i] for i in self._numbers],
            _torch.tf32_allowed(),
            torch.are_deterministic_algorithms_enabled(),
        )
        table = self._tables.get(key)
        if table is None:
            table = self._open(key)
        tensors = [args[i] for i in self._tensors]
        results, calls = self._replay(table, tensors)
        if results:
            return results[0] if self._single else tuple(results)
        if not 1 < calls <= LAST_WATCHED:
            return self.function(*args)
        return self._watched(args, table, tensors)

    def _open(self, key: tuple) -> int:
        if len(self._tables) >= MOST_TABLES:
            self.forget()
        table = self._tables[key] = torch.ops.lyra_plans.open()
        return table

    def forget(self) -> None:
        """Drop all plans."""
        for table in list(self._tables.values()):  # another thread may open one
            torch.ops.lyra_plans.clear(table)
        self._tables.clear()
        self._kernels.clear()
        self._hooks.clear()

    def _watched(self, args: Sequence[Any], table: int, tensors: list[Tensor | None]) -> Any:
        recording = Recording(tensors)
        with _launch.recorded_by(recording), _torch.dispatches_seen_by(recording.saw):
            results = self.function(*args)
        try:
            program = recording.program((results,) if self._single else results)
        except NotPlanned as reason:
            self.refusals.add(str(reason))
            if not reason.passing:
                torch.ops.lyra_plans.refuse(table, tensors)
            return results
        for compiled, hooks in recording.kernels:
            self._kernels[id(compiled)] = compiled
            if not any(hooks is known for known in self._hooks):
                self._hooks.append(hooks)
        torch.ops.lyra_plans.add(table, tensors, program)
        return results


# Whatever asks for gradients is above these ops: they need not look.
_LIBRARY = torch.library.Library("lyra_plans", "IMPL")
for _op in ("replay", "add", "refuse") if HAS_REPLAY else ():
    _LIBRARY.impl(_op, torch.library.fallthrough_kernel, "Autograd")
