"""The training of `lyra demo`, timed: data read, model built, then fitted to the last epoch of the recipe.

    python -m benchmarks.gpu.demo FOLDER ROWS EPOCHS

with 0 for all rows or the recipe's epochs. The last line on standard output is the row, as JSON.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import children

Row = dict[str, Any]
TINY = (200, 1)


def run(add: Callable[[Row], None], limit: float, tiny: bool) -> str:
    """Adds the row, or what was trained within the limit; returns the stage's outcome."""
    rows, epochs = TINY if tiny else (0, 0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        status, output = children.run(
            [sys.executable, "-m", "benchmarks.gpu.demo", str(out), str(rows), str(epochs)], limit
        )
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        if status == 0:
            for name, value in json.loads(lines[-1]).items():
                add({"stage": "demo", "name": name, "value": value})
            return "finished"
        if status is None:
            add({"stage": "demo", "name": "seconds of training", "value": "none", "failed": reached(out, limit)})
            return f"stopped by its limit of {limit:.0f} s"
        add(
            {
                "stage": "demo",
                "name": "seconds of training",
                "value": "none",
                "failed": lines[-1][:200] if lines else "",
            }
        )
        return f"failed: status {status}"


def reached(out: Path, limit: float) -> str:
    """How far a training came that was ended."""
    history = out / "history.csv"
    if not history.exists():
        return f"no epoch was through within {limit:.0f} s"
    with open(history, newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return f"ended by the limit of {limit:.0f} s after {last['epoch']} epochs in {last['seconds']} s of training"


def main(out: Path, rows: int, epochs: int) -> None:
    import gzip

    from lyra.data import DataOptions
    from lyra.datasets import GB1_OFFSET, GB1_WILD_TYPE, path
    from lyra.training import Hardware, Recipe, train

    data = path("gb1")
    if rows:
        out.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(data, "rt") as file:
            part = [line for _, line in zip(range(rows + 1), file, strict=False)]
        data = out.parent / "part.csv"
        data.write_text("".join(part))
    options = DataOptions(wild_type=GB1_WILD_TYPE, offset=GB1_OFFSET)
    recipe = Recipe(epochs=epochs or None, mix="none")  # the simpler models of the mix are fitted by the CPU
    results = train(data, out, options, recipe, Hardware())
    assert results is not None
    print(json.dumps({
        "seconds of training": round(sum(network.seconds for network in results.networks), 1),
        "epochs": sum(network.epochs for network in results.networks),
        "R² on the test part": round(results.scores.get("test", {}).get("r2") or float("nan"), 4),
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
