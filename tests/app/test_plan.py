"""The recipe that is chosen where nobody says one, what is said of it, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.errors import InputError
from lyra.settings import Recipe
from lyra.training.plan import plan

from .conftest import (
    SMALL,
    classification_rows,
    number_rows,
    random_sequences,
    read_csv,
    regression_rows,
    token_rows,
    write_table,
)

CHOSEN = ("positions", "mix", "dropout", "epochs", "average", "keep")
ALL = {"split": "set"}  # a column that says it, so that the numbers of rows are exact
MANY = "mixed with simpler models by the validation part"
FEW = ("{0} rows are few, so 5 networks on four fifths of them each, mixed with simpler models by how all predict the "
       "fifth left out")  # fmt: skip
LAST = ["of each the last epoch is kept", "50 epochs"]
WHERE = "embeddings of positions, since all sequences have {0} letters"


def table_of(folder, task, count, tests=7, lengths=(9, 9), letters="ACGT"):
    """`count` rows to learn from, a tenth of them for validation, and some to test on."""
    sequences = random_sequences(count + tests, *lengths, letters=letters, seed=1)
    parts = ["val" if i % 10 == 0 else "train" for i in range(count)] + ["test"] * tests
    labels = {
        "regression": lambda i, s: f"{i % 17}.5", "classification": lambda i, s: "ab"[i % 2],
        "token": lambda i, s: "".join("01"[c in "GCDE"] for c in s),
    }[task]  # fmt: skip
    rows = [(s, labels(i, s), part) for i, (s, part) in enumerate(zip(sequences, parts, strict=True))]
    return write_table(folder / "t.csv", ["seq", "label", "set"], rows)


def planned(folder, task, count, recipe=None, **table):
    data = load_labelled(table_of(folder, task, count, **table), DataOptions(task=task), [].append)
    return plan(recipe or Recipe(), data)


PROTEIN = {"letters": "ACDEFGHIKLMNPQRSTVWY"}
UNEQUAL = {"lengths": (6, 12)}
CASES = [
    # task, rows to learn from, table, recipe; positions, mix, dropout, epochs, average, keep; what is said
    ("regression", 999, {}, {}, (True, "folds", 0.0, 50, 0.0, "last"), [WHERE.format(9), FEW.format(999), *LAST]),
    ("regression", 1000, {}, {}, (True, "validation", 0.0, None, 0.0, "best"), [WHERE.format(9), MANY]),
    ("regression", 999, {"tests": 400}, {}, (True, "folds", 0.0, 50, 0.0, "last"),
     [WHERE.format(9), FEW.format(999), *LAST]),
    ("regression", 200, PROTEIN, {}, (True, "folds", 0.0, 50, 0.0, "last"), [WHERE.format(9), FEW.format(200), *LAST]),
    ("regression", 999, UNEQUAL, {}, (False, "none", 0.0, None, 0.0, "best"), []),
    ("regression", 2999, UNEQUAL, {}, (False, "none", 0.0, None, 0.0, "best"), []),
    ("regression", 3000, UNEQUAL, {}, (False, "none", 0.0, None, 0.998, "best"), []),
    ("regression", 3000, {}, {}, (True, "validation", 0.0, None, 0.998, "best"), [WHERE.format(9), MANY]),
    ("regression", 50, {"lengths": (1639, 1639)}, {}, (False, "none", 0.0, None, 0.0, "best"),
     []),  # times 5 is over 8192
    ("regression", 50, {"lengths": (1638, 1638)}, {}, (True, "folds", 0.0, 50, 0.0, "last"),
     [WHERE.format(1638), FEW.format(50), *LAST]),
    ("regression", 100, {}, {"strand": "both"}, (False, "none", 0.0, None, 0.0, "best"), []),
    ("regression", 100, {}, {"strand": "augment"}, (False, "none", 0.0, None, 0.0, "best"), []),
    ("regression", 100, {}, {"bidirectional": False}, (False, "none", 0.0, None, 0.0, "best"), []),
    ("classification", 999, {}, {}, (False, "none", 0.0, None, 0.998, "best"), []),
    ("classification", 3000, UNEQUAL, {}, (False, "none", 0.0, None, 0.998, "best"), []),
    ("token", 999, UNEQUAL, {}, (False, "none", 0.3, 25, 0.998, "best"), ["dropout .3 for 999 sequences", "25 epochs"]),
    ("token", 999, PROTEIN, {}, (False, "none", 0.3, 25, 0.998, "best"), ["dropout .3 for 999 sequences", "25 epochs"]),
    ("token", 1000, PROTEIN, {}, (False, "none", 0.0, None, 0.998, "best"), []),
    # what is said wins
    ("regression", 100, {}, {"mix": "none"}, (True, "none", 0.0, None, 0.0, "best"), [WHERE.format(9)]),
    ("regression", 1500, {}, {"mix": "folds"}, (True, "folds", 0.0, 50, 0.0, "last"), [WHERE.format(9), *LAST]),
    ("regression", 100, {}, {"mix": "validation", "positions": False}, (False, "validation", 0.0, None, 0.0, "best"),
     []),
    ("regression", 100, {}, {"positions": False}, (False, "folds", 0.0, 50, 0.0, "last"), [FEW.format(100), *LAST]),
    ("regression", 100, {}, {"bidirectional": False, "mix": "validation"},
     (False, "validation", 0.0, None, 0.0, "best"), []),
    ("regression", 100, {"lengths": (1639, 1639)}, {"positions": True}, (True, "none", 0.0, None, 0.0, "best"), []),
    ("regression", 3500, UNEQUAL, {"average": 0.0, "dropout": 0.1}, (False, "none", 0.1, None, 0.0, "best"), []),
    ("regression", 100, UNEQUAL, {"average": 0.5, "epochs": 3}, (False, "none", 0.0, 3, 0.5, "best"), []),
    ("classification", 100, {}, {"positions": True, "average": 0.0}, (True, "none", 0.0, None, 0.0, "best"), []),
    ("token", 100, PROTEIN, {"dropout": 0.0}, (False, "none", 0.0, 25, 0.998, "best"), ["25 epochs"]),
    ("token", 100, PROTEIN, {"epochs": 4}, (False, "none", 0.3, 4, 0.998, "best"), ["dropout .3 for 100 sequences"]),
    ("regression", 100, {}, {"epochs": 7}, (True, "folds", 0.0, 7, 0.0, "last"),
     [WHERE.format(9), FEW.format(100), LAST[0]]),
    ("regression", 100, {}, {"keep": "best"}, (True, "folds", 0.0, None, 0.0, "best"),
     [WHERE.format(9), FEW.format(100)]),
    ("regression", 100, {}, {"patience": 3}, (True, "folds", 0.0, None, 0.0, "best"),
     [WHERE.format(9), FEW.format(100)]),
    ("regression", 1500, {}, {"keep": "last"}, (True, "validation", 0.0, None, 0.0, "last"), [WHERE.format(9), MANY]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "count", "table", "recipe", "wanted", "says"), CASES, ids=lambda v: str(v)[:40])
def test_what_is_chosen_and_said(tmp_path, task, count, table, recipe, wanted, says):
    before = Recipe(**recipe)
    found, said = planned(tmp_path, task, count, before, **table)
    assert tuple(getattr(found, name) for name in CHOSEN) == wanted
    assert said == "; ".join(says)
    assert before == Recipe(**recipe), "a recipe is not changed"
    wanted_patience = None if found.keep == "last" else recipe.get("patience", 15)
    others = {name: value for name, value in asdict(found).items() if name not in CHOSEN}
    unchanged = {name: value for name, value in asdict(before).items() if name not in CHOSEN}
    assert others == unchanged | {"patience": wanted_patience}
    assert plan(found, load_labelled(tmp_path / "t.csv", DataOptions(task=task), [].append)) == (found, "")


def test_the_number_of_rows_of_folds_is_that_of_one(tmp_path):
    """Of 1,200 rows in five folds 960 are learned from."""
    rows = [(s, f"{i % 17}.5") for i, s in enumerate(random_sequences(1200, 9, 9))]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    found, said = plan(Recipe(), load_labelled(table, DataOptions(folds=5), [].append))
    assert found.mix == "folds" and "960 rows are few" in said


@pytest.mark.parametrize(("groups", "mix"), [(4, "validation"), (5, "folds")])
def test_few_groups_are_no_folds(lyra, tmp_path, groups, mix):
    """Five folds need five groups beside those of the test part."""
    rows = []
    for i, s in enumerate(random_sequences(80, 9, 9)):
        group = i % groups
        rows.append((s, f"{np.sin(i):.3f}", f"g{group}" if i < 72 else "t", "test" if i >= 72 else
                     "val" if group == 0 else "train"))  # fmt: skip
    header = ["seq", "label", "family", "set"]
    table = write_table(tmp_path / "t.csv", header, rows)
    data = load_labelled(table, DataOptions(group="family"), [].append)
    data.groups = np.array([int(row[2][1:] or 99) if row[2] != "t" else 99 for row in rows])
    found, _ = plan(Recipe(), data)
    assert found.mix == mix
    if groups == 4:
        with pytest.raises(InputError, match="mix='folds': needs 5 different sequences, or groups, to learn from, and "
                                             "there are 4; give mix='validation'"):  # fmt: skip
            plan(Recipe(mix="folds"), data)


IMPOSSIBLE = [
    (classification_rows(40), ("--mix", "folds"), "--mix folds: is for a regression, and the task is classification"),
    (token_rows(40), ("--mix", "validation"), "--mix validation: is for a regression, and the task is token"),
    (number_rows(40), ("--mix", "folds"), "--mix folds: is for one number a sequence, and there is one for each"),
    (number_rows(40), ("--positions",), "--positions: a number per residue has none yet"),
    (token_rows(40), ("--positions",), "--positions: a class per residue has none yet"),
    (regression_rows(40, 6, 9), ("--positions",), "--positions: needs sequences of one length"),
    (regression_rows(40, 6, 9), ("--mix", "folds"), "--mix folds: needs sequences of one length"),
    (classification_rows(40), ("--positions",), "--positions: needs sequences of one length"),
    (regression_rows(40), ("--positions", "--one-way"), "--positions --one-way: a model that knows positions has no"),
    (regression_rows(40), ("--mix", "folds", "--strand", "both"), "--mix folds --strand both: a position of one"),
    (regression_rows(40), ("--mix", "validation", "--strand", "augment"), "--mix validation --strand augment: a pos"),
    (regression_rows(40), ("--positions", "--strand", "augment"), "--positions --strand augment: a position of one"),
    (regression_rows(40, 1700, 1700), ("--mix", "validation"), "--mix validation: is for at most 8,192 pairs of a"),
    (regression_rows(40), ("--keep", "last", "--patience", "3"), "--patience 3 --keep last: the last epoch is that"),
    (regression_rows(40), ("--keep", "first"), "--keep 'first': must be one of best, last"),
    (regression_rows(40), ("--mix", "some"), "--mix 'some': must be one of none, validation, folds"),
    (regression_rows(40), ("--average", "1"), "--average 1.0: must be at least 0 and below 1"),
    (regression_rows(40), ("--average", "-0.1"), "--average -0.1: must be at least 0 and below 1"),
    (regression_rows(40), ("--average", "nan"), "--average nan: must be at least 0 and below 1"),
    (regression_rows(40), ("--mix", "none", "--mix", "folds"), "--mix is given more than once"),
]


@pytest.mark.parametrize(("rows", "options", "says"), IMPOSSIBLE, ids=lambda v: str(v)[:60])
def test_what_cannot_be_is_one_line_and_leaves_nothing(lyra, tmp_path, rows, options, says):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL[:8], *options)
    assert outcome.code == 2 and says in outcome.err and "Traceback" not in outcome.err
    assert len([line for line in outcome.err.splitlines() if "error" in line]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_epoch_that_is_kept(lyra, tmp_path, keep):
    """What the model is scored with are the weights of that epoch; the last is that of the whole schedule."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(60, 6, 9))
    options = (*SMALL[:4], "--epochs", "20", "--lr", "0.3", "--accelerator", "cpu", "--seed", "3", "--keep", keep)
    patience = ("--patience", "3") if keep == "best" else ()
    assert lyra("train", table, "--out", tmp_path / "run", *options, *patience).code == 0
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    history = [float(row["val_r2"]) for row in read_csv(tmp_path / "run" / "history.csv")]
    kept, best = scores["networks"][0]["best_epoch"] - 1, int(np.argmax(history))
    assert kept == (best if keep == "best" else 19) and best < len(history) - 1
    assert len(history) == (best + 4 if keep == "best" else 20)
    assert scores["validation"]["r2"] == pytest.approx(history[kept], abs=1e-4)


def test_what_was_chosen_is_said(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(40))
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL[:4], "--epochs", "1", "--accelerator", "cpu")
    assert outcome.code == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if line.startswith("recipe: ")]
    assert said == [f"recipe: {WHERE.format(10)}; {FEW.format(36)}; {LAST[0]}"]
    outcome = lyra("train", table, "--out", tmp_path / "plain", *SMALL)
    assert outcome.code == 0 and "recipe: " not in outcome.err


@pytest.mark.parametrize(
    ("make", "mix"),
    [
        (regression_rows, "none"),
        (regression_rows, "validation"),
        (regression_rows, "folds"),
        (classification_rows, "none"),
    ],
    ids=["numbers", "numbers-validation", "numbers-folds", "classes"],
)
def test_runs_without_a_test_part(lyra, tmp_path, make, mix):
    rows = make(60)
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL[:5], "1", "--accelerator", "cpu", "--mix", mix,
                   "--test-fraction", "0")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "report.html").exists() and (tmp_path / "run" / "learning_curve.png").exists()
