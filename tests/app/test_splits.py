"""Parts that keep groups whole and have their share of every class; what cannot be divided, and `lyra split`."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.data.draws import draw_parts
from lyra.data.splits import find_duplicates
from lyra.errors import InputError

from .conftest import SMALL, random_sequences, read_csv, write_table

PARTS = ("train", "val", "test")


def load(table, warned=None, **options):
    return load_labelled(table, DataOptions(**options), [].append if warned is None else warned.append)


def grouped(folder, sizes, *, header=("seq", "y", "family"), seed=0, cell=lambda i, group: f"{(7 * i) % 11}.5"):
    """A table in random order of groups g0, g1, ... of these sizes, every sequence its own."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    groups = groups[np.random.default_rng(seed).permutation(len(groups))]
    sequences = random_sequences(len(groups), 12, 12, seed=seed)
    rows = [(s, cell(i, int(g)), f"g{g}") for i, (s, g) in enumerate(zip(sequences, groups, strict=True))]
    return write_table(folder / "grouped.csv", list(header), rows), groups


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_whole(tmp_path, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 13, size=rng.integers(40, 70))
    table, groups = grouped(tmp_path, sizes, seed=seed)
    shares = {"val": float(rng.uniform(0.1, 0.3)), "test": float(rng.uniform(0.1, 0.3))}
    options = {"group": "family", "val_fraction": shares["val"], "test_fraction": shares["test"], "seed": seed}
    data = load(table, **options)
    assert (data.groups[:, None] == data.groups).tolist() == (groups[:, None] == groups).tolist()
    assert f"{len(sizes)} groups in column 'family'" in data.guesses
    for number in range(len(sizes)):
        assert len(set(data.parts[groups == number])) == 1
    for part, share in shares.items():
        assert abs((data.parts == part).mean() - share) < 0.06
    assert (load(table, **options).parts == data.parts).all(), "the same seed draws the same"
    assert (load(table, **options | {"seed": seed + 100}).parts != data.parts).any()


def test_copies_tie_groups_together(tmp_path):
    """A chain of groups that share sequences, the second in lower case, is one group; the others are left alone."""
    sequences = random_sequences(60, 12, 12)
    rows = [[s, f"{i % 9}.5", f"g{i // 3}"] for i, s in enumerate(sequences)]
    for first, second in ((0, 3), (4, 6), (7, 30)):  # g0-g1, g1-g2, g2-g10
        rows[second][0] = rows[first][0].lower()
    warned: list[str] = []
    table = write_table(tmp_path / "t.csv", ["seq", "y", "family"], [tuple(row) for row in rows])
    data = load(table, warned, group="family", val_fraction=0.2, test_fraction=0.2)
    families = np.arange(60) // 3
    families[np.isin(families, (1, 2, 10))] = 0
    assert (data.groups[:, None] == data.groups).tolist() == (families[:, None] == families).tolist()
    assert len(set(data.parts[families == 0])) == 1
    assert len(warned) == 1 and "which leaves 17 of 20" in warned[0]


def test_a_group_that_makes_parts_uneven(tmp_path):
    table, _ = grouped(tmp_path, [40, 38, 42])
    says = (
        r"the test part would have \d\d rows where 12 .*the largest of 3, group of column family g2, has 42 of the 120"
    )
    with pytest.raises(InputError, match=says):
        load(table, group="family")
    table, groups = grouped(tmp_path, [200, 9, 8, 7, 6, 5, 5])
    data = load(table, group="family", val_fraction=0.05, test_fraction=0.05)
    assert set(data.parts[groups == 0]) == {"train"}, "a group larger than the other parts is in training"


def test_groups_of_one_row_are_no_groups(tmp_path):
    """Then shares are exact, as without."""
    table, _ = grouped(tmp_path, [1] * 120)
    data = load(table, group="family")
    assert [int((data.parts == part).sum()) for part in PARTS] == [96, 12, 12]


@pytest.mark.parametrize("cell", ["", "  ", "NA", "nan"])
def test_a_row_without_a_group(tmp_path, cell):
    rows = [(s, f"{i}.5", cell if i == 7 else "a") for i, s in enumerate(random_sequences(20, 9, 9))]
    with pytest.raises(InputError, match=r"row 9, column family: the group is (empty|missing)"):
        load(write_table(tmp_path / "t.csv", ["seq", "y", "family"], rows), group="family")


def test_a_split_column_and_groups(tmp_path):
    sequences = random_sequences(60, 9, 9)
    parts = np.array(PARTS)[np.arange(20) % 3].repeat(3)

    def table(parts):
        rows = [(s, f"{i % 9}.5", f"g{i // 3}", p) for i, (s, p) in enumerate(zip(sequences, parts, strict=True))]
        return write_table(tmp_path / "t.csv", ["seq", "y", "family", "set"], rows)

    assert (load(table(parts), group="family").parts == parts).all()
    parts[4] = "test"  # of g1, whose others are val
    says = (
        r"column set: tears 1 groups apart, such as group of column family g1, which stands in val and test; .*split="
    )
    with pytest.raises(InputError, match=says):
        load(table(parts), group="family")
    load(table(parts), group="family", split="none", val_fraction=0.2, test_fraction=0.2)
    parts[parts == "val"] = "train"
    parts[:6] = "train"
    data = load(table(parts), group="family", val_fraction=0.2)
    assert set(data.parts) == set(PARTS) and len(set(zip(np.arange(60) // 3, data.parts, strict=True))) == 20


@pytest.mark.parametrize("seed", range(6))
def test_drawn_parts_have_their_share_of_every_stratum(seed):
    rng = np.random.default_rng(seed)
    strata = rng.choice(4, size=rng.integers(50, 300), p=[0.6, 0.3, 0.08, 0.02])
    val, test = rng.uniform(0.05, 0.35, size=2)
    keys = [f"k{i}" for i in range(len(strata))]
    parts = draw_parts(keys, float(val), float(test), seed, strata)
    assert (parts == draw_parts(keys, float(val), float(test), seed, strata)).all()
    for part, share in (("val", val), ("test", test)):
        assert (parts == part).sum() == round(share * len(strata))
        for stratum in range(4):
            expected = share * (strata == stratum).sum()
            assert abs(((parts == part) & (strata == stratum)).sum() - expected) <= 2


def classes_table(folder, counts, name="t.csv", seed=0):
    labels = np.random.default_rng(seed).permutation(np.repeat([f"c{i}" for i in range(len(counts))], counts))
    sequences = random_sequences(len(labels), 14, 14, seed=seed)
    return write_table(folder / name, ["seq", "label"], list(zip(sequences, labels, strict=True))), labels


def test_classes_are_strata_where_there_are_enough(tmp_path):
    table, labels = classes_table(tmp_path, [170, 20, 10])
    data = load(table)
    assert "parts drawn with classes in equal shares (each has at least 10 sequences)" in data.guesses
    for name, expected in (("c0", 17), ("c1", 2), ("c2", 1)):
        for part in ("val", "test"):
            assert ((data.parts == part) & (labels == name)).sum() == expected
    few, _ = classes_table(tmp_path, [170, 20, 9], "few.csv")
    assert "without regard to classes (class 'c2' has 9 sequences, 10 needed)" in "; ".join(load(few).guesses)
    assert not any("classes in" in text for text in load(few, stratify=True).guesses), "what is asked for is no guess"
    assert (load(table, stratify=False).parts == draw_parts(range(200), 0.1, 0.1, 0)).all()
    tiny, _ = classes_table(tmp_path, [8, 8], "tiny.csv")
    with pytest.raises(InputError, match=r"stratify=True needs a class with 10 different sequences.*'c0', has 8"):
        load(tiny, stratify=True)


def test_a_skewed_target_is_drawn_by_tenths(tmp_path):
    rng = np.random.default_rng(1)
    sequences = random_sequences(240, 14, 14)
    values = {"skewed": np.exp(2 * rng.normal(size=240)), "even": rng.normal(size=240)}
    for name, numbers in values.items():
        table = write_table(tmp_path / f"{name}.csv", ["seq", "y"],
                            [(s, f"{v:.9f}") for s, v in zip(sequences, numbers, strict=True)])  # fmt: skip
        data = load(table)
        said = "; ".join(data.guesses)
        assert bool(re.search(r"tenths of the target in equal shares \(its skewness is \d", said)) == (name == "skewed")
        data = load(table, stratify=True)
        tenth = np.argsort(np.argsort(numbers)) // 24
        for part in ("val", "test"):
            counts = np.bincount(tenth[data.parts == part], minlength=10)
            assert counts.min() >= 2 and counts.max() <= 3
    flat = write_table(tmp_path / "flat.csv", ["seq", "y"], [(s, "1.5") for s in sequences])
    with pytest.raises(InputError, match="needs different targets"):
        load(flat, stratify=True, task="regression")


def test_residues_are_drawn_by_their_most_frequent_class(tmp_path):
    sequences = random_sequences(100, 10, 10)
    labels = ["H" * 7 + "-EE" if i % 5 else "-H" + "E" * 8 for i in range(100)]
    labels = [a[:3] + a[3:][:: 1 if i % 2 else -1] for i, a in enumerate(labels)]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], list(zip(sequences, labels, strict=True)))
    data = load(table, task="token")
    mostly = np.array([a.count("E") > a.count("H") for a in labels])
    assert [int(((data.parts == part) & mostly).sum()) for part in PARTS] == [16, 2, 2]


def test_groups_and_classes_together(tmp_path):
    """Families of one class each: parts have about the share of classes of the table, not what chance would give."""
    sizes = np.random.default_rng(0).integers(4, 9, size=60)
    table, groups = grouped(tmp_path, sizes, header=("seq", "label", "family"),
                            cell=lambda i, group: "rare" if group % 5 == 0 else "usual")  # fmt: skip
    share = (groups % 5 == 0).mean()
    for seed in range(5):
        data = load(table, group="family", val_fraction=0.2, test_fraction=0.2, seed=seed)
        for part in PARTS:
            rows = data.parts == part
            assert abs((groups[rows] % 5 == 0).mean() - share) < 0.06


SEQUENCES = random_sequences(40, 9, 9)
PLAIN = [(s, f"{i % 9}.5", "ab"[i % 2], PARTS[i % 3]) for i, s in enumerate(SEQUENCES)]
PLACES = {"holdout": "position", "wild_type": "ACGTACGTA", "val_fraction": 0.12, "test_fraction": 0.12}
REFUSED = [
    ({"group": "nosuch"}, "group column 'nosuch' is missing; group must be one of: seq, y, kind"),
    ({"group": "kind", "cluster": 0.5}, "group='kind' cluster=0.5: each says how the table is divided; leave one out"),
    ({"group": "kind", "holdout": "degree"}, "leave one out"),
    ({"cluster": 0.5, "holdout": "position"}, "leave one out"),
    ({"split": "part", "holdout": "position"}, "split='part' holdout='position'"),
    ({"cluster": 50}, "cluster 50: must be above 0 and at most 1, such as 0.5"),
    ({"cluster": float("nan")}, "must be above 0"),
    ({"holdout": "place"}, "must be one of random, position, degree"),
    ({"max_degree": 0, "holdout": "degree"}, "max_degree 0: must be above 0"),
    ({"group": "kind", "val_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
    ({"group": "kind", "val_fraction": -0.1}, "val_fraction -0.1: must be at least 0"),
    ({"group": "kind"}, "the test part would have 20 rows where 4 were asked for"),
    ({"holdout": "position", "wild_type": "ACGT"}, "row 2, column seq: has 9 letters, the wild type 4; holdout="),
    ({"holdout": "position"}, "needs the wild type, and at position 1 no letter"),
    ({**PLACES, "test_fraction": 0.02}, "0.02 of 9 mutated positions is none; give at least 0.12"),
    (PLACES, "no row has all of its mutations at the positions of the val part (1 of 9); give"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_divided_so(tmp_path, options, says):
    table = write_table(tmp_path / "t.csv", ["seq", "y", "kind", "part"], PLAIN)
    with pytest.raises(InputError) as caught:
        load(table, **options)
    assert says in str(caught.value) and "\n" not in str(caught.value), caught.value


EFFECTLESS = [
    (("--max-degree", "1"), "--max-degree: has no effect, without --holdout degree"),
    (("--holdout", "degree", "--test-fraction", "0.2", "--max-degree", "1"), "--test-fraction: has no effect, rows of"),
    (("--holdout", "position", "--stratify"), "--stratify: has no effect, it is positions that are drawn"),
    (
        ("--folds", "3", "--test-fraction", "0.2"),
        "--test-fraction: has no effect, each of the --folds is the test part",
    ),
    (("--split", "set", "--stratify"), "--stratify: has no effect, column set says which rows are in which part"),
]


@pytest.mark.parametrize("command", ["train", "split"])
@pytest.mark.parametrize(
    ("options", "says"), EFFECTLESS, ids=lambda value: " ".join(value) if value[0][0] == "-" else ""
)
def test_options_without_effect(lyra, tmp_path, command, options, says):
    rng = np.random.default_rng(0)
    wild = "ACGTACGTACGT"
    rows = []
    for i in range(150):
        letters = list(wild)
        for place in rng.choice(12, 1 + i % 2, replace=False):
            letters[place] = "ACGT"[("ACGT".index(letters[place]) + rng.integers(1, 4)) % 4]
        rows.append(("".join(letters), f"{rng.normal():.4f}", PARTS[i % 3]))
    table = write_table(tmp_path / "t.csv", ["seq", "y", "set"], rows)
    more = SMALL if command == "train" else ()
    fraction = ("--val-fraction", "0.2") if "position" in options else ()
    outcome = lyra(command, table, "--out", tmp_path / "out.csv", *options, *fraction, *more)
    assert outcome.code == 2 and says in outcome.err, outcome.err
    assert not (tmp_path / "out.csv").exists()


def test_the_command_writes_what_train_reads(lyra, tmp_path):
    table, _ = grouped(tmp_path, [4] * 30, header=("seq", "y", "family"))
    out = tmp_path / "divided.tsv"
    outcome = lyra("split", table, "--group", "family", "--seed", "3", "-o", out)
    assert outcome.code == 0 and re.search(r"test +12 +10\.0%", outcome.out), outcome.out + outcome.err
    data = load(table, group="family", seed=3)
    again = load(out)
    assert (again.parts == data.parts).all() and list(again.table.columns) == ["seq", "y", "family", "set"]
    outcome = lyra("split", out, "--split", "none", "-o", tmp_path / "other.csv")
    assert outcome.code == 0 and "column set of the table gives way to the new one" in outcome.err
    assert [row["set"] for row in read_csv(tmp_path / "other.csv")] != again.parts.tolist()
    outcome = lyra("split", table, "-o", out)
    assert outcome.code == 2 and "exists; give another --out, or --overwrite" in outcome.err
    outcome = lyra("split", table, "-o", table, "--overwrite")
    assert outcome.code == 2 and "is the file to read" in outcome.err
    outcome = lyra("split", table, "-o", "-")
    assert outcome.code == 0 and outcome.out == "" and re.search(r"test +12 +10\.0%", outcome.err), "the table alone"


@pytest.mark.parametrize("seed", range(20))
def test_of_copies_the_first_of_the_last_part_is_kept(seed):
    """By a loop: the test part's if it has one, else the validation part's, and of several in a part the first."""
    rng = np.random.default_rng(seed)
    keys, parts = rng.integers(0, 6, 25), rng.choice(["train", "val", "test"], 25)
    wanted, across = set(), []
    for key in set(keys.tolist()):
        copies = np.flatnonzero(keys == key)
        part = next(part for part in ("test", "val", "train") if part in parts[copies])
        wanted.add(int(next(copy for copy in copies if parts[copy] == part)))
        across += [int(copies[0])] if len(set(parts[copies].tolist())) > 1 else []
    keep, found = find_duplicates(keys.tolist(), parts)
    assert set(np.flatnonzero(keep).tolist()) == wanted and found == sorted(across)
