"""`LyraTokenRegressor`: its score, intervals, and errors, beside what all estimators are tested for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from lyra import LyraTokenRegressor
from lyra.errors import InputError

from .conftest import random_sequences
from .test_estimators import data, make


@pytest.fixture(scope="module")
def fitted() -> LyraTokenRegressor:
    torch.set_num_threads(1)
    return make("token-regression", ensemble=2, val_fraction=0.3).fit(*data("token-regression"))


def test_r2_over_residues_is_that_of_scikit_learn(fitted):
    X, y = data("token-regression", 30)
    y[3] = [None] * len(y[3])
    model, weights = fitted, np.random.default_rng(0).random(30)
    true, predicted, counts = [], [], []
    for weight, numbers, found in zip(weights, y, model.predict(X), strict=True):
        for number, guess in zip(numbers, found, strict=True):
            if number is not None:
                true, predicted, counts = [*true, number], [*predicted, guess], [*counts, weight]
    assert model.score(X, y, weights) == pytest.approx(r2_score(true, predicted, sample_weight=counts))
    arrays = [np.array([np.nan if number is None else number for number in numbers]) for numbers in y]
    assert model.score(X, arrays) == pytest.approx(r2_score(true, predicted))


def test_intervals_of_residues_are_those_of_the_predictor(fitted):
    model, X = fitted, random_sequences(5, 6, 12, seed=8)
    for frame, members, mean in zip(
        model.predict_interval(X, 0.7), model.predictor_.predict_members(X), model.predict(X), strict=True
    ):
        assert np.allclose(frame["prediction"], mean) and np.array_equal(frame["sd"], members.std(1))
        wanted = model.predictor_.interval(members, 0.7)
        assert np.array_equal(frame[["lower", "upper"]], wanted)


def test_intervals_of_residues_on_the_scale_of_logarithms(fitted):
    """As many times above a prediction as below it, from errors that are differences of logarithms."""
    X, y = data("token-regression", 60)
    y = [[None if number is None or np.isnan(number) else 10.0**number for number in numbers] for numbers in y]
    model = LyraTokenRegressor(**fitted.get_params() | {"target_transform": "log", "val_fraction": 0.4}).fit(X, y)
    (calibration,) = model.predictor_.calibrations
    assert calibration.scale is not None and calibration.rows == 24
    for frame, members in zip(model.predict_interval(X, 0.7), model.predictor_.predict_members(X), strict=True):
        assert (frame["lower"] > 0).all()
        half = calibration.half_width(0.7, np.log10(members).std(1))
        np.testing.assert_allclose(np.log10(frame["upper"] / frame["prediction"]), half, rtol=1e-6)
        np.testing.assert_allclose(frame["lower"] * frame["upper"], frame["prediction"] ** 2, rtol=1e-6)


def test_what_score_refuses(fitted):
    X, y = data("token-regression", 3)
    with pytest.raises(InputError, match="score, row 1, column y: has 2 numbers for a sequence of"):
        fitted.score(X, [y[0], [0.5, 0.7], y[2]])
    with pytest.raises(InputError, match="score: fewer than two residues that count have a number"):
        fitted.score(X, [[None] * len(x) for x in X])
    with pytest.raises(InputError, match=r"interval 0\.99: needs at least 99 rows held out"):
        fitted.predict_interval(X, 0.99)


def test_sequences_of_one_length_are_as_many_arrays(fitted):
    """As many sequences as letters, of which NumPy would make one table."""
    X = random_sequences(8, 8, 8)
    found = fitted.predict(X)
    assert found.shape == (8,) and all(each.shape == (8,) for each in found)
    again = LyraTokenRegressor(d_model=8, d_state=4, epochs=1, accelerator="cpu").fit(X * 5, list(found) * 5)
    assert again.predict(X).shape == (8,)
