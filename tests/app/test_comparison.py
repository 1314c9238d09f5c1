"""A run beside its baselines: what metrics.json, the report and the terminal say."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from lyra.metrics import evaluate, interval
from lyra.scores import Results, cell, number
from lyra.training import comparison

from .conftest import SMALL, classification_rows, random_sequences, read_csv, regression_rows, token_rows, write_table

RIVALS = {
    "regression": ["one-hot ridge", "one-hot sigmoid", "pairwise sigmoid"],
    "classification": ["k-mer logistic"],
    "token": ["window logistic"],
}


def facts_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("task", RIVALS)
def test_every_task_has_rivals_and_intervals(trained, task):
    facts, report = facts_of(trained[task]), (trained[task] / "report.html").read_text()
    assert list(facts["baselines"]) == RIVALS[task]
    compared = "r2" if task == "regression" else "auroc"
    for name in ("Lyra", *RIVALS[task]):
        low, high = facts["intervals"][name][compared]
        scores = facts if name == "Lyra" else facts["baselines"][name]
        assert low <= scores["test"][compared] <= high
        assert f"({number(compared, low)}-{number(compared, high)})" in report
        assert name in report
    unit = "whole sequences" if task == "token" else "rows"
    assert facts["interval_method"] == f"95 % percentile intervals of 1,000 bootstrap resamples of {unit}"
    for fit in facts["baseline_fits"].values():
        assert fit["fitted_rows"] > 0 and fit["chosen"]
    if task == "token":
        means = facts["per_sequence"]["test"]
        assert 0 < means["auroc_defined"] <= means["sequences"] == 8
        assert "means over sequences" in report
    if task != "regression":
        assert sum(each["rows"] for each in facts["calibration"]["test"]["bins"]) > 0
        assert (trained[task] / "calibration.png").exists() and "Calibration:" in report


def test_the_intervals_are_those_of_the_predictions(trained):
    """predictions.csv, resampled with sorted tables and repeated rows, gives the intervals again."""
    rows = read_csv(trained["regression"] / "predictions.csv")
    measured, predicted = (np.array([float(row[name]) for row in rows]) for name in ("label", "prediction"))
    rng = np.random.default_rng(0)
    found = [
        evaluate("regression", predicted[drawn], measured[drawn])["r2"]
        for drawn in (rng.integers(0, len(rows), len(rows)) for _ in range(1000))
    ]
    expected = interval(np.array(found, float))
    assert facts_of(trained["regression"])["intervals"]["Lyra"]["r2"] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_model_that_is_not_better_is_told_so(lyra, tmp_path):
    """One epoch against an additive target; in the terminal, the report and metrics.json in the same words."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL[:5], "1", *SMALL[6:])
    assert outcome.code == 0, outcome.err
    facts = facts_of(tmp_path / "run")
    verdict = facts["verdict"]
    scores = [facts["test"]["r2"], max(each["test"]["r2"] for each in facts["baselines"].values())]
    assert re.match("the model is not (clearly )?better than ", verdict) and verdict in outcome.out
    assert f"(R² {number('r2', scores[0])} against {number('r2', scores[1])}; 95 % interval" in verdict
    assert verdict.removeprefix("t")[:12] in (tmp_path / "run" / "report.html").read_text()
    for name, each in facts["differences"].items():
        low, high = each["interval"]
        assert low <= each["difference"] <= high and high < 0, name


def results_of(own: float, other: float) -> Results:
    results = Results("", "regression", {"test": {"r2": own}}, {"rival": {"test": {"r2": other}}})
    draws = np.random.default_rng(0).normal(0, 0.01, size=(2, 1000))
    comparison._judge(results, "r2", {"Lyra": {"r2": own + draws[0]}, "rival": {"r2": other + draws[1]}})
    return results


def test_better_within_the_error_is_not_better():
    assert results_of(0.90, 0.80).verdict is None
    for own, other, how in ((0.81, 0.80, "clearly better"), (0.80, 0.90, "better")):
        assert results_of(own, other).verdict.startswith(
            f"the model is not {how} than rival on the test part (R² {number('r2', own)} against "
        )


def test_classes_of_one_length_and_three_of_them(lyra, tmp_path):
    """Sequences of one length have both logistic regressions; three classes have scores each."""
    rows = [(s, "abcc"["ACGT".index(s[4])]) for s in random_sequences(300, 9, 9)]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 0, outcome.err
    facts = facts_of(tmp_path / "run")
    assert list(facts["baselines"]) == ["one-hot logistic", "k-mer logistic"]
    assert facts["baselines"]["one-hot logistic"]["test"]["auroc"] > 0.9
    for part in ("validation", "test"):
        assert list(facts["per_class"][part]) == ["a", "b", "c"]
        mean = np.mean([each["auroc"] for each in facts["per_class"][part].values()])
        assert mean == pytest.approx(facts[part]["auroc"])
    assert "Each class, test part" in (tmp_path / "run" / "report.html").read_text()


def test_numbers_of_sequences_of_several_lengths(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(100, 8, 16))
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    assert outcome.code == 0, outcome.err
    facts = facts_of(tmp_path / "run")
    assert facts["baselines"]["k-mer ridge"]["test"]["r2"] > 0.9  # nearly a difference of counts
    fit = facts["baseline_fits"]["k-mer ridge"]
    assert fit["fitted_rows"] == 80 and fit["chosen"]["k"] == 1


@pytest.mark.parametrize(("rows", "task"), [(token_rows, "token"), (classification_rows, "classification")])
def test_without_a_test_part_there_is_no_verdict(lyra, tmp_path, rows, task):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows(60))
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--test-fraction", "0")
    assert outcome.code == 0, outcome.err
    facts = facts_of(tmp_path / "run")
    assert facts["intervals"] == {} and facts["verdict"] is None and "test" not in facts
    assert list(facts["baselines"][RIVALS[task][0]]) == ["validation"]


def test_rows_held_out_in_turn_are_not_compared(lyra, tmp_path):
    """The baselines were fitted to most of them; the test part is compared as ever."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(60))
    options = [*SMALL[:5], "1", "--accelerator", "cpu", "--mix", "folds"]
    outcome = lyra("train", table, "--out", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    facts = facts_of(tmp_path / "run")
    assert all(list(parts) == ["test"] for parts in facts["baselines"].values())
    assert "out of fold" in facts and list(facts["intervals"]) == ["Lyra", *RIVALS["regression"]]


def test_how_scores_are_shown():
    shown = [number("r2", value) for value in (0.9384, -0.0391, 1.0, -1.25, 0.99951, 0.0, None)]
    assert shown == [".938", "-.039", "1.000", "-1.250", "1.000", ".000", ""]
    assert number("rmse", 0.12345) == "0.1235"
    results = Results("", "regression", {"test": {"r2": 0.938}}, intervals={"Lyra": {"r2": (0.934, 0.942)}})
    assert cell(results, "test", "Lyra", "r2", 0.938) == ".938 (.934-.942)"
    assert cell(results, "validation", "Lyra", "r2", 0.938) == cell(results, "test", "x", "r2", 0.938) == ".938"
