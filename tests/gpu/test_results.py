"""Rows are kept, merged and shown: none is lost, none is made up."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu import page, results
from benchmarks.gpu.__main__ import cards_in, rewrite_pages

STAMP = {"commit": "aaaaaaa", "date": "2026-01-01"}
OTHER = {"commit": "bbbbbbb", "date": "2026-01-02"}


def timed(subject: str, side: str = "triton", stage: str = "ops", **more) -> results.Row:
    row = {"stage": stage, "subject": subject, "shape": [1, 2, 3], "precision": "float32", "direction": "forward"}
    return {**row, "side": side, "call_us": [20.0, 19.0, 21.0], "graph_us": [10.0, 9.0, 11.0], **more}


def ended(stage: str, outcome: str = "finished") -> results.Row:
    return {"stage": stage, "name": "stage", "outcome": outcome, "seconds": 1.0}


def test_a_journal_survives_a_torn_line(tmp_path):
    journal = results.Journal(tmp_path / "journal", STAMP)
    journal.add(timed("a"))
    journal.add(timed("b"))
    text = journal.path.read_text()
    journal.path.write_text(text[:-9])
    assert journal.rows() == [{**timed("a"), **STAMP}]


def test_a_finished_stage_forgets_what_it_no_longer_has():
    old = [{**timed("gone"), **STAMP}, {**timed("kept"), **STAMP}]
    new = [{**timed("kept", call_us=[1.0]), **OTHER}, {**ended("ops"), **OTHER}]
    merged = results.merge(old, new)
    assert [row for row in merged if "subject" in row] == new[:1]


@pytest.mark.parametrize("outcome", ["interrupted", "stopped by its limit of 3 s with 1 of 2 cases left", None])
def test_a_stage_cut_off_keeps_the_older_rows_it_did_not_reach(outcome):
    old = [{**timed("unreached"), **STAMP}, {**timed("reached"), **STAMP}]
    new = [{**timed("reached", call_us=[1.0]), **OTHER}]
    new += [{**ended("ops", outcome), **OTHER}] if outcome else []
    merged = {row["subject"]: row["commit"] for row in results.merge(old, new) if "subject" in row}
    assert merged == {"reached": "bbbbbbb", "unreached": "aaaaaaa"}


def test_another_stage_that_finishes_changes_nothing():
    old = [{**timed("a"), **STAMP}]
    assert results.merge(old, [{**ended("layers"), **OTHER}])[-1] == old[0]


def test_a_row_that_failed_replaces_one_that_did_not():
    row = timed("a")
    failed = {**{k: v for k, v in row.items() if not k.endswith("_us")}, "failed": "no", **OTHER}
    assert results.merge([{**row, **STAMP}], [failed]) == [failed]


def test_single_tests_become_a_row_a_file():
    rows = [{"stage": "tests", "collected": {"a.py": 4, "b.py": 1}}]
    rows += [
        {"stage": "tests", "test": f"a.py::{name}", "outcome": outcome, "seconds": seconds, **more}
        for name, outcome, seconds, more in (
            ("one", "passed", 0.5, {}),
            ("two", "failed", 3.0, {"message": "assert 1 == 2"}),
            ("two", "passed", 0.0, {}),  # its teardown: a test that has failed stays failed
            ("three", "skipped", 0.0, {}),
        )
    ]
    (row,) = results.condense({**row, **STAMP} for row in rows)
    assert row == {
        "stage": "tests", "file": "a.py", "passed": 1, "skipped": 1, "failed_tests": {"a.py::two": "assert 1 == 2"},
        "seconds": 3.5, "slow": {"a.py::two": 3.0}, "left": 1, **STAMP,
    }  # fmt: skip


def test_slow_tests_are_remembered(tmp_path):
    row = {"stage": "tests", "file": "a.py", "slow": {"a.py::two": 3.0}, **STAMP}
    (tmp_path / "card.json").write_text(results.dump("card", [row]))
    (tmp_path / "other.json").write_text('{"benchmarks": []}')
    (tmp_path / "list.json").write_text("[]")
    assert results.slow_tests(tmp_path) == {"a.py::two": 3.0}


def everything() -> list[results.Row]:
    """At least one row of every kind."""
    rows = [
        {"stage": "environment", "name": "card", "value": "A card"},
        {"stage": "environment", "name": "copy bandwidth, TB/s", "value": 2.0},
        {"stage": "environment", "tiny": False, "failed": "no answer"},
        {"stage": "build", "name": "cuda backend", "value": "none", "failed": "no nvcc"},
        {"stage": "tests", "file": "a.py", "passed": 1, "skipped": 2, "failed_tests": {"a.py::x": "why"}, "left": 5,
         "seconds": 3.0, "slow": {}},
        {"stage": "tests", "name": "note", "value": "a note"},
        timed("rms_norm", bytes=40_000_000, error=1e-7), timed("rms_norm", "cuda", peak_mb=7.0),
        timed("rms_norm", "eager", graph_failed="no graph"), timed("pgc", error_failed="no truth"),
        {**timed("fft_conv"), "direction": "training", "grad_errors": [1e-7, 3e-7]},
        timed("S4D", "ours", "layers"), timed("Lyra", "a new side", "layers", peak_mb=3.0),
        timed("S4D", "eager, one thread", "host"),
        {"stage": "ops", "subject": "pgc", "shape": [9, 9, 9], "precision": "float32", "failed": "no memory"},
        {"stage": "sanitizer", "tool": "memcheck", "side": "cuda", "subject": "pgc", "found": "0 errors"},
        {"stage": "sanitizer", "tool": "racecheck", "side": "cuda", "subject": "pgc", "failed": "it hung"},
        {"stage": "demo", "name": "seconds of training", "value": 68}, ended("ops"),
    ]  # fmt: skip
    return [{**row, **STAMP} for row in rows]


def missing_from_page(card: str, rows: list[results.Row]) -> list[results.Row]:
    """The rows without which the page would be the same."""
    whole = page.render(card, rows)
    return [row for i, row in enumerate(rows) if page.render(card, rows[:i] + rows[i + 1 :]) == whole]


def test_every_kind_of_row_is_on_the_page():
    assert missing_from_page("A card", everything()) == []


@pytest.mark.parametrize("field", ["failed", "graph_failed", "error_failed"])
def test_every_reason_is_on_the_page(field):
    reasons = [row[field] for row in everything() if field in row]
    text = page.render("A card", everything())
    assert reasons and all(f": {reason}" in text for reason in reasons)


def test_the_page_marks_rows_of_another_commit():
    rows = everything()
    rows[6] |= OTHER
    text = page.render("A card", rows)
    assert "bbbbbbb" not in page.render("A card", everything())
    assert "10 [bbbbbbb]" in text and "2026-01-01 to 2026-01-02" in text


def test_measured_beside_predicted():
    rows = everything()
    predicted = {("rms_norm", (1, 2, 3), "float32", "forward"): 4.0}
    line = next(x for x in page.Page("A card", rows, predicted).ops() if x.startswith("| rms_norm"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # 40 MB at 2 TB/s are 20 us, so 10 us are twice the copy rate; 10 us are 2.5 times the predicted 4.
    assert cells == ["rms_norm", "1, 2, 3", "float32", "forward", "20", "4", "10", "10", "failed", "2.50", "200%"]


def test_predictions_are_for_one_card(tmp_path):
    file = tmp_path / "predicted.json"
    entry = {"op": "pgc", "shape": [64, 128, 64], "dtype": "float32", "direction": "train", "us": 5.0, "bound": "chain"}
    file.write_text(json.dumps([entry]))
    found = page.predictions("NVIDIA H200", file)
    row = {"subject": "pgc", "shape": [64, 128, 64], "precision": "float32", "direction": "training"}
    assert found[page.prediction_key(row)] == 5.0
    assert page.predictions("NVIDIA A100", file) == {} == page.predictions("NVIDIA H200", tmp_path / "none")


@pytest.mark.parametrize("file", cards_in(results.RESULTS), ids=lambda file: file.stem)
class TestCommitted:
    def test_the_page_is_what_the_code_makes_of_the_json(self, file):
        content = json.loads(file.read_text())
        made = page.render(content["card"], content["rows"])
        assert made == file.with_suffix(".md").read_text(), "make it anew: python -m benchmarks.gpu --pages"

    def test_names_and_keys(self, file):
        content = json.loads(file.read_text())
        assert file.stem == results.slug(content["card"])
        assert file.read_text() == results.dump(content["card"], content["rows"])
        keys = [results.key(row) for row in content["rows"]]
        assert len(set(keys)) == len(keys)

    def test_every_row_is_on_the_page(self, file):
        content = json.loads(file.read_text())
        assert missing_from_page(content["card"], content["rows"]) == []


def test_pages_are_rewritten(tmp_path):
    (tmp_path / "a_card.json").write_text(results.dump("A card", everything()))
    (tmp_path / "cpu.json").write_text('{"benchmarks": []}')
    assert rewrite_pages(tmp_path) == 0
    assert (tmp_path / "a_card.md").read_text() == page.render("A card", everything())
    assert not (tmp_path / "cpu.md").exists()
