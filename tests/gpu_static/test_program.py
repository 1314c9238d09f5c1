"""Machine code and IR joined at source lines."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")
from benchmarks.gpu_static import program
from benchmarks.gpu_static.sass import Instruction
from benchmarks.gpu_static.traffic import Touched, Traffic


def _i(op: str, line: str = "", target: int = -1) -> Instruction:
    return Instruction(op, target >= 0, 1, 7, 7, 0, target, line=line)


LOAD = _i("LDG.E.128", "k.py:4")


def _turns(code: list[Instruction], trips: float) -> tuple[tuple[float, ...], dict[str, str]]:
    """With 16 bytes a thread and turn loaded at line 4, in the loop of line 3."""
    assumed: dict[str, str] = {}
    found = Traffic(trips={"k.py:3": trips}, bytes_a_turn={"k.py:3": {"k.py:4": 16}})
    return program._turns(code, found, assumed), assumed


def test_a_loop_turns_as_often_as_its_source():
    assert _turns([LOAD, _i("BRA", "k.py:3", 0)], 12.5) == ((12.5,), {})


def test_an_unrolled_loop_turns_less_often():
    four = [LOAD] * 4
    assert _turns([*four, _i("BRA", "k.py:3", 0)], 18)[0] == (5.0,)  # the rest in the last turn
    both = [*four, _i("BRA", "k.py:3", 0), LOAD, _i("BRA", "k.py:3", 5)]
    assert _turns(both, 18)[0] == (4.0, 2.0)  # the rest in a loop of its own


def test_a_loop_is_known_by_what_it_loads():
    """ptxas gives a branch another line at times."""
    assert _turns([LOAD, _i("BRA", "k.py:9", 0)], 7) == ((7,), {})


def test_a_loop_that_is_not_known_is_said():
    turns, assumed = _turns([_i("LDG.E", "other.py:1"), _i("BRA", "other.py:2", 0)], 7)
    assert turns == (1.0,) and assumed == {"other.py:2": "the loop turns once"}
    turns, assumed = _turns([_i("FADD"), _i("BRA", "other.py:2", 0)], 7)  # of a slow path in a library
    assert turns == (1.0,) and not assumed


def test_what_an_access_touches():
    found = Traffic(touched={("k.py:4", False, 16): Touched(4.0, 16.0)})
    assumed: dict[str, str] = {}
    assert program._touched(LOAD, False, found, assumed) == (4.0, 16.0) and not assumed
    assert program._touched(_i("STG.E.64", "k.py:4"), True, found, assumed) == (2, 8)
    assert assumed == {"k.py:4": "STG.E.64 touches consecutive memory"}
