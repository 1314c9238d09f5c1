"""Targets that take more than a number a row: replicates, limits of detection, transformed scales."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lyra.cli.options import option
from lyra.data import DataOptions, LabelledData, load_labelled
from lyra.data.replicates import Replicates, moderated, noise_ceiling
from lyra.errors import InputError, arguments_spelled

from .conftest import SMALL, random_sequences, read_csv, write_table

RNG = np.random.default_rng(8)


def load(folder: Path, header: list[str], rows: list[tuple], **options: object) -> LabelledData:
    with arguments_spelled(option):
        return load_labelled(write_table(folder / "t.csv", header, rows), DataOptions(**options), print)


# --- replicates ------------------------------------------------------------------------------------------------------


def replicate_rows(count: int = 120, noise: float = 0.5) -> list[tuple[str, ...]]:
    """(sequence, three measurements of G minus C), some of which are missing, but never all."""
    rows = []
    for sequence in random_sequences(count, 10, 10):
        values = sequence.count("G") - sequence.count("C") + noise * RNG.normal(size=3)
        cells = [f"{value:.4f}" for value in values]
        for at in RNG.permutation(3)[: RNG.integers(3)]:
            cells[at] = RNG.choice(["", "NA"])
        rows.append((sequence, *cells))
    return rows


COLUMNS = ["seq", "rep1", "rep2", "rep3"]


def test_the_target_is_the_mean_of_the_values_present(tmp_path):
    """Row by row, as scipy has their standard error; a row of one value has the pooled variance."""
    rows = replicate_rows()
    data = load(tmp_path, COLUMNS, rows, replicates="rep1, rep2,rep3")
    values = [np.array([float(cell) for cell in cells if cell not in ("", "NA")]) for _, *cells in rows]
    np.testing.assert_allclose(np.array(data.values), [row.mean() for row in values])
    within = [np.square(row - row.mean()).sum() for row in values]
    pooled = sum(within) / sum(len(row) - 1 for row in values)
    errors = [stats.sem(row) if len(row) > 1 else np.sqrt(pooled) for row in values]
    np.testing.assert_allclose(data.errors, errors)
    assert data.source.target == "mean of rep1, rep2, rep3" and data.targets.task == "regression"
    counts = [sum(len(row) == n for row in values) for n in (3, 2, 1)]
    assert data.notes[0].startswith(
        "replicates: the target is the mean of rep1, rep2, rep3; "
        + f"{counts[0]} rows have 3 values, {counts[1]} rows have 2 values, {counts[2]} rows have 1 value; "
    )


def test_more_replicates_weigh_more(tmp_path):
    rows = replicate_rows()
    data = load(tmp_path, COLUMNS, rows, replicates="rep1,rep2,rep3")
    counts = np.array([sum(cell not in ("", "NA") for cell in cells) for _, *cells in rows])
    means = [data.weights[counts == n].mean() for n in (1, 2, 3)]
    assert means[0] < means[1] < means[2] and "1 / (error^2 +" in data.notes[1]
    given = load(tmp_path, [*COLUMNS, "w"], [(*row, i) for i, row in enumerate(rows)], on_missing="skip",
                 replicates="rep1,rep2", weight="w")  # fmt: skip
    assert "column w" in given.notes[1] and np.all(np.diff(given.weights) > 0)
    assert given.rows_read.aside["without a target"] > 0


def test_whole_numbers_and_decimal_commas_are_measurements(tmp_path):
    rows = [(s, str(i % 3), str(i % 3 + i % 2)) for i, s in enumerate(random_sequences(30, 9, 9))]
    assert load(tmp_path, COLUMNS[:3], rows, replicates="rep1,rep2").targets.task == "regression"
    path = tmp_path / "t.csv"
    write_table(path, COLUMNS[:3], [(s, a + ",25", b + ",75") for s, a, b in rows], delimiter=";")
    data = load_labelled(path, DataOptions(replicates="rep1,rep2", decimal="comma"), print)
    assert [float(v) for v in data.values] == [(int(a) + int(b) + 1) / 2 for _, a, b in rows]


def drawn_variances(prior: float, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True variances, 2 * prior / chi2(prior), and what is measured of them."""
    true = 2.0 * prior / RNG.chisquare(prior, size=len(freedom))
    return true, true * RNG.chisquare(np.maximum(freedom, 1)) / np.maximum(freedom, 1)


def test_moderated_variances_are_nearer_to_the_truth():
    """Than each row's own, and than one for all, where the truth differs from row to row; Smyth's formula for both."""
    freedom = RNG.integers(2, 5, size=20_000)
    true, measured = drawn_variances(6.0, freedom)
    found = moderated(measured, freedom)
    expected = (6.0 * 2.0 + freedom * measured) / (6.0 + freedom)
    np.testing.assert_allclose(found, expected, rtol=0.15)

    def error(estimate):
        return np.mean(np.square(np.log(estimate) - np.log(true)))

    assert error(found) < 0.7 * error(np.full(len(true), np.average(measured, weights=freedom)))
    assert error(found) < 0.5 * error(measured)


def test_variances_that_differ_by_chance_become_one():
    freedom = np.array([2] * 3000 + [0])
    measured = np.append(RNG.chisquare(2, size=3000) / 2, np.nan)
    found = moderated(measured, freedom)
    np.testing.assert_allclose(found, 1, rtol=0.2)
    assert np.isfinite(moderated(np.array([0.0, 0.0, 4.0, 1.0]), np.ones(4))).all()
    assert (moderated(np.array([2.0]), np.ones(1)) == 2.0).all()


def test_the_noise_ceiling_is_what_the_true_values_reach():
    for noise, count in ((0.3, 2), (1.0, 3), (2.0, 4)):
        true = RNG.normal(size=40_000)
        values = true[:, None] + noise * RNG.normal(size=(40_000, count))
        table = Replicates("mean", list("abcd"[:count]), pd.DataFrame(values, columns=list("abcd"[:count])))
        means, errors = values.mean(1), table.errors(table.values.index)[0]
        r2 = 1 - np.sum((means - true) ** 2) / np.sum((means - means.mean()) ** 2)
        assert noise_ceiling(means, errors) == pytest.approx(r2, abs=0.02)
    assert noise_ceiling(np.ones(3), np.ones(3)) is None
    assert noise_ceiling(np.array([0.0, 1.0]), np.ones(2)) == 0.0


BAD_REPLICATES = [
    ({"replicates": "rep1"}, "--replicates 'rep1': must name two columns or more, each once, with commas"),
    ({"replicates": "rep1,rep1"}, "must name two columns or more, each once"),
    ({"replicates": "rep1,"}, "--replicates is empty; it must be one of"),
    ({"replicates": "rep1,rep9"}, "replicate column 'rep9' is missing; --replicates must be one of: seq, rep1"),
    ({"replicates": "rep1,rep2", "target": "rep3"}, "--target 'rep3': replicates give the target"),
    ({"replicates": "rep1,rep2", "error": "rep3"}, "replicates give the error by themselves"),
    ({"replicates": "rep1,rep2", "task": "classification"}, "--task classification: the mean of rep"),
    ({"replicates": "seq,rep2"}, "row 2, column seq: replicate '[ACGT']*.* is not a finite number"),
    ({"replicates": "rep1,rep4"}, "the values are the same in every row"),
    ({"replicates": "rep1,rep5"}, "no row has a value in two of these columns"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), BAD_REPLICATES, ids=lambda value: str(value)[:40])
def test_replicates_that_cannot_be_used(tmp_path, options, says):
    rows = [(s, str(i / 4), str(i), "1", str(i / 4), "") for i, s in enumerate(random_sequences(30, 9, 9))]
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path, [*COLUMNS, "rep4", "rep5"], rows, **options)
    assert "\n" not in str(caught.value)


def test_the_noise_ceiling_stands_beside_the_scores(lyra, tmp_path):
    rows = [(*row, ("train", "train", "val", "test")[i % 4]) for i, row in enumerate(replicate_rows())]
    table = write_table(tmp_path / "t.csv", [*COLUMNS, "set"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--replicates", "rep1,rep2,rep3")
    assert outcome.code == 0 and "noise ceiling" in outcome.out and "replicates: the target is" in outcome.err
    data = load_labelled(table, DataOptions(replicates="rep1,rep2,rep3"), print)
    test = data.rows("test")
    ceiling = json.loads((tmp_path / "run" / "metrics.json").read_text())["noise_ceiling"]
    assert ceiling == pytest.approx(noise_ceiling(np.array(data.values)[test], data.errors[test]))
    assert f"{ceiling:.3f}" in outcome.out and "noise ceiling" in (tmp_path / "run" / "report.html").read_text()
    assert "mean of rep1, rep2, rep3" in read_csv(tmp_path / "run" / "predictions.csv")[0]
    (tmp_path / "new.csv").write_text("seq\nACGTACGTAC\n")
    assert lyra("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "p.csv").code == 0
