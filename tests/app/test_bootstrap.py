"""Bootstrap intervals against scores of rows that are really repeated, and how often they hold what is true."""

from __future__ import annotations

import numpy as np
import pytest

from lyra.metrics import bootstrap, differences, draw, evaluate, interval

NAMES = {"regression": ("r2", "spearman", "ndcg"), "classification": ("accuracy", "mcc", "auroc", "auprc")}


def some(task: str, rng: np.random.Generator, rows: int, classes: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of middling quality and targets."""
    if task == "regression":
        measured = rng.normal(size=rows)
        predicted = measured + rng.normal(size=rows)
        return (np.round(predicted), np.round(measured)) if ties else (predicted, measured)
    targets = rng.integers(0, classes, rows)
    raw = rng.random((rows, classes)) + 0.4 * np.eye(classes)[targets]
    raw = np.round(raw, 1) + 0.05 if ties else raw
    return raw / raw.sum(1, keepdims=True), targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("task", "classes"), [("regression", 0), ("classification", 2), ("classification", 4)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_counts_are_scores_of_repeated_rows(task, classes, ties, seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(30, 90))
    predicted, targets = some(task, rng, rows, classes, ties)
    statistics = bootstrap.statistics(task, predicted, targets, NAMES[task], positive=0)
    for _ in range(5):
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        again = np.repeat(np.arange(rows), counts)
        expected = evaluate(task, predicted[again], targets[again], positive=0)
        for name, statistic in statistics.items():
            assert statistic(counts.astype(float)) == pytest.approx(expected[name], rel=1e-9), name


def test_undefined_in_a_resample():
    """One class alone, or one value: nan; an interval leaves those out, and is none if they are most."""
    one = bootstrap.statistics("classification", np.eye(2)[[0, 1, 1]], np.array([0, 1, 1]), NAMES["classification"])
    found = {name: one[name](np.array([0.0, 2.0, 1.0])) for name in one}
    assert found["accuracy"] == 1 and np.isnan([found[name] for name in ("mcc", "auroc", "auprc")]).all()
    same = bootstrap.statistics("regression", np.arange(12.0), np.repeat([0.3, 1.0], [11, 1]), NAMES["regression"])
    counts = np.append(np.ones(11), 0.0)
    assert np.isnan([statistic(counts) for statistic in same.values()]).all()
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1, 1)
    draws = np.random.default_rng(0).normal(size=4000)
    assert interval(draws) == pytest.approx(np.quantile(draws, [0.025, 0.975]))


def test_the_same_resamples_for_all_models_and_seeds_that_count():
    rng = np.random.default_rng(2)
    predicted, targets = some("regression", rng, 40, 0, False)
    models = [predicted, predicted + 1e-9, rng.permutation(predicted)]
    first = draw("regression", models, targets, [("r2",)] * 3)
    assert len(first[0]["r2"]) == bootstrap.RESAMPLES
    assert np.abs(differences(first[0], first[1], "r2")).max() < 1e-6 < np.abs(differences(*first[1:], "r2")).min()
    again, other = (draw("regression", models, targets, [("r2",)] * 3, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first[2]["r2"], again[2]["r2"])
    assert (first[2]["r2"] != other[2]["r2"]).any()


def test_many_rows_have_fewer_resamples(monkeypatch):
    monkeypatch.setattr(bootstrap, "WORK", 50_000)
    predicted, targets = some("classification", np.random.default_rng(3), 200, 3, False)
    (draws,) = draw("classification", [predicted], targets, [("auroc",)])
    assert len(draws["auroc"]) == bootstrap.FEWEST


@pytest.mark.parametrize("seed", range(3))
def test_coverage(monkeypatch, seed):
    """Of many samples from a known distribution, about 95 % have an interval that holds the true score."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    rng = np.random.default_rng(seed)
    held = {"r2": 0, "accuracy": 0, "auroc": 0}
    for _ in range(150):
        noise = rng.normal(size=200)
        signal = rng.normal(size=200)
        (draws,) = draw("regression", [signal], signal + noise, [("r2",)], seed=seed)
        low, high = interval(draws["r2"])
        held["r2"] += low <= 0.5 <= high  # the variance of the signal in that of the sum
        targets = rng.integers(0, 2, 200)
        score = np.clip(0.5 + 0.1 * (rng.normal(size=200) + np.where(targets == 1, 0.5, -0.5)), 0, 1)
        probabilities = np.stack([1 - score, score], 1)
        (draws,) = draw("classification", [probabilities], targets, [("accuracy", "auroc")], seed=seed)
        for name, true in (("accuracy", 0.6915), ("auroc", 0.7602)):  # normal distributions one sigma apart
            low, high = interval(draws[name])
            held[name] += low <= true <= high
    assert all(0.88 <= count / 150 <= 0.99 for count in held.values()), held


def test_residues_of_a_sequence_are_drawn_together():
    """All residues of a sequence alike: the interval is that of the few sequences, not of the many residues."""
    rng = np.random.default_rng(4)
    right = rng.random(40) < 0.7
    sequences = np.repeat(np.arange(40), 50)
    targets = rng.integers(0, 2, 2000)
    predicted = np.eye(2)[np.where(right[sequences], targets, 1 - targets)]
    (whole,) = draw("token", [predicted], targets, [("accuracy",)], sequences=sequences)
    (rows,) = draw("token", [predicted], targets, [("accuracy",)])
    assert whole["accuracy"].std() == pytest.approx(right.std() / 40**0.5, rel=0.15)
    assert rows["accuracy"].std() == pytest.approx(right.std() / 2000**0.5, rel=0.15)
    for accuracy in whole["accuracy"]:
        assert round(accuracy * 40) == pytest.approx(accuracy * 40), "whole sequences"
