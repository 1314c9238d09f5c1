"""Weights of a mix, against other ways to solve the same; and the folds inside of one."""

from __future__ import annotations

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from lyra.prediction import Predictor
from lyra.training import mixing
from lyra.training.fitting import inner_folds
from lyra.training.mixing import mixing_weights
from lyra.training.plan import FOLDS

from .conftest import SMALL, random_sequences, read_csv, regression_rows, write_table

MIX = (*SMALL[:5], "1", "--accelerator", "cpu")


def loss(predicted, values, weights, intercept):
    return float(np.mean((values - predicted @ weights - intercept) ** 2))


def drawn(seed):
    """Predictions of 1 to 5 kinds, alike, of other units and centres, some against the truth."""
    rng = np.random.default_rng(seed)
    count, kinds = int(rng.integers(8, 200)), int(rng.integers(1, 6))
    values = rng.normal(rng.normal() * 50, 3, count)
    noise = rng.normal(size=(count, kinds)) * rng.gamma(2, size=kinds)
    return values[:, None] * rng.choice([1, 0.3, -0.5], kinds) + noise + rng.normal(size=kinds) * 20, values


@pytest.mark.parametrize("seed", range(30))
def test_the_least_squared_error_of_weights_that_are_not_negative(seed):
    """Brute force over which weights are 0: of the others the plain least squares, if none of them is negative."""
    predicted, values = drawn(seed)
    weights, intercept = mixing_weights(predicted, values)
    kinds = predicted.shape[1]
    assert (weights >= 0).all()
    best = float(np.var(values))
    for size in range(1, kinds + 1):
        for chosen in combinations(range(kinds), size):
            design = np.column_stack([predicted[:, chosen], np.ones(len(values))])
            found = np.linalg.lstsq(design, values, rcond=None)[0]
            if (found[:-1] >= 0).all():
                best = min(best, float(np.mean((values - design @ found) ** 2)))
    assert loss(predicted, values, weights, intercept) == pytest.approx(best, rel=1e-8)
    bounded = optimize.lsq_linear(
        np.column_stack([predicted, np.ones(len(values))]), values, ([0] * kinds + [-np.inf], [np.inf] * (kinds + 1))
    )
    assert loss(predicted, values, weights, intercept) <= 2 * bounded.cost / len(values) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_on_its_own_rows_never_worse_than_one_kind_alone(seed):
    predicted, values = drawn(seed)
    mixed = loss(predicted, values, *mixing_weights(predicted, values))
    alone = [loss(predicted[:, [i]], values, np.ones(1), 0.0) for i in range(predicted.shape[1])]
    assert mixed <= min(alone) * (1 + 1e-9) and mixed <= np.var(values) * (1 + 1e-9)


def test_noise_has_next_to_no_weight():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000)
    predicted = np.stack([values + rng.normal(size=5000) * 0.3, rng.normal(size=5000), -values], 1)
    weights, _ = mixing_weights(predicted, values)
    # without noise in the predictor regression has it at 1 / (1 + .3^2)
    assert weights[0] == pytest.approx(1 / 1.09, abs=0.02) and weights[1] < 0.02 and weights[2] == 0


def test_kinds_that_say_nothing():
    values = np.arange(10.0)
    weights, intercept = mixing_weights(np.stack([np.full(10, 3.0), -values], 1), values)
    assert weights.tolist() == [0, 0] and intercept == 4.5
    weights, intercept = mixing_weights(np.stack([values, values], 1), values)  # twice the same
    assert weights.sum() == pytest.approx(1) and intercept == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_inner_folds_keep_together_what_belongs_together(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 300))
    keys = rng.integers(0, rng.integers(FOLDS, count), size=count)
    keys = np.unique(keys, return_inverse=True)[1] * 3 + 100  # any numbers will do
    rows = np.sort(rng.choice(count, count - 11, replace=False))
    assert len(np.unique(keys[rows])) >= FOLDS
    folds = inner_folds(SimpleNamespace(keys=lambda: keys), rows, seed)
    assert len(folds) == FOLDS
    assert sorted(np.concatenate([fold.val for fold in folds])) == rows.tolist(), "each row is left out once"
    sizes = []
    for fold in folds:
        assert len(fold.val) and sorted([*fold.train, *fold.val]) == rows.tolist()
        assert not set(keys[fold.train]) & set(keys[fold.val])
        sizes.append(len(np.unique(keys[fold.val])))
    assert max(sizes) - min(sizes) <= 1, "as many units in each"
    again = inner_folds(SimpleNamespace(keys=lambda: keys), rows, seed)
    assert all((a.val == b.val).all() for a, b in zip(folds, again, strict=True))


@pytest.mark.parametrize("grouped", [False, True])
def test_copies_and_groups_stay_together_in_a_run(lyra, tmp_path, monkeypatch, grouped):
    """Five sequences of which each stands in the table many times, or groups, through the command line."""
    from lyra.training.networks import Workshop

    seen, original = [], Workshop.train
    monkeypatch.setattr(
        Workshop,
        "train",
        lambda self, name, rows, *more: seen.append((self.data, rows)) or original(self, name, rows, *more),
    )
    sequences = random_sequences(20, 8, 8)
    rows = [(sequences[i % 20], f"{np.sin(i):.4f}", f"g{i % 10}") for i in range(100)]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "family"], rows)
    options = ("--group", "family") if grouped else ()
    outcome = lyra("train", table, "--out", tmp_path / "run", *MIX, "--mix", "folds", *options)
    assert outcome.code == 0, outcome.err
    assert len(seen) == FOLDS
    for data, learned in seen:
        names = data.table["family"].to_numpy() if grouped else np.array(data.sequences)
        assert not set(names[learned.train]) & set(names[learned.val])


@pytest.mark.parametrize("mix", ["validation", "folds"])
def test_a_mix_that_nothing_helps_predicts_the_mean_and_says_so(lyra, tmp_path, monkeypatch, mix):
    monkeypatch.setattr(mixing, "mixing_weights", lambda predicted, *_: (np.zeros(predicted.shape[1]), 3.25))
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows(80))
    outcome = lyra("train", table, "--out", tmp_path / "run", *MIX, "--mix", mix, "--ensemble", "2")
    assert outcome.code == 0, outcome.err
    warned = [line for line in outcome.err.splitlines() if line.startswith("warning: no model predicts")]
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(warned) == 1 and facts["mix"] == {"Lyra": 0.0} and facts["test"]["spearman"] is None
    assert lyra("predict", tmp_path / "run", table, "-o", tmp_path / "p.csv").code == 0
    assert {row["prediction"] for row in read_csv(tmp_path / "p.csv")} == {"3.25"}


@pytest.mark.parametrize("mix", ["validation", "folds"])
def test_predictions_of_a_mix_are_its_formula(lyra, tmp_path, mix):
    """Intercept and weighted members, members by their own class from the folder; weights are those of the shares."""
    rows = [(s, f"{2.5 ** (s.count('G') - s.count('A')):.4f}") for s, _ in regression_rows(110)]
    table = write_table(tmp_path / "t.csv", ["seq", "label"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *MIX, "--mix", mix)
    assert outcome.code == 0, outcome.err
    predictor = Predictor.from_pretrained(tmp_path / "run", "cpu")
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    sequences = random_sequences(9, 10, 10, seed=8)
    dataset = predictor.encode(sequences)
    import torch

    x = torch.from_numpy(dataset.tokens.astype(np.int64).reshape(9, 10))
    with torch.no_grad():
        each = predictor.model.each(x).numpy()
    weights = np.array([member["weight"] for member in config["members"]])
    np.testing.assert_allclose(config["intercept"] + weights @ each, predictor.predict(sequences), rtol=1e-5, atol=1e-5)
    assert (weights > 0).all() and weights.sum() == pytest.approx(sum(facts["mix"].values()))
    assert predictor.members == (FOLDS if mix == "folds" else 1)
    np.testing.assert_allclose(predictor.predict_members(sequences).mean(1), predictor.predict(sequences), rtol=1e-5)
