"""Intervals of several targets, and of targets that are learned on another scale."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy import stats

from lyra import datasets
from lyra.data import DataOptions, load_labelled
from lyra.errors import InputError
from lyra.model_folder import ModelDescription, read_config
from lyra.prediction import Predictor
from lyra.prediction_columns import Columns
from lyra.training import Hardware, Recipe, train
from lyra.training.held_out import calibrations
from lyra.transforms import Log, Rank
from lyra.uncertainty import Calibration

from .conftest import random_sequences, read_csv, write_table

GB1 = {"wild_type": datasets.GB1_WILD_TYPE, "offset": datasets.GB1_OFFSET}
COVERAGE = 0.8


def exchangeable(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N,) over some decades, and three replicates (N, 3) that are off by a common and an own error."""
    latent = rng.normal(size=count)
    spread = 0.1 + 0.3 * rng.random(count)
    members = latent[:, None] + spread[:, None] * rng.normal(size=(count, 3))
    return 10 ** (latent + 0.3 * (1 + spread) * rng.standard_t(4, size=count)), 10**members


def inside(ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (ends[..., 0] <= values) & (values <= ends[..., 1])


# --- the scale -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_spread", [False, True])
@pytest.mark.parametrize("kind", ["none", "log", "rank"])
@pytest.mark.parametrize("rows", [9, 60])
def test_intervals_on_a_scale_cover_what_they_say(kind, rows, with_spread):
    """k / (n + 1) of exchangeable rows, also of those beyond the 40 targets that gave the ranks."""
    rng = np.random.default_rng(rows)
    wanted = math.ceil((rows + 1) * Fraction(str(COVERAGE))) / (rows + 1)
    covered, beyond = [], 0
    for _ in range(1500):
        training, _ = exchangeable(rng, 40)
        values, members = exchangeable(rng, rows + 20)
        scale = {"none": None, "log": Log(), "rank": Rank.fit(training).stretched()}[kind]
        held, new = slice(rows), slice(rows, None)
        spread = members[held] if with_spread else None
        fitted = Calibration.measured(values[held], members[held].mean(1), spread, scale)
        ends = fitted.interval(members[new], COVERAGE)
        assert np.isfinite(ends).all() and (inside(ends, members[new].mean(1))).all()
        assert kind != "log" or (ends > 0).all()
        covered.append(inside(ends, values[new]).mean())
        beyond += int((values[new] > training.max()).sum())
    error = 4 * np.std(covered) / math.sqrt(len(covered))
    # the floor is the mean square of the very errors that it scales, which moves the coverage of few rows a little
    loose = 0.0 if not with_spread else 0.02 if rows < 50 else 0.005
    assert abs(np.mean(covered) - wanted) < error + loose and beyond > 300


@pytest.mark.parametrize("kind", ["log", "rank"])
def test_coverage_is_that_of_the_scale_itself(kind):
    """An interval of mapped targets and predictions, mapped back, row by row: of one more place, by hand."""
    rng = np.random.default_rng(5)
    values, members = exchangeable(rng, 300)
    scale = Log() if kind == "log" else Rank.fit(values[:90]).stretched()
    to = lambda x: scale(torch.from_numpy(np.ascontiguousarray(x))).numpy()  # noqa: E731
    fitted = Calibration.measured(values[:100], members[:100].mean(1), members[:100], scale)
    plain = Calibration.of(to(values[:100]) - to(members[:100].mean(1)), to(members[:100]).std(1))
    new, true = members[100:], values[100:]
    centre, half = to(new.mean(1)), plain.half_width(COVERAGE, to(new).std(1))
    ends = fitted.interval(new, COVERAGE)
    np.testing.assert_allclose(to(ends), np.stack([centre - half, centre + half], 1), atol=1e-7)
    assert inside(ends, true).tolist() == (np.abs(to(true) - centre) <= half).tolist()
    above, below = ends[:, 1] - new.mean(1), new.mean(1) - ends[:, 0]
    assert not np.allclose(above, below, rtol=0.05), "as wide to both sides in the target's units"
    again = Calibration.from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(again.interval(new, COVERAGE), ends)


def test_a_log_is_base_free_and_a_factor_to_both_sides():
    """Of errors by factors of up to two, intervals reach from half to twice the prediction."""
    rng = np.random.default_rng(0)
    predicted = 10 ** rng.uniform(-3, 3, 99)
    fitted = Calibration.measured(predicted * 2.0 ** np.linspace(-1, 1, 99), predicted, scale=Log())
    ends = fitted.interval(np.array([[1e-6], [5.0]]), 0.99)
    np.testing.assert_allclose(ends, [[5e-7, 2e-6], [2.5, 10.0]], rtol=1e-9)


@pytest.mark.parametrize("count", [2, 3, 17, 200, 5000])
def test_a_stretched_curve_goes_on(count):
    """The same between its ends; beyond, as steep as its outermost tenth; it never stops to rise."""
    values = np.sort(np.exp(np.random.default_rng(count).normal(size=count)))
    curve = Rank.fit(values)
    long = curve.stretched()
    within = np.linspace(values[0], values[-1], 77)
    np.testing.assert_allclose(long(torch.from_numpy(within)), curve(torch.from_numpy(within)), atol=1e-8)
    knots, scores = curve.values.numpy(), curve.scores.numpy()
    tenth = max(1, len(knots) // 10)
    for edge, inner, sign in ((0, tenth, -1), (len(knots) - 1, len(knots) - 1 - tenth, 1)):
        slope = (knots[edge] - knots[inner]) / (scores[edge] - scores[inner])
        for step in (0.5, 3.0, 40.0):
            at = torch.tensor([scores[edge] + sign * step])
            np.testing.assert_allclose(long.invert(at), knots[edge] + sign * step * slope, rtol=1e-6)
            np.testing.assert_allclose(long(long.invert(at)), at, rtol=1e-6)


# --- several targets -------------------------------------------------------------------------------------------------


def test_each_target_has_a_calibration_of_the_rows_that_have_it(tmp_path):
    """By a loop over targets; ranks are those of the rows learned from."""
    rng = np.random.default_rng(2)
    values = np.exp(rng.normal(size=(80, 3)))
    values[rng.random((80, 3)) < 0.3] = np.nan
    values[np.isnan(values).all(1)] = 1.0
    header = ["seq", "a", "b", "c"]
    rows = [(s, *("" if np.isnan(v) else repr(v) for v in row.tolist()))
            for s, row in zip(random_sequences(80, 9, 9), values, strict=True)]  # fmt: skip
    table = write_table(tmp_path / "t.csv", header, rows)
    learned, held = np.arange(50), np.arange(50, 80)
    members = np.exp(rng.normal(size=(30, 4, 3)))
    for transform in ("none", "log", "rank"):
        data = load_labelled(table, DataOptions(target=header[1:], transform=transform), print)
        for given in (None, members):
            found = calibrations(data, learned, held, members.mean(1), given)
            for i, one in enumerate(found):
                known = ~np.isnan(values[held, i])
                ranks = Rank.fit(values[learned, i][~np.isnan(values[learned, i])]).stretched()
                scale = {"none": None, "log": Log(), "rank": ranks}[transform]
                spread = None if given is None else members[known, :, i]
                wanted = Calibration.measured(values[held, i][known], members.mean(1)[known, i], spread, scale)
                assert one.to_json() == wanted.to_json() and one.rows == known.sum()


def test_folders_of_earlier_versions(predictors):
    """Of one target they hold a calibration, of several, and of a model alone, none."""
    known = predictors["regression"]
    saved = ModelDescription(known.alphabet, known.targets, known.output).to_json()
    before = {"scores": [0.5, 1.0, 2.0], "rows": 3, "floor": None}
    for calibration, wanted in ((before, [Calibration([0.5, 1.0, 2.0], 3)]), (None, []), ([], [])):
        saved["calibration"] = calibration
        assert ModelDescription.from_json(saved, "here").calibrations == wanted
    del saved["calibration"]
    assert ModelDescription.from_json(saved, "here").calibrations == []
    for damaged in ({"scores": [1.0]}, [{**before, "scale": {"kind": "cube"}}], [3]):
        saved["calibration"] = damaged
        with pytest.raises(InputError, match="here: has no usable alphabet"):
            ModelDescription.from_json(saved, "here")


@pytest.fixture(scope="module", params=["none", "log", "rank"])
def two(request, tmp_path_factory):
    """GB1's binding and a made-up activity that falls with it, of which a fifth is missing: folder, transform, rows."""
    folder = tmp_path_factory.mktemp("two")
    table = pd.read_csv(datasets.path("gb1")).sample(2200, random_state=3)[["mutant", "DMS_score"]]
    rng = np.random.default_rng(0)
    table["binding"] = 2 ** table["DMS_score"]
    table["activity"] = 100 * np.exp(-table["DMS_score"] / 3 + 0.3 * rng.normal(size=len(table)))
    table.loc[rng.random(len(table)) < 0.2, "activity"] = np.nan
    table, new = table.iloc[:1000], table.iloc[1000:]
    table.drop(columns="DMS_score").to_csv(folder / "t.csv", index=False)
    options = DataOptions(target=["binding", "activity"], transform=request.param, val_fraction=0.3, **GB1)
    recipe = Recipe(d_model=8, d_state=4, epochs=3, ensemble=2)
    train(folder / "t.csv", folder / "run", options, recipe, Hardware("cpu"), console=Console(quiet=True))
    return folder, request.param, new


def test_intervals_of_two_targets_cover_rows_that_nobody_has_seen(lyra, two):
    folder, transform, new = two
    new.drop(columns="DMS_score").to_csv(folder / "new.csv", index=False)
    outcome = lyra("predict", folder / "run", folder / "new.csv", "-o", folder / "p.csv", "--interval", COVERAGE)
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv(folder / "p.csv")
    said = [f"{name}_{target}" for target in ("binding", "activity") for name in ("prediction", "sd", "lower", "upper")]
    assert list(frame) == ["mutant", "binding", "activity", *said, "novel"]
    predictor = Predictor.from_pretrained(folder / "run", "cpu")
    held = [each.rows for each in predictor.calibrations]
    assert held[0] == 300 and 200 < held[1] < 270
    for target, count in zip(("binding", "activity"), held, strict=True):
        low, high, value = (frame[name] for name in (f"lower_{target}", f"upper_{target}", target))
        known = value.notna()
        k = math.ceil(COVERAGE * (count + 1))
        # of n held-out rows the coverage of one run is Beta(k, n + 1 - k); the fresh sample is binomial with that
        least, most = stats.betabinom.ppf([1e-4, 1 - 1e-4], int(known.sum()), k, count + 1 - k)
        assert least <= int(((low <= value) & (value <= high))[known].sum()) <= most
        if transform == "log":
            assert (low > 0).all()
            np.testing.assert_allclose(low * high, frame[f"prediction_{target}"] ** 2, rtol=1e-4)
        if transform == "none":
            np.testing.assert_allclose(low + high, 2 * frame[f"prediction_{target}"], rtol=1e-3, atol=1e-3)


def test_the_run_and_its_folder_say_the_same(two):
    """The table of the run is that of the folder; the members are asked once for the test part."""
    folder, transform, _ = two
    predictor = Predictor.from_pretrained(folder / "run", "cpu")
    rows = read_csv(folder / "run" / "predictions.csv")
    columns = Columns(predictor)
    options = DataOptions(target=["binding", "activity"], transform=transform, val_fraction=0.3, **GB1)
    data = load_labelled(folder / "t.csv", options, print)
    dataset = predictor.encode([data.sequences[i] for i in data.rows("test")])
    assert list(rows[0]) == ["row", "mutant", "binding", "activity", *columns.names]
    for row, cells in zip(rows, columns.cells(dataset), strict=True):
        given = [row[name] for name in columns.names]
        assert given[-1] == cells[-1]
        np.testing.assert_allclose([float(x) for x in given[:-1]], [float(x) for x in cells[:-1]], rtol=1e-3)
    saved = read_config(folder / "run" / "model")["metadata"]["calibration"]
    assert [("scale" in each) for each in saved] == [transform != "none"] * 2


def test_the_test_part_is_predicted_once(tmp_path, monkeypatch):
    asked = []
    real = Predictor.members_of
    monkeypatch.setattr(Predictor, "members_of", lambda self, *a: asked.append("members") or real(self, *a))
    alone = Predictor.predict_dataset
    monkeypatch.setattr(Predictor, "predict_dataset", lambda self, *a: asked.append("whole") or alone(self, *a))
    table = write_table(tmp_path / "t.csv", ["seq", "y"], [(s, s.count("G")) for s in random_sequences(60, 8, 8)])
    recipe = Recipe(d_model=8, d_state=4, epochs=1, ensemble=2, mix="none")
    train(table, tmp_path / "run", DataOptions(task="regression"), recipe, Hardware("cpu"), console=Console(quiet=True))
    assert asked == ["whole", "members"], "the validation part, and the test part"


def test_a_target_of_few_rows_has_no_interval(two):
    predictor = Predictor.from_pretrained(two[0] / "run", "cpu")
    predictor.calibrations[1] = Calibration.of(np.arange(1.0, 9.0))
    assert Columns(predictor).names == [
        "prediction_binding", "sd_binding", "lower_binding", "upper_binding",
        "prediction_activity", "sd_activity", "novel",
    ]  # fmt: skip
    dataset = predictor.encode([datasets.GB1_WILD_TYPE])
    assert len(next(Columns(predictor).cells(dataset))) == 7
    assert "lower_activity" in Columns(predictor, 0.5).names
    with pytest.raises(InputError, match="needs at least 9 rows held out in training, and there were 8"):
        Columns(predictor, 0.9)
