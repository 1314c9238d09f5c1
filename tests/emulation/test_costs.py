"""What the kernels cost: bytes, sectors and bank conflicts, counted on small sizes; limits of benchmarks/gpu_static."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.gpu_static import cuda_rows
from build_cuda import Usage
from emulation.build import emulation


@pytest.fixture(scope="module")
def counted():
    return cuda_rows.traffic(reduced=True)


def test_limits(counted):
    assert cuda_rows.problems(counted) == []


def test_no_bank_conflict_in_the_scan(counted):
    scan = [row for row in counted if row["op"].startswith("s4d_scan") and row["kernel"]]
    assert len({row["kernel"] for row in scan}) == 7
    assert [place for row in scan for place in row["places"] if place["shared"]] == []


def test_a_limit_that_is_passed_is_told():
    row = {
        "op": "s4d_scan_backward",
        "size": "tiny",
        "kernel": "",
        "ratio": 2.6,
        "sectors_used": 0.8,
        "conflicts": 0.02,
    }
    said = cuda_rows.problems([row])
    assert [line.split(": ")[1] for line in said] == [
        "moves 2.60 times the floor, more than 2.5",
        "uses 80% of the sectors it touches",
        "2.0% of its shared-memory wavefronts are bank conflicts",
    ]


def test_an_instance_that_passes_a_limit_is_told():
    good = [Usage("kernel<float, 4>", a, 32, 0, 0, 0, 2048) for a in ("sm_80", "sm_90")]
    rare = [replace(u, kernel="kernel<double, 8>") for u in good]
    assert cuda_rows.instance_problems([*good, *rare]) == []
    spilled = replace(rare[1], spill_stores=4, stack=8)
    assert cuda_rows.instance_problems([*good, rare[0], spilled]) == [
        "kernel<double, 8>: spills 4 bytes, stack 8 on sm_90"
    ]
    assert cuda_rows.instance_problems([*good, replace(rare[0], shared=50_000)]) == [
        "kernel<double, 8>: 50000 bytes of static shared memory on sm_80",
        "kernel<double, 8>: no code for sm_90",
    ]


def test_an_instruction_is_traced_to_its_line():
    machine = emulation("monitor")
    found = cuda_rows.traffic(only="gated_conv_backward", reduced=True)
    place = next(p for row in found for p in row.get("places", []) if p["name"] == "dconv_weight")
    assert place["store"] and not place["shared"] and place["moved"] > place["least"]
    assert "gated_conv_backward.cu:" in place["line"], machine.path
