"""`lyra train` and `lyra predict`, from a table to the files they leave."""

from __future__ import annotations

import json

import numpy as np
import pytest

from .conftest import SMALL, classification_rows, random_sequences, read_csv, regression_rows, token_rows, write_table

TASKS = ("regression", "classification", "token")
FILES = {"model", "metrics.json", "predictions.csv", "history.csv", "learning_curve.png", "report.html", "run.json"}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_everything(trained, task):
    folder = trained[task]
    names = {path.name for path in folder.iterdir()}
    assert names > FILES
    assert not any("unfinished" in name or name.startswith(".") for name in names)
    assert {path.name for path in (folder / "model").iterdir()} >= {"config.json", "model.safetensors"}
    assert len(read_csv(folder / "history.csv")) == 3
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task", TASKS)
def test_the_model_learned_something(trained, task):
    scores = json.loads((trained[task] / "metrics.json").read_text())
    name = {"regression": "spearman", "classification": "auroc", "token": "accuracy"}[task]
    assert scores["test"][name] > 0.7, scores


@pytest.mark.parametrize("task", TASKS)
def test_predict_gives_what_training_wrote(trained, task, lyra, tmp_path):
    """The test part's predictions come out again from the saved model, through the other command."""
    rows = {"regression": regression_rows(), "classification": classification_rows(), "token": token_rows()}[task]
    table = write_table(tmp_path / "all.csv", ["name", "seq"], [(f"n{i}", row[0]) for i, row in enumerate(rows)])
    outcome = lyra("predict", trained[task], table, "-o", tmp_path / "out.csv", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    found = read_csv(tmp_path / "out.csv")
    assert [(row["name"], row["seq"]) for row in found] == [(f"n{i}", row[0]) for i, row in enumerate(rows)]
    written = read_csv(trained[task] / "predictions.csv")
    assert written
    for row in written:
        again = found[int(row["row"]) - 2]
        assert again["seq"] == row["seq"]
        for column in again.keys() - {"name", "seq"}:
            if task == "token" or column == "prediction" == task:
                assert again[column] == row[column]
            elif column != "prediction" or task == "regression":
                assert float(again[column]) == pytest.approx(float(row[column]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_fasta_keeps_its_order_whatever_the_batches(trained, lyra, tmp_path, batch_size):
    """Lengths are mixed and unsorted; a sequence's prediction depends on nothing but the sequence."""
    sequences = random_sequences(40, 1, 30, seed=5)
    fasta = tmp_path / "new.fasta"
    fasta.write_text("".join(f">r{i} text\n{s[:7]}\n{s[7:].lower()}\n\n" for i, s in enumerate(sequences)))
    outcome = lyra("predict", trained["regression"], fasta, "-o", tmp_path / "out.csv", "--batch-size", batch_size)
    assert outcome.code == 0, outcome.err
    found = read_csv(tmp_path / "out.csv")
    assert [row["id"] for row in found] == [f"r{i}" for i in range(40)]

    from lyra.prediction import Predictor

    predictor = Predictor.from_pretrained(trained["regression"], "cpu")
    alone = [float(predictor.predict([s])[0]) for s in sequences]
    np.testing.assert_allclose([float(row["prediction"]) for row in found], alone, rtol=1e-4, atol=1e-5)


def test_training_is_repeatable(trained, lyra, tmp_path):
    table = write_table(tmp_path / "regression.csv", ["seq", "label"], regression_rows())
    assert lyra("train", table, "--out", tmp_path / "again", *SMALL).code == 0
    for name in ("predictions.csv", "metrics.json"):
        first, second = ((folder / name).read_text() for folder in (trained["regression"], tmp_path / "again"))
        if name.endswith("json"):
            first, second = (json.loads(text)["test"] for text in (first, second))
        assert first == second


def test_a_split_column_decides(lyra, tmp_path):
    rows = [(s, y, ("Training", "valid", "test")[i % 3]) for i, (s, y) in enumerate(regression_rows(60))]
    table = write_table(tmp_path / "t.tsv", ["x", "y", "set"], rows, delimiter="\t")
    assert lyra("train", table, "--out", tmp_path / "run", *SMALL).code == 0
    written = read_csv(tmp_path / "run" / "predictions.csv")
    assert [row["x"] for row in written] == [row[0] for row in rows if row[2] == "test"]


def test_mutants_of_a_wild_type(lyra, tmp_path):
    """The saved model knows the wild type: predicting needs the mutations alone."""
    wild = "MKTAYIAKQR"
    rows = [(f"{wild[i]}{i + 5}{new}", f"{i}.{j}") for i in range(10) for j, new in enumerate("ACDEFG")]
    table = write_table(tmp_path / "dms.csv", ["mutant", "DMS_score"], rows)
    run = tmp_path / "run"
    outcome = lyra("train", table, "--out", run, "--wild-type", wild, "--offset", 5, *SMALL)
    assert outcome.code == 0, outcome.err
    new = write_table(tmp_path / "new.csv", ["mutant"], [("M5A:K6W",), ("WT",), ("R14L",)])
    outcome = lyra("predict", run, new, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    from lyra.prediction import Predictor

    expected = Predictor.from_pretrained(run, "cpu").predict(["AWTAYIAKQR", wild, "MKTAYIAKQL"])
    found = [float(row["prediction"]) for row in read_csv(tmp_path / "p.csv")]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_report_stands_alone(trained):
    """One file: pictures are inside, and nothing is fetched from anywhere."""
    for folder in trained.values():
        text = (folder / "report.html").read_text()
        assert text.count("data:image/png;base64,") >= 2
        for forbidden in ("http:", "https:", 'src="/', "<script", "<link", "@import", "url("):
            assert forbidden not in text


def test_the_table_names_the_rivals(lyra, tmp_path):
    """A regression on sequences of one length is printed beside both additive models, a tie or not."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL)
    for name in ("Lyra", "one-hot ridge", "one-hot sigmoid", "Spearman", "R²"):
        assert name in outcome.out
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["baselines"]["one-hot ridge"]["test"]["r2"] > 0.99  # the target is additive


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "layered", "--pgc-layers", "1", "--s4-layers", "2", "--precision", "bf16-mixed"),
        ("--precision", "64-true", "--pool", "mean", "--one-way"),
        ("--class-weights", "balanced", "--dropout", "0.2", "--pool", "first", "--batch-size", "32"),
    ],
    ids=lambda options: options[1],
)
@pytest.mark.parametrize("task", ["classification", "token"])
def test_other_settings_run_and_load_again(lyra, tmp_path, task, options):
    rows = {"classification": classification_rows, "token": token_rows}[task](60)
    if task == "token":  # which pools nothing, so that the option is an error
        options = [text for i, text in enumerate(options) if "--pool" not in options[max(i - 1, 0) : i + 1]]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    assert lyra("predict", tmp_path / "run", table, "-o", tmp_path / "p.csv").code == 0
    found = {row["seq"]: row["prediction"] for row in read_csv(tmp_path / "p.csv")}
    written = read_csv(tmp_path / "run" / "predictions.csv")
    agree = [found[row["seq"]] == row["prediction"] for row in written]
    assert np.mean(agree) == 1, "the weights are saved in the precision that they were trained in"
