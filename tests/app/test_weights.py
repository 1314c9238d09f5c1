"""Rows that count more than others in the loss: by a column of weights, or by the errors of measurement."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from lyra.cli.options import option
from lyra.data import DataOptions, SequenceDataset, load_labelled
from lyra.data.batches import IGNORED, Batch
from lyra.data.resident import ResidentDataset
from lyra.data.weights import LEAST_SHARE, excess_variance, weights_of_errors, worth
from lyra.errors import InputError, arguments_spelled
from lyra.outputs import RegressionOutput
from lyra.training.loss import Loss

from .conftest import SMALL, classification_rows, read_csv, regression_rows, token_rows, write_table
from .test_graphs import OPTIONS, Recorder, numbers, recorder  # noqa: F401  a fixture

RNG = np.random.default_rng(5)


def weighted(rows: list[tuple[str, str]], weights: list[object]) -> list[tuple]:
    return [(*row, weight) for row, weight in zip(rows, weights, strict=True)]


# --- the loss --------------------------------------------------------------------------------------------------------


def cross_entropy(raw: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(raw - raw.max()).sum()) + raw.max() - raw[label])


@pytest.mark.parametrize("with_rows", [False, True])
@pytest.mark.parametrize(
    ("task", "with_classes"),
    [("regression", False), ("classification", False), ("classification", True), ("token", False), ("token", True)],
)
def test_the_loss_is_the_weighted_mean_of_a_loop(task, with_classes, with_rows):
    """Label by label, in float64: a step divides by the labels' own weights, validation by the rows' as well."""
    size, length, classes = 7, 5, 3
    shape = (size, length) if task == "token" else (size,)
    raw = RNG.normal(size=(*shape, 1 if task == "regression" else classes))
    targets = RNG.normal(size=shape) if task == "regression" else RNG.integers(classes, size=shape)
    if task == "token":
        targets[RNG.random(shape) < 0.3] = IGNORED
    rows = RNG.random(size) * 2 if with_rows else np.ones(size)
    weights = RNG.random(classes) + 0.5 if with_classes else np.ones(classes)
    total = of_labels = of_all = 0.0
    for at in np.ndindex(*shape):
        label = targets[at]
        if task != "regression" and label == IGNORED:
            continue
        loss = (raw[at][0] - label) ** 2 if task == "regression" else cross_entropy(raw[at], label)
        of_class = 1.0 if task == "regression" else weights[label]
        total += loss * of_class * rows[at[0]]
        of_labels += of_class
        of_all += of_class * rows[at[0]]
    output = RegressionOutput("linear", 0.0, 1.0) if task == "regression" else None
    loss = Loss(output, torch.tensor(weights, dtype=torch.float32) if with_classes else None)
    row_weights = torch.tensor(rows, dtype=torch.float32) if with_rows else None
    batch = Batch(torch.zeros(size, length, dtype=torch.int64), None, torch.from_numpy(targets), row_weights)
    step, sums = loss.step(torch.from_numpy(raw), batch), loss.sums(torch.from_numpy(raw), batch)
    assert float(step) == pytest.approx(total / of_labels, rel=1e-5)
    assert sums.tolist() == pytest.approx([total, of_all], rel=1e-5)


def test_a_row_of_weight_two_is_two_rows():
    output = RegressionOutput("linear", 0.0, 1.0)
    raw, targets = torch.randn(5, 1), torch.randn(5)
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0])
    copies = torch.repeat_interleave(torch.arange(5), weights.long())
    tokens = torch.zeros(5, 3, dtype=torch.int64)
    one = Loss(output, None).sums(raw, Batch(tokens, None, targets, weights))
    other = Loss(output, None).sums(raw[copies], Batch(tokens[copies], None, targets[copies]))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shortest", [6, 9])
@pytest.mark.parametrize("per_residue", [False, True])
def test_batches_carry_weights_to_every_place(shortest, per_residue):
    """Padded, in the width of a bucket, and made where the data lie."""
    lengths = RNG.integers(shortest, 10, size=23)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = [RNG.integers(3, size=n) if per_residue else np.asarray(RNG.normal()) for n in lengths]
    weights = RNG.random(23)
    dataset = SequenceDataset(
        RNG.integers(4, size=offsets[-1]).astype(np.int8), offsets, np.arange(3, 23), values, weights
    )
    rows = [4, 0, 19, 7]
    batch = dataset[rows].in_bucket().to(torch.device("cpu"))
    wanted = torch.from_numpy(weights.astype(np.float32)[3:][rows])
    resident = ResidentDataset(dataset, torch.device("cpu"))
    (at, width) = resident.rows([rows])[0]
    for found in (batch, resident.batch(at, width), batch.map(lambda part: part + 0)):
        assert found.weights is not None
        torch.testing.assert_close(found.weights, wanted)
        assert found.tensors()[-1] is found.weights


# --- from a table ----------------------------------------------------------------------------------------------------


def load(tmp_path, rows, header=("seq", "label", "w"), **options):
    with arguments_spelled(option):
        return load_labelled(write_table(tmp_path / "t.csv", list(header), rows), DataOptions(**options), print)


@pytest.mark.parametrize("rows", [regression_rows(60), classification_rows(60), token_rows(60)])
def test_weights_are_one_on_average_over_training(tmp_path, rows):
    given = RNG.integers(0, 9, size=60)
    data = load(tmp_path, weighted(rows, list(given)), weight="w")
    assert data.weights is not None
    assert data.weights[data.rows("train")].mean() == pytest.approx(1)
    ratio = given[data.rows("train")].mean()
    np.testing.assert_allclose(data.weights * ratio, given)
    assert "weights in the loss: column w" in data.notes[0] and "scores count every row alike" in data.notes[0]


BAD = [
    ("-1", {"weight": "w"}, "row 5, column w: weight '-1' must not be negative"),
    ("heavy", {"weight": "w"}, "row 5, column w: weight 'heavy' is not a finite number"),
    ("1,5", {"weight": "w"}, r"row 5, column w: weight '1,5' .*\(it has a decimal comma\)"),
    ("1e999", {"weight": "w"}, "row 5, column w: weight '1e999' is not a finite number"),
    ("", {"weight": "w"}, "row 5, column w: has no weight; fill it in or remove the row, or --on-missing skip"),
    ("NA", {"error": "w"}, "row 5, column w: has no error"),
    ("0", {"error": "w"}, "row 5, column w: error '0' must be above 0; .*--on-missing skip"),
    ("-0.1", {"error": "w"}, "row 5, column w: error '-0.1' must be above 0"),
    ("1", {"error": "v"}, "error column 'v' is missing; --error must be one of: seq, label, w"),
    ("1", {"weight": "v"}, "weight column 'v' is missing; --weight must be one of: seq, label, w"),
    ("1", {"weight": "w", "error": "w"}, "--weight 'w' --error 'w': rows are weighted by the one or the other"),
]


@pytest.mark.parametrize(("cell", "options", "says"), BAD, ids=lambda value: str(value)[:30])
def test_a_weight_that_cannot_be_used_is_named(tmp_path, cell, options, says):
    rows = weighted(regression_rows(30), ["1"] * 3 + [cell] + ["2"] * 26)
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path, rows, **options)
    assert "\n" not in str(caught.value)


def test_rows_without_a_weight_are_skipped_on_request(tmp_path):
    rows = weighted(regression_rows(30), ["1", "", "NA"] * 10)
    data = load(tmp_path, rows, weight="w", on_missing="skip")
    assert dict(data.rows_read.aside)["without a weight"] == 20 and len(data.weights) == 10
    assert dict(load(tmp_path, rows, error="w", on_missing="skip").rows_read.aside)["without an error"] == 20


def test_a_part_without_weight_is_an_error(tmp_path):
    rows = [
        (s, y, part, 0 if part == "val" else 1)
        for (s, y), part in zip(regression_rows(30), ["train", "val"] * 15, strict=True)
    ]
    with pytest.raises(InputError, match="every row of the validation part has the weight 0"):
        load(tmp_path, rows, ("seq", "label", "set", "w"), weight="w")
    rows = [
        (s, "1.5" if i % 4 else y, "train" if i % 5 else "val", int(i % 4 > 0)) for i, (s, y, *_) in enumerate(rows)
    ]
    with pytest.raises(InputError, match="training rows with a weight above 0 have one value only"):
        load(tmp_path, rows, ("seq", "label", "set", "w"), weight="w")


def test_weights_of_classes_are_no_errors(tmp_path):
    with pytest.raises(InputError, match="--error 'w': has no effect on classes; leave it out, or give --weight"):
        load(tmp_path, weighted(classification_rows(30), [1] * 30), error="w")


# --- errors of measurement -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
def test_the_excess_variance_is_the_one_that_was_drawn(tau):
    errors = np.exp(RNG.normal(size=20_000))
    residuals = RNG.normal(size=20_000) * np.sqrt(errors**2 + tau**2)
    found = excess_variance(residuals, errors)
    assert np.mean(residuals**2 / (errors**2 + found)) == pytest.approx(1, rel=1e-4), "Paule and Mandel's definition"
    assert found == pytest.approx(tau**2, rel=0.2)


def test_errors_that_explain_everything_leave_no_excess():
    assert excess_variance(np.array([0.1, -0.2]), np.array([1.0, 1.0])) == 0
    assert excess_variance(np.zeros(3), np.ones(3)) == 0


def test_one_tiny_error_does_not_swallow_the_others():
    """With 1 / error^2, one row in 200 would be worth all of them."""
    tokens = RNG.integers(4, size=(200, 6)).astype(np.int8)
    values = tokens.sum(1) + RNG.normal(size=200)
    errors = np.ones(200)
    errors[0] = 1e-6
    parts = np.array(["train", "train", "val", "test"] * 50, dtype=object)
    offsets = np.arange(201) * 6
    weights, note = weights_of_errors(errors, values, parts, tokens.ravel(), offsets, 4)
    assert "one-hot ridge" in note or "tenth of the targets' spread" in note
    least = LEAST_SHARE * values[parts == "train"].var()
    assert weights.max() <= 1 / least and worth(weights) > 20 > worth(1 / errors**2)
    ragged = np.concatenate([[0], np.cumsum([5, 7] * 100)])
    assert "mean" in weights_of_errors(errors, values, parts, tokens.ravel(), ragged, 4)[1]


# --- training --------------------------------------------------------------------------------------------------------


def test_rows_of_weight_zero_teach_nothing(lyra, tmp_path):
    """Two tables whose targets differ in training rows of weight 0 alone give one model."""
    parts = ["train", "train", "train", "val", "test"] * 24
    runs = []
    for run, wrong in (("one", "7.25"), ("other", "-300")):
        rows = [
            (s, wrong if i % 3 == 0 and part == "train" else y, part, 0 if i % 3 == 0 else 1 + i % 2)
            for i, ((s, y), part) in enumerate(zip(regression_rows(), parts, strict=True))
        ]
        table = write_table(tmp_path / f"{run}.csv", ["seq", "label", "set", "w"], rows)
        outcome = lyra("train", table, "--out", tmp_path / run, *SMALL, "--weight", "w")
        assert outcome.code == 0 and "weights in the loss: column w" in outcome.err, outcome.err
        runs.append([row["prediction"] for row in read_csv(tmp_path / run / "predictions.csv")])
        assert "weights in the loss" in (tmp_path / run / "report.html").read_text()
    assert runs[0] == runs[1]
    assert json.loads((tmp_path / "one" / "metrics.json").read_text())["test"]["r2"] is not None


@pytest.mark.parametrize("rows", [regression_rows(120, 6, 30), token_rows(120)], ids=["numbers", "residues"])
def test_steps_by_graphs_weigh_as_plain_steps(lyra, tmp_path, recorder: Recorder, rows):  # noqa: F811
    table = write_table(tmp_path / "t.csv", ["seq", "label", "w"], weighted(rows, list(RNG.random(120).round(3))))
    command = ("train", table, *OPTIONS, "--dropout", "0", "--weight", "w", "--out")
    assert lyra(*command, tmp_path / "plain", "--no-graphs").code == 0
    outcome = lyra(*command, tmp_path / "graphs")
    assert outcome.code == 0 and recorder.recorded >= 1, outcome.err
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)


def test_errors_weigh_and_weights_that_do_nothing_are_refused(lyra, tmp_path):
    rows = weighted(regression_rows(), [0.1 + (i % 7) for i in range(120)])
    table = write_table(tmp_path / "t.csv", ["seq", "label", "w"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--error", "w")
    assert outcome.code == 0, outcome.err
    assert re.search(r"weights in the loss: 1 / \(error\^2 \+ [\d.e-]+\^2\), .*training rows are worth", outcome.err)
    table = write_table(tmp_path / "t.csv", ["seq", "label", "w"], weighted(regression_rows(), [3] * 120))
    outcome = lyra("train", table, "--out", tmp_path / "run2", *SMALL, "--weight", "w")
    assert outcome.code == 2 and "--weight: has no effect, every row has the same weight" in outcome.err


def test_errors_with_decimal_commas(tmp_path):
    rows = [(s, y.replace(".", ","), f"0,{1 + i % 5}") for i, (s, y) in enumerate(regression_rows(40))]
    path = write_table(tmp_path / "t.csv", ["seq", "label", "w"], rows, delimiter=";")
    data = load_labelled(path, DataOptions(error="w", decimal="comma"), print)
    order = np.argsort(data.weights)
    assert (np.diff([1 + int(i) % 5 for i in order]) <= 0).all(), "a smaller error weighs more"
