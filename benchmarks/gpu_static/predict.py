"""``python -m benchmarks.gpu_static.time_model``: predicted times, and whether the model may be believed.

Without options: predicts every row for the kernels of this checkout and writes benchmarks/results/gpu_predicted.json
and gpu_model.md. ``--check`` predicts the measured launches (:mod:`.calibration`) beside their times, and fails unless
the model explains them. ``--fit`` finds the parameters anew. ``--detail OP`` lists the launches of an op one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import triton

from . import calibration, fit, model_page, rows, time_model

RESULTS = Path(__file__).parent.parent / "results"


def check(file: Path) -> int:
    """Print every calibrated row; 1 unless the model explains them."""
    found = _calibrated(file)
    for p in found:
        print(p)
    for name, value in fit.statistics(found).items():
        print(f"{name}: {value}")
    predicted = {p.row for p in found}
    if missing := [str(row) for row in calibration.measured() if row not in predicted]:
        print(f"measured, but their launches are not frozen: {', '.join(missing)}")
    failures = fit.failures(found)
    for p in failures:
        print(f"not explained: {p}", file=sys.stderr)
    return 1 if failures else 0


def _calibrated(file: Path, what: str = "ops") -> list[fit.Prediction]:
    measured = calibration.measured(what)
    launched = calibration.read(file)
    return fit.predict({row: launched[row] for row in measured if row in launched}, measured)


def refit(file: Path) -> int:
    """Print parameters found anew, and what they explain; for someone to write them down."""
    measured, launched = calibration.measured(), calibration.read(file)
    launched = {row: launched[row] for row in measured if row in launched}
    card = fit.fit(launched, measured, time_model.H200)
    for name, value in fit.statistics(fit.predict(launched, measured, card)).items():
        print(f"{name}: {value}")
    print(card)
    return 0


def detail(op: str) -> int:
    """Print the launches of an op's rows."""
    if op not in rows.OPS:
        print(f"no op {op}: there are {', '.join(rows.OPS)}", file=sys.stderr)
        return 2
    for row, parts in calibration.present(r for r in rows.rows() if r.op == op).items():
        print(f"{row}: {time_model.total(parts)[0]:.1f} us")
        for e in time_model.estimate(parts):
            print(f"   {e}")
    return 0


def write(file: Path) -> int:
    """Predict the kernels of this checkout, and write both files."""
    started = time.perf_counter()
    launched = calibration.present(rows.rows())
    compiled = time.perf_counter()
    present = fit.predict(launched, {})
    done = time.perf_counter()
    entries = [
        {
            "op": p.row.op,
            "shape": list(p.row.shape),
            "dtype": p.row.dtype,
            "direction": p.row.direction,
            "us": round(p.us, 2),
            "bound": p.bound,
        }
        for p in present
    ]
    lines = ",\n".join(json.dumps(e) for e in entries)
    (RESULTS / "gpu_predicted.json").write_text(f"[\n{lines}\n]\n")
    layers = fit.predict(calibration.present(rows.layer_rows()), {})
    page = model_page.page(present, layers, _calibrated(file), _calibrated(file, "layers"), triton.__version__)
    (RESULTS / "gpu_model.md").write_text(page)
    times = f"recorded and compiled in {compiled - started:.0f} s, simulated in {done - compiled:.0f} s"
    print(f"{len(present)} rows: {times}")
    return 0


def main() -> int:
    """Run; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="the measured rows, predicted beside measured")
    parser.add_argument("--fit", action="store_true", help="find the parameters anew, on half of the measured rows")
    parser.add_argument("--detail", metavar="OP", help="the launches of an op, one by one")
    parser.add_argument("--launches", type=Path, default=calibration.LAUNCHES, help="other frozen launches")
    options = parser.parse_args()
    if options.detail:
        return detail(options.detail)
    if options.check:
        return check(options.launches)
    return refit(options.launches) if options.fit else write(options.launches)
