"""What the last ``--reduced --record`` found, kept with the repository: a variant is compiled again where it changed.

A result stands under a hash of all that it depends on: the kernel's source and what it calls, its constants, types and
options, Triton's own source and its assembler's. So the file is never out of date: what has changed is not found in it.
AMD's options name files of the installation: its kernels are compiled anew in every other place.
Some of what is found is compiled all the same, other ones each time, and has to come out as it is written.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import aot

FILE = Path(__file__).parent.parent / "results" / "gpu_static_reduced.json"
SAMPLE = 4
"""Recorded results that a run compiles again."""


@functools.cache
def read(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """Results by hash; none where there is no file."""
    return json.loads(file.read_text()) if file.exists() else {}


def compile_job(job: aot.Job) -> dict[str, Any]:
    """As :func:`.aot.compile_job`; what is recorded is not compiled."""
    try:
        key = job.key()
    except Exception:  # what is wrong with it is told there
        return aot.compile_job(job)
    if key not in read():
        return aot.compile_job(job)
    return {**job.known, **read()[key], "key": key, "recorded": True}


def write(compiled: Sequence[dict[str, Any]], file: Path = FILE) -> None:
    """Keep the results of a run: all that it compiled, and nothing else."""
    fields = [field.name for field in dataclasses.fields(aot.Compiled)]
    kept = {c["key"]: {name: c[name] for name in fields if name in c} if c["whole"] else {} for c in compiled}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(kept[key])}" for key in sorted(kept))
    file.write_text("{\n" + lines + "\n}\n")


def differences(work: Sequence[aot.Job], compiled: Sequence[dict[str, Any]], count: int = SAMPLE) -> list[str]:
    """Recorded results that another compilation does not confirm.

    Args:
        work: what was asked for; compiled: what was found, in the same order.
        count: how many are compiled again, drawn at random.
    """
    known = [(job, found) for job, found in zip(work, compiled, strict=True) if found.get("recorded") and job.whole]
    wrong = []
    for job, found in random.sample(known, min(count, len(known))):
        again = dataclasses.asdict(aot.compile_launch(job.launch, job.arch))
        differ = [name for name in again if _plain(again[name]) != _plain(found[name])]
        if differ:
            told = ", ".join(f"{name} {found[name]}, now {again[name]}" for name in differ)
            wrong.append(f"{found['kernel']} {job.variant} on {job.arch}: recorded with {told}")
    return wrong


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
