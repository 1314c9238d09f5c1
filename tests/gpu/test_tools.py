"""What compilers, sanitizers and the demo's training leave, and what is said when they are not there or fail."""

from __future__ import annotations

import time

import pytest

from benchmarks.gpu import build, children, demo, sanitizer
from benchmarks.gpu.sanitized import FINISHED

MISSING = (0, '[false, "the CUDA C++ kernels were not built"]')
THERE = (0, 'a warning\n[true, "NVIDIA H200"]')


def built(tmp_path, monkeypatch, nvcc, *answers):
    """The rows and the commands of a build whose children answer so."""
    rows, commands, answers = [], [], iter(answers)

    def run(command, limit, **options):
        commands.append((command[1:], options.get("env", {})))
        return next(answers)

    monkeypatch.setattr(build.build_cuda, "find_nvcc", lambda: nvcc)
    outcome = build.build(rows.append, 60.0, "9.0", tmp_path / "log", run)
    assert outcome == "finished" and next(answers, None) is None and len(rows) == 1
    return rows[0], commands


def test_a_library_with_cuda_is_taken(tmp_path, monkeypatch):
    row, commands = built(tmp_path, monkeypatch, "/nvcc", THERE)
    assert row["value"] == "the library that was there" and len(commands) == 1


def test_it_is_built_for_this_card(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setenv("LYRA_BUILD_CUDA", "0")
    row, commands = built(tmp_path, monkeypatch, "/nvcc", MISSING, (0, "compiled"), THERE)
    assert row["value"] == "built by /nvcc" and "failed" not in row
    command, environment = commands[1]
    assert command == ["setup.py", "build_ext", "--inplace"]
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert (environment["LYRA_BUILD_CPP"], environment["LYRA_BUILD_CUDA"]) == ("1", "")
    assert (tmp_path / "log").read_text() == "compiled"


@pytest.mark.parametrize(
    ("nvcc", "answers", "told"),
    [
        (None, [MISSING], "the CUDA C++ kernels were not built; and there is no nvcc to build them with"),
        ("/nvcc", [MISSING, (1, "x.cu(3): error: no\n")], "the build ended with status 1: x.cu(3): error: no"),
        ("/nvcc", [MISSING, (None, "")], "the build was not through after 60 s"),
        ("/nvcc", [(1, "ImportError: x"), (0, ""), MISSING], "built, but: the CUDA C++ kernels were not built"),
    ],
)
def test_a_build_that_fails_is_told(tmp_path, monkeypatch, nvcc, answers, told):
    row, _ = built(tmp_path, monkeypatch, nvcc, *answers)
    assert row["value"] == "none" and row["failed"] == told


def test_the_question_whether_the_library_has_cuda():
    works, reason = build.available(children.run)
    assert isinstance(works, bool) and reason


RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at f and Read access at g
{} ========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, f"{FINISHED}\n========= ERROR SUMMARY: 0 errors\n", {"found": "0 errors"}),
        (
            0,
            f"{FINISHED}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            {"found": "0 hazards displayed (0 errors, 0 warnings)"},
        ),
        (None, "", {"failed": "not through in time"}),
        (0, "========= ERROR SUMMARY: 0 errors", {"failed": "status 0: ========= ERROR SUMMARY: 0 errors"}),
        (0, FINISHED, {"failed": f"status 0: {FINISHED}"}),
        (1, "Device not supported", {"failed": "status 1: Device not supported"}),
        (1, "", {"failed": "status 1: nothing was printed"}),
        (
            -11,
            f"{FINISHED}\n========= ERROR SUMMARY: 0 errors\n",
            {"found": "0 errors", "failed": "status -11, though it found 0 errors"},
        ),
    ],
)
def test_what_a_sanitizer_says(status, output, expected):
    assert sanitizer.verdict(status, output) == expected


@pytest.mark.parametrize("status", [0, 86])
def test_what_a_sanitizer_finds_is_a_failure(status):
    row = sanitizer.verdict(status, RACE.format(FINISHED))
    assert row["failed"].startswith("1 hazard displayed")
    assert "Race reported between Write access at f" in row["failed"]


def test_ten_errors_are_not_none():
    assert "failed" in sanitizer.verdict(0, f"{FINISHED}\n========= ERROR SUMMARY: 10 errors")


def test_without_a_sanitizer(monkeypatch):
    monkeypatch.setattr(sanitizer, "find", lambda: None)
    assert sanitizer.run([].append, "cpu", ("cpu",), 1.0, 1).startswith("skipped")


def test_a_sanitizer_out_of_time_says_how_far_it_came(monkeypatch):
    monkeypatch.setattr(sanitizer, "find", lambda: "sanitizer")
    rows: list[dict] = []

    def check(tool, *job_and_limit):
        time.sleep(0.3)
        return {"subject": job_and_limit[2], "found": "0 errors"}

    monkeypatch.setattr(sanitizer, "check", check)
    outcome = sanitizer.run(rows.append, "cpu", ("cpu",), 0.5, 1, names=list("abcdef"), tools=("memcheck",))
    assert outcome == "stopped by its limit of 0 s: 2 of 6" and [row["subject"] for row in rows] == ["a", "b"]


def test_where_the_sanitizer_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    tool = tmp_path / "cuda" / "bin" / "compute-sanitizer"
    tool.parent.mkdir(parents=True)
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert sanitizer.find() == str(tool)


def test_a_child_is_ended_with_all_it_started(tmp_path):
    mark = tmp_path / "mark"
    script = f"(sleep 2; touch {mark}) & sleep 60"
    status, output = children.run(["sh", "-c", f"echo begun; {script}"], 0.5)
    assert (status, output) == (None, "begun\n")
    time.sleep(2.5)
    assert not mark.exists()


def test_the_demo_that_was_ended_says_how_far_it_came(tmp_path):
    assert demo.reached(tmp_path, 9.0) == "no epoch was through within 9 s"
    (tmp_path / "history.csv").write_text("epoch,val_r2,seconds\n1,0.5,2.5\n2,0.6,4.5\n")
    assert demo.reached(tmp_path, 9.0) == "ended by the limit of 9 s after 2 epochs in 4.5 s of training"


@pytest.mark.parametrize(
    ("answer", "outcome", "told"),
    [
        ((None, ""), "stopped by its limit of 9 s", "no epoch was through within 9 s"),
        ((1, "ImportError: No module named 'scipy'\n"), "failed: status 1", "ImportError: No module named 'scipy'"),
    ],
)
def test_a_demo_that_has_no_time_is_no_figure(monkeypatch, answer, outcome, told):
    monkeypatch.setattr(demo.children, "run", lambda command, limit: answer)
    rows: list[dict] = []
    assert demo.run(rows.append, 9.0, False) == outcome
    assert rows == [{"stage": "demo", "name": "seconds of training", "value": "none", "failed": told}]
