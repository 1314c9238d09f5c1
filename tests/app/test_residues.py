"""A class per residue, where some residues have none: in the loss, the scores, the weights and the pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lyra import plots
from lyra.data import DataOptions, load_labelled
from lyra.data.batches import IGNORED
from lyra.metrics import evaluate
from lyra.prediction import Predictor

from .conftest import SMALL, read_csv, token_rows, write_table
from .test_graphs import OPTIONS, Recorder, numbers, recorder  # noqa: F401  a fixture

RNG = np.random.default_rng(4)


def holed_rows(count: int = 80) -> list[tuple[str, str]]:
    """One residue in three has no label; one sequence has none at all."""
    rows = [(s, "".join(c if RNG.random() < 0.7 else "-" for c in labels)) for s, labels in token_rows(count)]
    return [(rows[0][0], "-" * len(rows[0][0])), *rows[1:]]


def test_residues_without_a_label_take_no_part_anywhere(lyra, tmp_path, recorder: Recorder):  # noqa: F811
    """With class weights, with and without graphs: the scores are those of the labelled residues alone."""
    table = write_table(tmp_path / "t.csv", ["seq", "label"], holed_rows())
    command = ("train", table, *OPTIONS, "--dropout", "0", "--class-weights", "balanced", "--out")
    outcome = lyra(*command, tmp_path / "plain", "--no-graphs")
    assert outcome.code == 0 and "without a labelled residue" in outcome.err, outcome.err
    assert lyra(*command, tmp_path / "graphs").code == 0 and recorder.recorded
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "plain"), rtol=2e-3, atol=2e-4)
    rows = read_csv(tmp_path / "plain" / "predictions.csv")
    assert any("-" in row["label"] for row in rows) and not any("-" in row["prediction"] for row in rows)
    predicted = np.concatenate(Predictor.from_pretrained(tmp_path / "plain", "cpu").predict([r["seq"] for r in rows]))
    labels = np.array(list("".join(row["label"] for row in rows)))
    data = load_labelled(table, DataOptions(), print)
    known = labels != "-"
    wanted = evaluate("token", predicted[known], labels[known].astype(int), data.targets.positive_index)
    scores = json.loads((tmp_path / "plain" / "metrics.json").read_text())["test"]
    assert scores == {name: pytest.approx(value, rel=1e-4) for name, value in wanted.items()}


@pytest.mark.pictures
@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_drawn_along_the_first_sequences(lyra, tmp_path, monkeypatch, classes):
    """Those of the test part, in its order; of two classes lines, of more a row each."""
    drawn: list = []
    real = plots.along_sequences

    def draw(path, tracks, *rest):
        drawn.extend(tracks)
        real(path, tracks, *rest)

    monkeypatch.setattr(plots, "along_sequences", draw)
    rows = [(s, labels if classes == 2 else labels.replace("1", "2", 2)) for s, labels in holed_rows()]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    run = tmp_path / "run"
    assert lyra("train", table, *SMALL, "--out", run).code == 0
    assert (run / "along_sequences.png").stat().st_size > 2000
    assert "along the first 5 sequences of the test part" in (run / "report.html").read_text()
    shown = read_csv(run / "predictions.csv")[:5]
    names = load_labelled(table, DataOptions(), print).targets.classes
    for track, row in zip(drawn, shown, strict=True):
        assert track.name == f"row {row['row']}"
        assert "".join(names[i] for i in track.predicted.argmax(-1)) == row["prediction"]
        assert "".join("-" if i == IGNORED else names[i] for i in track.true) == row["label"]
    assert lyra("train", table, *SMALL, "--out", run, "--overwrite").code == 0, "its own picture is known"


@pytest.mark.pictures
def test_a_long_sequence_is_drawn_as_far_as_residues_can_be_told_apart(tmp_path):
    """And a title says so; sequences without a single label are drawn, too."""
    length = plots.LONGEST + 7
    long = plots.Track("row 9", RNG.dirichlet(np.ones(2), size=length), np.full(length, IGNORED))
    assert long.title == f"row 9, the first {plots.LONGEST} of {length} residues"
    plots.along_sequences(tmp_path / "a.png", [long], ["a$", "b"], 1, "test")
    one = plots.Track("row 1", np.ones((1, 25)) / 25, np.array([3]))
    plots.along_sequences(tmp_path / "b.png", [one, one], [f"{i}" for i in range(25)], 1, "test")
    assert one.title == "row 1" and all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))
