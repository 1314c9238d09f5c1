"""Several targets of a sequence: numbers, or classes that each are there or not; a row may lack some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lyra.cli.options import option
from lyra.data import DataOptions, LabelledData, SequenceDataset, Targets, load_labelled
from lyra.data.batches import Batch
from lyra.data.resident import ResidentDataset
from lyra.errors import InputError, arguments_spelled
from lyra.explain import mutagenesis
from lyra.metrics import METRICS, evaluate
from lyra.outputs import RegressionOutput, SeveralOutputs
from lyra.prediction import Predictor
from lyra.scoring import score, score_each
from lyra.settings import ExplainOptions
from lyra.training.loss import Loss

from .conftest import SMALL, random_sequences, read_csv, write_table
from .test_graphs import OPTIONS, Recorder, numbers, recorder  # noqa: F401  a fixture

RNG = np.random.default_rng(6)
HEADER = ["seq", "gc", "a", "set"]
NUMBERS = ("--target", "gc", "--target", "a")


def rows_of(kind: str, count: int = 120, lacking: float = 0.2) -> list[tuple[str, ...]]:
    """(sequence, about G and C, about A, part), some of the middle ones missing, but never both of a row."""
    rows = []
    for i, sequence in enumerate(random_sequences(count, 8, 8)):
        gc, a = sequence.count("G") + sequence.count("C"), sequence.count("A")
        cells = [f"{gc + 0.25}", f"{100 * a - 7.5}"] if kind == "numbers" else [str(int(gc > 3)), str(int(a > 1))]
        if RNG.random() < lacking:
            cells[RNG.integers(2)] = str(RNG.choice(["", "NA"]))
        rows.append((sequence, *cells, ("train", "train", "train", "val", "test")[i % 5]))
    return rows


def load(folder: Path, rows: list[tuple], header: list[str] = HEADER, **options: object) -> LabelledData:
    with arguments_spelled(option):
        table = write_table(folder / "t.csv", header, rows)
        return load_labelled(table, DataOptions(**{"target": ["gc", "a"], **options}), print)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "task"), [("numbers", "regression"), ("labels", "multilabel")])
def test_rows_that_lack_some_take_part_with_the_others(tmp_path, kind, task):
    rows = rows_of(kind)
    data = load(tmp_path, rows)
    assert (data.targets.task, data.targets.names, data.targets.classes) == (task, ["gc", "a"], [])
    assert data.targets.d_output == 2 and data.source.target == "gc, a" and data.rows_read.used == len(rows)
    wanted = [[float(cell) if cell not in ("", "NA") else np.nan for cell in row[1:3]] for row in rows]
    np.testing.assert_array_equal(np.concatenate(data.values), wanted)
    lacking = np.isnan(wanted)
    assert f"2 targets: {lacking.any(1).sum()} rows lack some" in data.notes[0]
    assert not np.isnan(data.labels("train")).any()


def test_a_row_that_lacks_all_is_missing(tmp_path):
    rows = [*rows_of("numbers", lacking=0), ("ACGTACGT", "", "NA", "train")]
    with pytest.raises(InputError, match=r"row 122, column gc: value is empty; .*--on-missing skip"):
        load(tmp_path, rows)
    data = load(tmp_path, rows, on_missing="skip")
    assert data.rows_read.aside["without a target"] == 1 and "every row has all of them" in data.notes[0]


def test_zeros_and_ones_are_numbers_on_request(tmp_path):
    assert load(tmp_path, rows_of("labels"), task="regression").targets.task == "regression"
    assert load(tmp_path, rows_of("labels"), task="multilabel").guesses[-1] != "multilabel (every target is 0 or 1)"


BAD = [
    ("x", {}, "row 4, column a: target 'x' is not a finite number"),
    ("1,5", {}, r"row 4, column a: target '1,5' .*\(it has a decimal comma\)"),
    ("2.5", {"task": "multilabel"}, "column gc: value .* is neither 0 nor 1; correct it, or give --task regression"),
    ("1", {"target": ["gc", "b"]}, "target column 'b' is missing; --target must be one of: seq, gc, a, set"),
    ("1", {"target": ["gc", "gc"]}, "--target gc: is given more than once; give each column once"),
    ("1", {"task": "token"}, "--task token: several targets are numbers .regression. or 0 and 1 each"),
    ("1", {"error": "a"}, "--error a: is for one target, and there are 2"),
    ("1", {"censored": True}, "--censored: is for one target, and there are 2"),
    ("1", {"replicates": "gc,a"}, "replicates give the target by themselves"),
    ("1", {"target": "gc", "task": "multilabel"}, "--task multilabel: needs several columns of 0 and 1; give --target"),
    ("-1", {"transform": "log"}, "row 4, column a: value -1 has no logarithm"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "options", "says"), BAD, ids=lambda value: str(value)[:40])
def test_targets_that_cannot_be_used(tmp_path, cell, options, says):
    rows = [(s, gc, str(abs(float(a))), part) for s, gc, a, part in rows_of("numbers", 40, 0)]
    rows[2] = (*rows[2][:2], cell, rows[2][3])
    with pytest.raises(InputError, match=says) as caught:
        load(tmp_path, rows, **options)
    assert "\n" not in str(caught.value)


def test_each_target_needs_something_to_learn(tmp_path):
    rows = [(s, gc, a if part == "test" else "3.5", part) for s, gc, a, part in rows_of("numbers", lacking=0)]
    with pytest.raises(InputError, match="column a: the training part has fewer than two different values; leave this"):
        load(tmp_path, rows)
    rows = [(s, gc, "" if part == "val" else a, part) for s, gc, a, part in rows_of("numbers", lacking=0)]
    with pytest.raises(InputError, match="column a: the validation part has no value; leave this --target out"):
        load(tmp_path, rows)


def test_a_target_that_weights_leave_nothing_of_is_an_error(tmp_path):
    half = [(s, gc, "3.5" if i % 2 else a, part) for i, (s, gc, a, part) in enumerate(rows_of("numbers", lacking=0))]
    rows = [(*row, int(row[2] == "3.5")) for row in half]
    with pytest.raises(InputError, match="column a: the training part has fewer than two different values"):
        load(tmp_path, rows, [*HEADER, "w"], weight="w")
    data = load(tmp_path, [(*row[:4], 1 + i % 3) for i, row in enumerate(rows)], [*HEADER, "w"], weight="w")
    assert data.weights[data.rows("train")].mean() == pytest.approx(1)


# --- loss, outputs and scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("length", [3, 10])  # the width of the targets themselves, and one that a bucket widens
def test_the_loss_is_the_mean_over_what_is_there(length, multilabel):
    """By a loop; padded, and made where the data lie, the targets stay as they are."""
    size, count = 9, 3
    true = RNG.integers(2, size=(size, count)).astype(np.float32) if multilabel else RNG.normal(size=(size, count))
    true[RNG.random((size, count)) < 0.3] = np.nan
    true[:, 0] = 1.0
    weights, raw = RNG.random(size), torch.from_numpy(RNG.normal(size=(size, count))).float()
    total, of_labels = 0.0, 0
    for i, j in np.argwhere(~np.isnan(true)):
        label = torch.tensor(float(true[i, j]))
        one = F.binary_cross_entropy_with_logits(raw[i, j], label) if multilabel else (raw[i, j] - label) ** 2
        total, of_labels = total + float(one) * weights[i], of_labels + 1
    lengths = np.array([length, *RNG.integers(1, length + 1, size=size - 1)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = list(true.astype(np.float32)[:, None, :])
    dataset = SequenceDataset(np.zeros(offsets[-1], np.int8), offsets, range(size), values, weights)
    output = None if multilabel else SeveralOutputs([RegressionOutput("linear", 0.0, 1.0) for _ in range(count)])
    rows, resident = list(range(size)), ResidentDataset(dataset, torch.device("cpu"))
    batches: list[Batch] = [dataset[rows], dataset[rows].in_bucket(), resident.batch(*resident.rows([rows])[0])]
    for batch in batches:
        np.testing.assert_allclose(batch.targets.view(size, count), true, rtol=1e-6)
        assert float(Loss(output, None).step(raw, batch)) == pytest.approx(total / of_labels, rel=1e-4)


def test_each_target_has_its_own_scale():
    values = np.stack([RNG.normal(size=99), 1e6 + 50 * RNG.normal(size=99)], axis=-1)
    values[:7, 1] = np.nan
    fitted = SeveralOutputs.fit("sigmoid", values)
    alone = [RegressionOutput.fit("sigmoid", column[~np.isnan(column)]) for column in values.T]
    raw = torch.randn(5, 2)
    for i, one in enumerate(alone):
        torch.testing.assert_close(fitted.predict(raw)[:, i], one.predict(raw[:, i]), rtol=0, atol=0)
        wanted = one.standardise(torch.from_numpy(values[:, i]))
        torch.testing.assert_close(fitted.standardise(torch.from_numpy(values))[:, i], wanted, equal_nan=True)
    assert fitted.digits == alone[1].digits and len(list(fitted.parameters())) == 4


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_scores_are_those_of_each_target_and_their_mean(task):
    targets = Targets(task, names=["a", "b", "c"])
    predicted = RNG.random((50, 3))
    true = RNG.integers(2, size=(50, 3)).astype(float) if task == "multilabel" else RNG.normal(size=(50, 3))
    true[RNG.random((50, 3)) < 0.3] = np.nan
    true[:, 2] = 1.0  # whose scores are mostly undefined
    each, mean = score_each(targets, predicted, true), score(targets, predicted, true)
    for i, name in enumerate("abc"):
        here = ~np.isnan(true[:, i])
        p, t = predicted[here, i], true[here, i]
        wanted = (evaluate("regression", p, t) if task == "regression"
                  else evaluate("classification", np.stack([1 - p, p], -1), t.astype(int)))  # fmt: skip
        assert each[name] == wanted
    for metric in METRICS[task]:
        defined = [each[name][metric] for name in "abc" if each[name][metric] is not None]
        assert mean[metric] == (None if metric == "rmse" else pytest.approx(np.mean(defined)))


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_a_run_with_several_targets(lyra, tmp_path, recorder: Recorder, kind):  # noqa: F811
    """With and without graphs, from the table to predictions, scores of each, and one explained."""
    table, run = write_table(tmp_path / "t.csv", HEADER, rows_of(kind)), tmp_path / "plain"
    outcome = lyra("train", table, *OPTIONS, *NUMBERS, "--out", run, "--no-graphs")
    assert outcome.code == 0 and "2 targets: " in outcome.err and "Lyra, mean" in outcome.out, outcome.err
    assert lyra("train", table, *OPTIONS, *NUMBERS, "--out", tmp_path / "graphs").code == 0 and recorder.recorded
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(run), rtol=2e-3, atol=2e-4)

    shown = [f"{'prediction' if kind == 'numbers' else 'p'}_{name}" for name in ("gc", "a")]
    rows, scores = read_csv(run / "predictions.csv"), json.loads((run / "metrics.json").read_text())
    assert list(rows[0]) == ["row", "seq", "gc", "a", *shown]
    predicted = np.array([[float(row[name]) for name in shown] for row in rows])
    cells = [[row[name] for name in ("gc", "a")] for row in rows]
    true = np.array([[float(cell) if cell not in ("", "NA") else np.nan for cell in row] for row in cells])
    targets = Targets("regression" if kind == "numbers" else "multilabel", names=["gc", "a"])
    for name, wanted in score_each(targets, predicted, true).items():
        for metric, value in wanted.items():
            assert scores["targets"][name]["test"][metric] == pytest.approx(value, rel=1e-3, abs=1e-5)
    for metric, value in score(targets, predicted, true).items():
        assert scores["test"][metric] == (None if value is None else pytest.approx(value, rel=1e-3, abs=1e-5))
    kept = read_csv(run / "history.csv")[scores["networks"][0]["best_epoch"] - 1]
    watched = "r2" if kind == "numbers" else "auroc"
    assert float(kept[f"val_{watched}"]) == pytest.approx(scores["validation"][watched], rel=1e-3)
    assert ("one-hot ridge" if kind == "numbers" else "one-hot logistic") in scores["baselines"]

    predictor = Predictor.from_pretrained(run, "cpu")
    np.testing.assert_allclose(predictor.predict([row["seq"] for row in rows]), predicted, rtol=1e-4)
    (tmp_path / "new.csv").write_text("seq\nACGTACGT\n")
    assert lyra("predict", run, tmp_path / "new.csv", "-o", tmp_path / "p.csv").code == 0
    assert list(read_csv(tmp_path / "p.csv")[0]) == ["seq", *shown]

    outcome = lyra("explain", run, tmp_path / "new.csv", "-o", tmp_path / "x")
    assert outcome.code == 2 and "--class: this model has several targets; choose one of gc, a" in outcome.err
    outcome = lyra("explain", run, tmp_path / "new.csv", "-o", tmp_path / "x", "--class", "b")
    assert outcome.code == 2 and "--class 'b': this model has several targets; choose one of gc, a" in outcome.err
    outcome = lyra("explain", run, tmp_path / "new.csv", "-o", tmp_path / "x", "--class", "a", "--pairs",
                   "--positions", "1-3", "--pair-samples", "3")  # fmt: skip
    assert outcome.code == 0, outcome.err
    scale = "target" if kind == "numbers" else "probability"
    found = mutagenesis(predictor, "ACGTACGT", ExplainOptions(class_name="a", scale=scale))
    places = zip(found["position"], found["letter"], strict=True)
    mutated = ["ACGTACGT"[: at - 1] + new + "ACGTACGT"[at:] for at, new in places]
    np.testing.assert_allclose(found["predicted"], predictor.predict(mutated)[:, 1], rtol=1e-4)


@pytest.mark.pictures
def test_pictures_of_several_targets(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", HEADER, rows_of("numbers"))
    assert lyra("train", table, *SMALL, *NUMBERS, "--out", tmp_path / "run", "--transform", "rank").code == 0
    assert (tmp_path / "run" / "predicted_vs_measured.png").stat().st_size > 1000
    outcome = lyra("train", table, *SMALL, *NUMBERS, "--out", tmp_path / "run", "--overwrite")
    assert outcome.code == 0, "its own files are known"


def test_options_that_mean_nothing_for_labels(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", HEADER, rows_of("labels"))
    for options, says in (
        (("--class-weights", "balanced"), "--class-weights: has no effect, each target has a probability of its own"),
        (("--output", "linear"), "--output: has no effect, the task is multilabel"),
        (("--transform", "rank"), "--transform rank: has no effect, the task is multilabel"),
        (("--positive", "gc"), "--positive 'gc': has no effect"),
    ):
        outcome = lyra("train", table, *SMALL, *NUMBERS, "--out", tmp_path / "run", *options)
        assert outcome.code == 2 and says in outcome.err, outcome.err
