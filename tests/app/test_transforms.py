"""Targets learned on another scale: there and back, and everything that is told in the target's own units."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from lyra.cli.options import option
from lyra.data import DataOptions, load_labelled
from lyra.errors import InputError, arguments_spelled
from lyra.metrics import evaluate
from lyra.model_folder import ModelDescription
from lyra.outputs import RegressionOutput
from lyra.prediction import Predictor
from lyra.settings.training import OUTPUTS
from lyra.transforms import KNOTS, Log, Rank, fit_transform, read_transform

from .conftest import SMALL, classification_rows, read_csv, regression_rows, write_table

RNG = np.random.default_rng(3)
TARGETS = {
    "lognormal": np.exp(2 * RNG.normal(size=777)),
    "ties": RNG.integers(1, 9, size=501).astype(float),
    "many": 1 + RNG.random(5000),
    "far from zero": 1e9 + RNG.random(203),
    "two": np.array([1.0, 2.0, 2.0]),
}


def affinity_rows(count: int = 120) -> list[tuple[str, str]]:
    """(sequence, ten to the power of half of G minus C)"""
    return [(s, f"{10 ** (float(y) / 2):.6g}") for s, y in regression_rows(count)]


@pytest.mark.parametrize("kind", ["log", "rank"])
@pytest.mark.parametrize("name", TARGETS)
def test_there_and_back(kind, name):
    """Every value that was trained on comes back; of more than KNOTS different ones, to between its neighbours."""
    values = TARGETS[name]
    scale = fit_transform(kind, values)
    scores = scale(torch.from_numpy(values))
    back = scale.invert(scores).numpy()
    if kind == "rank" and len(np.unique(values)) > KNOTS:
        knots = scale.values.numpy()
        at = np.searchsorted(knots, values)
        assert (back >= knots[np.maximum(at - 1, 0)] - 1e-12).all() and (back <= knots[at] + 1e-12).all()
        np.testing.assert_allclose(back, values, atol=1e-9)
    else:
        np.testing.assert_allclose(back, values, rtol=1e-12)
    order = np.argsort(values, kind="stable")
    assert (np.diff(scores.numpy()[order]) >= 0).all()
    grid = scale.invert(torch.linspace(-6, 6, 999, dtype=torch.float64)).numpy()
    assert (np.diff(grid) >= 0).all() and np.isfinite(grid).all(), "monotone, and never beyond a float"
    again = read_transform(json.loads(json.dumps(scale.to_json())))
    torch.testing.assert_close(again.invert(scores), scale.invert(scores), rtol=0, atol=0)


def test_normal_scores_are_those_of_the_definition():
    """Phi(z) = (rank - 1/2) / n by a loop; equal values share the mean of their ranks."""
    values = TARGETS["ties"]
    scores = Rank.fit(values)(torch.from_numpy(values)).numpy()
    for value, score in zip(values, scores, strict=True):
        rank = np.sum(values < value) + (np.sum(values == value) + 1) / 2
        assert stats.norm.cdf(score) == pytest.approx((rank - 0.5) / len(values))
    assert abs(Rank.fit(TARGETS["many"])(torch.from_numpy(TARGETS["many"])).numpy().std() - 1) < 0.01


def test_a_rank_stays_within_what_was_measured():
    scale = Rank.fit(np.array([3.0, 5.0, 4.0]))
    far = torch.tensor([-50.0, 50.0], dtype=torch.float64)
    assert scale.invert(far).tolist() == [3.0, 5.0]
    assert scale(torch.tensor([-9.0, 9.0], dtype=torch.float64)).tolist() == scale.scores[[0, 2]].tolist()


@pytest.mark.parametrize("kind", ["log", "rank"])
def test_the_way_back_has_a_gradient(kind):
    scale = fit_transform(kind, TARGETS["lognormal"])
    x = torch.linspace(-1.531, 1.497, 7, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(scale.invert, (x,))
    values = np.array([0.3, 20.0])
    eps = 1e-6 * values
    numeric = (np.log10(values + eps) - np.log10(values - eps)) / (2 * eps)
    np.testing.assert_allclose(Log().slope(values), numeric, rtol=1e-6)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", ["none", "log", "rank"])
def test_an_output_keeps_its_scale_in_the_model_folder(kind, output, predictors):
    values = TARGETS["lognormal"]
    fitted = RegressionOutput.fit(output, values, transform=kind)
    standardised = fitted.standardise(torch.from_numpy(values))
    assert standardised.mean().abs() < 1e-5 and abs(standardised.std(correction=0) - 1) < 1e-5
    np.testing.assert_allclose(
        fitted.in_units(standardised).numpy(), values, rtol=2e-5, atol=1e-4 * values.std() if kind == "none" else 0
    )
    known = predictors["regression"]
    saved = ModelDescription(known.alphabet, known.targets, fitted).to_json()
    assert ("transform" in saved["output"]) == (kind != "none"), "folders of earlier versions look the same"
    read = ModelDescription.from_json(json.loads(json.dumps(saved)), "here").output
    raw = torch.randn(50)
    torch.testing.assert_close(read.predict(raw), fitted.predict(raw), rtol=0, atol=0)
    assert read.digits == fitted.digits


@pytest.mark.parametrize(
    "saved",
    [{"kind": "cube"}, {"kind": "rank"}, {"kind": "rank", "values": [1, 1], "scores": [0, 1]}, {"kind": "log", "a": 1},
     {"kind": "rank", "values": [1, 2, 3], "scores": [0, 1]}, {}],
)  # fmt: skip
def test_a_damaged_scale_is_no_model(saved, predictors):
    known = predictors["regression"]
    description = ModelDescription(known.alphabet, known.targets, known.output).to_json()
    description["output"]["transform"] = saved
    with pytest.raises(InputError, match="here: has no usable alphabet, targets and output"):
        ModelDescription.from_json(description, "here")


BAD = [
    ("0", {"transform": "log"}, "row 4, column label: value 0 has no logarithm, it is not.*--transform log out"),
    ("-2.5", {"transform": "log"}, "row 4, column label: value -2.5 has no logarithm"),
    ("<0", {"transform": "log", "censored": True}, "row 4, column label: value 0 has no logarithm"),
    ("1", {"transform": "sqrt"}, "--transform 'sqrt': must be one of none, log, rank"),
    ("1", {"transform": "rank", "error": "label"}, "--transform rank --error label: an error of measurement"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "options", "says"), BAD, ids=lambda value: str(value)[:30])
def test_a_scale_that_does_not_fit(tmp_path, cell, options, says):
    rows = affinity_rows(30)
    rows[2] = (rows[2][0], cell)
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    with pytest.raises(InputError, match=says), arguments_spelled(option):
        load_labelled(table, DataOptions(**options), print)


def test_classes_have_no_scale(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], classification_rows(40))
    outcome = lyra("train", table, *SMALL, "--out", tmp_path / "run", "--transform", "rank")
    assert outcome.code == 2 and "--transform rank: has no effect, the task is classification" in outcome.err


@pytest.mark.parametrize("transform", ["log", "rank"])
def test_predictions_and_scores_are_in_the_targets_units(lyra, tmp_path, transform):
    """In the tables, from the library, in the history, and for explanations."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], affinity_rows())
    run = tmp_path / "run"
    outcome = lyra("train", table, *SMALL, "--out", run, "--transform", transform)
    assert outcome.code == 0 and "predictions and scores are in the target's own units" in outcome.err, outcome.err
    assert "own units" in (run / "report.html").read_text()
    rows = read_csv(run / "predictions.csv")
    predicted, measured = (np.array([float(row[name]) for row in rows]) for name in ("prediction", "label"))
    scores = json.loads((run / "metrics.json").read_text())
    for name, value in evaluate("regression", predicted, measured).items():
        assert scores["test"][name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6))
    values = load_labelled(table, DataOptions(transform=transform), print).labels("train")
    if transform == "rank":
        assert values.min() <= predicted.min() and predicted.max() <= values.max()
    assert (predicted > 0).all()
    kept = read_csv(run / "history.csv")[scores["networks"][0]["best_epoch"] - 1]
    outside = transform == "rank"  # where a validation target is beyond those of training, it counts as their end
    assert float(kept["val_rmse"]) == pytest.approx(scores["validation"]["rmse"], rel=0.2 if outside else 1e-3)
    again = Predictor.from_pretrained(run, "cpu").predict([row["seq"] for row in rows])
    np.testing.assert_allclose(again, predicted, rtol=1e-5)
    (tmp_path / "one.csv").write_text("seq\nACGTACGTAC\n")
    assert lyra("explain", run, tmp_path / "one.csv", "-o", tmp_path / "x").code == 0
    assert all(float(row["predicted"]) > 0 for row in read_csv(tmp_path / "x" / "mutagenesis.csv"))


def test_a_logarithm_reaches_over_decades(lyra, tmp_path):
    """On its own scale the small values are noise to the loss; on that of logarithms they are ranked."""
    rows = [(s, f"{10 ** (2 * float(y))}") for s, y in regression_rows(240)]
    table, ranked = write_table(tmp_path / "t.csv", ["seq", "label"], rows), {}
    options = ("--d-model", "16", "--d-state", "4", "--epochs", "10", "--accelerator", "cpu", "--mix", "none",
               "--transform")  # fmt: skip
    for transform in ("none", "log"):
        assert lyra("train", table, "--out", tmp_path / transform, *options, transform).code == 0
        ranked[transform] = json.loads((tmp_path / transform / "metrics.json").read_text())["test"]["spearman"]
    assert ranked["log"] > ranked["none"]


def test_errors_follow_the_logarithm(tmp_path):
    """An error of ten per cent is the same everywhere on that scale, so that all rows weigh alike."""
    rows = [(s, y, f"{0.1 * float(y)!r}") for s, y in affinity_rows()]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "e"], rows)
    data = load_labelled(table, DataOptions(error="e", transform="log"), print)
    np.testing.assert_allclose(data.weights, 1, rtol=1e-9)
    assert np.ptp(load_labelled(table, DataOptions(error="e"), print).weights) > 0.1
    rows = [(s, y, f"{1.1 * float(y)!r}") for s, y in affinity_rows()]
    table = write_table(tmp_path / "u.csv", ["seq", "r1", "r2"], rows)
    data = load_labelled(table, DataOptions(replicates="r1,r2", transform="rank"), print)
    assert data.weights is None and data.errors is not None and "ranks are not weighted by it" in data.notes[-1]
