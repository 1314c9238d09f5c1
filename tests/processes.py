"""Checks that several processes make together: a module of them is started by `failures`, and calls `run`."""

from __future__ import annotations

import datetime
import importlib
import json
import multiprocessing
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist

Group = dist.ProcessGroup
Checks = Mapping[str, Callable[[Group], None]]


def failures(module: str, folder: Path) -> dict[str, str]:
    """The checks of a module that failed, with what each rank said."""
    command = [sys.executable, "-m", module, str(folder)]
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=root)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "failed.json").read_text())


def _main(checks: Checks, rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60))
    failed = {}
    for name, function in checks.items():
        mine = None
        try:
            function(dist.group.WORLD)
        except BaseException:
            mine = traceback.format_exc()
            print(f"{name}, rank {rank}: {mine}", file=sys.stderr)  # what follows may be out of step, and die
        every: list = [None] * ranks
        dist.all_gather_object(every, mine)
        errors = [f"rank {r}: {error}" for r, error in enumerate(every) if error]
        if errors:
            failed[name] = "\n".join(errors)
    if rank == 0:
        (folder / "failed.json").write_text(json.dumps(failed))
    dist.destroy_process_group()


def run(checks: Checks, ranks: int, *modules: str) -> None:
    """Make the checks in as many processes, and exit.

    Forked before anything runs, so that they import once: modules, what the checks will need.
    """
    for module in modules:
        importlib.import_module(module)
    fork = multiprocessing.get_context("fork")
    folder = Path(sys.argv[1])
    processes = [fork.Process(target=_main, args=(checks, rank, ranks, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
