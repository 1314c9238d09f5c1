"""Regressors of several targets, of limits and of other scales give what the command line gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

from lyra import LyraRegressor, Predictor
from lyra.errors import InputError

from .conftest import SMALL, random_sequences, read_csv, write_table
from .test_estimators import TINY, make

RNG = np.random.default_rng(4)
X = random_sequences(60, 10, 10)
BOTH = pd.DataFrame(
    {"binding": [x.count("G") - x.count("C") + 0.5 for x in X], "growth": [10.0 ** x.count("A") for x in X]}
)
BOTH.loc[::7, "growth"] = np.nan
BOTH.loc[3::7, "binding"] = np.nan
ONE = [x.count("G") + 0.25 for x in X]
LIMITS = [f">{y}" if y > 4 else f"<= {y}" if y < 1 else y for y in ONE]
ABOVE = [10 ** (y / 2) for y in ONE]
KINDS = {
    "several": ({}, BOTH, ("--target", "binding", "--target", "growth")),
    "limits": ({}, LIMITS, ("--censored",)),
    "logarithms": ({"target_transform": "log"}, ABOVE, ("--transform", "log")),
    "ranks of several": ({"target_transform": "rank"}, BOTH,
                         ("--target", "binding", "--target", "growth", "--transform", "rank")),
    "limits of logarithms": ({"target_transform": "log"}, [">9" if y > 9 else y for y in ABOVE],
                             ("--transform", "log", "--censored")),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_command_line_trains_the_same_model(lyra, tmp_path, name):
    """Given the same rows for training and validation: every weight of the networks is equal."""
    settings, y, options = KINDS[name]
    several = isinstance(y, pd.DataFrame)
    cells = y.astype(object).where(y.notna(), "").values.tolist() if several else [[value] for value in y]
    parts = ["train"] * 45 + ["val"] * 15
    rows = [(x, *row, part) for x, row, part in zip(X, cells, parts, strict=True)]
    header = ["seq", *(y.columns if several else ["label"]), "set"]
    table = write_table(tmp_path / "t.csv", header, rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", "--task", "regression", *options, *SMALL)
    assert outcome.code == 0, outcome.err
    first, last = (y[:45], y[45:])
    model = make("regression", epochs=3, **settings).fit(X[:45], first, validation=(X[45:], last))
    theirs = Predictor.from_pretrained(tmp_path / "run", "cpu")
    assert theirs.targets == model.predictor_.targets
    assert theirs.output.to_json() == model.predictor_.output.to_json()
    for key, value in theirs.model.state_dict().items():
        assert torch.equal(value, model.predictor_.model.state_dict()[key]), key
    assert model.predict(X).shape == ((60, 2) if several else (60,))
    loaded = LyraRegressor.load(tmp_path / "run", device="cpu")
    assert loaded.score(X, y) == model.score(X, y)


@pytest.fixture(scope="module")
def ensemble():
    torch.set_num_threads(1)
    return make("regression", ensemble=2, val_fraction=0.4, target_transform="rank").fit(X, BOTH)


def test_a_saved_model_of_several_targets(lyra, tmp_path, ensemble):
    """The folder predicts what the estimator does, with intervals, on the command line as well."""
    ensemble.save(tmp_path / "saved")
    file = write_table(tmp_path / "t.csv", ["X"], [(x,) for x in X])
    outcome = lyra("predict", tmp_path / "saved", file, "-o", tmp_path / "p.csv", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    theirs, ours = pd.DataFrame(read_csv(tmp_path / "p.csv")), ensemble.table(X)
    said = [f"{name}_{target}" for target in BOTH for name in ("prediction", "sd", "lower", "upper")]
    assert list(ours) == ["sequence", *said, "novel"] and list(theirs) == ["X", *said, "novel"]
    assert np.array_equal(theirs[said].astype(float), ours[said])
    loaded = LyraRegressor.load(tmp_path / "saved", device="cpu")
    assert loaded.target_transform == "rank" and clone(loaded).get_params() == ensemble.get_params()
    pd.testing.assert_frame_equal(loaded.predict_interval(X, 0.6), ensemble.predict_interval(X, 0.6))


def test_intervals_of_several_targets(ensemble):
    given = pd.Series(X, index=range(5, 65))
    frame, members = ensemble.predict_interval(given, 0.6), ensemble.predictor_.predict_members(X)
    assert list(frame.index) == list(given.index)
    for i, name in enumerate(BOTH):
        assert np.array_equal(frame[f"prediction_{name}"], members.mean(1)[:, i])
        assert np.array_equal(frame[f"sd_{name}"], members.std(1)[:, i])
        ends = ensemble.predictor_.calibrations[i].interval(members[..., i], 0.6)
        assert np.array_equal(frame[[f"lower_{name}", f"upper_{name}"]], ends)
        assert (ends[:, 0] < ends[:, 1]).all()


@pytest.mark.parametrize("shape", ["array", "lists", "tuples", "missing as None", "objects", "frame"])
def test_what_y_of_several_targets_may_be(shape):
    numbers = BOTH.to_numpy()
    y = {
        "array": numbers, "lists": numbers.tolist(), "tuples": [tuple(row) for row in numbers.tolist()],
        "missing as None": [[None if np.isnan(v) else v for v in row] for row in numbers.tolist()],
        "objects": BOTH.astype(object).where(BOTH.notna(), pd.NA).to_numpy(),
        "frame": BOTH.astype("Float64"),
    }[shape]  # fmt: skip
    model = make("regression", epochs=1).fit(X, y)
    assert model.predictor_.targets.names == (["binding", "growth"] if shape == "frame" else ["y0", "y1"])
    assert model.predictor_.source.target == ", ".join(model.predictor_.targets.names)
    assert np.array_equal(model.predict(X), make("regression", epochs=1).fit(X, BOTH).predict(X))


@pytest.mark.parametrize(
    "y", [np.array(ONE)[:, None], [[v] for v in ONE], [str(v) for v in ONE], np.array(ONE, object)]
)
def test_one_target_is_one_however_it_is_given(y):
    """In a column, in lists, as texts: numbers stay numbers."""
    model = make("regression", epochs=1).fit(X, y)
    assert np.array_equal(model.predict(X), make("regression", epochs=1).fit(X, ONE).predict(X))
    assert model.predict(X).shape == (60,) and model.predictor_.targets.names == []


def test_scores_of_several_targets(ensemble):
    """As scikit-learn's where none is missing; else the mean of R2 over the rows that have each."""
    weights = RNG.random(60)
    predicted, full = ensemble.predict(X), BOTH.fillna(1.5)
    for given in (None, weights):
        assert ensemble.score(X, full, given) == pytest.approx(r2_score(full, predicted, sample_weight=given))
        each = []
        for i, name in enumerate(BOTH):
            known = BOTH[name].notna().to_numpy()
            own = None if given is None else given[known]
            each.append(r2_score(BOTH[name][known], predicted[known, i], sample_weight=own))
        assert ensemble.score(X, BOTH, given) == pytest.approx(np.mean(each))
    assert ensemble.score(X, BOTH.to_numpy()) == ensemble.score(X, BOTH)


def test_scores_leave_limits_out():
    model = make("regression").fit(X, LIMITS)
    values = np.array([not isinstance(y, str) for y in LIMITS])
    assert 0 < values.sum() < 60
    assert model.score(X, LIMITS) == r2_score(np.array(ONE)[values], model.predict(X)[values])
    with pytest.raises(InputError, match="score, column y: no row has a value"):
        model.score(X[:2], ["<1", ">2"])


def test_a_limit_is_no_value():
    """Below a limit that no prediction reaches, rows are as good as not there; it is said how many there are."""
    y = [">-1e6" if i % 5 == 0 else y for i, y in enumerate(ONE)]
    validation = (X[50:], ONE[50:])
    model = make("regression").fit(X[:50], y[:50], validation=validation)
    other = make("regression").fit(X[:50], [str(v).replace("1e6", "2e6") for v in y[:50]], validation=validation)
    assert np.array_equal(model.predict(X), other.predict(X))
    few = make("regression", ensemble=2, val_fraction=0.3, mix="none").fit(X, y)
    assert few.predictor_.calibrations[0].rows < 18


def test_a_logarithm_stays_above_nothing():
    model = make("regression", ensemble=2, val_fraction=0.3, target_transform="log").fit(X, ABOVE)
    frame = model.predict_interval(X, 0.8)
    assert (frame["lower"] > 0).all() and (model.predict(X) > 0).all()
    np.testing.assert_allclose(frame["lower"] * frame["upper"], frame["prediction"] ** 2, rtol=1e-6)


@pytest.mark.parametrize("y", [BOTH, BOTH.to_numpy(), LIMITS], ids=["frame", "array", "limits"])
def test_cross_validation(y):
    model = make("regression", epochs=1)
    assert np.isfinite(cross_val_score(model, X, y, cv=2, error_score="raise")).all()


def test_a_search_over_scales():
    search = GridSearchCV(
        make("regression", epochs=1), {"target_transform": ["none", "rank"]}, cv=2, error_score="raise"
    )
    assert search.fit(X, ABOVE).best_params_["target_transform"] in ("none", "rank")


def test_it_is_no_transformer():
    """Which scikit-learn takes for one whatever has a `transform`."""
    assert not hasattr(LyraRegressor(), "transform") and "target_transform" in LyraRegressor().get_params()


def test_targets_that_are_not_those_of_training(ensemble):
    swapped = BOTH[["growth", "binding"]]
    for call, says in (
        (lambda: ensemble.score(X, ONE), "score: y has one value a row, and the model predicts 2"),
        (lambda: ensemble.score(X, np.ones((60, 3))), "score: y has 3 values a row, and the model predicts 2"),
        (lambda: ensemble.score(X, swapped), "score: y has the columns growth, binding; they must be"),
        (lambda: ensemble.score(X, BOTH[:59]), "score: X has 60 rows and y 59"),
        (lambda: ensemble.score(X[::7], BOTH[::7]), "score, column growth: no row has a value"),
        (lambda: ensemble.score(X, BOTH.assign(growth=np.nan)), "score, row 3, column y: every value is missing"),
        (lambda: LyraRegressor(**TINY).fit(X, BOTH, validation=(X, swapped)),
         "validation: y has the columns growth, binding; they must be binding, growth"),
        (lambda: LyraRegressor(**TINY).fit(X, BOTH, validation=(X, ONE)),
         "fit, row 0 of validation, column y: has one value, and the first row 2 values"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{says}") as caught:
            call()
        assert "\n" not in str(caught.value)
