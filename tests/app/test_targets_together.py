"""Weights, limits, scales and several targets with what makes one model of many: seeds, folds, mixes, intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import optimize

from lyra.cli.options import option
from lyra.data import DataOptions, load_labelled
from lyra.design import DesignOptions, design
from lyra.errors import InputError, arguments_spelled
from lyra.explain import ExplainOptions, mutagenesis
from lyra.prediction import Predictor
from lyra.training import Hardware, Recipe, train
from lyra.training.fitting import inner_folds
from lyra.training.mixing import mixing_weights
from lyra.training.networks import Rows, build_module
from lyra.training.plan import plan
from lyra.training.rivals import fit_positions

from .conftest import random_sequences, read_csv, write_table

RNG = np.random.default_rng(8)
SEQUENCES = random_sequences(120, 8, 8, seed=8)
RECIPE = {"d_model": 8, "d_state": 4, "epochs": 2}


def several_rows(kind: str) -> list[tuple]:
    """Two targets of other units, of which some are missing; or whether there is much of a letter."""
    if kind == "labels":
        return [(s, int(s.count("G") > 2), int(s.count("A") > 1)) for s in SEQUENCES]
    return [(s, "" if i % 7 == 0 else s.count("G") - 0.5, 100 * s.count("A")) for i, s in enumerate(SEQUENCES)]


def affinities(spread: float = 0.3) -> list[tuple[str, str]]:
    """Numbers over some eight decades, with noise."""
    return [(s, f"{10 ** (s.count('G') - s.count('C') + spread * RNG.normal()):.6g}") for s in SEQUENCES]


def limits(censored: str = ">1") -> list[tuple[str, str, str]]:
    """Sequences of much G have a limit alone, others a value and a weight."""
    rows = [(s, s.count("G") - s.count("C") + 0.2 * RNG.random()) for s in SEQUENCES]
    return [(s, censored if y > 1.3 else f"{y:.3f}", f"{0.1 + (i % 5)}") for i, (s, y) in enumerate(rows)]


def run(tmp_path, header, rows, options: dict, **recipe):
    table = write_table(tmp_path / "t.csv", header, rows)
    out = tmp_path / "run"
    console = Console(quiet=True)
    results = train(table, out, DataOptions(**options), Recipe(**(RECIPE | recipe)), Hardware("cpu"), console=console)
    assert results is not None
    return results, read_csv(out / "predictions.csv"), Predictor.from_pretrained(out, "cpu")


def numbers(rows, columns) -> np.ndarray:
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.mark.parametrize("more", [{"ensemble": 2}, {"folds": 3}], ids=["seeds", "folds"])
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_several_targets_of_an_ensemble(tmp_path, kind, more):
    """Each is the mean of the members, in its own unit, from the folder as from the run; one is explained."""
    options = {"target": ["gc", "a"]} | ({"folds": 3} if "folds" in more else {})
    ensemble = more.get("ensemble", 1)
    results, rows, predictor = run(tmp_path, ["seq", "gc", "a"], several_rows(kind), options, ensemble=ensemble)
    assert results.baselines and not results.intervals and set(results.targets) == {"gc", "a"}
    columns = [f"{'p' if kind == 'labels' else 'prediction'}_{name}" for name in ("gc", "a")]
    said = [] if "folds" in more else ["sd"] if kind == "labels" else ["sd", "lower", "upper"]
    more_columns = [
        [column, *(f"{each}_{name}" for each in said)] for column, name in zip(columns, ("gc", "a"), strict=True)
    ]
    assert [*rows[0]] == ["row", "seq", "gc", "a", *more_columns[0], *more_columns[1], *(["novel"] if said else [])]
    sequences = [row["seq"] for row in rows]
    found = np.asarray(predictor.predict(sequences))
    members = np.asarray(predictor.predict_members(sequences))
    assert members.shape == (len(rows), 3 if "folds" in more else 2, 2)
    np.testing.assert_allclose(members.mean(1), found, rtol=1e-6)
    if "folds" in more:
        assert len(results.folds["Lyra"]) == 3 and len(rows) == len(SEQUENCES)
    else:
        np.testing.assert_allclose(numbers(rows, columns), found, rtol=1e-5)
    assert not np.allclose(members[:, 0], members[:, 1])
    if kind == "labels":
        with pytest.raises(InputError, match="predicts no number"):
            predictor.interval(members)
    else:
        if "folds" in more:  # of each target all rows that have it
            having = [sum(row[i] != "" for row in several_rows(kind)) for i in (1, 2)]
            assert [each.rows for each in predictor.calibrations] == having
        assert predictor.interval(members, 0.5).shape == (len(rows), 2, 2)

    scale = "probability" if kind == "labels" else "target"
    changes = mutagenesis(predictor, sequences[0], ExplainOptions(class_name="a", scale=scale))
    mutants = [
        sequences[0][: at - 1] + new + sequences[0][at:]
        for at, new in zip(changes["position"], changes["letter"], strict=True)
    ]
    np.testing.assert_allclose(changes["predicted"], np.asarray(predictor.predict(mutants))[:, 1], rtol=1e-4)
    each = np.asarray(predictor.predict_members([*mutants, sequences[0]]))[..., 1]
    np.testing.assert_allclose(changes["spread"], (each[:-1] - each[-1]).std(1), rtol=1e-3, atol=1e-9)

    best = design(predictor, sequences[0], DesignOptions(max_mutations=1, top=3, class_name="a"), offset=1)
    p = np.asarray(predictor.predict(best["sequence"].tolist()))[:, 1]
    np.testing.assert_allclose(best["prediction"], np.log(p / (1 - p)) if kind == "labels" else p, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="this model has several targets; choose one of gc, a"):
        design(predictor, sequences[0], DesignOptions(max_mutations=1), offset=1)


@pytest.mark.parametrize("more", [{"ensemble": 3}, {"folds": 3}], ids=["seeds", "folds"])
@pytest.mark.parametrize("transform", ["log", "rank"])
def test_scales_of_an_ensemble(tmp_path, transform, more):
    """Members are averaged in the target's unit, all digits survive the folder, and intervals hold their share."""
    parts = [("train", "val", "test")[(i % 3 > 0) + (i % 6 > 3)] for i in range(len(SEQUENCES))]
    rows = [(*row, part) for row, part in zip(affinities(), parts, strict=True)]
    options = {"transform": transform} | ({"folds": 3, "split": "none"} if "folds" in more else {})
    ensemble = more.get("ensemble", 1)
    results, rows, predictor = run(tmp_path, ["seq", "y", "set"], rows, options, ensemble=ensemble, mix="none")
    assert not results.shares
    sequences, measured = [row["seq"] for row in rows], numbers(rows, ["y"])[:, 0]
    members = np.asarray(predictor.predict_members(sequences))
    found = np.asarray(predictor.predict(sequences))
    np.testing.assert_allclose(members.mean(1), found, rtol=1e-7)
    assert (members > 0).all()
    torch.manual_seed(0)
    alone = [
        output.predict(model(torch.tensor(predictor.alphabet.encode_many(sequences)[0].reshape(-1, 8)).long())[:, 0])
        for model, output in zip(predictor.model.members, predictor.model.outputs, strict=True)
    ]
    np.testing.assert_allclose(members, torch.stack(alone, 1).detach().numpy(), rtol=1e-6)
    if "folds" not in more:
        np.testing.assert_allclose(numbers(rows, ["prediction"])[:, 0], found, rtol=1e-5)
    low, high = predictor.interval(members, 0.8).T
    assert abs(((low <= measured) & (measured <= high)).mean() - 0.8) < 0.2


def test_weights_are_those_of_the_rows_trained_on(tmp_path):
    rows = [(*row[:2], i % 9 + 0.5) for i, row in enumerate(affinities())]
    table = write_table(tmp_path / "t.csv", ["seq", "y", "w"], rows)
    data = load_labelled(table, DataOptions(weight="w", folds=3), print)
    recipe, _ = plan(Recipe(**RECIPE), data)
    given = np.array([row[2] for row in rows])
    for parts in data.folds:
        train, val = (np.flatnonzero(parts == part) for part in ("train", "val"))
        module, loaders = build_module(data, recipe, Rows(train, val))
        np.testing.assert_allclose(loaders.train.weights, given[train] / given[train].mean(), rtol=1e-6)
        np.testing.assert_allclose(loaders.val.weights, given[val] / given[train].mean(), rtol=1e-6)
        values = np.array(data.values)
        assert module.output.mean == pytest.approx(np.average(values[train], weights=given[train]))


def test_weights_and_limits_of_a_mix(tmp_path):
    """Whatever a limit is, the mix is the same; rows without a weight might as well not be there."""
    table = write_table(tmp_path / "t.csv", ["seq", "y", "w"], limits())
    data = load_labelled(table, DataOptions(weight="w", censored=True), print)
    rows, limited = inner_folds(data, np.arange(len(data.values)), 0)[0], data.censored != 0
    assert limited[rows.train].any() and limited[rows.val].any()
    letters = data.tokens.reshape(-1, 8)

    def fitted():
        return fit_positions(data, data.measured(rows.train), data.measured(rows.val)).values()

    before = [each.model.predict(letters) for each in fitted()]
    weights = data.weights.copy()
    data.values = [np.float64(1e6) if limited[i] else value for i, value in enumerate(data.values)]
    for wanted, each in zip(before, fitted(), strict=True):
        np.testing.assert_array_equal(each.model.predict(letters), wanted)
    light = np.flatnonzero(~limited)[::3]
    data.weights = weights.copy()
    data.weights[light] = 0
    left_out = [each.model.predict(letters) for each in fitted()]
    assert not np.allclose(left_out[0], before[0])
    data.values = [np.float64(-1e3) if i in light else value for i, value in enumerate(data.values)]
    for wanted, each in zip(left_out[:1], fitted(), strict=False):
        np.testing.assert_allclose(each.model.predict(letters), wanted, rtol=1e-9, atol=1e-9)
    predicted = RNG.normal(size=(40, 3))
    true = predicted @ [0.6, 0.0, 0.3] + 0.1 * RNG.normal(size=40) + 2
    weights = RNG.integers(0, 4, 40).astype(float)
    found, intercept = mixing_weights(predicted, true, weights)
    repeated = np.repeat(np.arange(40), weights.astype(int))
    again, same = mixing_weights(predicted[repeated], true[repeated])
    np.testing.assert_allclose([*found, intercept], [*again, same], rtol=1e-9)

    def loss(x):
        return float(np.sum(weights * (predicted @ x[:3] + x[3] - true) ** 2))

    best = optimize.minimize(loss, np.ones(4), bounds=[(0, None)] * 3 + [(None, None)], tol=1e-12)
    np.testing.assert_allclose([*found, intercept], best.x, atol=1e-4)


@pytest.mark.parametrize("recipe", [{}, {"mix": "none", "ensemble": 2}], ids=["mixed", "seeds"])
def test_a_run_with_limits_and_weights(tmp_path, recipe):
    """Scores, intervals and the errors behind them are of values; limits are predicted all the same."""
    options = {"censored": True, "weight": "w", "test_fraction": 0.4}
    results, rows, predictor = run(tmp_path, ["seq", "y", "w"], limits(), options, **recipe)
    known = [row for row in rows if row["y"][0] != ">"]
    assert bool(results.shares) != bool(recipe) and 0 < len(known) < len(rows)
    predicted, measured = numbers(known, ["prediction", "y"]).T
    r2 = 1 - np.sum((predicted - measured) ** 2) / np.sum((measured - measured.mean()) ** 2)
    assert results.scores["test"]["r2"] == pytest.approx(r2, rel=1e-4)
    assert {"one-hot ridge", "pairwise sigmoid"} <= set(results.baselines) and "r2" in results.intervals["Lyra"]
    data = load_labelled(tmp_path / "t.csv", DataOptions(**options), print)
    held_out = data.parts == "val" if recipe else data.parts != "test"
    assert predictor.calibrations[0].rows == (held_out & (data.censored == 0)).sum()
    assert max(predictor.calibrations[0].scores) < 5


def test_without_a_test_part(tmp_path):
    """What is drawn and kept is then of the rows held out."""
    for name, recipe in (("mixed", {}), ("alone", {"mix": "none"})):
        (tmp_path / name).mkdir()
        results, rows, _ = run(tmp_path / name, ["seq", "y", "w"], limits(), {"test_fraction": 0, "censored": True},
                               **recipe)  # fmt: skip
        assert set(results.scores) == {"out of fold" if name == "mixed" else "validation"}
        assert len(rows) == (len(SEQUENCES) if name == "mixed" else len(SEQUENCES) // 10)
        found = json.loads((tmp_path / name / "run" / "metrics.json").read_text())
        assert next(iter(results.scores)) in found


REFUSED = [
    ({"target": ["gc", "a"]}, {"mix": "folds"}, "--mix folds: is for one target, and there are 2; leave it out"),
    ({"target": ["gc", "a"], "transform": "rank"}, {"mix": "validation"},
     "--mix validation: is for one target, and there are 2; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "recipe", "says"), REFUSED)
def test_mixes_that_cannot_be(tmp_path, options, recipe, says):
    table = write_table(tmp_path / "t.csv", ["seq", "gc", "a"], several_rows("numbers"))
    with pytest.raises(InputError) as caught, arguments_spelled(option):
        data = load_labelled(table, DataOptions(on_missing="skip", **options), print)
        plan(Recipe(**RECIPE, **recipe), data)
    assert str(caught.value) == says


def test_validation_rows_that_are_limits_alone(tmp_path):
    rows = [(s, ">9" if i % 5 == 0 else y, "val" if i % 5 == 0 else "train")
            for i, (s, y, _) in enumerate(limits())]  # fmt: skip
    table = write_table(tmp_path / "t.csv", ["seq", "y", "set"], rows)
    data = load_labelled(table, DataOptions(censored=True), print)
    assert plan(Recipe(), data)[0].mix == "none"
    with pytest.raises(InputError, match="mix='validation': needs rows of the validation part that are no limits"):
        plan(Recipe(mix="validation"), data)
    results, _, predictor = run(tmp_path, ["seq", "y", "set"], rows, {"censored": True}, ensemble=2)
    assert results.networks and not predictor.calibrations


def test_a_fold_whose_rows_weigh_nothing(tmp_path):
    rows = [(*row[:2], float(i % 3 == 0), i % 3) for i, row in enumerate(affinities())]
    table = write_table(tmp_path / "t.csv", ["seq", "y", "w", "fold"], rows)
    with pytest.raises(InputError, match="every row of the training part of fold 0 has the weight 0"):
        load_labelled(table, DataOptions(weight="w", folds="fold"), print)
