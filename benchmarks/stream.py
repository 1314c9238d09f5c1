"""Bases a second and peak memory of `lyra predict --stream` on the CPU: ``python -m benchmarks.stream``.

Each genome goes from FASTA to a packed table through a causal token model of the size of the paper's, with random
weights, in a process of its own, whose peak memory the system tells. Those that are short enough go through
without --stream, too. Writes results/streams.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lyra import datasets
from lyra.alphabets import DNA
from lyra.data.targets import Targets
from lyra.genomes import predict_stream
from lyra.model_folder import ModelDescription
from lyra.models import LyraForTokenClassification
from lyra.prediction import Predictor
from lyra.prediction_files import predict_file
from lyra.settings import InputOptions

from . import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "streams.md"
LENGTHS = (460_000, 4_600_000)  # made up; the second is a bacterium's
WHOLE = 500_000  # bases up to which it is also measured without --stream
CLASSES = 4
LINE = 70

TEXT = """# Genomes as streams, measured

Written by `{command}` at commit {commit} ({machine}).

From a FASTA file to a packed table of a class per base, through a causal `LyraForTokenClassification.paper`
({parameters:,} parameters, float32, random weights), each in a process of its own with {threads} thread(s). Bases a
second are of the whole way, reading and writing included, the loading of libraries left out. Memory is the most that
the process ever held, libraries included ({empty:,.0f} MiB of it before the genome was opened).

{table}
"""


def genome(path: Path, length: int) -> None:
    """Writes FASTA of random bases."""
    letters = (
        np.frombuffer(b"ACGT", dtype=np.uint8)[np.random.default_rng(0).integers(4, size=length)].tobytes().decode()
    )
    lines = (letters[at : at + LINE] + "\n" for at in range(0, length, LINE))
    path.write_text(f">made up, {length} bases\n{''.join(lines)}")


def model() -> LyraForTokenClassification:
    torch.manual_seed(0)
    return LyraForTokenClassification.paper(len(DNA), CLASSES, causal=True)


def measure(path: str, how: str, threads: int) -> dict[str, Any]:
    """Seconds and the peak memory of this process in bytes, now and before; `how` is "stream" or "whole"."""
    torch.set_num_threads(threads)
    targets = Targets("token", [str(i) for i in range(CLASSES)])
    predictor = Predictor(model(), ModelDescription(DNA, targets))
    before = _peak()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if how == "stream":
            predict_stream(predictor, path, Path(folder) / "out.csv.gz")
        else:
            predict_file(predictor, path, Path(folder) / "out.csv.gz", InputOptions())
        return {"seconds": time.perf_counter() - start, "before": before, "peak": _peak()}


def _peak() -> int:
    """Bytes; Linux's getrusage would count what the process held that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_child(path: Path, how: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stream", "--child", str(path), how, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def table(lengths: Sequence[int], threads: int, shipped: bool = True) -> tuple[list[dict[str, Any]], str]:
    """What was measured, and its rows in Markdown."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        genomes = {}
        if shipped:
            genomes["phage lambda"] = Path(folder) / "lambda.fa"
            genomes["phage lambda"].write_bytes(gzip.decompress(datasets.path("lambda").read_bytes()))
        for length in lengths:
            genomes[f"made up, {length}"] = Path(folder) / f"{length}.fa"
            genome(genomes[f"made up, {length}"], length)
        for name, path in genomes.items():
            bases = sum(len(line) for line in path.read_text().splitlines()[1:])
            for how in ("stream", "whole") if bases <= WHOLE else ("stream",):
                rows.append({"name": name.split(",")[0], "bases": bases, "how": how, **in_child(path, how, threads)})
    lines = ["| genome | bases | | bases a second | peak memory, MiB |", "|---|---|---|---|---|"]
    for row in rows:
        rate, mib = row["bases"] / row["seconds"], row["peak"] / 2**20
        how = "`--stream`" if row["how"] == "stream" else "whole"
        lines.append(f"| {row['name']} | {row['bases']:,} | {how} | {float(f'{rate:.3g}'):,.0f} | {mib:,.0f} |")
    return rows, "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="bases of the genomes made up")
    parser.add_argument("--no-lambda", action="store_true", help="leave the genome of phage lambda out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, metavar=("FASTA", "HOW"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(measure(*given.child, given.threads)))
        return
    rows, text = table(given.lengths, given.threads, not given.no_lambda)
    what = machine.describe()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    given.out.write_text(
        TEXT.format(
            command="python -m benchmarks.stream", commit=commit.strip() or "unknown", threads=given.threads,
            machine=f"{what['processor']}, {what['cores']} cores, {what['kernels']}, torch {torch.__version__}",
            parameters=model().count_parameters(), empty=max(row["before"] for row in rows) / 2**20, table=text,
        )
    )  # fmt: skip
    print(given.out.read_text())


if __name__ == "__main__":
    main()
