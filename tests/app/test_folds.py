"""Folds: every row is test once, groups stay whole, and validation is drawn in each."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.errors import InputError

from .conftest import random_sequences, read_csv, write_table
from .test_holdouts import scan
from .test_splits import classes_table, grouped

PARTS = ("train", "val", "test")


def load(table, warned=None, **options):
    return load_labelled(table, DataOptions(**options), [].append if warned is None else warned.append)


def plain(folder, count=53, header=("seq", "y"), more=lambda i: ()):
    rows = [(s, f"{(5 * i) % 17}.5", *more(i)) for i, s in enumerate(random_sequences(count, 12, 12))]
    return write_table(folder / "t.csv", list(header), rows)


def check(data, count, val_fraction=0.1):
    """What holds of all folds: parts of the rows, of which each is test once."""
    assert len(data.folds) == len(data.fold_names) == count
    assert (data.parts == data.folds[0]).all()
    assert all(parts.shape == (len(data.table),) and parts.dtype == object for parts in data.folds)
    assert all(set(parts) == set(PARTS) for parts in data.folds)
    tests = np.array([parts == "test" for parts in data.folds])
    assert (tests.sum(0) == 1).all() and (tests.argmax(0) == data.fold_of).all()
    for parts in data.folds:
        rest = (parts != "test").sum()
        assert abs((parts == "val").sum() - val_fraction * rest) <= 0.05 * len(parts) + 1


@pytest.mark.parametrize(("count", "rows", "seed"), [(2, 41, 0), (3, 53, 1), (5, 97, 2), (10, 53, 3), (41, 41, 4)])
def test_drawn_folds(tmp_path, count, rows, seed):
    table = plain(tmp_path, rows)
    data = load(table, folds=str(count), seed=seed)
    check(data, count)
    sizes = np.bincount(data.fold_of)
    assert sizes.max() - sizes.min() <= 1 and data.fold_names == [str(i + 1) for i in range(count)]
    again = load(table, folds=count, seed=seed)
    assert all((a == b).all() for a, b in zip(data.folds, again.folds, strict=True)), "a number or its text"
    assert (load(table, folds=count, seed=seed + 50).fold_of != data.fold_of).any()


def test_copies_are_in_one_fold(tmp_path):
    sequences = random_sequences(30, 9, 9)
    rows = [(sequences[i % 30].lower() if i > 60 else sequences[i % 30], f"{i % 11}.5") for i in range(90)]
    warned: list[str] = []
    data = load(write_table(tmp_path / "t.csv", ["seq", "y"], rows), warned, folds="4")
    check(data, 4)
    for parts in (data.fold_of, *data.folds):
        assert (parts[:30] == parts[30:60]).all() and (parts[:30] == parts[60:]).all()
    assert warned == []


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_in_one_fold(tmp_path, seed):
    sizes = np.random.default_rng(seed).integers(1, 9, size=50)
    table, groups = grouped(tmp_path, sizes, seed=seed)
    data = load(table, folds="4", group="family", seed=seed, val_fraction=0.2)
    check(data, 4, 0.2)
    for parts in data.folds:
        assert all(len(set(parts[groups == number])) == 1 for number in range(50)), "in validation, too"
    assert np.ptp(np.bincount(data.fold_of)) < 0.15 * len(groups)


def test_classes_are_in_all_folds_alike(tmp_path):
    table, labels = classes_table(tmp_path, [100, 37, 20])
    data = load(table, folds="5")
    check(data, 5)
    assert any(text.startswith("parts drawn with classes in equal shares") for text in data.guesses)
    for name in ("c0", "c1", "c2"):
        counts = np.bincount(data.fold_of[labels == name], minlength=5)
        assert np.ptp(counts) <= 1
        for parts in data.folds:
            rest = parts != "test"
            assert abs((parts[labels == name] == "val").sum() - 0.1 * (rest & (labels == name)).sum()) <= 1.5


def test_a_column_says_the_folds(tmp_path):
    """Numbers in their order, words in theirs; test is exactly the fold."""
    cells = {"fold_modulo_5": lambda i: str(i % 5), "fold_contiguous_5": lambda i: str(i // 11),
             "who": lambda i: "xyz"[i % 3], "far": lambda i: str((i % 12) * 5)}  # fmt: skip
    table = plain(tmp_path, header=("seq", "y", *cells), more=lambda i: [cell(i) for cell in cells.values()])
    for column, names in (("fold_modulo_5", list("01234")), ("fold_contiguous_5", list("01234")), ("who", list("xyz")),
                          ("far", [str(5 * i) for i in range(12)])):  # fmt: skip
        data = load(table, folds=column)
        check(data, len(names))
        assert data.fold_names == names
        assert [data.fold_names[i] for i in data.fold_of] == data.table[column].tolist()


def test_a_column_that_tears_copies_or_groups_apart(tmp_path):
    table = plain(tmp_path, header=("seq", "y", "fold", "family"), more=lambda i: (str(i % 4), f"g{i // 2}"))
    says = (
        r"column fold: tears 26 groups apart, such as group of column family g0, which stands in 0 and 1; give a number"
    )
    with pytest.raises(InputError, match=says):
        load(table, folds="fold", group="family")
    sequences = random_sequences(40, 9, 9)
    rows = [(sequences[i % 40], f"{i % 9}.5", str(i // 40)) for i in range(80)]
    warned: list[str] = []
    table = write_table(tmp_path / "copies.csv", ["seq", "y", "fold"], rows)
    load(table, warned, folds="fold")
    assert len(warned) == 1 and "40 sequences" in warned[0] and "stand in more than one fold" in warned[0]
    warned.clear()
    rows[41] = (sequences[1], "1.5", "0")
    write_table(
        table, ["seq", "y", "fold"], rows + [(s, f"{i % 7}.5", "1") for i, s in enumerate(random_sequences(9, 8, 8))]
    )
    data = load(table, warned, folds="fold", deduplicate=True)
    assert data.rows_read.used == 49 and (np.bincount(data.fold_of) == [40, 9]).all()
    assert all(len(parts) == 49 for parts in data.folds) and "39 sequences stood in several folds" in warned[0]


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_positions(tmp_path, seed):
    """No position is mutated in two parts of a fold; each is held out once; only mixed rows are never test."""
    table, wild, positions = scan(tmp_path, degrees=(1, 1, 1, 2), length=17, seed=seed)
    data = load(table, holdout="position", folds="4", wild_type=wild, offset=5, val_fraction=0.2, seed=seed)
    kept = [positions[row - 2] for row in data.table.index]
    held: list[int] = []
    for number, parts in enumerate(data.folds):
        mutated = {part: set().union(*(kept[i] for i in np.flatnonzero(parts == part))) for part in PARTS}
        assert not any(mutated[a] & mutated[b] for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
        held += sorted(mutated["test"])
        assert len(mutated["val"]) == round(0.2 * (17 - len(mutated["test"])))
        assert all(parts[i] == "train" for i, places in enumerate(kept) if not places)
        assert ((parts == "test") == (data.fold_of == number)).all()
        aside = [kept[i] for i in np.flatnonzero(parts == "aside")]
        assert all(sum(bool(places & mutated[part]) for part in PARTS) >= 2 for places in aside)
    assert len(held) == len(set(held)) == 17
    never = [places for places, fold in zip(kept, data.fold_of, strict=True) if fold < 0 and places]
    assert never and all(len(places) == 2 for places in never)
    assert any(text.startswith(f"{len(never)} rows with mutations in several folds") for text in data.guesses)


def test_a_split_column_beside_folds(tmp_path):
    table = plain(tmp_path, header=("seq", "y", "set", "validation"),
                  more=lambda i: ("train" if i < 40 else "test", str(i < 5)))  # fmt: skip
    data = load(table, folds="5")
    check(data, 5)
    assert "'set' and 'validation' not used, as folds='5' divides the rows" in data.guesses
    assert data.source.split is None and data.source.val_column is None
    assert not any("not used" in text for text in load(table, folds="5", split="none").guesses)


BAD = [
    ({"folds": "1"}, "folds 1: must be 2 to 100"),
    ({"folds": "0"}, "folds 0: must be 2 to 100"),
    ({"folds": "-3"}, "folds -3: must be 2 to 100"),
    ({"folds": "101"}, "folds 101: must be 2 to 100"),
    ({"folds": "60"}, "folds=60 of 53 different sequences: must be no more"),
    ({"folds": "9", "group": "kind"}, "folds=9 of 7 groups: must be no more"),
    ({"folds": "7", "group": "kind"}, r"fold \d of 7 would have \d+ rows where 8 were asked for, .*the largest of 7, "
     r"group of column kind g0, has 42 of the 53 rows; give fewer folds or smaller groups"),
    ({"folds": "5", "split": "part"}, "split='part' folds='5': each says how the table is divided; leave one out"),
    ({"folds": "5", "holdout": "degree"}, "leave one out"),
    ({"folds": "kind", "holdout": "position"}, "a column says which rows are held out"),
    ({"folds": "5", "holdout": "position", "wild_type": "ACGT"}, "has 12 letters, the wild type 4"),
    ({"folds": "5", "val_fraction": 0.0}, "val_fraction 0.0: must be above 0 and below 1 with folds"),
    ({"folds": "5", "val_fraction": 1.5}, "must be above 0"),
    ({"folds": "nosuch"}, "fold column 'nosuch' is missing; folds must be one of: seq, y, kind"),
    ({"folds": "2.5"}, "fold column '2.5' is missing"),
    ({"folds": "one"}, "column one: has 1 different values; folds must be 2 to 100"),
    ({"folds": "gap"}, "row 5, column gap: the fold is empty; fill it in"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), BAD, ids=lambda value: str(value)[:50])
def test_folds_that_cannot_be(tmp_path, options, says):
    table = plain(tmp_path, header=("seq", "y", "kind", "part", "one", "gap"),
                  more=lambda i: (f"g{max(0, i - 40) // 2}", PARTS[i % 3], "1", str(i % 2) * (i != 3)))  # fmt: skip
    with pytest.raises(InputError, match=says) as caught:
        load(table, **options)
    assert "\n" not in str(caught.value)


def test_too_many_values_are_no_folds(tmp_path):
    table = plain(tmp_path, 120, header=("seq", "y", "clone"), more=lambda i: (f"c{i}",))
    with pytest.raises(InputError, match=r"column clone: has 120 different values; folds must be 2 to 100"):
        load(table, folds="clone")


def test_a_fold_without_a_second_class(tmp_path):
    """Training without fold b has one class only, which is said of that fold."""
    rows = [(s, "rare" if i % 3 == 1 else "usual", "abc"[i % 3]) for i, s in enumerate(random_sequences(60, 9, 9))]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "fold"], rows)
    with pytest.raises(InputError, match="the training part of fold b has one class only"):
        load(table, folds="fold")


def test_the_command_writes_folds_that_read_back(lyra, tmp_path):
    table, _ = grouped(tmp_path, [3] * 30)
    outcome = lyra("split", table, "--folds", "3", "--group", "family", "-o", tmp_path / "folds.csv")
    assert outcome.code == 0 and re.search(r"fold 2 +30 +33\.3%", outcome.out), outcome.out + outcome.err
    drawn = load(table, folds="3", group="family")
    again = load(tmp_path / "folds.csv", folds="fold", group="family")
    assert (again.fold_of == drawn.fold_of).all()
    assert all((a == b).all() for a, b in zip(again.folds, drawn.folds, strict=True)), "validation, too"
    scanned, wild, _ = scan(tmp_path)
    outcome = lyra("split", scanned, "--holdout", "position", "--folds", "3", "--wild-type", wild, "--offset", "5",
                   "-o", tmp_path / "positions.csv")  # fmt: skip
    assert outcome.code == 0, outcome.err
    empty = sum(row["fold"] == "" for row in read_csv(tmp_path / "positions.csv"))
    assert f"{empty:,} rows are test in no fold: their fold is empty" in outcome.err and empty > 0
    lines = (tmp_path / "positions.csv").read_text().splitlines()
    (tmp_path / "rest.csv").write_text("\n".join(line for line in lines if not line.endswith(",")) + "\n")
    options = {"folds": "fold", "wild_type": wild, "offset": 5}
    with pytest.raises(InputError, match="column fold: the fold is empty"):
        load(tmp_path / "positions.csv", **options)
    assert len(load(tmp_path / "rest.csv", **options).parts) == len(lines) - 1 - empty, "as the command says"
