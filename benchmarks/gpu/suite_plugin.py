"""A pytest plugin: writes each test's outcome to the journal as it ends, and puts the slow ones last.

Under xdist the process that hands out the tests writes; the others leave when their device answers no more, so that
the tests after an illegal access run in a fresh process and do not fail with it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from .results import JOURNAL_VARIABLE, Journal, slow_tests

SLOW_FILES = ("test_compile.py", "test_recompilation.py", "test_autotune.py")  # by name, where nothing was measured yet
LONGEST = 200


def journal() -> Journal | None:
    """The journal of the run, for the process that writes it."""
    if JOURNAL_VARIABLE not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
        return None
    where = json.loads(os.environ[JOURNAL_VARIABLE])
    return Journal(Path(where["path"]), where["stamp"])


def slowness(name: str, known: dict[str, float]) -> float:
    """Seconds by which tests are ordered."""
    file = name.split("::")[0].rsplit("/", 1)[-1]
    return known.get(name, 1.0 if file in SLOW_FILES else 0.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = slow_tests()
    items.sort(key=lambda item: slowness(item.nodeid, known))


def note_collected(names: list[str]) -> None:
    found = journal()
    if found is not None:
        found.add({"stage": "tests", "collected": dict(Counter(name.split("::")[0] for name in names))})


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.items:
        note_collected([item.nodeid for item in session.items])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids: list[str]) -> None:
    if node.gateway.id == "gw0":  # all have collected the same
        note_collected(ids)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = journal()
    if found is None or (report.when != "call" and report.passed):
        return
    row = {"stage": "tests", "test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
    if report.failed:
        row["message"] = message(report)
    found.add(row)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported is a failure of that file."""
    found = journal()
    if found is not None and report.failed:
        row = {"stage": "tests", "test": report.nodeid, "outcome": "failed", "seconds": 0.0}
        found.add({**row, "message": message(report)})


def message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The line that says what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr).strip().rsplit("\n", 1)[-1]
    return " ".join(text.split())[:LONGEST]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ and Failed.seen:
        Failed.seen = False
        if not device_answers():
            os._exit(1)


class Failed:
    """Whether the last test of this process failed: only then is the device asked."""

    seen = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    Failed.seen |= report.failed
    return report


def device_answers() -> bool:
    """Whether the card, if these tests use one, can still be waited for."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        return True
    except RuntimeError:
        return False
