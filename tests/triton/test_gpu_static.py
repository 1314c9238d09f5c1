"""The gate of benchmarks.gpu_static: what it counts is right, and it fails where a limit is passed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("benchmarks.gpu_static.table")
from benchmarks.gpu_static import cases, table
from benchmarks.gpu_static.record import recording
from lyra_kernels.backends.triton import IMPLEMENTATIONS


@pytest.mark.interpreter
def test_bytes_of_rms_norm():
    x, weight = torch.randn(64, 64), torch.randn(64)
    with recording() as found:
        IMPLEMENTATIONS["rms_norm"](x, weight, 1e-8)
    (launch,) = found.launches
    assert launch.kernel == "_rms_norm" and launch.stored == 64 * 64 * 4
    assert launch.loaded == (64 * 64 + 64) * 4
    assert launch.signature["x_ptr"] == "*fp32" and launch.signature["num_rows"] == "i32"
    assert (
        "C" in launch.divisible and "num_rows" not in launch.divisible
    )  # for which there is one kernel, whatever they are


@pytest.mark.interpreter
def test_products_of_gelu_glu():
    y, weight = torch.randn(1, 64, 32), torch.randn(64, 32)
    with recording() as found:
        IMPLEMENTATIONS["gelu_glu"](y, weight, None, None, None, None, None)
    assert found.launches[0].product_flops == 2 * 64 * 32 * 64


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_by_type_of_operands(dtype):
    a = torch.randn(1, 32, 1).to(dtype)
    args = [a, *(p[:1] for p in cases.spectrum(1, 32)[:3]), torch.randn(1, 1, 32, 2), None, None, None, None]
    with recording() as found:
        IMPLEMENTATIONS["s4d_scan"](*args, False)
    (scan,) = (x for x in found.launches if x.kernel == "_scan")
    product = 2 * 16 * 32 * 32
    halves = {torch.float32: 0, torch.float16: 9, torch.bfloat16: 10}[dtype]  # with those of the last state
    assert (scan.product_flops, scan.half_flops) == ((2 if halves else 7) * product, halves * product)


@pytest.mark.interpreter
def test_bytes_of_a_short_scan():
    """What a program of 16 rows reads beside its activations must not weigh as much as they do."""
    u = torch.randn(16, 128, 1).bfloat16()
    args = [u, *(p[:1] for p in cases.spectrum(1, 32)[:3]), torch.randn(1, 1, 32, 2), torch.randn(1), None, None, None]
    with recording() as forward:
        y, state, _ = IMPLEMENTATIONS["s4d_scan"](*args, False)
    checkpoints = IMPLEMENTATIONS["s4d_scan"](*args, True)[2]
    with recording() as backward:
        gradients = IMPLEMENTATIONS["s4d_scan_backward"](y, None, *args, checkpoints)
    for found, tensors in ((forward, [*args, y, state]), (backward, [*args, y, checkpoints, *gradients])):
        row = {"launches": found.dump(), "floor": cases.size(tensors)}
        assert table.ratio(row) < 2.0


def _compiled(**changes):
    good = {"kernel": "_scan", "variant": "", "arch": "sm_80", "error": "", "whole": True, "types": ["*fp32"],
            "registers": 90, "spills": 0, "stack": 0, "forced": 0, "shared": 50_000, "matrix_instructions": 8,
            "matrix_kinds": ("mma",)}  # fmt: skip
    return {**good, **changes}


@pytest.mark.parametrize(
    "changes",
    [{"spills": 4}, {"stack": 8}, {"shared": 101_377}, {"matrix_instructions": 0}, {"error": "no"},
     {"arch": "gfx942", "error": "no"}, {"types": ["*bf16", "*fp32"]}, {"whole": False, "error": "no"}],
)  # fmt: skip
def test_a_limit_passed_is_found(changes):
    assert not table.compile_violations([_compiled()])
    assert len(table.compile_violations([_compiled(**changes)])) == 1


def test_variants_that_pass_the_same_limit_are_told_together():
    some = [_compiled(spills=n, forced=n, variant=v) for n, v in ((4, "(T=32; reached by a long call)"), (8, "(T=16)"))]
    some.append({**_compiled(), "kernel": "_tables", "error": "no", "whole": False})
    assert table.compile_violations(some) == [
        "_scan (T=16) on sm_80: 8 bytes spilled, 0 bytes of stack, for want of registers (and 1 more)",
        "_tables  on sm_80: does not compile: no",
    ]
    assert [(c["kernel"], c["variants"], c["failed"], c["spills"]) for c in table.summary(some)] == [
        ("_scan", 2, 0, 8),
        ("_tables", 0, 1, 0),
    ]


def test_a_spill_says_whose_fault_it_is():
    """Each kind is told, however many there are of the other."""
    chosen, forced = table.compile_violations([_compiled(spills=4), _compiled(spills=4, forced=4), _compiled(spills=2)])
    assert chosen.endswith("by ptxas's choice (and 1 more)") and forced.endswith("for want of registers")


def test_a_page_of_compiled_kernels_alone():
    page = table.report([], [_compiled()], [], " --every")
    assert "gpu_static --every`" in page and "All of it was taken to machine code" in page and "## Bytes" not in page
    assert "took 1 variants" in table.report([], [_compiled(), _compiled(whole=False)], [])


def test_bytes_over_the_floor_are_found():
    row = {"case": "x", "direction": "forward", "dtype": "fp32", "floor": 100, "limit": 1.15,
           "launches": [{"loaded": 60, "stored": 60}]}  # fmt: skip
    assert table.byte_violations([row]) and not table.byte_violations([{**row, "floor": 110}])
    assert not table.byte_violations([{**row, "limit": None}])
