"""Machine code of NVIDIA's processors as text: instructions with their control codes, loops, the path of a warp.

ptxas schedules statically. Each instruction carries the cycles until the warp's next one may issue (its *stall*), the
scoreboards that it sets when its result arrives (*write*) or when it has read its operands (*read*), and the
scoreboards that it *waits* for. :mod:`.simulate` replays them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import triton

NO_SCOREBOARD = 7
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s+/\* (0x[0-9a-f]+) \*/")
_ENCODING = re.compile(r"\s+/\* (0x[0-9a-f]+) \*/")
_LINE = re.compile(r'\s*//## File "(.*?)", line (\d+)')
_LABEL = re.compile(r"(\.L_x_\d+):")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Args:
        op: the name with its modifiers, as ``LDG.E.128``.
        predicated: whether a predicate decides if it is executed.
        stall: cycles until the next instruction of the warp may issue.
        write, read: scoreboards that it sets, ``NO_SCOREBOARD`` for none.
        wait: scoreboards that it waits for, one bit each.
        target: where a branch goes, as an index into the code, or -1.
        pending: of DEPBAR.LE, how many groups of asynchronous copies may still be under way; else -1.
        line: source line that it was compiled from, as ``rms_norm.py:30``.
    """

    op: str
    predicated: bool
    stall: int
    write: int
    read: int
    wait: int
    target: int = -1
    pending: int = -1
    line: str = ""

    @property
    def name(self) -> str:
        """The name without modifiers."""
        return self.op.partition(".")[0]

    @property
    def width(self) -> int:
        """Bytes a lane of a load or store."""
        parts = self.op.split(".")
        for size, names in ((16, ("128",)), (8, ("64",)), (2, ("U16", "S16", "16")), (1, ("U8", "S8", "8"))):
            if any(n in parts for n in names):
                return size
        return 4


def disassemble(cubin: bytes) -> str:
    """The text of a compiled kernel, with encodings and source lines.

    Raises:
        subprocess.CalledProcessError: nvdisasm does not know the format.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_TOOL), "-c", "-g", "-hex", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text: str) -> list[Instruction]:
    """The instructions of :func:`disassemble`'s text, in order.

    Raises:
        ValueError: there are none, or a branch to a label that is not there.
    """
    lines = text.splitlines()
    labels: dict[str, int] = {}
    found: list[tuple[str, str, int]] = []  # text, source line, control code
    where = ""
    for n, line in enumerate(lines):
        if match := _INSTRUCTION.match(line):
            encoding = _ENCODING.match(lines[n + 1])
            if encoding is None:
                raise ValueError(f"an instruction without its encoding: {line}")
            found.append((match[2], where, int(encoding[1], 16) >> 41))
        elif match := _LINE.match(line):
            where = f"{Path(match[1]).name}:{match[2]}"
        elif match := _LABEL.match(line):
            labels[match[1]] = len(found)
    if not found:
        raise ValueError("no instructions")
    return [_instruction(text, where, control, labels) for text, where, control in found]


def _instruction(text: str, line: str, control: int, labels: dict[str, int]) -> Instruction:
    body = re.sub(r"^@!?U?P\w+\s+", "", text)
    op = body.split()[0]
    target, pending = -1, -1
    if op.startswith("BRA") and (label := re.search(r"`\((\.L_x_\d+)\)", body)):
        if label[1] not in labels:
            raise ValueError(f"no label {label[1]}")
        target = labels[label[1]]
    if op.startswith("DEPBAR.LE"):
        pending = int(body.split(",")[1].strip(), 0)
    return Instruction(
        op,
        body != text,
        control & 15,
        control >> 5 & 7,
        control >> 8 & 7,
        control >> 11 & 63,
        target,
        pending,
        line,
    )


_ARITHMETIC = frozenset(
    "IADD3 VIADD LOP3 SEL FSEL FSETP ISETP LEA PRMT SHF IMNMX VIMNMX FMNMX MOV PLOP3 P2R R2P IABS LEPC BMSK SGXT FCHK "
    "VIADDMNMX".split()
)
_PASSES = {"128": 4, "64": 2, "M88": 4}


@dataclass(frozen=True)
class Use:
    """What an instruction asks of a scheduler's quarter of a processor.

    Args:
        unit: ``alu``, ``fma`` (fp32), ``imad`` (integer multiply-add), ``mufu``, ``fp64``, ``tensor``, ``lsu`` (loads,
            stores and shuffles; the four schedulers share it) or "" for none.
        cycles: for which the unit is taken; of a global access without its sectors.
        kind: whose latency and cost it has: ``load``, ``store``, ``shared_load``, ``shared_store``, ``shuffle``,
            ``mufu``, ``fp64``, ``tensor`` or "".
    """

    unit: str
    cycles: float
    kind: str = ""


def classify(instruction: Instruction) -> Use:
    """The unit that executes an instruction, and for how long.

    Rates are those of NVIDIA's tables for compute capability 9.0, a quarter of a processor: 32 lanes of fp32 a cycle,
    16 of integers, 4 of special functions, 16 of fp64; a matrix product of 64 x n x k takes 2 n k 64 / rate cycles.
    """
    name, parts = instruction.name, instruction.op.split(".")
    if name == "HGMMA":  # of four warps; a warp's quarter
        size = re.search(r"64x(\d+)x(\d+)", instruction.op)
        assert size is not None, instruction.op
        return Use("tensor", 16 * int(size[1]) * int(size[2]) / (256 if "TF32" in parts else 512), "tensor")
    if name in ("HMMA", "IMMA"):
        return Use("tensor", 6, "tensor")
    if name in ("DADD", "DMUL", "DFMA", "DSETP"):
        return Use("fp64", 2, "fp64")
    if name in ("MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO"):
        return Use("mufu", 8, "mufu")
    if name in ("LDG", "LD", "LDGSTS"):
        return Use("lsu", 1, "load")
    if name in ("STG", "ST", "RED", "ATOM"):
        return Use("lsu", 1, "store")
    if name in ("LDS", "LDSM", "STS", "STSM"):
        passes = next((_PASSES[p] for p in parts[1:] if p in _PASSES), 1)
        return Use("lsu", passes, "shared_load" if name.startswith("LD") else "shared_store")
    if name == "LDC":
        return Use("lsu", 0.25, "shared_load")
    if name == "SHFL":
        return Use("lsu", 2, "shuffle")
    if name == "IMAD":
        return Use("imad", 2)
    if name in ("FFMA", "FMUL", "FADD", "HFMA2", "FSWZADD"):
        return Use("fma", 1)
    if name in _ARITHMETIC or name in ("I2FP", "F2FP"):
        return Use("alu", 2)
    return Use("", 1)


def loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """First and last instruction of each loop, in the order of their ends. A branch to itself ends the code instead."""
    return [(i.target, n) for n, i in enumerate(code) if 0 <= i.target < n]


def trace(code: Sequence[Instruction], trips: Sequence[int]) -> list[int]:
    """The instructions that a warp executes, as indices, in order.

    Args:
        trips: how often each of :func:`loops` is gone through, at least once.

    Of a branch forward the way is taken that a real program takes nearly always: an unconditional one is followed; of
    two ways the longer one; slow paths, which call a subroutine, are passed by.
    """
    ends = [end for _, end in loops(code)]
    if len(ends) != len(trips):
        raise ValueError(f"{len(ends)} loops, {len(trips)} counts")
    again = {end: count - 1 for end, count in zip(ends, trips, strict=True)}
    left = dict(again)
    out, n = [], 0
    while n < len(code):
        i = code[n]
        out.append(n)
        if (i.name == "EXIT" and not i.predicated) or i.target == n:
            break
        if n in left:
            if left[n] > 0:
                left[n] -= 1
                n = i.target
                continue
            left[n] = again[n]
        elif i.target > n and _follows(code, n):
            n = i.target
            continue
        n += 1
    return out


def _follows(code: Sequence[Instruction], n: int) -> bool:
    """Whether a branch forward is taken."""
    i = code[n]
    if not i.predicated:
        return True
    skipped, last = code[n + 1 : i.target], code[i.target - 1]
    # if ... else ...: what is skipped ends by jumping over the other way.
    other = last.name == "BRA" and not last.predicated and last.target > i.target
    slow = len(skipped) < 80 and any(s.name in ("CALL", "RET") for s in skipped)
    return slow or (other and last.target - i.target > i.target - n)
