"""What the time model is held against: rows measured on an H200, and the launches that were measured, frozen.

Kernels change; what was measured does not. So the machine code of the measured launches is kept, in a compact form, and
the model can be checked against the measurements whatever the kernels have become (``python -m
benchmarks.gpu_static.time_model --check``). ``python -m benchmarks.gpu_static.calibration`` writes the launches anew
from the kernels of a checkout, which makes sense only for those of the measured commit, with the measured Triton.

Beside this file, in calibration/:

- ``h200.json``: times in microseconds of CUDA graphs, the card, the commit, the versions.
- ``launches.json.gz``: for each row its launches, as numbers into a list of launches; a launch is a
  :class:`.program.Program` whose code is a number into a list of codes. A code is a table of columns: ``ops`` names,
  then for each instruction its number in there, its control code in one integer (bits 0-3 stall, 4-6 write, 7-9 read,
  10-15 wait, 16 predicated), and, for those that have one, branch targets and pending copies.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import triton

from . import program, rows
from .launches import Aten
from .program import Program
from .rows import Row
from .sass import Instruction

FOLDER = Path(__file__).with_name("calibration")
MEASURED = FOLDER / "h200.json"
LAUNCHES = FOLDER / "launches.json.gz"
Launched = dict[Row, list[Program | Aten]]


def measured(what: str = "ops") -> dict[Row, float]:
    """Microseconds by row: of single ``ops``, or of ``layers``."""
    return {_row(r): r["us"] for r in json.loads(MEASURED.read_text())[what]}


def measured_on() -> dict[str, str]:
    """Card, commit and versions."""
    return json.loads(MEASURED.read_text())["on"]


def _row(r: dict[str, Any]) -> Row:
    return Row(r["op"], tuple(r["shape"]), r["dtype"], r["direction"])


def encode(code: Iterable[Instruction]) -> dict[str, Any]:
    """A code as columns."""
    names: dict[str, int] = {}
    out: dict[str, Any] = {"ops": [], "op": [], "control": [], "target": {}, "pending": {}}
    for n, i in enumerate(code):
        out["op"].append(names.setdefault(i.op, len(names)))
        out["control"].append(i.stall | i.write << 4 | i.read << 7 | i.wait << 10 | i.predicated << 16)
        for column, value in (("target", i.target), ("pending", i.pending)):
            if value >= 0:
                out[column][n] = value
    return {**out, "ops": list(names)}


def decode(columns: dict[str, Any]) -> tuple[Instruction, ...]:
    """What :func:`encode` was given, without source lines."""
    return tuple(
        Instruction(
            columns["ops"][op],
            bool(control >> 16),
            control & 15,
            control >> 4 & 7,
            control >> 7 & 7,
            control >> 10 & 63,
            columns["target"].get(str(n), -1),
            columns["pending"].get(str(n), -1),
        )
        for n, (op, control) in enumerate(zip(columns["op"], columns["control"], strict=True))
    )


def write(launched: Launched, file: Path = LAUNCHES) -> None:
    """Freeze rows."""
    codes: dict[tuple[Instruction, ...], int] = {}
    numbers_of: dict[int, int] = {}  # by identity: comparing code takes long
    kept: list[dict[str, Any]] = []
    launches: dict[str, int] = {}
    table = []
    for row, parts in launched.items():
        numbers = []
        for part in parts:
            if isinstance(part, Aten):
                frozen: dict[str, Any] = asdict(part)
            else:
                if id(part.code) not in numbers_of:
                    plain = tuple(replace(i, line="") for i in part.code)
                    numbers_of[id(part.code)] = codes.setdefault(plain, len(codes))
                    if len(codes) > len(kept):
                        kept.append(encode(plain))
                touched = {n: [round(x, 3) for x in t] for n, t in part.touched.items()}
                fields = {k: getattr(part, k) for k in Program.__dataclass_fields__ if k not in ("code", "touched")}
                frozen = {**fields, "code": numbers_of[id(part.code)], "touched": touched}
            numbers.append(launches.setdefault(json.dumps(frozen), len(launches)))
        table.append({**asdict(row), "launches": numbers})
    made = {"triton": triton.__version__, "torch": torch.__version__, "architecture": f"sm_{program.CAPABILITY}"}
    content = {"made_with": made, "codes": kept, "launches": [json.loads(x) for x in launches], "rows": table}
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))


def read(file: Path = LAUNCHES) -> Launched:
    """The frozen rows.

    Raises:
        OSError: there is no such file.
    """
    content = json.loads(gzip.decompress(file.read_bytes()))
    codes = [decode(c) for c in content["codes"]]
    launches = [_launch(x, codes) for x in content["launches"]]
    return {_row(r): [launches[n] for n in r["launches"]] for r in content["rows"]}


def _launch(x: dict[str, Any], codes: list[tuple[Instruction, ...]]) -> Program | Aten:
    if "code" not in x:
        return Aten(**x)
    touched = {int(n): (t[0], t[1]) for n, t in x["touched"].items()}
    changed = {"grid": tuple(x["grid"]), "turns": tuple(x["turns"]), "code": codes[x["code"]], "touched": touched}
    return Program(**{**x, **changed})


def present(wanted: Iterable[Row]) -> Launched:
    """The rows as the kernels of this checkout launch them, compiled by the installed Triton."""
    return {row: program.prepare(rows.of_row(row)) for row in wanted}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Freeze the measured rows' launches, from the kernels of a checkout.")
    parser.add_argument("--out", type=Path, default=LAUNCHES)
    known = set(rows.rows())  # of the others there is no model
    write(
        present(r for r in [*measured(), *measured("layers")] if r in known or r.op not in rows.OPS),
        parser.parse_args().out,
    )
