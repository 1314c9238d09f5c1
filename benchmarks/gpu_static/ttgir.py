"""Triton's GPU IR as text, read far enough for :mod:`.addresses`: operations, what they take, loops, accesses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_WIDTHS = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
_OP = re.compile(r"(?:(%[\w$.-]+(?:, %[\w$.-]+)*)(?::(\d+))? = )?\"?([a-z_]+\.[\w.]+)\"?\s?(.*)$")
_NAME = re.compile(r"%[\w$.-]+(?:#\d+)?")
_LOCATION = re.compile(r"\s*loc\((#loc\d*)\)\s*$")


class Unknown(Exception):
    """A value that cannot be known without running the kernel."""


@dataclass(eq=False)
class Op:
    """One operation; ``inside`` are the loops (and branches) around it, the outermost first."""

    name: str
    text: str
    operands: list[Value]
    results: int
    location: str
    inside: tuple[Op, ...]
    initial: list[Value] = field(default_factory=list)  # a loop's carried values before it
    body: list[Op] = field(default_factory=list)
    otherwise: bool = False  # of what is inside a branch: nothing; set on the marker of an else

    @property
    def type(self) -> str:
        """The type at the end: the result's."""
        return re.split(r" -> | to | : ", self.text)[-1]


@dataclass(frozen=True, eq=False)
class Value:
    """A result of an operation, an argument (``op`` None), a loop's counter (index -1) or what it carries."""

    op: Op | None
    index: int
    name: str = ""
    carried: bool = False


@dataclass(frozen=True)
class Type:
    """``tensor<16x32x!tt.ptr<f32>, #blocked>``, or a scalar with shape () and layout ""."""

    shape: tuple[int, ...]
    element: str
    layout: str

    @property
    def pointee(self) -> int:
        """Bytes of what a pointer points to."""
        match = re.match(r"!tt\.ptr<(\w+)", self.element)
        if match is None or match[1] not in _WIDTHS:
            raise Unknown(f"a pointer to {self.element}")
        return _WIDTHS[match[1]]


def read_type(text: str) -> Type:
    """The first type in ``text``."""
    match = re.search(r"tensor<((?:\d+x)+)(!tt\.ptr<\w+(?:, \d+)?>|\w+)(?:, (.*))?>", text)
    if match is None:
        scalar = re.search(r"!tt\.ptr<\w+>|\b(?:i\d+|b?f\d+|index)\b", text)
        return Type((), scalar[0] if scalar else text.strip(), "")
    layout = match[3] or ""
    depth = 0
    for n, c in enumerate(layout):  # of several types on the line, the first's layout
        depth += (c in "<{") - (c in ">}")
        if depth < 0:
            layout = layout[:n]
            break
    return Type(tuple(int(d) for d in match[1].rstrip("x").split("x")), match[2], layout)


@dataclass
class Kernel:
    """A parsed kernel: its arguments, and all operations in order."""

    arguments: list[str]
    ops: list[Op]
    aliases: dict[str, str]
    locations: dict[str, str]

    def layout(self, text: str) -> str:
        """A layout with its aliases resolved."""
        while match := re.search(r"#(?!ttg\.)\w+", text):
            text = text.replace(match[0], self.aliases[match[0]])
        return text

    def line(self, op: Op) -> str:
        """The source line of the innermost function that an operation comes from, as ``_modes.py:16``; or ""."""
        return self._line(op.location)

    def _line(self, name: str) -> str:
        text = self.locations.get(name, "")
        if match := re.match(r'"(.*)":(\d+):\d+', text):
            return f"{match[1].rsplit('/', 1)[-1]}:{match[2]}"
        inner = re.match(r"callsite\((#loc\d*) at|\".*\"\((#loc\d*)\)", text)
        return self._line(inner[1] or inner[2]) if inner else ""


def parse(text: str) -> Kernel:
    """Read a kernel from its text.

    Raises:
        ValueError: it has no public function.
    """
    aliases = dict(re.findall(r"^(#\w+) = (#ttg\..*>)$", text, re.M))
    locations = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, re.M))
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if "tt.func public" in line), None)
    if start is None:
        raise ValueError("no public function")
    arguments = re.findall(r"%([\w$.-]+): ", lines[start].partition("attributes")[0])
    kernel = Kernel(arguments, [], aliases, locations)
    _Reader(kernel).read(lines[start + 1 :])
    return kernel


class _Reader:
    """Resolves names as they come into and go out of scope: neighbouring regions may use the same."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes = [{f"%{a}": Value(None, 0, a) for a in kernel.arguments}]
        self.inside: list[Op] = []

    def find(self, name: str) -> Value | None:
        return next((s[name] for s in reversed(self.scopes) if name in s), None)

    def read(self, lines: list[str]) -> None:
        for line in lines:
            line = line.strip()
            location = _LOCATION.search(line)
            if line.startswith("}"):
                self._close(line, location[1] if location else "")
                if len(self.scopes) == 0:
                    return
                continue
            match = _OP.match(_LOCATION.sub("", line))
            if match is None:
                if block := re.match(r"\^bb\d+\((.*)\)", line):
                    names = _NAME.findall(block[1])
                    self.scopes[-1].update({n: Value(None, i, "") for i, n in enumerate(names)})
                continue
            self._op(*match.groups(), location[1] if location else "")

    def _close(self, line: str, location: str) -> None:
        self.scopes.pop()
        if not self.inside:
            self.scopes.clear()
            return
        op = self.inside[-1]
        if location:
            op.location = location
        if "else" in line:
            marker = Op("else", "", op.operands, 0, "", op.inside, otherwise=True)
            self.inside[-1] = marker
            self.scopes.append({})
            return
        if op.name == "tt.reduce" and " : " in line:
            op.text += line
        self.inside.pop()

    def _op(self, result: str | None, count: str | None, name: str, rest: str, location: str) -> None:
        opens = rest.endswith("{")
        given = rest.partition(" iter_args(")[0] if name == "scf.for" else rest
        names = _NAME.findall(given)
        counter = names.pop(0) if name == "scf.for" else None
        operands = [v for n in names if (v := self.find(n)) is not None]
        several = result.split(", ") if result else []
        op = Op(name, rest, operands, int(count or len(several)), location, tuple(self.inside))
        self.kernel.ops.append(op)
        for around in self.inside[-1:]:
            around.body.append(op)
        self.scopes[-1].update({n: Value(op, i) for i, n in enumerate(several)})
        if count:
            self.scopes[-1].update({f"{result}#{i}": Value(op, i) for i in range(op.results)})
        if not opens:
            return
        scope: dict[str, Value] = {}
        if counter is not None:
            scope[counter] = Value(op, -1)
            carried = re.search(r"iter_args\((.*?)\) ->", rest)
            for i, (inner, outer) in enumerate(
                re.findall(r"(%[\w$.-]+) = (%[\w$.#-]+)", carried[1] if carried else "")
            ):
                scope[inner] = Value(op, i, carried=True)
                before = self.find(outer)
                assert before is not None, outer
                op.initial.append(before)
        self.scopes.append(scope)
        self.inside.append(op)


@dataclass(frozen=True)
class Access:
    """A load or store of global memory."""

    op: Op
    stores: bool
    type: Type
    pointer: Value
    mask: Value | None


def accesses(kernel: Kernel) -> Iterator[Access]:
    """All of them, in order."""
    for op in kernel.ops:
        if op.name in ("tt.load", "tt.store"):
            stores = op.name == "tt.store"
            masked = 2 if stores else 1
            mask = op.operands[masked] if len(op.operands) > masked else None
            kind = read_type(re.split(r" : ", op.text)[-1])
            yield Access(op, stores, kind, op.operands[0], mask)
        elif op.name == "ttg.async_copy_global_to_local":
            mask = op.operands[2] if " mask " in op.text else None
            yield Access(op, False, read_type(re.split(r" : ", op.text)[-1]), op.operands[0], mask)
