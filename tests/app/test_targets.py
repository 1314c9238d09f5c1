"""Targets that take more than a number a row: replicates, limits of detection, transformed scales."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lyra.cli.options import option
from lyra.data import DataOptions, LabelledData, SequenceDataset, load_labelled
from lyra.data.batches import Batch
from lyra.data.replicates import Replicates, moderated, noise_ceiling
from lyra.data.resident import ResidentDataset
from lyra.errors import InputError, arguments_spelled
from lyra.metrics import evaluate
from lyra.outputs import RegressionOutput
from lyra.scores import number
from lyra.training.loss import Loss

from .conftest import SMALL, random_sequences, read_csv, regression_rows, write_table
from .test_graphs import OPTIONS, Recorder, numbers, recorder  # noqa: F401  a fixture

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
    ({"replicates": "rep1,rep2", "task": "classification"}, "--task classification: the target is one number"),
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
    assert number("r2", ceiling) in outcome.out and "noise ceiling" in (tmp_path / "run" / "report.html").read_text()
    assert "mean of rep1, rep2, rep3" in read_csv(tmp_path / "run" / "predictions.csv")[0]
    (tmp_path / "new.csv").write_text("seq\nACGTACGTAC\n")
    assert lyra("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "p.csv").code == 0


# --- limits of detection ---------------------------------------------------------------------------------------------

LIMITS = {
    "<0.5": -1, "< 0.5": -1, "<=0.5": -1, "\u22640.5": -1,
    " <0.50 ": -1, ">.5": 1, ">=0.5": 1, "\u2265 5e-1": 1, "0.5": 0,
}  # fmt: skip


def limit_rows(count: int = 120) -> list[tuple[str, str]]:
    """(sequence, G minus C), below -1 and above 2 as limits of detection."""
    rows = []
    for sequence, cell in regression_rows(count):
        value = float(cell)
        rows.append((sequence, "<-1" if value < -1 else ">2" if value > 2 else cell))
    return rows


@pytest.mark.parametrize("decimal", ["point", "comma"])
def test_limits_are_read_as_people_write_them(tmp_path, decimal):
    cells = [*LIMITS, *(f"{i}.25" for i in range(20))]
    texts = [cell.replace(".", ",") if decimal == "comma" else cell for cell in cells]
    rows = list(zip(random_sequences(len(cells), 9, 9), texts, strict=True))
    path = write_table(tmp_path / "t.csv", ["seq", "label"], rows, delimiter=";")
    data = load_labelled(path, DataOptions(censored=True, decimal=decimal), print)
    assert data.censored.tolist() == [*LIMITS.values(), *[0] * 20]
    assert [float(value) for value in data.values[: len(LIMITS)]] == [0.5] * len(LIMITS)
    assert data.table["label"].tolist() == texts, "as given"
    assert "5 lie below a limit, 3 above one" in data.notes[0] and "scores leave these rows out" in data.notes[0]
    for part in ("train", "val", "test"):
        assert set(data.scored(part)) == {i for i in data.rows(part) if i >= len(LIMITS) - 1}
        assert len(data.labels(part)) == len(data.scored(part))


BAD_LIMITS = [
    ("<0.5", {}, r"row 2, column label: value '<0.5' .*; give --censored if it is a limit of detection"),
    ("\u22650.5", {"task": "regression"}, r"row 2, .*; give --censored if it is a limit of detection"),
    ("~0.5", {}, "row 2, column label: value '~0.5' is not a finite number"),
    ("~0.5", {"censored": True}, "row 2, column label: value '~0.5' is not a finite number"),
    ("<", {"censored": True}, "row 2, column label: value '<' is not a finite number"),
    ("<5 nM", {"censored": True}, r"row 2, column label: value '5 nM' .*\(it has a unit\)"),
    ("<0.5", {"censored": True, "task": "token"}, "--censored --task token: the target is one number a sequence"),
    ("<0.5", {"censored": True, "replicates": "label,seq"}, "a limit has no mean with measurements"),
]  # fmt: skip


@pytest.mark.parametrize("share", [1, 20])
@pytest.mark.parametrize(("cell", "options", "says"), BAD_LIMITS, ids=lambda value: str(value)[:30])
def test_limits_that_cannot_be_used(tmp_path, cell, options, says, share):
    cells = [cell] * share + [f"{i}.25" for i in range(30 - share)]
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path, ["seq", "label"], list(zip(random_sequences(30, 9, 9), cells, strict=True)), **options)
    assert "\n" not in str(caught.value)


def test_only_the_wrong_side_of_a_limit_counts():
    raw, targets = RNG.normal(size=50), RNG.normal(size=50)
    signs = RNG.integers(-1, 2, size=50).astype(np.int8)
    total = 0.0
    for prediction, target, sign in zip(raw, targets, signs, strict=True):
        right = (sign < 0 and prediction <= target) or (sign > 0 and prediction >= target)
        total += 0.0 if right else (prediction - target) ** 2
    weights = torch.from_numpy(RNG.random(50).astype(np.float32))
    values = [np.asarray(value, dtype=np.float32) for value in targets]
    dataset = SequenceDataset(np.zeros(250, np.int8), np.arange(51) * 5, range(50), values, weights.numpy(), signs)
    loss = Loss(RegressionOutput("linear", 0.0, 1.0), None)
    rows = list(range(50))
    resident = ResidentDataset(dataset, torch.device("cpu"))
    batches: list[Batch] = [dataset[rows].in_bucket(), resident.batch(*resident.rows([rows])[0])]
    for batch in batches:
        assert batch.censored is not None and batch.censored.tolist() == signs.tolist()
        batch.weights = None
        assert float(loss.step(torch.from_numpy(raw)[:, None], batch)) == pytest.approx(total / 50, rel=1e-5)


def test_scores_leave_limits_out_and_cells_stay_as_given(lyra, tmp_path, recorder: Recorder):  # noqa: F811
    """With and without graphs; the baselines are fitted to the values and scored on them, too."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], limit_rows())
    command = ("train", table, *OPTIONS, "--censored", "--out")
    outcome = lyra(*command, tmp_path / "plain", "--no-graphs")
    assert outcome.code == 0 and "censored targets: " in outcome.err, outcome.err
    assert lyra(*command, tmp_path / "graphs").code == 0 and recorder.recorded
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)
    rows = read_csv(tmp_path / "plain" / "predictions.csv")
    assert {row["label"] for row in rows} & {"<-1", ">2"}
    known = [(float(row["prediction"]), float(row["label"])) for row in rows if row["label"][0] not in "<>"]
    scores = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    for name, value in evaluate("regression", *np.array(known).T).items():
        assert scores["test"][name] == (None if value is None else pytest.approx(value, rel=1e-4))
    assert scores["baselines"]["one-hot ridge"]["test"]["r2"] is not None
    kept = read_csv(tmp_path / "plain" / "history.csv")[scores["networks"][0]["best_epoch"] - 1]
    assert float(kept["val_r2"]) == pytest.approx(scores["validation"]["r2"], rel=1e-4)


def test_a_limit_holds_predictions_back(lyra, tmp_path):
    """Sequences with a limit alone are predicted beyond it, not at it, as those with a value teach."""
    rows = [(s, f">{1}" if s.count("G") > 3 else y) for s, y in regression_rows(240)]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    large = ("--d-model", "16", "--d-state", "4", "--epochs", "12", "--accelerator", "cpu")
    assert lyra("train", table, *large, "--censored", "--out", tmp_path / "run", "--test-fraction", "0.3").code == 0
    limits = [float(row["prediction"]) for row in read_csv(tmp_path / "run" / "predictions.csv") if ">" in row["label"]]
    assert np.mean(np.array(limits) > 0.5) > 0.6


def test_limits_that_are_not_there(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(60))
    outcome = lyra("train", table, *SMALL, "--censored", "--out", tmp_path / "run")
    assert outcome.code == 2 and "--censored: has no effect, no cell of column label is a limit" in outcome.err
    rows = [(s, "<5" if part != "train" else y, part)
            for (s, y), part in zip(regression_rows(60), ["train", "val", "test"] * 20, strict=True)]  # fmt: skip
    table = write_table(tmp_path / "u.csv", ["seq", "label", "set"], rows)
    outcome = lyra("train", table, *SMALL, "--censored", "--out", tmp_path / "run")
    assert outcome.code == 0 and "no value that is no limit, so the epoch to keep is chosen by the" in outcome.err
