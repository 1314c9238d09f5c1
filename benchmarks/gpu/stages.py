"""The stages of a run in the order of their weight, each with its share of the time that is left."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import build, demo, page, results, sanitizer, suite, timed, warm
from .cards import Card
from .measure import one_line
from .results import Journal

Row = dict[str, Any]
# Seconds that a stage would take, as seen on an H200 beside 16 cores. What one leaves goes to those behind it; what is
# cut off, the next run begins with.
SHARES = {
    "environment": 10, "build": 90, "tests": 110, "warm-up": 60, "ops": 120, "layers": 130, "sanitizer": 50,
    "host": 25, "demo": 100,
}  # fmt: skip
CROWDED = ("tests", "warm-up", "sanitizer")  # many processes share the card
DRY_SANITIZED = ("rms_norm",)
DRY_TESTS = ("tests/ops/test_backends.py",)


@dataclass
class Run:
    """One run: what it measures, where it writes, and until when.

    Attributes:
        seconds: for all stages together.
        folder: of the results.
        stamp: commit and date, of every row.
        only: the stages to run.
    """

    card: Card
    folder: Path
    seconds: float
    stamp: Row
    only: tuple[str, ...] = tuple(SHARES)
    processes: int = max(1, (os.cpu_count() or 1) - 2)

    def __post_init__(self) -> None:
        self.slug = results.slug(self.card.name)
        self.tiny = self.card.kind == "cpu"
        self.log = self.folder / f"{self.slug}.log"
        self.journal = Journal(self.folder / f"{self.slug}.jsonl", self.stamp)
        self.scratch = tempfile.TemporaryDirectory(prefix="lyra-gpu-")
        self.timer = timed.Timer(self.card.kind, self.log, self.journal.add)
        self.old = results.load(self.file)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.slug}.json"

    def go(self) -> None:
        """All stages; the results are written after each, and also when one is broken off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.recover()
        self.log.write_text("")
        deadline = time.monotonic() + self.seconds
        waiting = [name for name in SHARES if name in self.only]
        try:
            while waiting:
                left = max(0.0, deadline - time.monotonic())
                limit = left * SHARES[waiting[0]] / sum(SHARES[name] for name in waiting)
                self.stage(waiting.pop(0), limit)
        finally:
            self.timer.close()
            self.scratch.cleanup()
            self.write()
            self.journal.path.unlink(missing_ok=True)  # only now: what is in it is in the results

    def recover(self) -> None:
        """Takes over the journal of a run that was killed before it could write its results."""
        if self.journal.path.exists():
            self.write()
            self.journal.path.unlink()
            self.old = results.load(self.file)

    def stage(self, name: str, limit: float) -> None:
        """Runs a stage; what it raises ends that stage only, unless it is meant to end the run."""
        start = time.monotonic()
        print(f"{name}: up to {limit:.0f} s", flush=True)
        outcome = "interrupted"
        try:
            with self.choices(name):
                outcome = getattr(self, "_" + name.replace("-", "_"))(limit)
        except Exception as error:
            outcome = f"failed: {one_line(error)}"
        finally:
            spent = round(time.monotonic() - start, 1)
            self.journal.add({"stage": name, "name": "stage", "outcome": outcome, "seconds": spent})
            self.write()
            print(f"{name}: {outcome}, {spent} s", flush=True)

    @contextmanager
    def choices(self, name: str) -> Iterator[None]:
        """Where kernels that choose their configuration by timing keep the choice: in this run, for its stages.

        What many processes found at once on a crowded card would spoil the times, and later the user's.
        """
        before = os.environ.get("LYRA_CACHE")
        os.environ["LYRA_CACHE"] = os.path.join(self.scratch.name, "crowded" if name in CROWDED else "alone")
        try:
            yield
        finally:
            os.environ.pop("LYRA_CACHE")
            if before is not None:
                os.environ["LYRA_CACHE"] = before

    def write(self) -> None:
        """Makes the JSON and the page from the old rows and the journal."""
        rows = results.merge(self.old, self.journal.rows())
        results.replace(self.file, results.dump(self.card.name, rows))
        try:
            text = page.render(self.card.name, rows)
        except Exception as error:  # a row that the page cannot show must not end the run
            text = (
                f"# {self.card.name}\n\nThis page could not be made: {one_line(error)}. The JSON beside it is whole.\n"
            )
            print(text, file=sys.stderr)
        results.replace(self.file.with_suffix(".md"), text)

    def _cases(self, module: str, limit: float) -> str:
        name = f"benchmarks.gpu.{module}"
        specs = self.missing_first(importlib.import_module(name).specs(self.tiny))
        return self.timer.cases([{"module": name, **spec} for spec in specs], limit)

    def missing_first(self, specs: list[Row]) -> list[Row]:
        """The specs in their order, but first those without results, then those with results of other commits."""
        return sorted(specs, key=lambda spec: timed.state(spec, self.old, self.stamp["commit"]))

    def _environment(self, limit: float) -> str:
        return self._cases("environment", limit)

    def _ops(self, limit: float) -> str:
        return self._cases("ops", limit)

    def _layers(self, limit: float) -> str:
        return self._cases("layers", limit)

    def _host(self, limit: float) -> str:
        return self._cases("host", limit)

    def _build(self, limit: float) -> str:
        if self.tiny:
            return "skipped: a dry run builds nothing"
        self.timer.close()  # it may have loaded a library without CUDA
        architecture = ".".join(map(str, torch.cuda.get_device_capability()))
        return build.build(self.journal.add, limit, architecture, self.log)

    def _tests(self, limit: float) -> str:
        if self.tiny:
            return suite.run(self.journal, limit, self.log, 1, DRY_TESTS)
        return suite.run(self.journal, limit, self.log, self.processes)

    def _warm_up(self, limit: float) -> str:
        specs = warm.specs(self.missing_first(warm.timed_specs(self.tiny)))
        return warm.warm_up(self.card.kind, specs, limit, self.log, 1 if self.tiny else self.processes)

    def _sanitizer(self, limit: float) -> str:
        less = {"names": DRY_SANITIZED, "tools": sanitizer.TOOLS[:1]} if self.tiny else {}
        # Asked in a fresh process: the build may have come after this one has looked.
        works = [name for name in self.card.candidates if name != "cuda" or build.available(build.children.run)[0]]
        return sanitizer.run(self.journal.add, self.card.kind, works, limit, self.processes, **less)

    def _demo(self, limit: float) -> str:
        return demo.run(self.journal.add, limit, self.tiny)
