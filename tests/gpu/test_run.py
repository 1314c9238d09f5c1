"""A whole run without a card: everything in its order, broken off in the middle, and refused where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import page, results, stages
from benchmarks.gpu.cards import StandIn

from .test_results import missing_from_page

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = """#!/bin/sh
# Runs the program as compute-sanitizer does, and finds nothing.
while [ "$1" != "{python}" ]; do shift; done
"$@" && echo "========= ERROR SUMMARY: 0 errors"
"""


@pytest.fixture
def sanitizer(tmp_path, monkeypatch) -> None:
    file = tmp_path / "bin" / "compute-sanitizer"
    file.parent.mkdir()
    file.write_text(SANITIZER.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_dry_run_goes_through_all_stages(tmp_path, sanitizer, capsys):
    out = tmp_path / "results"
    assert command.main(["--dry-run", "--out", str(out), "--minutes", "20"]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["dry_run.json", "dry_run.log", "dry_run.md"]
    content = json.loads((out / "dry_run.json").read_text())
    rows = content["rows"]
    outcomes = {row["stage"]: row["outcome"] for row in rows if row.get("name") == "stage"}
    assert list(outcomes) == list(stages.SHARES)
    assert outcomes.pop("build") == "skipped: a dry run builds nothing"
    assert set(outcomes.values()) == {"finished"}
    for stage in set(outcomes) - {"warm-up"}:
        assert [row for row in rows if row["stage"] == stage and row.get("name") != "stage"], stage
    assert not [row for row in rows if {"failed", "graph_failed", "error_failed"} & set(row)]
    assert all(row["commit"] and row["date"] for row in rows)
    assert (out / "dry_run.md").read_text() == page.render("dry run", rows)
    assert missing_from_page("dry run", rows) == []
    (epochs,) = [row["value"] for row in rows if row["stage"] == "demo" and row["name"] == "epochs"]
    assert epochs == 1


def start(out: Path, *arguments: str) -> subprocess.Popen:
    line = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(out), *arguments]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(what) -> None:
    for _ in range(1200):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_broken_off_in_the_middle(sent, tmp_path):
    """What was made by then is in the results; after SIGKILL the next run takes it from the journal."""
    out = tmp_path / "results"
    older = {"stage": "ops", "subject": "older", "shape": [1, 1, 1], "precision": "float32", "direction": "forward"}
    older |= {"side": "triton", "call_us": [1.0], "graph_us": [1.0], "commit": "0000000", "date": "2026-01-01"}
    out.mkdir()
    (out / "dry_run.json").write_text(results.dump("dry run", [older]))
    journal = results.Journal(out / "dry_run.jsonl", {})
    process = start(out, "--only", "ops", "demo")
    wait_for(lambda: len([row for row in journal.rows() if "side" in row]) >= 3)
    process.send_signal(sent)
    process.communicate(timeout=60)
    if sent == signal.SIGKILL:
        assert process.returncode == -sent and journal.path.exists()
        stages.Run(StandIn(), out, 1.0, {"commit": "1111111", "date": "2026-01-02"}).recover()
    else:
        assert process.returncode == 128 + sent
    assert not journal.path.exists()
    rows = json.loads((out / "dry_run.json").read_text())["rows"]
    assert len([row for row in rows if row.get("subject") == "s4d_auto"]) >= 3
    assert older in rows
    assert (out / "dry_run.md").read_text() == page.render("dry run", rows)


def test_without_a_card_one_line_and_nothing_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--out", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "sees no card" in said.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--minutes", "nan"], ["--only", "nothing"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["--dry-run", *arguments])
    assert error.value.code == 2 and "error: argument" in capsys.readouterr().err


def test_a_stage_that_breaks_does_not_end_the_run(tmp_path, monkeypatch):
    def breaks(self, limit: float) -> str:
        raise RuntimeError("it broke\nhere")

    monkeypatch.setattr(stages.Run, "_environment", breaks)
    monkeypatch.setattr(stages.Run, "_demo", lambda self, limit: "finished")
    run = stages.Run(StandIn(), tmp_path, 60.0, {"commit": "x", "date": "y"}, ("environment", "demo"))
    run.go()
    outcomes = {row["stage"]: row["outcome"] for row in results.load(run.file)}
    assert outcomes == {"environment": "failed: RuntimeError: it broke here", "demo": "finished"}


def test_a_page_that_cannot_be_made_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def breaks(card: str, rows: list) -> str:
        raise KeyError("side")

    monkeypatch.setattr(page, "render", breaks)
    monkeypatch.setattr(stages.Run, "_demo", lambda self, limit: "finished")
    run = stages.Run(StandIn(), tmp_path, 60.0, {"commit": "x", "date": "y"}, ("demo",))
    run.go()
    assert results.load(run.file)[0]["outcome"] == "finished"
    assert "KeyError: 'side'" in run.file.with_suffix(".md").read_text() and "KeyError" in capsys.readouterr().err


def test_no_stage_takes_the_time_of_those_behind_it(tmp_path, monkeypatch):
    limits: dict[str, float] = {}
    clock = [0.0]

    def spend(self, name: str, limit: float) -> None:
        limits[name] = limit
        clock[0] += 0.0 if name == "build" else limit  # one leaves all of its time

    monkeypatch.setattr(stages.Run, "stage", spend)
    monkeypatch.setattr(stages.time, "monotonic", lambda: clock[0])
    total = float(sum(stages.SHARES.values()))
    stages.Run(StandIn(), tmp_path, total, {"commit": "x", "date": "y"}).go()
    assert clock[0] == pytest.approx(total)
    assert all(limits[name] >= stages.SHARES[name] - 1e-6 for name in limits) and limits["demo"] > stages.SHARES["demo"]


def test_which_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("LYRA_COMMIT", "1234567")
    assert command.commit() == "1234567"
    monkeypatch.delenv("LYRA_COMMIT")
    answers = {"rev-parse": "abcdef0", "status": ""}
    monkeypatch.setattr(command, "git", lambda *arguments: answers[arguments[0]])
    assert command.commit() == "abcdef0"
    answers["status"] = " M setup.py"
    assert command.commit() == "abcdef0-dirty"
    monkeypatch.undo()
    monkeypatch.delenv("LYRA_COMMIT", raising=False)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.commit() == "unknown"


def test_make_gpu_takes_the_python_it_is_given():
    line = subprocess.run(
        ["make", "-n", "gpu", "PYTHON=/some/python", "GPU=--only ops"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert line == "/some/python -m benchmarks.gpu --only ops"


def test_choices_of_configurations_do_not_outlast_the_run(tmp_path, monkeypatch):
    """On a crowded card they would be wrong ones."""
    monkeypatch.setenv("LYRA_CACHE", "the user's")
    seen: dict[str, str] = {}

    def note(name: str):
        return lambda self, limit: seen.setdefault(name, os.environ["LYRA_CACHE"]) and "finished"

    names = ("tests", "warm-up", "ops", "sanitizer", "demo")
    for name in names:
        monkeypatch.setattr(stages.Run, "_" + name.replace("-", "_"), note(name))
    stages.Run(StandIn(), tmp_path, 60.0, {"commit": "x", "date": "y"}, names).go()
    assert seen["tests"] == seen["warm-up"] == seen["sanitizer"] != seen["ops"] == seen["demo"]
    assert "the user's" not in seen.values() and os.environ["LYRA_CACHE"] == "the user's"
    assert not any(Path(folder).parent.exists() for folder in seen.values())


def test_the_next_run_begins_with_what_this_one_left_out(tmp_path):
    run = stages.Run(StandIn(), tmp_path, 60.0, {"commit": "new", "date": "y"})
    specs = [{"stage": "ops", "subject": name} for name in ("measured", "measured before", "cut off", "not reached")]
    run.old = [
        {**specs[0], "direction": "training", "side": "ours", "commit": "new"},
        {**specs[1], "direction": "training", "side": "ours", "commit": "old"},
        {**specs[2], "direction": "forward", "side": "ours", "commit": "new"},
    ]
    order = [spec["subject"] for spec in run.missing_first(specs)]
    assert order == ["cut off", "not reached", "measured before", "measured"]
