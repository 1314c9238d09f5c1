"""The Triton kernels on a GPU, one by one, beside what the static model predicts for that card."""

import pytest

from lyra_kernels import backends

from . import timing
from .gpu_static import cases, measured

CASES = [
    (case, dtype, direction)
    for case in cases.MEASURED
    for dtype in case.dtypes
    for direction in ("forward", "backward")
]


@pytest.mark.parametrize(("case", "dtype", "direction"), CASES, ids=lambda x: getattr(x, "name", x))
def test_kernel(case, dtype, direction, gpu, benchmark):
    works, reason = backends.availability()["triton"]
    if not works:
        pytest.skip(reason)
    step = measured.steps(case, dtype, gpu.device)[direction]
    graph = measured.captured(step)
    watch = timing.Stopwatch(gpu.device)
    benchmark.group = f"{case.name}-{dtype}-{direction}"
    benchmark.extra_info.update(measured.measure(case, dtype, direction, step, graph, watch, gpu.name))
    benchmark.pedantic(step, rounds=3)
