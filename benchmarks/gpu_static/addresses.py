"""Integers, pointers, masks and loop bounds of a kernel, for one of its programs at one moment.

The last IR before machine code computes addresses by integer arithmetic from the launch's integers. Values are worked
out on demand, as numpy arrays of a tensor's shape: floating point never is. What a kernel loads to compute addresses
with (a table of rows) is asked of a :data:`Memory`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ttgir import Kernel, Op, Unknown, Value, read_type

Memory = Callable[[str, np.ndarray], np.ndarray]
"""The integers at given elements of a pointer argument. Raises Unknown where it does not know them."""

_SPACE = 40  # bits of an address within one argument's memory

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "addi": np.add, "subi": np.subtract, "muli": np.multiply, "andi": np.bitwise_and, "ori": np.bitwise_or,
    "xori": np.bitwise_xor, "shli": np.left_shift, "shrsi": np.right_shift, "shrui": np.right_shift,
    "minsi": np.minimum, "maxsi": np.maximum, "minui": np.minimum, "maxui": np.maximum,
}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal, "ne": np.not_equal, "slt": np.less, "sle": np.less_equal, "sgt": np.greater,
    "sge": np.greater_equal, "ult": np.less, "ule": np.less_equal, "ugt": np.greater, "uge": np.greater_equal,
}  # fmt: skip


@dataclass
class Moment:
    """One program at one moment: where it is in the grid, and how far each loop has come.

    Args:
        integers: the launch's arguments by name.
        program: the program's place in the grid, on three axes.
        turn: how far a loop has come: of its trips, which; by the loop's depth and trips.
    """

    kernel: Kernel
    integers: dict[str, int]
    program: tuple[int, int, int]
    grid: tuple[int, int, int]
    memory: Memory
    turn: Callable[[int, int], int]
    known: dict[tuple[int, int, bool], Any] = field(default_factory=dict)

    def value(self, v: Value) -> np.ndarray:
        """An integer, a pointer (as an address) or a mask.

        Raises:
            Unknown: it depends on floating point, or on integers in memory that nobody knows.
        """
        if v.op is None:
            if v.name in self.integers:
                return np.int64(self.integers[v.name])
            if v.name in self.kernel.arguments:
                return np.int64(self.kernel.arguments.index(v.name) + 1 << _SPACE)
            raise Unknown(v.name or "a block's argument")
        key = (id(v.op), v.index, v.carried)
        if key not in self.known:
            self.known[key] = self._compute(v)
        return self.known[key]

    def trips(self, loop: Op) -> int:
        """How often a loop is gone through."""
        first, last, step = (int(self.value(v)) for v in loop.operands[:3])
        return max(0, -(-(last - first) // step))

    def reached(self, op: Op) -> bool:
        """Whether the branches around an operation lead to it."""
        for around in op.inside:
            if around.name == "scf.if" and not self.value(around.operands[0]):
                return False
            if around.otherwise and self.value(around.operands[0]):
                return False
        return True

    def _compute(self, v: Value) -> np.ndarray:
        op = v.op
        assert op is not None
        if op.name == "scf.for":
            if v.index >= 0:  # carried: as it was before the first turn
                return self.value(op.initial[v.index])
            depth = sum(o.name == "scf.for" for o in op.inside)
            first, step = self.value(op.operands[0]), self.value(op.operands[2])
            return first + step * self.turn(depth, self.trips(op))
        family, _, what = op.name.partition(".")
        if family == "arith":
            return self._arithmetic(op, what)
        if family in ("tt", "ttg"):
            return self._tensor(op, what)
        raise Unknown(op.name)

    def _arithmetic(self, op: Op, what: str) -> np.ndarray:
        if what == "constant":
            text = re.sub(r"^\s*dense<(.*?)>", r"\1", op.text).split(" :")[0].strip()
            if not re.fullmatch(r"-?\d+|true|false", text):
                raise Unknown(f"constant {text}")
            number = np.int64({"true": 1, "false": 0}.get(text, text))
            shape = read_type(op.type).shape
            return np.full(shape, number) if shape else number
        if what in ("extsi", "extui", "trunci", "index_cast", "index_castui"):
            return self.value(op.operands[0])
        given = [self.value(o) for o in op.operands]
        if what in _BINARY:
            return _BINARY[what](given[0].astype(np.int64), given[1].astype(np.int64))
        if what in ("divsi", "divui", "remsi", "remui"):
            quotient = np.trunc(given[0] / given[1]).astype(np.int64)  # exact below 2^53
            return quotient if what.startswith("div") else given[0] - quotient * given[1]
        if what == "cmpi":
            return _COMPARE[op.text.split(",")[0].strip()](given[0], given[1]).astype(np.int64)
        if what == "select":
            return np.where(given[0] != 0, given[1], given[2])
        raise Unknown(op.name)

    def _tensor(self, op: Op, what: str) -> np.ndarray:
        if what in ("get_program_id", "get_num_programs"):
            axis = "xyz".index(op.text.strip()[0])
            return np.int64((self.program if what == "get_program_id" else self.grid)[axis])
        if what == "make_range":
            first, last = (int(re.search(rf"{k} = (\d+)", op.text)[1]) for k in ("start", "end"))  # type: ignore[index]
            return np.arange(first, last)
        given = self.value(op.operands[0])
        kind = read_type(op.type)
        if what in ("splat", "broadcast"):
            return np.broadcast_to(given, kind.shape)
        if what == "expand_dims":
            return np.expand_dims(given, int(re.search(r"axis = (\d+)", op.text)[1]))  # type: ignore[index]
        if what == "reshape":
            return given.reshape(kind.shape)
        if what == "trans":
            order = re.search(r"order = array<i32: ([\d, ]+)>", op.text)
            return given.transpose([int(n) for n in order[1].split(",")] if order else None)
        if what in ("convert_layout", "unsplat"):
            return given if what == "convert_layout" else given.reshape(())
        if what == "addptr":
            return given + self.value(op.operands[1]) * kind.pointee
        if what == "load":
            return self._load(op, given)
        if what == "reduce":
            combine = {o.name: o for o in op.body}
            axis = int(re.search(r"axis = (\d+)", op.text)[1])  # type: ignore[index]
            for name, function in (("arith.maxsi", np.max), ("arith.minsi", np.min), ("arith.addi", np.sum)):
                if name in combine:
                    return np.asarray(function(given, axis=axis))
        raise Unknown(op.name)

    def _load(self, op: Op, address: np.ndarray) -> np.ndarray:
        kind = read_type(op.type)
        if not re.match(r"!tt\.ptr<i\d+", kind.element):
            raise Unknown("loaded floating point")
        argument = np.unique(address >> _SPACE)
        if len(argument) != 1:
            raise Unknown("loads from several arguments")
        name = self.kernel.arguments[int(argument[0]) - 1]
        found = self.memory(name, (address & ((1 << _SPACE) - 1)) // kind.pointee)
        if len(op.operands) > 2:  # masked: elsewhere the value given
            found = np.where(self.value(op.operands[1]) != 0, found, self.value(op.operands[2]))
        return np.asarray(found)
