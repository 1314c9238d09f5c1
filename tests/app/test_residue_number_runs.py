"""Numbers per residue from the table to the folder of a run: loss, scores, ensembles, folds, strands, weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from lyra import plots
from lyra.data import DataOptions, load_labelled
from lyra.data.batches import SequenceDataset
from lyra.model_folder import ModelDescription
from lyra.models import Ensemble, LyraForTokenClassification
from lyra.outputs import RegressionOutput
from lyra.prediction import Predictor
from lyra.training import Recipe
from lyra.training.loss import Loss
from lyra.training.networks import Rows, build_module
from lyra.uncertainty import Calibration

from .conftest import number_rows, random_sequences, read_csv, write_table
from .test_graphs import Recorder, numbers, recorder  # noqa: F401  a fixture
from .test_strand_option import other_strand

FAST = ("--d-model", "8", "--d-state", "4", "--epochs", "2", "--accelerator", "cpu")
RNG = np.random.default_rng(21)


def parse(cell: str) -> np.ndarray:
    return np.array([np.nan if text == "NA" else float(text) for text in cell.split(";")])


def by_definition(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    known = ~np.isnan(true)
    p, y = predicted[known], true[known]
    return {
        "r2": r2_score(y, p), "spearman": stats.spearmanr(p, y).statistic, "pearson": stats.pearsonr(p, y).statistic,
        "rmse": mean_squared_error(y, p) ** 0.5, "mae": mean_absolute_error(y, p),
    }  # fmt: skip


def train(lyra, tmp_path, *options, rows=None, header=("seq", "label"), out="run", settings=FAST):
    table = write_table(tmp_path / "t.csv", list(header), number_rows() if rows is None else rows)
    outcome = lyra("train", table, "--out", tmp_path / out, *settings, *options)
    assert outcome.code == 0, outcome.err
    return json.loads((tmp_path / out / "metrics.json").read_text()), read_csv(tmp_path / out / "predictions.csv")


# --- the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_mean_of_the_squared_errors_of_the_residues_that_have_a_number(kind, weighted):
    lengths = [3, 7, 5]
    values = [RNG.normal(size=length).astype(np.float32) for length in lengths]
    values[1][[0, 4]] = np.nan
    tokens, offsets = np.zeros(15, np.int8), np.concatenate([[0], np.cumsum(lengths)])
    weights = np.array([0.5, 2.0, 1.0]) if weighted else None
    batch = SequenceDataset(tokens, offsets, np.arange(3), values, weights)[[0, 1, 2]]
    raw = torch.randn(3, 7, 1, requires_grad=True)
    output = RegressionOutput(kind, 1.0, 2.0)
    loss = Loss(output, None)
    total = count = heavy = 0.0
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if not np.isnan(value):
                weight = 1.0 if weights is None else weights[i]
                total += weight * (float(output(raw[i, j, 0].detach())) - value) ** 2
                count, heavy = count + 1, heavy + weight
    step = loss.step(raw, batch)
    assert float(step) == pytest.approx(total / count, rel=1e-5)
    assert loss.sums(raw, batch).tolist() == pytest.approx([total, heavy], rel=1e-5)
    (gradient,) = torch.autograd.grad(step, raw)
    missing = torch.ones(3, 7, dtype=torch.bool)
    for i, row in enumerate(values):
        missing[i, : len(row)] = torch.from_numpy(np.isnan(row))
    assert torch.isfinite(gradient).all() and (gradient[missing] == 0).all() and (gradient[~missing] != 0).all()


def test_the_scaling_is_that_of_the_training_residues_as_they_are_weighted(tmp_path):
    rows = [(s, y, i % 4) for i, (s, y) in enumerate(number_rows(50))]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "w"], rows)
    for options in ({}, {"weight": "w"}, {"transform": "log"}):
        data = load_labelled(table, DataOptions(**options), print)
        part = Rows(data.rows("train"), data.rows("val"))
        module, loaders = build_module(
            data, Recipe(d_model=8, d_state=4, dropout=0.0, average=0.0, positions=False), part
        )
        each = [(value, int(data.table["w"].iloc[i])) for i in part.train for value in data.values[i] if value == value]
        values, weights = np.array(each, dtype=float).T
        values = np.log10(values) if "transform" in options else values
        weights = weights if "weight" in options else np.ones(len(weights))
        mean = np.average(values, weights=weights)
        assert module.output.mean == pytest.approx(mean)
        assert module.output.std == pytest.approx(np.average((values - mean) ** 2, weights=weights) ** 0.5)
        assert isinstance(module.model, LyraForTokenClassification)
        back = module.output.in_units(torch.from_numpy(loaders.val.values[0])).numpy()
        np.testing.assert_allclose(back, data.values[part.val[0]], rtol=1e-5, atol=1e-6)


# --- a run ----------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_residues_that_have_a_number(lyra, tmp_path, recorder: Recorder):  # noqa: F811
    """With and without graphs: scores of the test part, of each protein, of the validation part in each epoch."""
    options = ("--dropout", "0", "--average", "0", "--epochs", "4")
    scores, rows = train(lyra, tmp_path, *options, "--no-graphs", settings=FAST[:4] + FAST[6:])
    train(lyra, tmp_path, *options, out="graphs", settings=FAST[:4] + FAST[6:])
    assert recorder.recorded
    np.testing.assert_allclose(numbers(tmp_path / "graphs"), numbers(tmp_path / "run"), rtol=2e-3, atol=2e-4)
    predicted, true = ([parse(row[name]) for row in rows] for name in ("prediction", "label"))
    assert any(np.isnan(each).any() for each in true) and not any(np.isnan(each).any() for each in predicted)
    whole = by_definition(np.concatenate(predicted), np.concatenate(true))
    assert scores["test"] == {name: pytest.approx(value, rel=1e-4) for name, value in whole.items()}
    means = scores["per_sequence"]["test"]
    each = [by_definition(*pair) for pair in zip(predicted, true, strict=True)]
    for name in whole:
        assert means[name] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-3, abs=1e-4), name
        assert means[f"{name}_defined"] == means["sequences"] == len(rows)
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    data = load_labelled(tmp_path / "t.csv", DataOptions(), print)
    val = data.rows("val")
    found = np.concatenate(predictor.predict([data.sequences[i] for i in val]))
    wanted = by_definition(found, np.concatenate([data.values[i] for i in val]))
    history = read_csv(tmp_path / "run" / "history.csv")
    best = max(history, key=lambda row: float(row["val_r2"]))
    for name, value in wanted.items():
        assert float(best[f"val_{name}"]) == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert scores["validation"]["r2"] == pytest.approx(wanted["r2"], rel=1e-4)
    assert set(scores["baselines"]) == {"window ridge"} and set(scores["intervals"]["Lyra"]) == {"r2", "spearman"}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "test part, means over sequences" in report and "MAE" in report


def test_missing_residues_change_nothing_by_what_stands_for_them(lyra, tmp_path):
    rows = number_rows()
    first, _ = train(lyra, tmp_path, "--seed", "3", rows=rows)
    other = [(s, y.replace("NA", "-7.5")) for s, y in rows]
    second, _ = train(lyra, tmp_path, "--seed", "3", "--na", "-7.5", rows=other, out="other")
    assert first["test"] == second["test"]


@pytest.mark.parametrize("options", [("--transform", "log"), ("--transform", "rank"), ("--output", "linear")])
def test_scales(lyra, tmp_path, options):
    rows = [
        (s, ";".join(t if t == "NA" else f"{10 ** (3 * float(t)):.5g}" for t in y.split(";"))) for s, y in number_rows()
    ]
    scores, rows = train(lyra, tmp_path, *options, rows=rows)
    predicted, true = (np.concatenate([parse(row[name]) for row in rows]) for name in ("prediction", "label"))
    assert scores["test"] == {n: pytest.approx(v, rel=1e-3) for n, v in by_definition(predicted, true).items()}
    if "log" in options:
        assert (predicted > 0).all()


def test_whole_numbers_are_learned_where_it_is_said(lyra, tmp_path):
    rows = [(s, ";".join("210"["GCA".find(c)] for c in s)) for s in random_sequences(60, 6, 14)]
    scores, _ = train(lyra, tmp_path, "--task", "token-regression", rows=rows)
    assert "r2" in scores["test"]
    assert "accuracy" in train(lyra, tmp_path, rows=rows, out="classes")[0]["test"]


def test_rows_of_no_weight_do_not_count(lyra, tmp_path):
    """Neither in the loss nor in the scaling: as if they were not there, but for the order of batches."""
    rows = number_rows(60)
    parts = [("train", "val", "test")[(i % 10 > 6) + (i % 10 > 7)] for i in range(60)]
    light = [part == "train" and i % 3 == 0 for i, part in enumerate(parts)]
    wild = [(s, ";".join("500" for _ in s) if off else y, int(not off), part)
            for (s, y), off, part in zip(rows, light, parts, strict=True)]  # fmt: skip
    _, found = train(lyra, tmp_path, "--weight", "w", rows=wild, header=("seq", "label", "w", "set"))
    assert all((parse(row["prediction"]) < 4).all() for row in found), "1.5 is the largest number that counts"


# --- strands --------------------------------------------------------------------------------------------


def test_both_strands(lyra, tmp_path):
    train(lyra, tmp_path, "--strand", "both")
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    sequences = [*random_sequences(9, 1, 20, "ACGTN-"), "A"]
    here, there = (predictor.predict(list(strand)) for strand in (sequences, map(other_strand, sequences)))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b[::-1], a, rtol=1e-4, atol=1e-5)
    assert predictor.predict([""])[0].shape == (0,)
    train(lyra, tmp_path, "--strand", "augment", out="augmented")


# --- ensembles and folds --------------------------------------------------------------------------------


def hierarchical(errors: list[np.ndarray], coverage: float) -> float:
    """Half width by the definition of Lee, Barber and Willett (2023): the least s with
    sum over sequences of the share of errors <= s, divided by K + 1, at least the coverage."""
    for s in np.sort(np.concatenate(errors)):
        if sum(float((one <= s).mean()) for one in errors) / (len(errors) + 1) >= coverage - 1e-12:
            return float(s)
    raise AssertionError


def test_intervals_of_residues_are_those_of_the_definition():
    for sequences in (9, 12, 40):
        errors = [np.abs(RNG.normal(size=RNG.integers(1, 60))) for _ in range(sequences)]
        groups = np.repeat(np.arange(sequences), list(map(len, errors)))
        fitted = Calibration.of_groups(np.concatenate(errors), groups)
        assert fitted.rows == sequences
        for coverage in (0.5, 0.8, 0.9):
            # in whole steps of a sequence and of a thousandth, never narrower
            wanted, more = hierarchical(errors, coverage), coverage + 1 / sequences + 0.002
            found = float(fitted.half_width(coverage, np.zeros(3))[0])
            assert wanted <= found
            if more * (sequences + 1) / sequences < sequences / (sequences + 1):
                assert found <= hierarchical(errors, more)


@pytest.mark.parametrize("spread", [False, True])
def test_intervals_of_residues_cover_what_they_say_in_new_sequences(spread):
    """Sequences with errors of their own size and length: pooled errors would cover too little of few sequences."""
    covered = []
    for _ in range(500):
        sizes = RNG.gamma(1.0, size=16)
        lengths = RNG.integers(1, 40, size=16)
        each = [scale * RNG.standard_normal(length) for scale, length in zip(sizes, lengths, strict=True)]
        apart = [RNG.gamma(2.0, size=length) for length in lengths]
        groups = np.repeat(np.arange(15), lengths[:15])
        fitted = Calibration.of_groups(
            np.concatenate(each[:15]), groups, np.concatenate(apart[:15]) if spread else None
        )
        covered.append(float((np.abs(each[15]) <= fitted.half_width(0.8, apart[15])).mean()))
    error = 4 * np.std(covered) / len(covered) ** 0.5
    assert 0.8 - error - 0.01 * spread <= np.mean(covered) <= 0.8 + 1 / 16 + error + 0.01 * spread


def test_an_ensemble_gives_mean_spread_and_interval(lyra, tmp_path):
    _, rows = train(lyra, tmp_path, "--ensemble", "2", "--val-fraction", "0.3")
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    assert isinstance(predictor.model, Ensemble) and predictor.members == 2
    sequences = [row["seq"] for row in rows]
    members, means = predictor.predict_members(sequences), predictor.predict(sequences)
    singles = [Predictor(member, described(predictor, output)) for member, output in
               zip(predictor.model.members, predictor.model.outputs, strict=True)]  # fmt: skip
    for row, each, mean, *alone in zip(rows, members, means, *(one.predict(sequences) for one in singles), strict=True):
        assert each.shape == (len(row["seq"]), 2)
        np.testing.assert_allclose(each, np.stack(alone, 1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mean, each.mean(1), rtol=1e-6)
        np.testing.assert_allclose(parse(row["prediction"]), mean, rtol=1e-5)
        np.testing.assert_allclose(parse(row["sd"]), each.std(1), rtol=1e-2, atol=1e-6)
        bounds = predictor.interval(each, 0.9)
        for name, side in zip(("lower", "upper"), bounds.T, strict=True):
            np.testing.assert_allclose(parse(row[name]), side, rtol=1e-5)
    data = load_labelled(tmp_path / "t.csv", DataOptions(val_fraction=0.3), print)
    val, errors, spreads = data.rows("val"), [], []
    for i, each in zip(val, predictor.predict_members([data.sequences[i] for i in val]), strict=True):
        known = ~np.isnan(data.values[i])
        errors.append(np.abs(each.mean(1) - data.values[i])[known])
        spreads.append(each.std(1)[known])
    floor = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    assert predictor.calibrations[0].rows == len(val) and predictor.calibrations[0].floor == pytest.approx(
        floor, rel=1e-4
    )
    groups = np.repeat(np.arange(len(val)), list(map(len, errors)))
    fitted = Calibration.of_groups(np.concatenate(errors), groups, np.concatenate(spreads))
    np.testing.assert_allclose(predictor.calibrations[0].scores, fitted.scores, rtol=1e-4)
    units = [e / np.hypot(floor, s) for e, s in zip(errors, spreads, strict=True)]
    half = predictor.interval(np.zeros((1, 2)), 0.5)[0, 1] / floor
    assert hierarchical(units, 0.5) * 0.999 <= half <= hierarchical(units, 0.5 + 2 / len(val)) * 1.001
    outcome = lyra("predict", tmp_path / "run", tmp_path / "t.csv", "-o", tmp_path / "p.csv", "--interval", "0.99")
    assert outcome.code == 2 and "needs at least 99 rows held out in training" in outcome.err


def described(predictor: Predictor, output) -> ModelDescription:
    return ModelDescription(predictor.alphabet, predictor.targets, output)


def test_folds_predict_each_row_by_models_that_had_not_seen_it(lyra, tmp_path):
    scores, rows = train(lyra, tmp_path, "--folds", "3")
    data = load_labelled(tmp_path / "t.csv", DataOptions(folds=3), print)
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    members = predictor.predict_members(list(data.sequences))
    place = {number: i for i, number in enumerate(data.table.index)}
    assert sorted(int(row["row"]) for row in rows) == sorted(place), "each once"
    predicted, true, errors = [], [], []
    for row in rows:
        at = place[int(row["row"])]
        predicted.append(parse(row["prediction"]))
        true.append(parse(row["label"]))
        np.testing.assert_allclose(predicted[-1], members[at][:, data.fold_of[at]], rtol=1e-4, atol=1e-5)
        errors.append(np.abs(predicted[-1] - true[-1])[~np.isnan(true[-1])])
    whole = by_definition(np.concatenate(predicted), np.concatenate(true))
    assert scores["test"] == {name: pytest.approx(value, rel=1e-4) for name, value in whole.items()}
    assert predictor.calibrations[0].rows == len(rows) and predictor.calibrations[0].floor is None
    half = predictor.interval(np.zeros((1, 2)), 0.8)[0, 1]
    assert hierarchical(errors, 0.8) * 0.999 <= half <= hierarchical(errors, 0.82) * 1.001


# --- pictures -------------------------------------------------------------------------------------------


@pytest.mark.pictures
def test_measured_and_predicted_numbers_are_drawn_along_the_first_sequences(lyra, tmp_path, monkeypatch):
    drawn: list = []
    real = plots.numbers_along_sequences
    monkeypatch.setattr(
        plots, "numbers_along_sequences", lambda path, tracks, *rest: (drawn.extend(tracks), real(path, tracks, *rest))
    )
    _, rows = train(lyra, tmp_path)
    for name in ("along_sequences", "predicted_vs_measured"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 2000
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Predicted and measured numbers along the first 5 sequences" in report
    for track, row in zip(drawn, rows[:5], strict=True):
        np.testing.assert_allclose(track.predicted, parse(row["prediction"]), rtol=1e-5)
        assert np.array_equal(track.true, parse(row["label"]), equal_nan=True)
    long = plots.Track("row 9", RNG.normal(size=plots.LONGEST + 7), np.full(plots.LONGEST + 7, np.nan))
    real(tmp_path / "a.png", [long, plots.Track("x", np.ones(1), np.ones(1))], "a$ b", "test")
    assert (tmp_path / "a.png").stat().st_size > 1000
