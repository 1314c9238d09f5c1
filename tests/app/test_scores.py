"""Metrics, baselines and the output scale against formulas written out here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lyra import baselines
from lyra.metrics import evaluate
from lyra.outputs import RegressionOutput

from .conftest import SMALL, regression_rows, write_table


def test_regression_scores():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=200)
    predicted = measured + rng.normal(size=200)
    scores = evaluate("regression", predicted, measured)
    error = ((predicted - measured) ** 2).mean()
    ranks = [values.argsort().argsort() for values in (predicted, measured)]
    assert scores["r2"] == pytest.approx(1 - error / measured.var())
    assert scores["rmse"] == pytest.approx(error**0.5)
    assert scores["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert scores["pearson"] == pytest.approx(np.corrcoef(predicted, measured)[0, 1])


def test_classification_scores():
    """A confusion matrix of 3, 1, 2, 4 (true low: 3 right, 1 wrong; true high: 2 wrong, 4 right)."""
    targets = np.array([0] * 4 + [1] * 6)
    high = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.45, 0.7, 0.8, 0.9, 0.95])
    scores = evaluate("classification", np.stack([1 - high, high], axis=1), targets)
    assert scores["accuracy"] == pytest.approx(0.7)
    assert scores["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert scores["mcc"] == pytest.approx((4 * 3 - 1 * 2) / (5 * 6 * 4 * 5) ** 0.5, rel=1e-4)
    pairs = [h > low for h in high[4:] for low in high[:4]]
    assert scores["auroc"] == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("task", "predictions", "targets", "undefined"),
    [
        ("regression", np.ones(5), np.arange(5.0), {"spearman", "pearson"}),
        ("regression", np.arange(5.0), np.ones(5), {"r2", "spearman", "pearson"}),
        ("regression", np.ones(1), np.ones(1), {"r2", "spearman", "pearson", "rmse"}),
        ("classification", np.full((3, 2), 0.5), np.zeros(3, dtype=int), {"auroc"}),
        ("token", np.zeros((0, 2)), np.zeros(0, dtype=int), {"accuracy", "mcc", "auroc", "f1"}),
    ],
)
def test_a_score_that_is_undefined_is_none(task, predictions, targets, undefined):
    scores = evaluate(task, predictions, targets)
    assert {name for name, value in scores.items() if value is None} == undefined


def additive_data(rows: int = 600, length: int = 6, letters: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, a few of them unknown, and an additive quantity of them."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(-1, letters, size=(rows, length))
    weights = rng.normal(size=(length, letters))
    return tokens, np.where(tokens >= 0, weights[np.arange(length), tokens], 0).sum(axis=1)


def test_ridge_is_ridge(monkeypatch):
    """The closed form against the stacked least-squares problem, at one penalty."""
    monkeypatch.setattr(baselines, "PENALTIES", (3.0,))
    tokens, values = additive_data()
    values = values + np.random.default_rng(2).normal(size=len(values))
    model = baselines.fit_ridge(tokens, values, tokens, values, 4)
    x = baselines.one_hot(tokens, 4).toarray()
    x, y = x - x.mean(0), values - values.mean()
    stacked = np.vstack([x, np.sqrt(3.0) * np.eye(x.shape[1])])
    expected = np.linalg.lstsq(stacked, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
    np.testing.assert_allclose(model.weights, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.predict(tokens), x @ expected + values.mean(), rtol=1e-9, atol=1e-9)


def test_one_hot_leaves_unknown_residues_out():
    x = baselines.one_hot(np.array([[0, -1, 3], [2, 2, 2]]), 4).toarray()
    assert x.shape == (2, 12) and x.sum(axis=1).tolist() == [2, 3]
    assert np.flatnonzero(x[0]).tolist() == [0, 11] and np.flatnonzero(x[1]).tolist() == [2, 6, 10]


def test_a_sigmoid_is_found():
    """Data that are additive behind a sigmoid are fitted through it, and not by ridge."""
    tokens, latent = additive_data()
    values = 3 - 7 / (1 + np.exp(-2 * latent))
    parts = (tokens[:400], values[:400], tokens[400:500], values[400:500], 4)
    through, plain = baselines.fit_sigmoid_additive(*parts), baselines.fit_ridge(*parts)
    scores = [evaluate("regression", model.predict(tokens[500:]), values[500:])["r2"] for model in (through, plain)]
    assert scores[0] > 0.999 > 0.95 > scores[1]
    assert sorted([through.low, through.high]) == pytest.approx([-4, 3], abs=0.2)


def test_epistasis_scores():
    rng = np.random.default_rng(3)
    additive, residual = rng.normal(size=500), rng.normal(size=500)
    residual -= residual.mean()
    measured = additive + residual
    perfect = baselines.epistasis_scores(measured, additive, measured)
    assert perfect == pytest.approx({"epistasis_r2": 1, "epistasis_pearson": 1})
    half = baselines.epistasis_scores(measured, additive, additive + 0.5 * residual)
    assert half == pytest.approx({"epistasis_r2": 0.75, "epistasis_pearson": 1}, rel=1e-6)
    nothing = baselines.epistasis_scores(measured, additive, additive)
    assert np.isnan(list(nothing.values())).all()


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_output_scale(kind):
    values = np.random.default_rng(4).normal(5, 3, size=1000)
    output = RegressionOutput.fit(kind, values)
    targets = torch.from_numpy(values)
    standard = output.standardise(targets)
    assert float(standard.mean()) == pytest.approx(0, abs=1e-6) and float(standard.std(correction=0)) == pytest.approx(
        1
    )
    raw = torch.linspace(-8, 8, 50)
    again = RegressionOutput.from_json(json.loads(json.dumps(output.to_json())))
    torch.testing.assert_close(again.predict(raw), output.predict(raw))
    predicted = output.predict(raw).detach().numpy()
    if kind == "sigmoid":
        assert (np.diff(predicted) > 0).all()
        np.testing.assert_allclose(predicted[[0, -1]], np.quantile(values, [0.01, 0.99]), rtol=0.01)
    else:
        np.testing.assert_allclose(predicted, raw.numpy() * values.std() + values.mean(), rtol=1e-6)


def test_a_loss_that_is_no_number_ends_in_one_line(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--lr", "1e30", "--output", "linear")
    assert outcome.code == 2
    assert "lyra: error: the loss is not finite after epoch 1; try a lower --lr" in outcome.err
