"""Counts and compiles every Triton and CUDA C++ kernel without a GPU; fails where a limit is passed.

``python -m benchmarks.gpu_static`` counts what the kernels move, takes every variant that a call of the public
functions reaches (see :mod:`.product`) through Triton's front end and a chosen part of them to machine code for every
architecture, and writes benchmarks/results/gpu_static.md and .json; what was compiled before is remembered in
build/gpu_static. ``--every`` takes all of them to machine code and counts nothing: 1.5 hours on two cores for one of
``--architectures``; benchmarks/results/gpu_static_every.md. ``--reduced`` counts the main cases, compiles their
launches for gfx942 and a smaller part of the variants for sm_90, but for what is in results/gpu_static_reduced.json as
it is, see :mod:`.recorded`; it writes nothing, with ``--record`` that file;
``--cuda`` has the CUDA C++ kernels only, in benchmarks/results/gpu_static_cuda.md, which ``--reduced`` leaves to
tests/emulation.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import aot, product, recorded, table

RESULTS = Path(__file__).parent.parent / "results"
CACHE = Path(__file__).parents[2] / "build" / "gpu_static" / "triton"


def count(which: str) -> list[dict[str, Any]]:
    """The launches of all cases, from a process where Triton interprets."""
    command = [sys.executable, "-m", "benchmarks.gpu_static.count", which]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def found_by(
    pool: concurrent.futures.Executor, reduced: bool, only: str
) -> tuple[list[dict[str, Any]], list[product.Variant]]:
    """What :func:`count` finds, and every variant, both at the same time."""
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        rows = beside.submit(count, only or ("reduced" if reduced else "all"))
        found = product.every_variant(pool, only, tiles=not reduced)
        return rows.result(), found


def jobs(rows: list[dict[str, Any]], architectures: tuple[str, ...]) -> list[aot.Job]:
    """Every distinct launch on every architecture, with what tells it apart."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for row in rows:
        for launch in row["launches"]:
            decides = ("module", "kernel", "signature", "constants", "divisible", "num_warps", "num_stages")
            key = json.dumps({k: launch[k] for k in decides}, sort_keys=True)
            sizes = " ".join(f"{k}={v}" for k, v in launch["constants"].items() if len(k) <= 7 and _tells(v))
            found.setdefault(key, (launch, f"{row['case']} {row['dtype']} {row['direction']}: {sizes}"))
    return [
        aot.Job(launch, variant, arch, True, CACHE)
        for launch, variant in found.values()
        for arch in architectures
        if aot.runs_on(launch["kernel"], launch["constants"], arch)
    ]


def _dump(lists: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with a line for each entry."""
    entries = (f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, some)) + "\n]" for name, some in lists.items())
    return "{" + ",\n".join(entries) + "}\n"


def _tells(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def cuda() -> int:
    """The CUDA C++ kernels: counts, resources, page."""
    from . import cuda_rows

    return cuda_rows.main(["--check", "--page", str(RESULTS / "gpu_static_cuda.md")])


def main() -> int:
    """Run; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--reduced", action="store_true", help="the main cases, and some variants on sm_90")
    part.add_argument("--every", action="store_true", help="all variants to machine code: hours; nothing else")
    parser.add_argument("--record", action="store_true", help="with --reduced: compile all of it, and keep the results")
    part.add_argument("--cuda", action="store_true", help="only the CUDA C++ kernels")
    parser.add_argument("--only", default="", help="cases and functions whose name contains this; nothing is written")
    parser.add_argument("--architectures", nargs="+", default=aot.ARCHITECTURES, choices=aot.ARCHITECTURES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")
    options = parser.parse_args()
    if options.record and (options.only or not options.reduced):
        parser.error("--record goes with --reduced, and without --only")
    if options.cuda:
        return cuda()
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        if options.every:
            rows, found = [], product.every_variant(pool, options.only)
        else:
            rows, found = found_by(pool, options.reduced, options.only)
        print(f"{len(found)} variants, recorded after {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if options.reduced:
            work = [*jobs(rows, ("gfx942",)), *product.reduced(found, "sm_90", CACHE)]
        else:
            select = product.jobs if options.every else product.most
            work = select(found, options.architectures, CACHE)
        known = options.reduced and not options.record
        compiled = list(pool.map(recorded.compile_job if known else aot.compile_job, work, chunksize=4))
    violations = table.byte_violations(rows) + table.compile_violations(compiled) + recorded.differences(work, compiled)
    page = table.report(rows, compiled, violations, " ".join(("", *sys.argv[1:])))
    print(page)
    whole = sum(c["whole"] for c in compiled)
    as_recorded = sum(c.get("recorded", False) for c in compiled)
    print(f"{whole} kernels compiled, {len(compiled) - whole} more checked by the front end, {as_recorded} of them all "
          f"as recorded, in {time.perf_counter() - started:.0f} s; {len(violations)} limits passed")  # fmt: skip
    if options.record and not violations:
        recorded.write(compiled)
    if options.every and not options.only:
        (RESULTS / "gpu_static_every.md").write_text(page)
    elif not options.reduced and not options.only:
        (RESULTS / "gpu_static.md").write_text(page)
        (RESULTS / "gpu_static.json").write_text(_dump({"rows": rows, "kernels": table.summary(compiled)}))
    for violation in violations:
        print(violation, file=sys.stderr)
    failed = bool(violations)
    if not options.reduced and not options.every:
        failed |= cuda() != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
