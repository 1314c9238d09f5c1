"""The gate on every variant: a fault that only one combination of options has is found and named."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from unittest import mock

import pytest
from torch._subclasses.fake_tensor import DataDependentOutputException

pytest.importorskip("triton")
pytest.importorskip("benchmarks.gpu_static.product")
import lyra_kernels as lk
from benchmarks.gpu_static import aot, axes, product, table
from benchmarks.gpu_static.calls import ALIGNED, BOTH, Op, edges
from lyra_kernels.backends.triton import gated_conv, rms_norm, s4d_scan

from . import planted


@pytest.fixture(scope="module")
def compiled():
    """Compiles jobs, in a process whose kernels are not the interpreter's."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        # Only while the process starts: a kernel that this one imports meanwhile would never be interpreted here.
        with mock.patch.dict(os.environ):
            os.environ.pop("TRITON_INTERPRET", None)
            pool.submit(os.getpid).result()
        yield lambda jobs: list(pool.map(aot.compile_job, jobs))


@pytest.fixture
def violations(compiled):
    def find(found, whole=None):
        jobs = product.reduced(found, "sm_90", None) if whole is None else product.jobs(found, ["sm_90"], None)
        return table.compile_violations(compiled(jobs))

    return find


def planted_op(call, aligned=ALIGNED[:1], **names):
    return Op("planted", {**names, "aligned": aligned}, {}, call)


def test_a_combination_that_does_not_compile_is_named(violations):
    flags = {"enter": BOTH, "save": BOTH, "back": BOTH}
    op = planted_op(lambda t, **chosen: planted.renamed(t.activations(16), **chosen), ALIGNED, **flags)
    (message,) = violations(product.variants(op))
    assert message.startswith("_renamed (ENTER=True SAVE=True BACK=") and "does not compile" in message
    assert "reached by planted: training, enter, save" in message
    alone = [v for v in product.variants(op) if not (v.launch.constants["ENTER"] and v.launch.constants["SAVE"])]
    assert not violations(alone)


def test_spills_and_shared_memory_are_named(violations):
    op = planted_op(lambda t, side: planted.crowded(t.activations(side * side + 8), side), side=(16, 64))
    (message,) = violations(product.variants(op))
    assert message.startswith("_crowded (ROWS=8 N=64") and "bytes spilled" in message and "side 64" in message
    assert "for want of registers" in message
    op = planted_op(lambda t, side: planted.product(t.activations(side * side + 1), side), side=(16, 128))
    (message,) = violations(product.variants(op), whole=True)
    assert message.startswith("_product (N=128") and "of shared memory, limit" in message


def test_results_are_remembered_until_something_changes(tmp_path, compiled):
    op = planted_op(lambda t, side: planted.crowded(t.activations(side * side + 8), side), side=(16,))
    work = product.jobs(product.variants(op), ["sm_80"], tmp_path)
    first = compiled(work)
    kept = list(tmp_path.iterdir())
    assert len(kept) == len(work) and not any(found["error"] for found in first)
    for file in kept:
        file.write_text(json.dumps({**json.loads(file.read_text()), "registers": -1}))
    assert all(found["registers"] == -1 for found in compiled(work))
    launch = {**work[0].launch, "num_warps": 4}
    for other in (dataclasses.replace(work[0], arch="sm_90"), dataclasses.replace(work[0], launch=launch)):
        (found,) = compiled([other])
        assert not found["error"] and found["registers"] > 0


def test_sizes_are_those_on_both_sides_of_each_change():
    assert edges(lambda n: n // 10, 25) == (1, 9, 10, 19, 20, 25)
    ops = {op.name: op for op in axes.ops()}
    assert {1, 32, 33, s4d_scan.MAX_MODES} <= set(ops["s4d_conv by scan"].axes["modes"])
    assert {16, 17, 64, 65, 1024} <= set(ops["gated_conv"].axes["channels"])
    assert {width for width, _ in ops["gated_conv"].axes["geometry"]} == set(range(1, gated_conv.MAX_WIDTH + 1))
    assert rms_norm.MAX_CHANNELS in ops["rms_norm"].axes["channels"]
    for op in ops.values():
        for crossed in (op.crossed, op.tiles):
            assert all(set(values) <= set(op.axes[name]) for name, values in crossed.items()), op.name


@pytest.fixture(scope="module")
def scans():
    """Variants of the scan with the axes that the fault of old depended on."""
    op = next(op for op in axes.ops() if op.name == "s4d_conv by scan")
    few = {"stored": ("fp32",), "skip": (True,), "modes": (32,), "channels": (64,), "aligned": ("aligned",)}
    some = {**op.axes, **few, "layout": ("dense",), "rows": ("one", "many")}
    return product.variants(dataclasses.replace(op, axes=some, crossed=some))


def test_the_scan_is_reached_in_every_way(scans):
    found = {
        tuple(v.launch.constants[name] for name in ("HAS_ENTER", "SAVE", "FINAL", "ADJOINT", "PARTS"))
        for v in scans
        if v.launch.kernel == "_scan"
    }
    forward = {(enter, save, final, False, False) for enter in BOTH for save in BOTH for final in BOTH}
    backward = {(enter, False, final, True, False) for enter in BOTH for final in BOTH}
    assert found == forward | backward | {(False, False, False, False, True)}


def test_the_choice_for_one_architecture_is_a_small_part(scans):
    work = product.reduced(scans, "sm_90", None)
    for whole in BOTH:
        assert {job.launch["kernel"] for job in work if job.whole == whole} == {v.launch.kernel for v in scans}
    # The combination that Triton once refused is among what goes through its front end.
    constants = [job.launch["constants"] for job in work if job.launch["kernel"] == "_scan" and not job.whole]
    assert any(c["HAS_ENTER"] and c["SAVE"] for c in constants)


def test_calls_are_told_without_what_is_common():
    op = Op("f", {"stored": ("fp32", "bf16"), "bias": BOTH, "channels": (64, 5), "aligned": ALIGNED}, {}, print)
    row = {"stored": "fp32", "bias": True, "channels": 5, "aligned": "aligned"}
    assert product.describe(op, row, False) == "f: bias, channels 5"
    row = {"stored": "bf16", "bias": False, "channels": 64, "aligned": "nothing aligned"}
    assert product.describe(op, row, True) == "f: training, bf16, channels 64, nothing aligned"


def test_a_grid_beyond_a_card_is_refused():
    op = planted_op(lambda t, rows: planted.tall(t.activations(16), rows), rows=(65_535, 65_536))
    with pytest.raises(ValueError, match=r"planted: training, rows 65536: the grid of _crowded is \(1, 65536\)"):
        product.variants(op)


def test_only_the_reference_may_ask_for_values():
    def packed(t, taps):
        lk.gated_conv(t.activations(1, 9, 8), t.weight(4, 1, taps), **t.lay(2))

    op = Op("planted", {"taps": (gated_conv.MAX_WIDTH, gated_conv.MAX_WIDTH + 2), "layout": ("packed",)}, {}, packed)
    assert {v.launch.constants["K"] for v in product.variants(op) if v.launch.kernel == "_gated_conv"} == {15}
    with pytest.raises(DataDependentOutputException):
        product.variants(planted_op(lambda t: int(t.activations(1))))
