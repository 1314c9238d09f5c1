"""The gate on every variant: a fault that only one combination of options has is found and named."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json

import pytest
import torch

pytest.importorskip("triton")
pytest.importorskip("benchmarks.gpu_static.product")
from benchmarks.gpu_static import aot, axes, cover, product, table
from benchmarks.gpu_static.calls import ALIGNED, BOTH, Op, edges
from benchmarks.gpu_static.record import Launch
from lyra_kernels.triton import gated_conv, rms_norm, s4d_scan

from . import planted


def violations(found, cache=None, whole=None):
    jobs = product.reduced(found, "sm_90", cache) if whole is None else product.jobs(found, ["sm_90"], cache)
    return table.compile_violations([aot.compile_job(job) for job in jobs])


def planted_op(call, **names):
    return Op("planted", {**names, "aligned": ALIGNED}, {}, call)


def test_a_combination_that_does_not_compile_is_named():
    op = planted_op(lambda t, **flags: planted.renamed(t.activations(16), **flags), enter=BOTH, save=BOTH, back=BOTH)
    (message,) = violations(product.variants(op))
    assert message.startswith("_renamed (ENTER=True SAVE=True BACK=") and "does not compile" in message
    assert "reached by planted: training, enter, save" in message
    alone = [v for v in product.variants(op) if not (v.launch.constants["ENTER"] and v.launch.constants["SAVE"])]
    assert not violations(alone)


def test_spills_and_shared_memory_are_named():
    op = planted_op(lambda t, side: planted.crowded(t.activations(side * side + 8), side), side=(16, 128))
    (message,) = violations(product.variants(op))
    assert message.startswith("_crowded (ROWS=8 N=128") and "bytes spilled" in message and "side 128" in message
    op = planted_op(lambda t, side: planted.product(t.activations(side, side), side), side=(16, 256))
    (message,) = violations(product.variants(op), whole=True)
    assert message.startswith("_product (N=256") and "of shared memory, limit" in message


def test_results_are_remembered_until_something_changes(tmp_path, monkeypatch):
    op = planted_op(lambda t, side: planted.crowded(t.activations(side * side + 8), side), side=(16,))
    work = product.jobs(product.variants(op), ["sm_80"], tmp_path)
    first = [aot.compile_job(job) for job in work]
    compiled = []
    compile_launch = aot.compile_launch
    monkeypatch.setattr(aot, "compile_launch", lambda *a: compiled.append(a) or compile_launch(*a))
    # JSON has no tuples.
    assert [aot.compile_job(job) for job in work] == json.loads(json.dumps(first)) and not compiled
    other = dataclasses.replace(work[0], arch="sm_90")
    assert not aot.compile_job(other)["error"] and len(compiled) == 1
    launch = {**work[0].launch, "num_warps": 4}
    assert not aot.compile_job(dataclasses.replace(work[0], launch=launch))["error"] and len(compiled) == 2


def test_sizes_are_those_on_both_sides_of_each_change():
    assert edges(lambda n: n // 10, 25) == (1, 9, 10, 19, 20, 25)
    ops = {op.name: op for op in axes.ops()}
    assert {1, 32, 33, s4d_scan.MAX_MODES} <= set(ops["s4d_conv by scan"].axes["modes"])
    assert {16, 17, 64, 65, 1024} <= set(ops["gated_conv"].axes["channels"])
    assert {width for width, _ in ops["gated_conv"].axes["geometry"]} == set(range(1, gated_conv.MAX_WIDTH + 1))
    assert rms_norm.MAX_CHANNELS in ops["rms_norm"].axes["channels"]
    for op in ops.values():
        assert all(set(values) <= set(op.axes[name]) for name, values in op.crossed.items()), op.name


@pytest.fixture(scope="module")
def scans():
    """Variants of the scan with the axes that the fault of old depended on."""
    op = next(op for op in axes.ops() if op.name == "s4d_conv by scan")
    few = {"stored": ("fp32",), "skip": (True,), "modes": (32,), "channels": (64,), "aligned": ("aligned",)}
    some = {**op.axes, **few, "layout": ("dense",), "rows": ("one", "many")}
    return product.variants(dataclasses.replace(op, axes=some, crossed=some))


def test_the_scan_is_reached_in_every_way(scans):
    found = {
        tuple(v.launch.constants[name] for name in ("ENTER", "SAVE", "FINAL", "ADJOINT", "PARTS"))
        for v in scans
        if v.launch.kernel == "_scan"
    }
    forward = {(enter, save, final, False, False) for enter in BOTH for save in BOTH for final in BOTH}
    backward = {(enter, False, final, True, False) for enter in BOTH for final in BOTH}
    assert found == forward | backward | {(False, False, False, False, True)}


def test_recorded_the_same_in_another_process(scans):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=__import__("multiprocessing").get_context("spawn")) as p:
        found = p.submit(product.variants, dataclasses.replace(axes.ops()[-1], call=axes.run_rms_norm)).result()
    assert {v.launch.identity() for v in found} == {v.launch.identity() for v in product.variants(axes.ops()[-1])}


def test_the_choice_for_one_architecture_is_a_small_part(scans):
    work = product.reduced(scans, "sm_90", None)
    kernels = {v.launch.kernel for v in scans}
    assert {job.launch["kernel"] for job in work if job.whole} == kernels
    assert {job.launch["kernel"] for job in work if not job.whole} == kernels
    assert len(work) < len(scans)
    assert cover.choose([v.front_end for v in scans], 3)
    assert isinstance(scans[0].launch, Launch) and torch.float32 is torch.float32
