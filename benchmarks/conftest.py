"""The device, the threads and the way a case is measured and recorded."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator

import pytest
import torch

from . import cases, timing


@pytest.fixture(scope="session")
def device() -> torch.device:
    """A GPU where there is one, else the CPU; LYRA_BENCH_DEVICE says otherwise."""
    return torch.device(os.environ.get("LYRA_BENCH_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(params=["one", "all"])
def threads(request: pytest.FixtureRequest, device: torch.device) -> Iterator[int]:
    """One thread, then as many as torch would take."""
    before = torch.get_num_threads()
    if request.param == "all" and (device.type != "cpu" or before == 1):
        pytest.skip("the number of threads matters on a CPU with several cores only")
    torch.set_num_threads(1 if request.param == "one" else before)
    yield torch.get_num_threads()
    torch.set_num_threads(before)


@pytest.fixture
def compare(benchmark, device: torch.device) -> Callable[[str, cases.Case, dict[str, cases.Step], int], None]:
    """Times the sides of a case in turn; leaves medians, ratios and spread in pytest-benchmark's record."""

    def run(table: str, case: cases.Case, steps: dict[str, cases.Step], threads: int) -> None:
        times = timing.alternate(steps, device)
        benchmark.group = f"{table}: {case}"
        benchmark.extra_info.update(
            table=table,
            subject=case.subject,
            batch=case.batch,
            length=case.length,
            training=case.training,
            threads=threads,
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            median_ms={name: 1e3 * statistics.median(values) for name, values in times.items()},
            ratio={name: [r.median, r.low, r.high] for name, r in timing.ratios(times, "lyra").items()},
        )
        benchmark.pedantic(steps["lyra"], rounds=3)

    return run


@pytest.fixture
def measure(compare, device: torch.device) -> Callable[[cases.Case, int], None]:
    """Times a case against its opponents."""
    return lambda case, threads: compare("opponents", case, cases.build(case, device), threads)
