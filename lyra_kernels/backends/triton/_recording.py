"""What one call of an op does on a card, written down as it does it: the plan that ``_plans`` replays.

A plan is a list of numbers, which csrc/bind/plans/plan.cpp reads. Tensors are slots: the call's arguments come first,
then what it makes. Only what is named here may be planned; whatever else a call does to a tensor keeps it from that.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _torch
from . import _direct


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


class _Step(NamedTuple):
    numbers: list[int]
    uses: tuple[int, ...] = ()
    """Slots."""
    made: tuple[int, int] | None = None
    """Of an allocation, its slot and its bytes."""


# As csrc/bind/plans/plan.h numbers them.
_ALLOCATE, _FREE, _LAUNCH, _ZERO, _COPY, _PRODUCT, _PLACE = range(7)

SMALL = 1 << 20
"""Bytes, up to which what only kernels see has a place in memory that is allocated at once. What is larger is given
back as soon as it has served, which keeps the peak as it is without plans."""
ALIGNMENT = 256

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
        self._device = next(x.device for x in arguments if x is not None)
        # By their ids; not kept alive, or a call that is watched would need more memory than others.
        self._slots: dict[int, tuple[weakref.ref[Tensor], _Slot]] = {}
        self._steps: list[_Step] = []
        self._count = len(arguments)
        self._problem: NotPlanned | None = None
        self.kernels: list[tuple[Any, list]] = []
        """That were launched, as compiled, with the list of what wants to be called before."""
        for number, x in enumerate(arguments):
            if x is not None and self._slot(x) is None:
                self._know(x, _Slot(number, x.data_ptr()))
                if _turned(x):
                    self._refuse("it is given a tensor that is conjugate or negative")

    def _know(self, x: Tensor, slot: _Slot) -> None:
        self._slots[id(x)] = weakref.ref(x), slot

    def _slot(self, x: Tensor) -> _Slot | None:
        known, slot = self._slots.get(id(x), (None, None))
        return slot if known is not None and known() is x else None

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
        dtype = _torch.scalar_type(x.dtype)
        plain = dtype is not None and x.layout is torch.strided and not x.storage_offset()
        if not plain or _turned(x) or x.device != self._device:
            return self._refuse("it makes a tensor that is not a plain one, or is elsewhere")
        numbers = [_ALLOCATE, dtype, x.dim(), *x.shape, *x.stride()]
        self._steps.append(_Step(numbers, made=(self._count, x.untyped_storage().nbytes())))
        self._know(x, _Slot(self._count, x.data_ptr()))
        self._count += 1

    def _view(self, x: Tensor, of: Tensor) -> None:
        slot = self._slot(of)
        if slot is None or x.dtype != of.dtype or _turned(x):
            return self._refuse("it takes a view of something unknown, or as another type, conjugate or negative")
        self._know(x, slot)

    def _part(self, x: Tensor) -> list[int]:
        slot = self._slot(x)
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
        self._steps.append(_Step([kind, *chain.from_iterable(numbers)], tuple(part[0] for part in numbers)))

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
        self._steps.append(_Step(numbers, tuple(slot for slot, _ in parameters if slot >= 0)))

    def _parameter(self, value: Any, kind: Any) -> tuple[int, int]:
        if not isinstance(kind, str):
            raise NotPlanned(f"an argument of kind {kind}")
        if kind.startswith("*"):
            if value is None or not value.data_ptr():
                return -1, 0
            slot = self._slot(value)
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
        memory, steps, returned = self.steps(results)
        return [memory, len(steps), *chain.from_iterable(steps), len(returned), *chain.from_iterable(returned)]

    def steps(self, results: Sequence[Tensor]) -> tuple[int, list[list[int]], list[list[int]]]:
        """The same in parts: bytes of the memory for what only kernels see, the steps, and what is returned."""
        if self._problem is not None:
            raise self._problem
        returned = [self._part(x) for x in results]
        tensors = {part[0] for part in returned}
        if min(tensors) < self._arguments:
            raise NotPlanned("it returns what it was given")
        last = {slot: place for place, step in enumerate(self._steps) for slot in step.uses}
        last |= dict.fromkeys(tensors, len(self._steps))
        for step in self._steps:
            if step.numbers[0] != _LAUNCH:
                tensors |= set(step.uses)
        total, places = self._placed(tensors, last)
        steps: list[list[int]] = []
        for place, step in enumerate(self._steps):
            slot = step.made[0] if step.made else -1
            steps.append([_PLACE, places[slot]] if slot in places else step.numbers)
            done = {slot for slot in step.uses if slot >= self._arguments and last[slot] == place}
            steps += [[_FREE, slot] for slot in sorted(done - places.keys())]
        return total, steps, returned

    def _placed(self, tensors: set[int], last: dict[int, int]) -> tuple[int, dict[int, int]]:
        """Bytes of the memory for small slots, and where in it each is: at the first place that is free by then.

        Args:
            tensors: slots that torch has to see.
            last: step at which a slot is used last.
        """
        living: list[tuple[int, int, int]] = []  # begin, end, last use
        total, places = 0, {}
        for place, step in enumerate(self._steps):
            if step.made is None or step.made[0] in tensors or not 0 < step.made[1] <= SMALL:
                continue
            slot, size = step.made[0], -(-step.made[1] // ALIGNMENT) * ALIGNMENT
            living = sorted(other for other in living if other[2] >= place)
            begin = 0
            for other_begin, other_end, _ in living:
                if begin + size <= other_begin:
                    break
                begin = max(begin, other_end)
            living.append((begin, begin + size, last.get(slot, place)))
            places[slot] = begin
            total = max(total, begin + size)
        return total, places


def _turned(x: Tensor) -> bool:
    """Whether what is in memory is not what the tensor says, but its conjugate or negative."""
    return x.is_conj() or x.is_neg()


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
        try:
            return int.from_bytes(struct.pack("<f", value), "little")
        except OverflowError:
            raise NotPlanned(f"a number beyond {kind}: {value}") from None
    raise NotPlanned(f"an argument of kind {kind}")
