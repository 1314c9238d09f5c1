"""Ops whose launches are planned once for each signature of arguments, and replayed from C++.

The first call of a signature goes the usual way. The second does, too, while it is watched: every launch, every tensor
that is made, every view. What was seen is a plan, see csrc/bind/plans/plan.h, which serves the calls after that: memory
is allocated, pointers are filled in, kernels are launched, without a line of Python. An op that does anything else to
its tensors for such arguments has no plan for them, and goes on as it is.

A plan depends on all that launches depend on: the arguments' types, devices, sizes, strides and alignment, which of
them are one, the numbers and switches among them, and torch's settings for products. Nothing in an op may depend on
what is in a tensor, or on anything that is set between two calls besides these.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _torch
from ...schemas import OPS
from .. import native
from . import _direct, _launch

MOST_TABLES = 256
"""Of one op, which differ in numbers such as eps; so many only where something is wrong."""

LAST_WATCHED = 4
"""Of a signature's calls: a kernel that was chosen by time, or compiled, in one call is as it stays in the next."""


def available() -> bool:
    """Whether calls are replayed here: the native library has the code, and launches can be remembered."""
    wanted = os.environ.get("LYRA_PLANS", "1") != "0"
    return wanted and _direct.current_device is not None and native.MODULE is not None


class Planned:
    """An op's function of the Triton backend, which it replaces, with its plans."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        schema = OPS[name]._schema
        kinds = [str(argument.type) for argument in schema.arguments]
        self.function = function
        self._tensors = [i for i, kind in enumerate(kinds) if kind in ("Tensor", "Optional[Tensor]")]
        self._numbers = [i for i in range(len(kinds)) if i not in self._tensors]
        self._single = len(schema.returns) == 1
        self._replay = torch.ops.lyra_plans.replay.default
        self._tables: dict[tuple, int] = {}
        self.refusals: set[str] = set()
        """Why calls have no plan."""
        self._kernels: list[Any] = []  # of plans: unloaded when the last who knows them is gone
        self._hooks: list[list] = []

    def __call__(self, *args: Any) -> Any:
        if _launch.observed() or any(self._hooks):
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
        for table in self._tables.values():
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
            self._kernels.append(compiled)
            if not any(hooks is known for known in self._hooks):
                self._hooks.append(hooks)
        torch.ops.lyra_plans.add(table, tensors, program)
        return results


# Whatever asks for gradients is above these ops: they need not look.
_LIBRARY = torch.library.Library("lyra_plans", "IMPL")
for _op in ("replay", "add", "refuse") if hasattr(torch.ops.lyra_plans, "replay") else ():
    _LIBRARY.impl(_op, torch.library.fallthrough_kernel, "Autograd")


class NotPlanned(Exception):
    """Why a call cannot become a plan."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing
        """Whether the next call like this one may."""


class _Slot(NamedTuple):
    number: int
    begin: int
    """The address of its first element."""


# As csrc/bind/plans/plan.h numbers them.
_ALLOCATE, _FREE, _LAUNCH, _ZERO, _COPY, _PRODUCT = range(6)

_EMPTY = ("aten::empty.memory_format", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
          "aten::new_empty_strided")  # fmt: skip
_ZEROS = ("aten::zeros", "aten::zeros_like", "aten::new_zeros")
_COPIES = ("aten::clone", "aten::_to_copy", "aten::contiguous")
_VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias", "aten::detach")  # that torch does not call so


class Recording:
    """What one call does, as it does it.

    Args:
        arguments: its tensors.
    """

    def __init__(self, arguments: Sequence[Tensor | None]) -> None:
        self._arguments = len(arguments)
        self._slots: dict[int, _Slot] = {}
        self._alive: list[Any] = []  # by whose ids tensors are known
        self._steps: list[tuple[list[int], tuple[int, ...]]] = []  # numbers, and the slots that are used
        self._count = len(arguments)
        self._problem: NotPlanned | None = None
        self.kernels: list[tuple[Any, list]] = []
        """That were launched, as compiled, with the list of what wants to be called before."""
        for number, x in enumerate(arguments):
            if x is not None and id(x) not in self._slots:
                self._know(x, _Slot(number, x.data_ptr()))

    def _know(self, x: Tensor, slot: _Slot) -> None:
        self._slots[id(x)] = slot
        self._alive.append(x)

    def _refuse(self, reason: str, passing: bool = False) -> None:
        if self._problem is None:
            self._problem = NotPlanned(reason, passing)

    # ---- what torch does -------------------------------------------------------------------------------------
    def saw(self, op: _torch.OpOverload, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """An op of torch was called."""
        name = op.name()
        if name in _EMPTY:
            self._allocate(result)
        elif name in _ZEROS:
            self._allocate(result)
            self._zero(result)
        elif name == "aten::zero_":
            self._zero(args[0])
        elif name in _COPIES:
            self._allocate(result)
            self._copy(result, args[0])
        elif name == "aten::copy_":
            self._copy(args[0], args[1])
        elif name == "aten::mm":
            self._product(result, args[0], args[1])
        elif op.is_view or name in _VIEWS:
            for x in result if isinstance(result, (list, tuple)) else (result,):
                self._view(x, args[0])
        else:
            self._refuse(f"it calls {name}")

    def _allocate(self, x: Tensor) -> None:
        if x.layout is not torch.strided or x.storage_offset():
            return self._refuse("it makes a tensor that is not a plain one")
        self._know(x, _Slot(self._count, x.data_ptr()))
        self._count += 1
        shape = [x.dim(), *x.shape, *x.stride()]
        self._steps.append(([_ALLOCATE, _torch.scalar_type(x.dtype), *shape], ()))

    def _view(self, x: Tensor, of: Tensor) -> None:
        slot = self._slots.get(id(of))
        if slot is None or x.dtype != of.dtype:
            return self._refuse("it takes a view of something unknown, or as another type")
        self._know(x, slot)

    def _part(self, x: Tensor) -> list[int]:
        slot = self._slots.get(id(x))
        if slot is None:
            raise NotPlanned("it uses a tensor that it was not given and did not make")
        offset = (x.data_ptr() - slot.begin) // x.element_size() if x.numel() else 0
        if offset < 0:
            raise NotPlanned("it uses what lies before a tensor that it was given")
        return [slot.number, offset, x.dim(), *x.shape, *x.stride()]

    def _step(self, kind: int, *parts: Tensor) -> None:
        try:
            numbers = [self._part(x) for x in parts]
        except NotPlanned as problem:
            return self._refuse(str(problem))
        self._steps.append(([kind, *chain.from_iterable(numbers)], tuple(part[0] for part in numbers)))

    def _zero(self, x: Tensor) -> None:
        self._step(_ZERO, x)

    def _copy(self, to: Tensor, source: Tensor) -> None:
        self._step(_COPY, to, source)

    def _product(self, result: Tensor, a: Tensor, b: Tensor) -> None:
        self._step(_PRODUCT, a, b)
        self._know(result, _Slot(self._count, result.data_ptr()))
        self._count += 1

    # ---- what Triton does ------------------------------------------------------------------------------------
    def launched(self, kernel: Any, found: _direct.Launch | None, grid: Sequence[int], values: dict[str, Any]) -> None:
        """A kernel was launched.

        Args:
            found: how; None where Triton had to find out.
            values: arguments, constants and blocks by name.
        """
        if found is None:
            return self._refuse("a kernel was compiled", passing=True)
        try:
            self._launch(found.compiled, grid, values)
        except NotPlanned as problem:
            self._refuse(str(problem))
        self.kernels.append((found.compiled, getattr(kernel, "pre_run_hooks", [])))

    def _launch(self, compiled: Any, grid: Sequence[int], values: dict[str, Any]) -> None:
        kernel = compiled.metadata
        wants = ("num_ctas", 1), ("launch_cooperative_grid", False), ("launch_pdl", False)
        scratch = ("global_scratch_size", 0), ("profile_scratch_size", 0)
        for name, usual in (*wants, *scratch):
            if (getattr(kernel, name, usual) or usual) != usual:
                raise NotPlanned(f"{kernel.name} is launched in a special way: {name}")
        parameters: list[tuple[int, int]] = []
        for name, kind in compiled.src.signature.items():
            if kind != "constexpr":
                parameters.append(self._parameter(values[name], kind))
        parameters += [(-1, 0)] * 2  # Triton's scratch memory, of which there is none
        numbers = [_LAUNCH, _as_int64(compiled.function), *grid, kernel.num_warps * 32, kernel.shared, len(parameters)]
        for slot, value in parameters:
            numbers += (slot, _as_int64(value))
        self._steps.append((numbers, tuple(slot for slot, _ in parameters if slot >= 0)))

    def _parameter(self, value: Any, kind: Any) -> tuple[int, int]:
        if not isinstance(kind, str):
            raise NotPlanned(f"an argument of kind {kind}")
        if kind.startswith("*"):
            if value is None or not value.data_ptr():
                return -1, 0
            slot = self._slots.get(id(value))
            if slot is None:
                raise NotPlanned("it uses a tensor that it was not given and did not make")
            return slot.number, value.data_ptr() - slot.begin
        return -1, packed(value, kind)

    # ---- the plan --------------------------------------------------------------------------------------------
    def program(self, results: Sequence[Tensor]) -> list[int]:
        """The plan, as csrc/bind/plans/plan.cpp reads it.

        Args:
            results: what the call returned.

        Raises:
            NotPlanned: there is none.
        """
        if self._problem is not None:
            raise self._problem
        returned = [self._part(x) for x in results]
        last = {}
        for place, (_, used) in enumerate(self._steps):
            for slot in used:
                last[slot] = place
        keep = {part[0] for part in returned}
        if min(keep) < self._arguments:
            raise NotPlanned("it returns what it was given")
        numbers: list[int] = []
        count = 0
        for place, (step, used) in enumerate(self._steps):
            numbers += step
            done = {slot for slot in used if last[slot] == place and slot >= self._arguments and slot not in keep}
            for slot in sorted(done):
                numbers += (_FREE, slot)
            count += 1 + len(done)
        return [count, *numbers, len(returned), *chain.from_iterable(returned)]


def _as_int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def packed(value: Any, kind: str) -> int:
    """A number as a kernel's parameter of a kind that Triton names, in the low bytes of 64 bits.

    Raises:
        NotPlanned: no kernel here has such parameters.
    """
    if kind in ("i1", "i8", "i16", "i32", "i64", "u1", "u8", "u16", "u32", "u64"):
        return int(value) & (1 << 64) - 1
    if kind in ("fp32", "f32"):
        return int.from_bytes(struct.pack("<f", value), "little")
    raise NotPlanned(f"an argument of kind {kind}")
