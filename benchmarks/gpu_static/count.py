"""Runs the cases in Triton's interpreter and prints what was launched, as JSON.

``TRITON_INTERPRET=1 python -m benchmarks.gpu_static.count all|reduced|NAME``; the command starts it by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch

from .cases import DTYPES, backward_arguments, cases, on_a_card, run_backward, run_forward
from .interpreter import quicken
from .record import Recording, recording


def _row(case: Any, dtype: str, direction: str, floor: int, found: Recording) -> dict[str, Any]:
    return {
        "case": case.name,
        "op": case.op,
        "shape": case.shape,
        "dtype": dtype,
        "direction": direction,
        "floor": floor,
        "limit": case.limit,
        "scale": case.scale,
        "launches": found.dump(),
    }


def count(which: str) -> list[dict[str, Any]]:
    """One row a case, storage type and direction."""
    quicken()
    rows = []
    for case in cases(which):
        for dtype in case.dtypes:
            torch.manual_seed(0)
            args = case.arguments(DTYPES[dtype])
            with on_a_card((case.segment or {}).get(dtype), case.rows):
                with recording() as found:
                    out, floor = run_forward(case, args)
                rows.append(_row(case, dtype, "forward", floor, found))
                args = backward_arguments(case, args, out)
                with recording() as found:
                    floor = run_backward(case, args)
                rows.append(_row(case, dtype, "backward", floor, found))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", help="all, reduced, or a part of the names of cases")
    json.dump(count(parser.parse_args().which), sys.stdout)
