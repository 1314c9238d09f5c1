"""Test parts of mutational scans: positions and higher mutants that training has not seen."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.data.mutants import apply_mutations
from lyra.datasets import GB1_OFFSET, GB1_WILD_TYPE, path
from lyra.errors import InputError

from .conftest import write_table

PARTS = ("train", "val", "test")


def load(table, **options):
    return load_labelled(table, DataOptions(**options), lambda text: None)


def scan(folder, degrees=(1, 2, 3), count=220, length=13, wild_type=True, seed=0, form="mutant"):
    """A table of random mutants of a protein numbered from 5, as mutations or as whole sequences."""
    rng = np.random.default_rng(seed)
    wild = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
    mutants = ["WT"] * wild_type
    while len(mutants) < count:
        places = sorted(rng.choice(length, rng.choice(degrees), replace=False))
        mutants.append(":".join(f"{wild[p]}{p + 5}{rng.choice([x for x in 'ACDEFG' if x != wild[p]])}" for p in places))
    mutants = [mutants[i] for i in rng.permutation(count)]
    cells = mutants if form == "mutant" else [apply_mutations(mutant, wild, 5) for mutant in mutants]
    header = [form, "y"]
    table = write_table(folder / f"{form}.csv", header, [(m, f"{rng.normal():.5f}") for m in cells])
    positions = [{int(number) for number in re.findall(r"\d+", mutant)} for mutant in mutants]
    return table, wild, positions


@pytest.mark.parametrize(("seed", "given"), product(range(3), (True, False)))
def test_positions_are_held_out(tmp_path, seed, given):
    """By the definition: no position is mutated in two parts, and just the rows that would mix parts are aside."""
    table, wild, positions = scan(tmp_path, seed=seed, degrees=(1, 1, 1, 2))
    options = {"holdout": "position", "val_fraction": 0.2, "test_fraction": 0.3, "seed": seed}
    if given:
        data = load(table, **options, wild_type=wild, offset=5)
    else:
        whole, _, _ = scan(tmp_path, seed=seed, degrees=(1, 1, 1, 2), form="seq")
        data = load(whole, **options)
        assert any(text.startswith(f"wild type '{wild}'") for text in data.guesses)
    kept = [positions[row - 2] for row in data.table.index]
    mutated = {part: set().union(*(kept[i] for i in data.rows(part))) for part in PARTS}
    assert not any(mutated[a] & mutated[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
    assert len(mutated["test"]) == round(0.3 * 13) and len(mutated["val"]) == round(0.2 * 13)
    assert set(data.parts) == set(PARTS)
    assert all(data.parts[i] == "train" for i, places in enumerate(kept) if not places), "the wild type trains"
    gone = [places for i, places in enumerate(positions) if i + 2 not in set(data.table.index)]
    assert data.rows_read.aside["with mutations at positions of several parts"] == len(gone) > 0
    assert all(not any(places <= mutated[part] for part in PARTS) for places in gone)


def test_higher_mutants_are_held_out(tmp_path):
    table, wild, positions = scan(tmp_path)
    for limit in (1, 2):
        data = load(table, holdout="degree", max_degree=limit, wild_type=wild, offset=5, val_fraction=0.2)
        degrees = np.array([len(places) for places in positions])
        assert ((data.parts == "test") == (degrees > limit)).all()
        assert (data.parts[degrees == 0] == "train").all()
        low = ((degrees > 0) & (degrees <= limit)).sum()
        assert abs((data.parts == "val").sum() - 0.2 * low) <= 5  # shares are of different sequences
    with pytest.raises(InputError, match="no row has more than 3; give at least 1 and less than 3"):
        load(table, holdout="degree", max_degree=3, wild_type=wild, offset=5)
    singles, wild, _ = scan(tmp_path, degrees=(2,))
    with pytest.raises(InputError, match="every mutant has at least 2; there is no other degree to test on"):
        load(singles, holdout="degree", max_degree=1, wild_type=wild, offset=5)


def test_the_wild_type_of_whole_sequences_can_be_given(tmp_path):
    """Of a library in which most sequences have something else at a position, it must be."""
    rng = np.random.default_rng(0)
    sequences = ["ACDE" + "".join(rng.choice(list("FGHI"), 4)) + "KL" for _ in range(150)]
    table = write_table(tmp_path / "t.csv", ["seq", "y"], [(s, f"{i % 13}.5") for i, s in enumerate(sequences)])
    with pytest.raises(InputError, match=r"column seq: holdout='degree' needs the wild type, and at position 5 no"):
        load(table, holdout="degree")
    for given in ({}, {"sequence": "seq"}):
        data = load(table, holdout="degree", wild_type="ACDEFGHIKL", **given)
        degrees = np.array([sum(a != b for a, b in zip(s, "ACDEFGHIKL", strict=True)) for s in sequences])
        assert ((data.parts == "test") == (degrees > 2)).all()


def test_a_wild_type_that_the_rows_are_no_variants_of(tmp_path):
    """A letter that no row has would be one mutation more of each, in silence."""
    table, wild, _ = scan(tmp_path, form="seq")
    data = load(table, holdout="degree", wild_type=wild, offset=5)
    assert not any("no row has" in text for text in data.guesses)
    other = wild[:3] + "W" + wild[4:]
    data = load(table, holdout="degree", wild_type=other, offset=5)
    assert "no row has the wild type's W8, which counts as a mutation of every row" in data.guesses
    for options in ({"holdout": "degree"}, {"holdout": "position"}, {"holdout": "position", "folds": 3}):
        with pytest.raises(InputError, match=r"^wild_type: letter '1' at position 4 is not in the protein"):
            load(table, **options, wild_type=wild[:3] + "1" + wild[4:])


def test_shipped_positions():
    """The test part of GB1 has its positions for itself."""
    data = load(path("gb1"), holdout="position", test_fraction=0.2, wild_type=GB1_WILD_TYPE, offset=GB1_OFFSET)
    numbers = {
        part: {int(n) for cell in data.table["mutant"][data.parts == part] for n in re.findall(r"\d+", cell)}
        for part in PARTS
    }
    assert len(numbers["test"]) == 11 and not numbers["test"] & (numbers["train"] | numbers["val"])
    assert data.rows_read.used + data.rows_read.set_aside == 50_000
