"""Recorded results of the gate: they serve what has not changed, and are found out where they are wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from benchmarks.gpu_static import aot, recorded, table

LAUNCH = {
    "module": "lyra_kernels.backends.triton.rms_norm",
    "kernel": "_rms_norm",
    "signature": {"x_ptr": "*fp32", "weight_ptr": "*fp32", "residual_ptr": "constexpr", "y_ptr": "*fp32",
                  "num_rows": "i32", "C": "i32", "eps": "fp32", "HAS_WEIGHT": "constexpr",
                  "HAS_RESIDUAL": "constexpr", "BLOCK_R": "constexpr", "BLOCK_C": "constexpr"},
    "constants": {"residual_ptr": None, "HAS_WEIGHT": True, "HAS_RESIDUAL": False, "BLOCK_R": 16, "BLOCK_C": 16},
    "divisible": ["x_ptr", "weight_ptr", "y_ptr"],
    "num_warps": 1,
    "num_stages": 1,
}  # fmt: skip
JOB = aot.Job(LAUNCH, "a variant", "sm_90")
RESULT = {"arch": "sm_90", "registers": 40, "spills": 0, "stack": 0, "shared": 0, "matrix_instructions": 0,
          "matrix_kinds": [], "forced": 0}  # fmt: skip


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """The interpreter's kernels have none."""
    monkeypatch.setattr(aot.Job, "key", lambda job: repr((job.launch, job.arch, job.whole)))


@pytest.fixture
def results(monkeypatch):
    """What is recorded, which a test may change."""
    known: dict = {}
    monkeypatch.setattr(recorded, "read", lambda: known)
    return known


@pytest.fixture
def compiled(monkeypatch):
    """How often something is compiled; the result is `RESULT`."""
    calls: list = []

    def compile_launch(launch, arch):
        calls.append(launch)
        return aot.Compiled(**{**RESULT, "matrix_kinds": ()})

    monkeypatch.setattr(aot, "compile_launch", compile_launch)
    return calls


def test_what_is_recorded_is_not_compiled(results, compiled):
    results[JOB.key()] = RESULT
    found = recorded.compile_job(JOB)
    assert not compiled and found["recorded"] and found["registers"] == 40 and found["whole"]
    assert table.compile_violations([found]) == []


CHANGES = [
    {"launch": {**LAUNCH, "num_warps": 2}},
    {"launch": {**LAUNCH, "constants": {**LAUNCH["constants"], "BLOCK_R": 32}}},
    {"launch": {**LAUNCH, "divisible": []}},
    {"launch": {**LAUNCH, "kernel": "_rms_norm_backward"}},
    {"arch": "sm_80"},
    {"whole": False},
]


def test_what_has_changed_is_compiled(results, compiled):
    results[JOB.key()] = RESULT
    for change in CHANGES[:-1]:
        assert "recorded" not in recorded.compile_job(dataclasses.replace(JOB, **change))
    assert len(compiled) == len(CHANGES) - 1


def test_a_key_is_of_all_that_a_result_depends_on():
    """In a process where Triton compiles."""
    code = f"""
import dataclasses, json
from benchmarks.gpu_static import aot
job = aot.Job({LAUNCH!r}, "a variant", "sm_90")
changes = {CHANGES[:3] + CHANGES[4:]!r}
print(json.dumps([job.key(), dataclasses.replace(job, variant="told otherwise").key(),
                  *(dataclasses.replace(job, **change).key() for change in changes)]))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    key, same, *others = json.loads(done.stdout)
    assert key == same and len({key, *others}) == 1 + len(others)


def test_a_recorded_result_may_pass_a_limit(results, compiled):
    results[JOB.key()] = {**RESULT, "forced": 64, "spills": 64, "stack": 64}
    assert table.compile_violations([recorded.compile_job(JOB)])


def test_a_wrong_result_is_found(results, compiled):
    results[JOB.key()] = {**RESULT, "registers": 39}
    (problem,) = recorded.differences([JOB], [recorded.compile_job(JOB)])
    assert "_rms_norm a variant on sm_90: recorded with registers 39, now 40" == problem
    results[JOB.key()] = RESULT
    assert recorded.differences([JOB], [recorded.compile_job(JOB)]) == []


def test_written_and_read(tmp_path, compiled):
    file = tmp_path / "results.json"
    front_end = dataclasses.replace(JOB, whole=False)
    found = [aot.compile_job(JOB), {**front_end.known, "key": "a front end's"}]
    recorded.write(found, file)
    assert json.loads(file.read_text()) == {JOB.key(): RESULT, "a front end's": {}}
    assert recorded.read.__wrapped__(file) == json.loads(file.read_text())
    assert recorded.read.__wrapped__(tmp_path / "none.json") == {}
