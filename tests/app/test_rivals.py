"""Baselines of a run learn what the model does: weighted rows, other scales, and each of several targets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression, Ridge

from lyra import baselines
from lyra.data import DataOptions, LabelledData, load_labelled
from lyra.scores import score_rows
from lyra.scoring import score, score_each
from lyra.training import Hardware, Recipe, train
from lyra.training.rivals import fit_rivals
from lyra.transforms import Rank

from .conftest import random_sequences, read_csv, write_table

RNG = np.random.default_rng(5)
SAME, MANY = random_sequences(120, 8, 8, seed=2), random_sequences(120, 6, 12, seed=3)
PARTS = [("train", "train", "val", "test")[i % 4] for i in range(120)]
KINDS = {"same": SAME, "many": MANY}


def load(folder, header: list[str], rows: list[tuple], **options) -> LabelledData:
    return load_labelled(write_table(folder / "t.csv", header, rows), DataOptions(**options), print)


def labels(task: str, sequences: list[str]) -> list:
    if task == "token":
        return ["".join("01"[letter in "GC"] if RNG.random() < 0.9 else "0" for letter in s) for s in sequences]
    if task == "classification":
        return ["high" if s.count("G") + RNG.normal() > 2 else "low" for s in sequences]
    return [s.count("G") + 0.5 * RNG.normal() + 5 for s in sequences]


@pytest.mark.parametrize("length", KINDS)
@pytest.mark.parametrize("task", ["regression", "classification", "token"])
def test_rows_without_a_weight_might_as_well_not_be_there(tmp_path, task, length):
    """Whatever their targets: in the fit and in the choice of the penalty; others weigh what they are given."""
    sequences, wrong = KINDS[length], {"regression": -900.0, "classification": "low", "token": None}[task]
    y = labels(task, sequences)
    light = [i % 3 == 0 for i in range(120)]
    spoilt = [("0" * len(s) if task == "token" else wrong) if off else value
              for s, off, value in zip(sequences, light, y, strict=True)]  # fmt: skip
    weights = [0 if off else 1 + i % 4 for i, off in enumerate(light)]
    header, test = ["seq", "y", "w", "set"], np.flatnonzero(np.array(PARTS) == "test")
    found = []
    for values, own in ((y, weights), (spoilt, weights), (y, [int(w > 0) for w in weights])):
        rows = list(zip(sequences, values, own, PARTS, strict=True))
        data = load(tmp_path, header, rows, weight="w", task=task)
        found.append(fit_rivals(data))
    for name, rival in found[0].items():
        np.testing.assert_allclose(found[1][name].predict(test), rival.predict(test), rtol=1e-6, atol=1e-8)
        assert found[1][name].to_json() == rival.to_json()
        assert not np.allclose(found[2][name].predict(test), rival.predict(test), rtol=1e-3)
        assert task == "token" or rival.rows == sum(
            w > 0 for w, part in zip(weights, PARTS, strict=True) if part == "train"
        )


@pytest.mark.parametrize("length", KINDS)
@pytest.mark.parametrize("transform", ["log", "rank"])
def test_baselines_learn_on_the_scale(tmp_path, transform, length):
    """What those of the mapped targets predict, mapped back: always above 0, and within what was measured of ranks."""
    sequences = KINDS[length]
    y = [10 ** (s.count("G") - s.count("C") + 0.1 * RNG.normal()) for s in sequences]
    header, train_rows = ["seq", "y", "set"], np.array(PARTS) == "train"
    data = load(tmp_path, header, list(zip(sequences, y, PARTS, strict=True)), transform=transform)
    curve = Rank.fit(np.array(y)[train_rows])
    if transform == "log":
        there, again = np.log10, lambda x: 10**x
    else:
        there = lambda x: np.interp(x, curve.values, curve.scores)  # noqa: E731
        again = lambda x: np.interp(x, curve.scores, curve.values)  # noqa: E731
    mapped = load(tmp_path, header, list(zip(sequences, there(np.array(y)).tolist(), PARTS, strict=True)))
    every = np.arange(120)
    ours, theirs = fit_rivals(data), fit_rivals(mapped)
    assert ours.keys() == theirs.keys() and len(ours) == (3 if length == "same" else 1)
    for name, rival in ours.items():
        np.testing.assert_allclose(rival.predict(every), again(theirs[name].predict(every)), rtol=1e-5)
        assert (rival.predict(every) > 0).all()


def several(kind: str, sequences: list[str]) -> list[tuple]:
    """Two targets, of which some are missing, and the part."""
    rows = []
    for i, s in enumerate(sequences):
        cells: list = [s.count("G") + 0.5, 100.0 * s.count("A") + 3 * RNG.random() + 1]
        if kind == "labels":
            cells = [int(s.count("G") > 2), int(s.count("A") > 1)]
        if i % 5 == 0:
            cells[i % 2] = ""
        rows.append((s, *cells, PARTS[i]))
    return rows


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("length", KINDS)
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_each_of_several_targets_has_its_own(tmp_path, kind, length, transform):
    """What the baseline of a table of that target alone predicts."""
    if kind == "labels" and transform == "log":
        return
    rows, header = several(kind, KINDS[length]), ["seq", "g", "a", "set"]
    data = load(tmp_path, header, rows, target=["g", "a"], transform=transform)
    found, every = fit_rivals(data), np.arange(120)
    one_length, any_length = (
        ("one-hot ridge", "k-mer ridge") if kind == "numbers" else ("one-hot logistic", "k-mer logistic")
    )
    wanted_names = {any_length} if length == "many" else {one_length} | ({any_length} if kind == "labels" else set())
    assert set(found) == wanted_names
    for i, target in enumerate(("g", "a")):
        own = [(row[0], row[1 + i], row[3]) for row in rows if row[1 + i] != ""]
        known = [j for j, row in enumerate(rows) if row[1 + i] != ""]
        task = "classification" if kind == "labels" else "regression"
        alone = fit_rivals(load(tmp_path, ["seq", target, "set"], own, target=target, task=task, transform=transform))
        for name, rival in found.items():
            wanted = alone[name].predict(np.arange(len(own)))
            wanted = wanted[:, 1] if kind == "labels" else wanted
            np.testing.assert_allclose(rival.predict(every)[known, i], wanted, rtol=1e-9)
            assert rival.to_json()[target] == alone[name].to_json()


@pytest.mark.parametrize("more", [{}, {"folds": 3}], ids=["parts", "folds"])
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_a_run_of_several_targets_beside_its_baselines(tmp_path, kind, more):
    """Scores of each target and their mean, in metrics.json and in the table."""
    rows = [row[:3] for row in several(kind, SAME)] if more else several(kind, SAME)
    table = write_table(tmp_path / "t.csv", ["seq", "g", "a", "set"][: len(rows[0])], rows)
    recipe = Recipe(d_model=8, d_state=4, epochs=1)
    results = train(table, tmp_path / "run", DataOptions(target=["g", "a"], **more), recipe, Hardware("cpu"),
                    console=Console(quiet=True))  # fmt: skip
    assert results is not None and results.verdict is None
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    name = "one-hot ridge" if kind == "numbers" else "one-hot logistic"
    metric = "r2" if kind == "numbers" else "auroc"
    each = facts["baseline_targets"][name]
    assert facts["baselines"][name]["test"][metric] == pytest.approx(np.mean([each[t]["test"][metric] for t in "ga"]))
    shown = [model for part, model, _ in score_rows(results) if part == "test"]
    assert shown[:3] == ["Lyra, mean", "g", "a"] and {f"{name}, mean", f"{name}, g", f"{name}, a"} <= set(shown)
    if not more:
        data = load_labelled(table, DataOptions(target=["g", "a"]), print)
        test = data.rows("test")
        predicted = fit_rivals(data)[name].predict(test)
        true = np.concatenate([data.values[i] for i in test])
        assert facts["baselines"][name]["test"] == pytest.approx(score(data.targets, predicted, true))
        for target, scores in score_each(data.targets, predicted, true).items():
            assert each[target]["test"] == pytest.approx(scores)
        assert facts["baseline_fits"][name]["g"]["fitted_rows"] == sum(r[3] == "train" and r[1] != "" for r in rows)
    else:
        assert len(results.folds[name]) == 3 and len(read_csv(tmp_path / "run" / "predictions.csv")) == 120
    assert f"{name}, g" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("fit", ["linear", "logistic"])
def test_a_weight_of_two_is_a_row_twice(fit):
    """Of counts of k-mers: in the fit, and in the error by which the penalty is chosen."""
    x = baselines.one_hot(RNG.integers(0, 3, size=(90, 5)), 3)
    y = RNG.normal(size=90) if fit == "linear" else RNG.integers(0, 3, 90)
    weights = RNG.integers(0, 4, 90).astype(float)
    repeated = np.repeat(np.arange(90), weights.astype(int))
    train_rows, val = slice(0, 60), slice(60, 90)
    again = [repeated[repeated < 60], repeated[repeated >= 60]]
    call = baselines.kmers.fit_linear if fit == "linear" else baselines.fit_logistic
    options = {} if fit == "linear" else {"tf_idf": False, "iterations": 5000}
    # penalties of scikit-learn's ridge count beside the sum over rows, whose weights have a mean of 1
    loss, model = call(x[train_rows], y[train_rows], x[val], y[val], 3, weights=weights[train_rows],
                       val_weights=weights[val], **options)  # fmt: skip
    per_row = 60 / weights[train_rows].sum()
    if fit == "linear":
        mean = np.average(y[:60], weights=weights[:60])
        std = np.sqrt(np.average((y[:60] - mean) ** 2, weights=weights[:60]))
        by_hand = Ridge(model.chosen["penalty"] / per_row).fit(x[again[0]].toarray(), (y[again[0]] - mean) / std)
        wanted = by_hand.predict(x.toarray()) * std + mean
        assert loss == pytest.approx(np.mean(((wanted[again[1]] - y[again[1]]) / std) ** 2), rel=1e-3)
    else:
        by_hand = LogisticRegression(C=model.chosen["C"] * per_row, max_iter=5000, tol=1e-8).fit(
            x[again[0]], y[again[0]]
        )
        wanted = by_hand.predict_proba(x)
        assert loss == pytest.approx(-np.mean(np.log(wanted[again[1], y[again[1]]])), rel=1e-3)
    np.testing.assert_allclose(model.predict(x), wanted, atol=2e-3)
