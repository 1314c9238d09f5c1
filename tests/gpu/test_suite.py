"""The tests that `make gpu` runs leave a row each, in their order, also when some cannot even be collected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import results, suite, suite_plugin

QUICK = """
import pytest, time

def test_triton_passes():
    pass

def test_cuda_fails():
    assert 1 + 1 == 3, "no\\nsecond line"

@pytest.mark.skip(reason="not here")
def test_cuda_is_skipped():
    pass

def test_of_something_else():
    raise SystemError

@pytest.fixture
def torn():
    yield
    raise OSError("torn down")

def test_triton_with_a_bad_teardown(torn):
    pass

@pytest.mark.full
def test_triton_of_the_whole_matrix():
    pass
"""

FAKE_TORCH = """
from types import SimpleNamespace
dead = False

def synchronize():
    if dead:
        raise RuntimeError("an illegal memory access was encountered")

cuda = SimpleNamespace(is_available=lambda: True, synchronize=synchronize)
"""
DEAD = """
import pytest, torch

def test_triton_kills_the_device():
    torch.dead = True
    torch.cuda.synchronize()

@pytest.mark.parametrize("number", range(8))
def test_cuda(number):
    torch.cuda.synchronize()
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\nmarkers =\n  full: long\n")
    (tests / "test_compile.py").write_text("def test_triton_is_slow_by_name(): pass\n")
    (tests / "test_quick.py").write_text(QUICK)
    (tests / "test_needs_more.py").write_text("import no_such_module_of_mine\n\ndef test_triton(): pass\n")
    return tests


@pytest.mark.parametrize("processes", [1, 2])
def test_a_row_for_each_test(folder, tmp_path, processes):
    journal = results.Journal(tmp_path / "journal", {"commit": "x", "date": "y"})
    assert suite.run(journal, 300.0, tmp_path / "log", processes, (str(folder),)) == "finished"
    rows = journal.rows()
    outcomes = {row["test"].split("/")[-1]: row["outcome"] for row in rows if "test" in row}
    assert outcomes == {
        "test_quick.py::test_triton_passes": "passed",
        "test_quick.py::test_cuda_fails": "failed",
        "test_quick.py::test_cuda_is_skipped": "skipped",
        "test_quick.py::test_triton_with_a_bad_teardown": "failed",
        "test_needs_more.py": "failed",
        "test_compile.py::test_triton_is_slow_by_name": "passed",
    }
    if processes == 1:
        assert [row for row in rows if "test" in row][-1]["test"].endswith("test_triton_is_slow_by_name")
    condensed = {row["file"].split("/")[-1]: row for row in results.condense(rows)}
    quick = condensed["test_quick.py"]
    assert (quick["passed"], quick["skipped"], quick["left"]) == (1, 1, 0)
    messages = {name.split("::")[-1]: message for name, message in quick["failed_tests"].items()}
    assert messages["test_cuda_fails"] == "AssertionError: no second line assert (1 + 1) == 3"
    assert messages["test_triton_with_a_bad_teardown"] == "OSError: torn down"
    (message,) = condensed["test_needs_more.py"]["failed_tests"].values()
    assert "no_such_module_of_mine" in message


def test_a_dead_device_ends_the_process_and_not_the_tests_behind(folder, tmp_path):
    """As after an illegal access: the device answers no more in the process that did it."""
    (folder / "test_needs_more.py").unlink()
    (folder / "test_compile.py").unlink()
    (folder / "torch.py").write_text(FAKE_TORCH)
    (folder / "test_quick.py").write_text(DEAD)
    journal = results.Journal(tmp_path / "journal", {"commit": "x", "date": "y"})
    assert suite.run(journal, 300.0, tmp_path / "log", 2, (str(folder),)) == "finished"
    outcomes: dict[str, str] = {}
    for row in results.condense(journal.rows()):
        outcomes |= dict.fromkeys((name.split("::")[-1] for name in row["failed_tests"]), "failed")
        assert row["passed"] == 8 and row["left"] == 0
    assert outcomes == {"test_triton_kills_the_device": "failed"}


def test_out_of_time(folder, tmp_path):
    (folder / "test_quick.py").write_text("import time\ndef test_triton_sleeps(): time.sleep(3600)\n")
    (folder / "test_compile.py").unlink()
    (folder / "test_a.py").write_text("def test_triton_first(): pass\n")
    journal = results.Journal(tmp_path / "journal", {"commit": "x", "date": "y"})
    assert suite.run(journal, 15.0, tmp_path / "log", 1, (str(folder),)) == "stopped by its limit of 15 s"
    condensed = {row["file"].split("/")[-1]: row for row in results.condense(journal.rows())}
    assert condensed["test_a.py"]["passed"] == 1
    assert "test_quick.py" not in condensed


def test_nothing_selected_is_not_a_success(folder, tmp_path):
    for file in folder.glob("*.py"):
        file.unlink()
    journal = results.Journal(tmp_path / "journal", {"commit": "x", "date": "y"})
    assert suite.run(journal, 300.0, tmp_path / "log", 1, (str(folder),)).startswith(
        "failed: pytest ended with status 5"
    )


def test_slow_tests_come_last():
    known = {"a.py::slow": 9.0, "a.py::slower": 90.0}
    names = ["a.py::slower", "tests/ops/test_compile.py::any", "a.py::slow", "a.py::quick"]
    ordered = sorted(names, key=lambda name: suite_plugin.slowness(name, known))
    assert ordered == ["a.py::quick", "tests/ops/test_compile.py::any", "a.py::slow", "a.py::slower"]


def test_the_folders_and_slow_files_are_there():
    root = Path(__file__).resolve().parents[2]
    assert all((root / folder).is_dir() for folder in suite.FOLDERS)
    found = {file.name for folder in suite.FOLDERS for file in (root / folder).glob("test_*.py")}
    assert set(suite_plugin.SLOW_FILES) <= found


def test_only_the_process_that_hands_out_tests_writes(monkeypatch):
    monkeypatch.setenv(results.JOURNAL_VARIABLE, json.dumps({"path": "journal", "stamp": {}}))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    assert suite_plugin.journal() is not None
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    assert suite_plugin.journal() is None
