"""Covering arrays hold every combination that they promise, and no more rows than there are."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.gpu_static.cover")
from benchmarks.gpu_static.cover import choose, cover, product

AXES = {"a": (1, 2, 3), "b": (True, False), "c": "xyz", "d": (0, 1), "e": (None, 5)}


def together(rows, strength):
    return {
        tuple((name, row[name]) for name in group) for group in itertools.combinations(AXES, strength) for row in rows
    }


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_every_combination_occurs(strength):
    rows = cover(AXES, strength)
    assert together(rows, strength) == together(product(AXES), strength)
    assert len(rows) < len(product(AXES)) and all(list(row) == list(AXES) for row in rows)
    assert rows == cover(AXES, strength)


def test_rows_that_were_begun_are_kept():
    begun = product({"d": AXES["d"], "a": AXES["a"]})
    rows = cover(AXES, 2, begun)
    assert [{"d": row["d"], "a": row["a"]} for row in rows[: len(begun)]] == begun
    assert together(rows, 2) == together(product(AXES), 2)


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_what_is_chosen_has_every_combination_of_the_pool(strength):
    pool = [row for row in product(AXES) if row["a"] != 3 or row["b"]]  # some combinations are out of reach
    pool = [{**row, "same": row["a"], "all": 7} for row in pool]
    chosen = choose(pool, strength)
    assert together([pool[i] for i in chosen], strength) == together(pool, strength)
    assert len(set(chosen)) == len(chosen) < len(pool) / 2


def test_the_first_of_equals_is_chosen():
    assert choose([{"a": 1}, {"a": 1}, {"a": 2}], 2) == [0, 2]
    assert choose([{"a": 1}, {"a": 1}], 2) == [0] and choose([], 1) == []


def test_every_process_makes_the_same_rows():
    """Whatever Python's seed for hashes: a variant that one run of the gate compiles, the next compiles too."""
    code = (
        "from benchmarks.gpu_static.cover import cover\n"
        "axes = {name: (name + '1', name + '2', name + '3') for name in 'abcdefgh'}\n"
        "print(cover(axes, 2))"
    )
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(said) == 1
