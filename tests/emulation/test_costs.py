"""What the kernels cost: bytes, sectors and bank conflicts, counted on small sizes; limits of benchmarks/gpu_static."""

from __future__ import annotations

import pytest

from benchmarks.gpu_static import cuda_rows

from .build import emulation


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
    spilled = {"op": "x", "size": "", "kernel": "k", "sm_80": {"spills": 4, "stack": 8}}
    said = cuda_rows.problems([row, spilled])
    assert [line.split(": ")[1] for line in said] == [
        "moves 2.60 times the floor, more than 2.5",
        "uses 80% of the sectors it touches",
        "2.0% of its shared-memory wavefronts are bank conflicts",
        "spills 4 bytes, stack 8 on sm_80",
    ]


def test_an_instruction_is_traced_to_its_line():
    machine = emulation("monitor")
    found = cuda_rows.traffic(only="gated_conv_backward", reduced=True)
    place = next(p for row in found for p in row.get("places", []) if p["name"] == "dconv_weight")
    assert place["store"] and not place["shared"] and place["moved"] > place["least"]
    assert "gated_conv_backward.cu:" in place["line"], machine.path
