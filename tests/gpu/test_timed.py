"""One row goes wrong, the others are measured."""

from __future__ import annotations

import subprocess
from functools import partial

import pytest
import torch

from benchmarks.gpu import cards, environment, host, layers, ops, timed, warm
from benchmarks.gpu.cases import TINY, Case, Prepared, Row, Side
from benchmarks.gpu.measure import Sticky, measure

from . import faulty

FAULTY = "tests.gpu.faulty"


def faulty_cases() -> list[Row]:
    return [{"module": FAULTY, **spec} for spec in faulty.specs(True)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, Row]:
    """What the faulty cases leave, by subject and side."""
    found: list[Row] = []
    timer = timed.Timer("cpu", tmp_path_factory.mktemp("log") / "log", found.append, case_seconds=15.0)
    assert timer.cases(faulty_cases(), 300.0) == "finished"
    timer.close()
    keys = [(row["subject"], row.get("side")) for row in found]
    assert len(set(keys)) == len(keys), "a row came twice"
    return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize("subject", [s for s in faulty.SUBJECTS if s != "unbuildable"])
def test_the_other_sides_are_measured(rows, subject):
    for side in ("before", "behind"):
        row = rows[subject, side]
        assert "failed" not in row and "graph_failed" not in row
        for name in ("call_us", "graph_us"):
            median, low, high = row[name]
            assert 0 < low <= median <= high
        assert row["error"] < 1e-6 and row["peak_mb"] > 0


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"),
        ("death", "the process ended with signal 11 (SIGSEGV)"),
        ("hang", "not through after 15 s"),
        ("argument", "ValueError: a is wrong: it must be b"),
        ("garbage", "ArithmeticError: the output is not finite where memory that nobody wrote is NaN"),
    ],
)
def test_the_faulty_side_says_why_in_one_line(rows, subject, told):
    row = rows[subject, "faulty"]
    assert row["failed"].startswith(told) and "\n" not in row["failed"]
    assert "call_us" not in row


def test_memory_that_was_lacking_beside_others_is_tried_again_alone(rows):
    assert rows["crowded", "faulty"]["call_us"] and "failed" not in rows["crowded", "faulty"]


def test_a_graph_that_writes_something_else_is_told(rows):
    row = rows["drift", "faulty"]
    assert "graph writes something else" in row["graph_failed"]
    assert "graph_us" not in row and row["call_us"]


def test_a_case_that_cannot_be_made_is_one_failed_row(rows):
    assert rows["unbuildable", None]["failed"].startswith("OutOfMemoryError")


def test_a_side_that_always_works_is_not_said_to_fail(rows):
    assert "failed" not in rows["last", "faulty"]


def test_what_is_not_reached_has_no_row(tmp_path):
    found: list[Row] = []
    timer = timed.Timer("cpu", tmp_path / "log", found.append)
    try:
        assert timer.cases(faulty_cases(), 0.5).endswith(
            f"with {len(faulty.SUBJECTS)} of {len(faulty.SUBJECTS)} cases left"
        )
    finally:
        timer.close()
    assert found == []


def test_a_worker_that_cannot_start_fails_each_case_once(tmp_path, monkeypatch):
    monkeypatch.setattr(faulty, "SUBJECTS", ("last",))
    found: list[Row] = []
    timer = timed.Timer("no such kind", tmp_path / "log", found.append)
    assert timer.cases(faulty_cases(), 120.0) == "finished"
    assert len(found) == 1 and "KeyError" in found[0]["failed"]


def test_a_device_that_answers_no_more_ends_the_process(monkeypatch):
    card, said = cards.StandIn(), []
    monkeypatch.setattr(card, "healthy", lambda: False)
    case = faulty.build({**faulty.specs(True)[0], "subject": "argument"}, card)
    with pytest.raises(Sticky):
        measure(case, card, TINY, said.append)
    failed = [row for row in said if "failed" in row]
    assert [row["side"] for row in failed] == ["faulty"]
    again: list[Row] = []
    monkeypatch.undo()
    measure(case, card, TINY, again.append, skip={("forward", "faulty")})
    assert {row["side"] for row in again if "call_us" in row} == {"before", "behind"}


def test_poison():
    with cards.poisoned():
        assert torch.empty(5).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ops.OPS)
def test_every_op_computes_what_the_formula_does(name):
    """On both stand-ins and, where there is one, by the published formula in eager PyTorch."""
    said: list[Row] = []
    measure(ops.build(ops.spec(name, (2, 16, 4), "float32"), cards.StandIn()), cards.StandIn(), TINY, said.append)
    made = [row for row in said if "trying" not in row]
    assert not [row for row in made if "failed" in row or "graph_failed" in row]
    assert {row["side"] for row in made} >= {"cpu", "reference"}
    for row in made:
        assert max([row["error"]] if row["direction"] == "forward" else row["grad_errors"]) < 1e-4
        assert row["bytes"] >= 2 * 2 * 16 * 4 * 4


def test_compiled_sides(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    spec = {**layers.spec("PGC", (2, 8, 4), "float32"), "only": ["compile", "ours, compiled"]}
    said: list[Row] = []
    measure(layers.build(spec, cards.StandIn()), cards.StandIn(), TINY, said.append)
    made = [row for row in said if "trying" not in row]
    assert not [row for row in made if "failed" in row or "graph_failed" in row]
    assert {(row["side"], row["direction"]) for row in made} == {
        (side, direction) for side in spec["only"] for direction in ("forward", "training")
    }


def test_without_a_truth_there_are_times_but_no_errors():
    def fails():
        raise RuntimeError("no float64 here")

    case = faulty.build({**faulty.specs(True)[0], "subject": "last"}, cards.StandIn())
    case.truth = fails
    said: list[Row] = []
    measure(case, cards.StandIn(), TINY, said.append)
    made = [row for row in said if "trying" not in row]
    assert len(made) == 3
    for row in made:
        assert row["call_us"] and "error" not in row and row["error_failed"] == "RuntimeError: no float64 here"


def test_single_thread_is_what_autograd_is_told():
    case = host.build(host.specs(True)[0], cards.StandIn())
    assert {name: make().single_thread for name, make in case.sides.items()}["cpu, one thread"]
    assert not case.sides["cpu"]().single_thread


def test_the_real_cases_are_those_of_the_tables():
    subjects = {(row["subject"], *row["shape"], row["precision"]) for row in ops.specs(False)}
    assert len(subjects) == len(ops.specs(False)) == 2 * (4 * len(ops.OPS) - 2)  # no direct sum at two of the shapes
    names = {(row["subject"], *row["shape"]) for row in layers.specs(False)}
    assert ("Lyra", 1, 65536, 64) in names and ("PGC", 16, 2048, 256) in names and len(names) == 14


def test_the_driver_that_cannot_be_asked(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert environment.driver() == "unknown: no nvidia-smi"
    monkeypatch.setattr(environment.shutil, "which", lambda name: name)
    answer = subprocess.CompletedProcess([], 0, "580.1\n", "")
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: answer)
    assert environment.driver() == "580.1"


def test_warming_up_runs_what_compiles_and_hides_what_fails(monkeypatch):
    calls: list[str] = []

    def counted(name: str):
        def function(x):
            calls.append(name)
            if name == "triton":
                raise RuntimeError("told when it is timed")
            return x.sin()

        return function

    def build(spec: Row, card: cards.Card) -> Case:
        x = torch.randn(2, requires_grad=True)
        sides = {name: partial(Side, counted(name), (x,), (x,)) for name in ("triton", "cuda", "eager")}
        return Case({"precision": "float32"}, sides)

    monkeypatch.setattr(ops, "build", build)
    spec = {"of": "benchmarks.gpu.ops", "case": {}}
    warm.run(spec, cards.StandIn(), TINY, lambda row: pytest.fail(str(row)))
    assert set(calls) == {"triton", "cuda"}


def test_what_compiles_longest_is_compiled_first():
    whole = warm.specs(warm.timed_specs(False))
    assert [("only" in spec["case"]) for spec in whole[:7]] == [True] * 6 + [False]
    assert len(whole) == len(ops.specs(False)) + len(layers.specs(False))


def test_warming_up_goes_through_all_cases_and_says_how_many_it_left(tmp_path):
    specs = faulty_cases()[-1:] * 3
    assert warm.warm_up("cpu", specs, 120.0, tmp_path / "log", 2) == "finished"
    assert warm.warm_up("cpu", specs, 0.0, tmp_path / "log", 2) == "stopped by its limit of 0 s with 3 of 3 cases left"


OLD, NEW = "0000000", "1111111"


@pytest.mark.parametrize(
    ("rows", "only", "expected"),
    [
        ([], None, 0),
        ([{"direction": "forward", "side": "ours", "commit": NEW}], None, 0),
        ([{"direction": "training", "side": "ours", "commit": OLD}], None, 1),
        ([{"direction": "training", "side": s, "commit": c} for s, c in (("ours", NEW), ("cuda", OLD))], None, 2),
        ([{"failed": "the worker was lost", "commit": NEW}], None, 2),
        ([{"direction": "training", "side": "compile", "commit": NEW}], None, 0),
        ([{"direction": "training", "side": "ours", "commit": NEW}], ["compile"], 0),
        ([{"direction": "training", "side": "compile", "commit": NEW}], ["compile"], 2),
    ],
)
def test_how_far_a_case_is(rows, only, expected):
    identity = layers.spec("S4D", (8, 2048, 64), "float32")
    rows = [{**identity, **row} for row in rows]
    rows += [{**identity, "shape": [1, 1, 1], "direction": "training", "side": "compile", "commit": NEW}]
    spec = {**identity, "module": "any", **({"only": only} if only else {})}
    assert timed.state(spec, rows, NEW) == expected


def test_nothing_is_compiled_while_it_is_timed(monkeypatch):
    compiled: list[str] = []

    def backend(module, inputs):
        compiled.append("timing" if timing else "before")
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    spec = {**layers.spec("PGC", (2, 8, 4), "float32"), "only": ["compile", "ours, compiled"]}
    timing = False

    def round_(self) -> None:
        nonlocal timing
        timing = True
        original(self)
        timing = False

    original = Prepared.round
    monkeypatch.setattr(Prepared, "round", round_)
    measure(layers.build(spec, cards.StandIn()), cards.StandIn(), TINY, lambda row: None)
    assert set(compiled) == {"before"}
