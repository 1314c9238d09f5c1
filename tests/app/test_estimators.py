"""Estimators give what `lyra train` and `lyra predict` give, and behave in scikit-learn as its own do."""

from __future__ import annotations

import doctest
import inspect
import pickle
import random
import tempfile
import warnings
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from lyra import LyraClassifier, LyraRegressor, LyraTokenClassifier, LyraTokenRegressor, Predictor, explain
from lyra.data.arrays import label_arrays
from lyra.errors import InputError
from lyra.estimators import models
from lyra.explain import ExplainOptions
from lyra.settings import DataOptions, Hardware, Recipe

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

TINY = {"d_model": 8, "d_state": 4, "epochs": 2, "positions": False, "accelerator": "cpu"}
KINDS = {
    "regression": (LyraRegressor, TINY | {"mix": "none"}),
    "classification": (LyraClassifier, TINY),
    "token": (LyraTokenClassifier, {name: value for name, value in TINY.items() if name != "positions"}),
    "token-regression": (LyraTokenRegressor, {name: value for name, value in TINY.items() if name != "positions"}),
}
ROWS = {
    "regression": regression_rows, "classification": classification_rows, "token": token_rows,
    "token-regression": number_rows,
}  # fmt: skip


def data(task: str, count: int = 60) -> tuple[list[str], list]:
    X, y = map(list, zip(*ROWS[task](count), strict=True))
    if task == "token-regression":
        return X, [[None if each == "NA" else float(each) for each in cell.split(";")] for cell in y]
    return X, [float(each) for each in y] if task == "regression" else y


def make(task: str, **more):
    kind, settings = KINDS[task]
    return kind(**(settings | more))


@pytest.fixture(scope="module")
def fitted() -> dict:
    torch.set_num_threads(1)
    found = {task: make(task).fit(*data(task)) for task in KINDS}
    found["residues"] = make("token-regression", ensemble=2, val_fraction=0.3).fit(*data("token-regression", 60))
    return found | {"ensemble": make("regression", ensemble=3).fit(*data("regression", 90))}


def same(one, other) -> bool:
    if isinstance(one, np.ndarray) and one.dtype == object:
        return len(one) == len(other) and all(map(np.array_equal, one, other))
    return np.array_equal(one, other)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", KINDS)
def test_the_command_line_trains_the_same_model(lyra, tmp_path, task):
    """Given the same rows for training and validation: every weight of the networks is equal."""
    X, y = data(task, 50)
    parts = ["train"] * 40 + ["val"] * 10
    cells = [row[1] for row in ROWS[task](50)]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "set"], list(zip(X, cells, parts, strict=True)))
    small = SMALL if task == "regression" else SMALL[: SMALL.index("--mix")]
    outcome = lyra("train", table, "--out", tmp_path / "run", "--task", task, *small)
    assert outcome.code == 0, outcome.err
    model = make(task, epochs=3).fit(X[:40], y[:40], validation=(X[40:], y[40:]))
    theirs, ours = (
        each.model.state_dict() for each in (Predictor.from_pretrained(tmp_path / "run", "cpu"), model.predictor_)
    )
    assert theirs.keys() == ours.keys()
    for name in theirs:
        assert torch.equal(theirs[name], ours[name]), name
    history = pd.read_csv(tmp_path / "run" / "history.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(history, model.history_.drop(columns="seconds"), check_dtype=False)


@pytest.mark.parametrize("name", [*KINDS, "ensemble", "residues"])
def test_a_saved_model_is_one_of_the_command_line_and_gives_its_table(lyra, tmp_path, fitted, name):
    model = fitted[name]
    X = random_sequences(7, 10, 12, seed=3)
    model.save(tmp_path / "saved")
    file = write_table(tmp_path / "t.csv", ["X"], [(x,) for x in X])
    outcome = lyra("predict", tmp_path / "saved", file, "-o", tmp_path / "p.csv", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    theirs = pd.DataFrame(read_csv(tmp_path / "p.csv")).rename(columns={"X": "sequence"})
    ours = model.table(X)
    assert list(ours) == list(theirs)
    for column in ours:
        wanted = theirs[column].astype(float) if ours[column].dtype == float else theirs[column]
        assert ours[column].tolist() == wanted.tolist()


@pytest.mark.parametrize("task", ["regression", "classification", "token"])
def test_loads_what_the_command_line_trained(trained, predictors, task):
    kind, _ = KINDS[task]
    X, y = data(task, 20)
    model = kind.from_pretrained(trained[task], device="cpu")
    wanted = predictors[task].predict(X)
    if task == "regression":
        assert np.array_equal(model.predict(X), wanted)
    else:
        assert all(map(np.array_equal, model.predict_proba(X), wanted))
        assert model.classes_.tolist() == predictors[task].targets.classes
    assert 0 <= model.score(X, y) <= 1 if task != "regression" else model.score(X, y) <= 1
    assert len(model.history_) == 3


# --- scikit-learn's rules --------------------------------------------------------------------------------------------


def test_arguments_are_all_settings_of_a_recipe_and_the_machine():
    named = set(inspect.signature(LyraRegressor).parameters)
    wanted = {one.name for kind in (Recipe, Hardware) for one in fields(kind)}
    assert wanted - named == {"seed", "strategy", "class_weights"}  # random_state; one process; classifiers have it
    assert "class_weights" in inspect.signature(LyraClassifier).parameters
    default = LyraRegressor().get_params()
    for one in fields(Recipe):
        if one.name in default:
            assert default[one.name] == one.default, one.name


@pytest.mark.parametrize("name", [*KINDS, "ensemble", "residues"])
def test_copies_and_pickles_predict_alike(tmp_path, fitted, name):
    model, X = fitted[name], random_sequences(9, 10, 10, seed=2)
    pickled = pickle.loads(pickle.dumps(model))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    for other in (pickled, loaded):
        assert same(model.predict(X), other.predict(X))
        assert other.get_params() == model.get_params()
        pd.testing.assert_frame_equal(other.history_, model.history_, check_exact=True)
    unfitted = clone(model)
    assert unfitted.get_params() == model.get_params() and not hasattr(unfitted, "predictor_")
    assert not list((tmp_path / "model").rglob("*.pkl")) + list((tmp_path / "model").rglob("*.ckpt"))


def test_fitting_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    wanted = random.random(), np.random.rand(), float(torch.rand(()))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        make("classification", epochs=1).fit(*data("classification", 30))
        assert warnings.filters == filters
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == wanted
    assert [str(each.message) for each in caught if "lyra" in each.filename] == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_verbose_says_what_is_done(capfd):
    make("classification", epochs=1, verbose=True).fit(*data("classification", 30))
    assert "classification with 2 classes of y" in capfd.readouterr().err


def test_a_seed_repeats_a_fit_and_another_does_not():
    X, y = data("regression", 40)
    first, again, other = (make("regression", random_state=seed).fit(X, y).predict(X) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    drawn = make("regression", random_state=np.random.RandomState(0)).fit(X, y)
    assert drawn.recipe_.seed == np.random.RandomState(0).randint(2**31 - 1)


def test_scores_are_those_of_scikit_learn(fitted):
    X, y = data("regression", 40)
    weights = np.random.default_rng(0).random(40)
    assert fitted["regression"].score(X, y, weights) == r2_score(
        y, fitted["regression"].predict(X), sample_weight=weights
    )
    X, y = data("classification", 40)
    model = fitted["classification"]
    assert model.score(X, y) == accuracy_score(y, model.predict(X))
    assert np.array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(1)])
    assert np.allclose(model.predict_proba(X).sum(1), 1)


def test_the_score_of_residues_counts_labelled_ones(fitted):
    X, y = data("token", 30)
    rng = np.random.default_rng(0)
    y = [[label if rng.random() < 0.7 else rng.choice([None, "-"]) for label in labels] for labels in y]
    y[3] = [None] * len(y[3])
    model, weights = fitted["token"], rng.random(30)
    right = total = 0.0
    for weight, labels, predicted in zip(weights, y, model.predict(X), strict=True):
        for label, guess in zip(labels, predicted, strict=True):
            if label not in (None, "-"):
                right, total = right + weight * (label == guess), total + weight
    assert model.score(X, y, weights) == pytest.approx(right / total)
    y[0] = ["another"] * len(y[0])  # a class that training had not
    assert model.score(X[:1], y[:1]) == 0


@pytest.mark.parametrize("task", KINDS)
def test_cross_validation(task):
    X, y = data(task, 40)
    scores = cross_val_score(make(task), X, y, cv=2, error_score="raise")
    assert np.isfinite(scores).all()
    predicted = cross_val_predict(make(task), X, y, cv=2)
    halves = [make(task).fit(X[20:], y[20:]), make(task).fit(X[:20], y[:20])]
    if task != "classification":  # whose folds are drawn by class
        assert same(predicted, np.concatenate([halves[0].predict(X[:20]), halves[1].predict(X[20:])]))


def test_pipelines_and_searches():
    X, y = data("classification", 40)
    rna = FunctionTransformer(lambda rows: [row.replace("T", "U") for row in rows])
    model = Pipeline([("rna", rna), ("lyra", make("classification"))]).fit(X, y)
    assert model.score(X, y) > 0 and model["lyra"].predictor_.alphabet.name == "rna"
    search = GridSearchCV(
        make("classification"), {"d_model": np.array([8, 12]), "lr": [0.01]}, cv=2, error_score="raise"
    )
    search.fit(X, y)
    assert search.best_estimator_.recipe_.d_model == search.best_params_["d_model"]
    assert set(search.predict(X)) <= set(y)


# --- what it can do --------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_the_predictor(fitted):
    model, X = fitted["ensemble"], random_sequences(9, 10, 10, seed=8)
    frame = model.predict_interval(pd.Series(X, index=range(5, 14)), coverage=0.7)
    members = model.predictor_.predict_members(X)
    assert frame["prediction"].tolist() == members.mean(1).tolist() and frame["sd"].tolist() == members.std(1).tolist()
    assert np.array_equal(frame[["lower", "upper"]], model.predictor_.interval(members, 0.7))
    assert list(frame.index) == list(range(5, 14))
    assert np.allclose(model.predict(X), members.mean(1))


@pytest.mark.parametrize("name", ["mutagenesis", "epistasis", "attributions"])
def test_explanations_are_those_of_the_library(fitted, name):
    sequence, options = "ACGTACGTAC", ExplainOptions(positions="2-4", steps=4)
    for model in (fitted["regression"], fitted["classification"], fitted["residues"]):
        wanted = getattr(explain, name)(model.predictor_, sequence, options)
        pd.testing.assert_frame_equal(getattr(model, name)(sequence, options), wanted)


@pytest.mark.parametrize("shape", ["list", "tuple", "array", "objects", "column", "series", "frame"])
def test_what_x_may_be(fitted, shape):
    X = random_sequences(5, 8, 12)
    given = {
        "list": X, "tuple": tuple(X), "array": np.array(X), "objects": np.array(X, dtype=object),
        "column": np.array(X)[:, None], "series": pd.Series(X, index=list("abcde")),
        "frame": pd.DataFrame({"seq": X}),
    }[shape]  # fmt: skip
    assert np.array_equal(fitted["regression"].predict(given), fitted["regression"].predict(X))


@pytest.mark.parametrize("labels", [[3, 7], [True, False], ["b", "a"], np.array(["b", "a"], dtype=object), [2.0, 1.0]])
def test_classes_are_as_they_were_given_also_when_loaded(tmp_path, labels):
    X, y = data("classification", 30)
    y = np.array(labels)[[int(each == "low") for each in y]]
    model = make("classification").fit(X, y)
    assert model.classes_.tolist() == np.unique(y).tolist() and model.classes_.dtype == np.array(y.tolist()).dtype
    model.save(tmp_path / "m")
    loaded = LyraClassifier.load(tmp_path / "m", device="cpu")
    assert loaded.classes_.dtype == model.classes_.dtype and same(loaded.predict(X), model.predict(X))


def test_labels_of_residues_may_be_lists_of_anything():
    X, y = data("token", 30)
    numbers = [[int(label) + 10 for label in labels] for labels in y]
    words = [[("in" if label == "1" else None) if at % 2 else "out" for at, label in enumerate(labels)] for labels in y]
    letters = make("token").fit(X, y)
    by_number, by_word = make("token").fit(X, numbers), make("token").fit(X, words)
    assert all(isinstance(each, str) for each in letters.predict(X))
    assert all(np.array_equal(n, np.array([*map(int, c)]) + 10) for n, c in
               zip(by_number.predict(X), letters.predict(X), strict=True))  # fmt: skip
    assert by_word.classes_.tolist() == ["in", "out"]
    assert [len(each) for each in by_word.predict(X)] == list(map(len, X))
    assert by_word.table(X)["prediction"][0].split(",")[0] in ("in", "out")


def test_validation_rows_and_groups():
    X, y = data("regression", 60)
    groups = np.repeat(np.arange(6), 10)
    with pytest.raises(InputError, match="leave one out"):
        make("regression").fit(X, y, validation=(X, y), groups=groups)
    with pytest.warns(UserWarning, match="9 sequences, such as .* stand in training and validation both"):
        make("regression").fit(X, y, validation=(X[:9], y[:9]))
    arrays, _ = make("regression")._arrays(X, y, None, groups)
    parts = label_arrays(arrays, DataOptions(val_fraction=0.3), lambda text: None, "fit").parts
    assert {len(set(parts[groups == group])) for group in range(6)} == {1}
    assert (parts == "val").sum() in (10, 20)
    make("regression").fit(X, y, groups=groups)


def test_a_final_stop_is_taken_off_as_on_the_command_line():
    rng = np.random.default_rng(0)
    X = ["M" + "".join(rng.choice(list("ADEFKLRSW"), 8)) + "*" for _ in range(30)]
    y = [x.count("K") + 0.5 for x in X]
    with pytest.warns(UserWarning, match="stop codon"):
        model = make("regression").fit(X, y)
    bare = [x[:-1] for x in X]
    with pytest.warns(UserWarning, match="stop codon"):
        assert np.array_equal(model.predict(X), model.predict(bare))


def test_what_is_not_said_goes_by_the_data():
    """As on the command line: few sequences of one length are learned in folds and mixed."""
    X, y = data("regression", 60)
    model = LyraRegressor(d_model=8, d_state=4, epochs=1, accelerator="cpu").fit(X, y)
    assert (model.recipe_.mix, model.recipe_.positions) == ("folds", True)
    assert set(model.shares_) <= {"Lyra", "one-hot ridge", "one-hot sigmoid", "pairwise sigmoid"}
    assert model.history_["network"].tolist() == list("12345")
    frame = model.predict_interval(X, 0.8)
    assert (frame["lower"] < frame["upper"]).all() and np.allclose(frame["prediction"], model.predict(X), rtol=1e-5)
    with pytest.raises(InputError, match=r"^predict, row 1.*has 3 letters, and the model reads sequences of 10 alone"):
        model.predict([X[0], "ACG"])


def test_examples_in_docstrings():
    found = doctest.testmod(models)
    assert found.attempted >= 16 and found.failed == 0
