"""`lyra train --folds`: each row predicted once by a model that had not seen it, scores of that, and one model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lyra.data import DataOptions, load_labelled
from lyra.metrics import evaluate
from lyra.prediction import Predictor
from lyra.training.networks import Workshop

from .conftest import SMALL, classification_rows, random_sequences, read_csv, regression_rows, token_rows, write_table
from .test_holdouts import scan

FAST = (*SMALL[:5], "1", *SMALL[6:])
TABLES = {"regression": regression_rows(75, 8, 12), "classification": classification_rows(75), "token": token_rows(60)}
NEW = random_sequences(5, 9, 11, seed=5)


@pytest.fixture
def seen(monkeypatch):
    """The rows of each call of `Workshop.train`."""
    calls = []
    original = Workshop.train

    def train(self, name, rows, index, several):
        calls.append((name, rows, index))
        return original(self, name, rows, index, several)

    monkeypatch.setattr(Workshop, "train", train)
    return calls


def numbers_of(rows, task, classes):
    """Predictions and truths of predictions.csv as scores take them."""
    if task == "regression":
        return np.array([float(r["prediction"]) for r in rows]), np.array([float(r["label"]) for r in rows])
    probabilities = np.array([[float(r[f"p_{name}"]) for name in classes] for r in rows])
    return probabilities, np.array([classes.index(r["label"]) for r in rows])


@pytest.mark.parametrize("task", TABLES)
def test_every_row_is_predicted_once_by_models_that_had_not_seen_it(lyra, tmp_path, seen, task):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], TABLES[task])
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST, "--folds", "3")
    assert outcome.code == 0, outcome.err
    data = load_labelled(table, DataOptions(folds=3), [].append)
    assert [name for name, _, _ in seen] == [f"fold {i}, network 1" for i in "123"]
    assert len({index for _, _, index in seen}) == 3, "a seed of its own for each"
    rows = read_csv(tmp_path / "run" / "predictions.csv")
    assert sorted(int(row["row"]) for row in rows) == sorted(data.table.index), "each once"
    place = {number: i for i, number in enumerate(data.table.index)}
    model = Predictor.from_pretrained(tmp_path / "run", "cpu")
    assert model.members == 3
    alone = model.predict_members(list(data.sequences))  # the replicates are the folds' models, in their order
    for row in rows:
        at = place[int(row["row"])]
        fold = int(data.fold_of[at])
        _, learned, _ = seen[fold]
        assert at not in learned.train and at not in learned.val
        if task == "regression":
            assert float(row["prediction"]) == pytest.approx(alone[at, fold], rel=1e-4, abs=1e-5)
        elif task == "classification":
            name = data.targets.classes[1]
            assert float(row[f"p_{name}"]) == pytest.approx(alone[at, fold, 1], rel=1e-4, abs=1e-5)
        else:
            labels = [data.targets.classes[i] for i in alone[at][:, fold].argmax(-1)]
            assert row["prediction"] == "".join(labels)
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    history = read_csv(tmp_path / "run" / "history.csv")
    assert [row["network"] for row in history] == [name for name, _, _ in seen]
    assert set(facts["folds"]["Lyra"][0]) <= set(facts["test"]) and len(facts["folds"]["Lyra"]) == 3
    if task == "token":
        wrong = sum(a != b for row in rows for a, b in zip(row["prediction"], row["label"], strict=True))
        letters = sum(len(row["label"]) for row in rows)
        assert facts["test"]["accuracy"] == pytest.approx(1 - wrong / letters)
        return
    positive = data.targets.positive_index
    whole = evaluate(task, *numbers_of(rows, task, data.targets.classes), positive)
    for name, value in whole.items():
        assert facts["test"][name] == pytest.approx(value, abs=1e-4), name
    for fold, scores in enumerate(facts["folds"]["Lyra"]):
        own = [row for row in rows if data.fold_of[place[int(row["row"])]] == fold]
        for name, value in evaluate(task, *numbers_of(own, task, data.targets.classes), positive).items():
            assert scores[name] == pytest.approx(value, abs=1e-4), name


ODD = ["a/b", "ü x", "c,d", 'he said "3"', "../../up", "fold"]


def test_folds_of_a_column_with_odd_names(lyra, tmp_path, seen):
    """Names stand in files and tables, never in paths."""
    rows = [(s, y, ODD[i % 6]) for i, (s, y) in enumerate(TABLES["regression"])]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "my / fold"], rows)
    before = set(tmp_path.parent.iterdir())
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST, "--folds", "my / fold")
    assert outcome.code == 0, outcome.err
    assert set(tmp_path.parent.iterdir()) == before and {p.name for p in tmp_path.iterdir()} == {"t.csv", "run"}
    names = sorted(ODD)
    history = read_csv(tmp_path / "run" / "history.csv")
    assert [row["network"] for row in history] == [f"fold {name}, network 1" for name in names]
    assert all(set(row) == set(history[0]) and None not in row for row in history)
    predictions = read_csv(tmp_path / "run" / "predictions.csv")
    assert [row["seq"] for row in predictions] == [s for name in names for s, _, fold in rows if fold == name]
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(facts["folds"]["Lyra"]) == 6
    assert lyra("predict", tmp_path / "run", table, "-o", tmp_path / "p.csv").code == 0


def test_folds_of_groups(lyra, tmp_path, seen):
    rows = [(s, y, f"g{i % 13}") for i, (s, y) in enumerate(TABLES["regression"])]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "family"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST, "--folds", "3", "--group", "family")
    assert outcome.code == 0, outcome.err
    for _, learned, _ in seen:
        parts = [{i % 13 for i in part} for part in (learned.train, learned.val)]
        rest = {i % 13 for i in set(range(75)) - set(learned.train) - set(learned.val)}
        assert not (parts[0] & parts[1] or parts[0] & rest or parts[1] & rest)


def test_rows_aside_are_in_no_part(lyra, tmp_path, seen):
    table, wild, _ = scan(tmp_path, degrees=(1, 1, 1, 2), length=11)
    options = {"holdout": "position", "folds": 3, "wild_type": wild, "offset": 5}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST, *words)
    assert outcome.code == 0, outcome.err
    data = load_labelled(table, DataOptions(**options), [].append)
    tested = [int(row["row"]) for row in read_csv(tmp_path / "run" / "predictions.csv")]
    assert sorted(tested) == sorted(data.table.index[data.fold_of >= 0]) and len(set(tested)) == len(tested)
    assert len(tested) < len(data.table)
    for parts, (_, learned, _) in zip(data.folds, seen, strict=True):
        assert (parts[learned.train] == "train").all() and (parts[learned.val] == "val").all()


def test_what_the_folds_have_seen_is_not_new(lyra, tmp_path):
    """A letter that is in one row alone: in training of all folds but that row's own."""
    rows = [(s, y, str(i % 3)) for i, (s, y) in enumerate(regression_rows(60))]
    rows[0] = ("N" + rows[0][0][1:], rows[0][1], "0")  # fold 0 is the first, whose training part lacks it
    table = write_table(tmp_path / "t.csv", ["seq", "label", "fold"], rows)
    assert lyra("train", table, "--out", tmp_path / "run", *FAST, "--folds", "fold").code == 0
    assert lyra("predict", tmp_path / "run", table, "-o", tmp_path / "p.csv").code == 0
    assert {row["novel"] for row in read_csv(tmp_path / "p.csv")} == {""}


def test_folds_with_an_ensemble_in_each(lyra, tmp_path, seen):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], TABLES["regression"])
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST, "--folds", "2", "--ensemble", "2")
    assert outcome.code == 0, outcome.err
    assert [name for name, _, _ in seen] == [f"fold {f}, network {n}" for f in "12" for n in "12"]
    assert len({index for _, _, index in seen}) == 4
    model = Predictor.from_pretrained(tmp_path / "run", "cpu")
    assert model.members == 2 and len(model.model.members) == 4
    found = model.predict_members(NEW)
    np.testing.assert_allclose(found.mean(1), model.predict(NEW), rtol=1e-6)
    data = load_labelled(table, DataOptions(folds=2), [].append)
    place = {number: i for i, number in enumerate(data.table.index)}
    alone = model.predict_members(list(data.sequences))
    for row in read_csv(tmp_path / "run" / "predictions.csv"):
        at = place[int(row["row"])]
        assert float(row["prediction"]) == pytest.approx(alone[at, data.fold_of[at]], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("mix", ["validation", "folds"])
def test_folds_of_a_mix(lyra, tmp_path, seen, mix):
    """Folds in folds: the models of the inner ones have not seen the outer one's rows either."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(60))
    outcome = lyra("train", table, "--out", tmp_path / "run", *FAST[:-3], "--mix", mix, "--folds", "2")
    assert outcome.code == 0, outcome.err
    data = load_labelled(table, DataOptions(folds=2), [].append)
    inner = 5 if mix == "folds" else 1
    assert len(seen) == 2 * inner
    for number, (_, learned, _) in enumerate(seen):
        learned_rows = np.concatenate([learned.train, learned.val])
        assert not (data.fold_of[learned_rows] == number // inner).any()
        assert len(set(learned_rows)) == len(learned_rows) == (data.fold_of != number // inner).sum()
    model = Predictor.from_pretrained(tmp_path / "run", "cpu")
    alone = model.predict_members(list(data.sequences))
    place = {row: i for i, row in enumerate(data.table.index)}
    for row in read_csv(tmp_path / "run" / "predictions.csv"):
        at = place[int(row["row"])]
        assert float(row["prediction"]) == pytest.approx(alone[at, data.fold_of[at]], rel=1e-4, abs=1e-4)
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert facts["mix"] and all(weight >= 0 for weight in facts["mix"].values())
