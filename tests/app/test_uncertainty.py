"""Intervals: that they cover what they say, where they cannot be had, and the columns of an ensemble."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lyra.data import DataOptions
from lyra.errors import InputError
from lyra.model_folder import read_config
from lyra.prediction import Predictor
from lyra.prediction_columns import Columns
from lyra.uncertainty import MOST, Calibration, needed_rows

from .conftest import PAIRS, random_sequences, read_csv, write_table

NOISE = 1.0


# ---- Calibration -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(
    ("rows", "coverage", "draws"),
    [(9, 0.9, 1200), (9, 0.5, 1200), (100, 0.9, 800), (100, 0.55, 800), (5000, 0.9, 60)],
)
def test_intervals_cover_what_they_say(rows, coverage, draws, spread):
    """The exact probability of exchangeable continuous errors is k / (n + 1); for 5000 rows a little more, as 1000
    scores stand for them, never less."""
    rng = np.random.default_rng(rows)
    wanted = math.ceil((rows + 1) * Fraction(str(coverage))) / (rows + 1)
    covered = []
    for _ in range(draws):
        spreads = rng.gamma(2.0, size=rows + 50) if spread else np.zeros(rows + 50)
        errors = rng.standard_t(3, size=rows + 50) * (1 + spreads)
        fitted = Calibration.of(errors[:rows], spreads[:rows] if spread else None)
        half = fitted.half_width(coverage, spreads[rows:])
        assert half.shape == (50,) and (half > 0).all()
        covered.append(float((np.abs(errors[rows:]) <= half).mean()))
    error = 4 * np.std(covered) / math.sqrt(draws)
    more = 1 / MOST if rows > MOST else 0.0
    # the floor is the root mean square of the very errors that it scales, which moves the few rows' coverage a little
    loose = 0.02 if spread and rows < 50 else 0.004 if spread else 0.0
    assert wanted - error - loose <= np.mean(covered) <= wanted + more + error + loose


@pytest.mark.parametrize("rows", [2, 9, 10, 49, 99, 100, 999, 1000, 1001, 1999, 4321])
def test_the_score_is_the_one_of_the_formula(rows):
    """The k-th smallest error, k = ceil((n + 1) coverage) in exact numbers; of thinned scores one that is no less."""
    errors = np.random.default_rng(rows).normal(size=rows)
    fitted = Calibration.of(errors)
    assert len(fitted.scores) == min(rows, MOST) and fitted.rows == rows and fitted.floor is None
    ordered = np.sort(np.abs(errors))
    for hundredths in range(1, 100):
        coverage = hundredths / 100
        k = -(-(rows + 1) * hundredths // 100)
        if k > rows:
            with pytest.raises(InputError):
                fitted.half_width(coverage, np.zeros(1))
            continue
        half = fitted.half_width(coverage, np.zeros(1))[0]
        if rows <= MOST:
            assert half == ordered[k - 1]
        else:
            assert ordered[k - 1] <= half <= ordered[min(k - 1 + -(-rows // MOST), rows - 1)]


@pytest.mark.parametrize("value", [0.1234567, 123456.49, 1e-9 + 1e-15])
def test_errors_that_are_all_the_same_are_covered(value):
    """A score that is rounded downwards would cover none of them."""
    assert Calibration.of(np.full(40, value)).half_width(0.9, np.zeros(1))[0] >= value


def test_nine_rows_are_enough_for_nine_in_ten():
    """.9 / (1 - .9) of floats is above 9."""
    assert needed_rows(0.9) == 9 and needed_rows(0.5) == 1 and needed_rows(0.99) == 99 and needed_rows(0.95) == 19
    assert Calibration.of(np.arange(9.0)).half_width(0.9, np.zeros(1))[0] == 8
    with pytest.raises(InputError, match="needs at least 9 rows held out in training, and there were 8; ask for less"):
        Calibration.of(np.arange(8.0)).half_width(0.9, np.zeros(1))


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 1.5, 90, float("nan"), float("inf")])
def test_a_coverage_that_is_no_share(coverage):
    with pytest.raises(InputError, match=r"must be above 0 and below 1, such as 0\.9") as caught:
        Calibration.of(np.arange(50.0)).half_width(coverage, np.zeros(1))
    assert "\n" not in str(caught.value)


def test_too_much_for_fifty_rows():
    fitted = Calibration.of(np.arange(50.0))
    with pytest.raises(
        InputError, match=r"interval 0\.99: needs at least 99 rows held out in training, and there were"
    ):
        fitted.half_width(0.99, np.zeros(3))
    assert fitted.half_width(0.98, np.zeros(3)).tolist() == [49.0] * 3


def test_wider_where_the_replicates_are_apart():
    rng = np.random.default_rng(0)
    spread = rng.gamma(2.0, size=300)
    fitted = Calibration.of(rng.normal(size=300) * (1 + spread), spread)
    half = fitted.half_width(0.8, np.array([0.0, 1.0, 5.0]))
    assert half[0] < half[1] < half[2] and half[2] / half[0] == pytest.approx(math.hypot(1, 5 / fitted.floor))


def test_errors_of_nothing_at_all():
    fitted = Calibration.of(np.zeros(30), np.zeros(30))
    assert fitted.half_width(0.9, np.zeros(2)).tolist() == [0.0, 0.0]


def test_a_calibration_through_json():
    rng = np.random.default_rng(1)
    for rows, spread in ((7, None), (2500, rng.random(2500))):
        fitted = Calibration.of(rng.normal(size=rows), spread)
        assert Calibration(**json.loads(json.dumps(fitted.to_json(), allow_nan=False))) == fitted


# ---- an ensemble of a noisy target -------------------------------------------------------------------------------
def noisy(count: int, seed: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed + 1000)
    sequences = random_sequences(count, 9, 12, seed=seed)
    return [(s, f"{2 * s.count('G') - s.count('A') + NOISE * rng.normal():.6f}") for s in sequences]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    from rich.console import Console

    from lyra.training import Hardware, Recipe, train

    folder = tmp_path_factory.mktemp("ensemble")
    table = write_table(folder / "t.csv", ["seq", "label"], noisy(700, 0))
    recipe = Recipe(d_model=8, d_state=4, epochs=8, ensemble=3)
    train(table, folder / "run", DataOptions(val_fraction=0.3), recipe, Hardware("cpu"), console=Console(quiet=True))
    return folder / "run"


def test_intervals_of_a_trained_ensemble(lyra, ensemble, tmp_path):
    fresh = noisy(600, 77)
    table = write_table(tmp_path / "new.csv", ["seq", "label"], fresh)
    outcome = lyra("predict", ensemble, table, "-o", tmp_path / "p.csv")
    assert outcome.code == 0, outcome.err
    rows = read_csv(tmp_path / "p.csv")
    assert list(rows[0]) == ["seq", "label", "prediction", "sd", "lower", "upper", "novel"]
    values = np.array([[float(row[name]) for name in ("label", "prediction", "lower", "upper")] for row in rows])
    inside = int(((values[:, 2] <= values[:, 0]) & (values[:, 0] <= values[:, 3])).sum())
    held = Predictor.from_pretrained(ensemble, "cpu").calibrations[0].rows
    assert held == 210
    # of n held-out rows the coverage of one run is Beta(k, n + 1 - k); the fresh sample is binomial with that
    k = math.ceil(0.9 * (held + 1))
    low, high = stats.betabinom.ppf([1e-4, 1 - 1e-4], len(fresh), k, held + 1 - k)
    assert low <= inside <= high, inside
    np.testing.assert_allclose((values[:, 2] + values[:, 3]) / 2, values[:, 1], atol=1e-4)
    members = Predictor.from_pretrained(ensemble, "cpu").predict_members([s for s, _ in fresh])
    np.testing.assert_allclose([float(row["sd"]) for row in rows], members.std(1), rtol=1e-3)
    np.testing.assert_allclose(values[:, 1], members.mean(1), rtol=1e-5, atol=1e-5)
    assert lyra("predict", ensemble, table, "-o", tmp_path / "half.csv", "--interval", "0.5").code == 0
    for narrow, wide in zip(read_csv(tmp_path / "half.csv"), rows, strict=True):
        assert float(wide["lower"]) < float(narrow["lower"]) < float(narrow["upper"]) < float(wide["upper"])
        assert narrow["prediction"] == wide["prediction"] and narrow["sd"] == wide["sd"]


def test_predictions_of_the_run_have_the_same_columns(ensemble):
    rows = read_csv(ensemble / "predictions.csv")
    assert list(rows[0]) == ["row", "seq", "label", "prediction", "sd", "lower", "upper", "novel"]
    assert sum(float(r["lower"]) <= float(r["label"]) <= float(r["upper"]) for r in rows) > 0.6 * len(rows)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--interval", "0"), "--interval 0.0: must be above 0 and below 1, such as 0.9"),
        (("--interval", "1"), "--interval 1.0: must be above 0 and below 1, such as 0.9"),
        (("--interval", "nan"), "--interval nan: must be above 0"),
        (("--interval", "0.999"), "--interval 0.999: needs at least 999 rows held out in training, and there were 210"),
        (("--interval", "0.8", "--stream"), "predictions along a genome carry none"),
        (("--interval", "0.8", "--window", "10"), "predictions along a genome carry none"),
    ],
)
def test_intervals_that_cannot_be(lyra, ensemble, one, tmp_path, options, says):
    outcome = lyra("predict", ensemble, one, "-o", tmp_path / "p.csv", *options)
    assert outcome.code == 2 and says in outcome.err and not (tmp_path / "p.csv").exists()
    assert len([line for line in outcome.err.splitlines() if "error" in line]) == 1


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            "regression",
            "--interval: the model is a single one, whose errors on other rows are not known; leave it out,",
        ),
        ("classification", "--interval: the model predicts no number; leave it out"),
        ("token", "--interval: the model predicts no number; leave it out"),
    ],
)
def test_intervals_of_models_that_have_none(lyra, trained, one, tmp_path, task, says):
    outcome = lyra("predict", trained[task], one, "-o", tmp_path / "p.csv", "--interval", "0.9")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1 and says in outcome.err
    assert not (tmp_path / "p.csv").exists()
    assert lyra("predict", trained[task], one, "-o", tmp_path / "p.csv").code == 0
    assert "lower" not in read_csv(tmp_path / "p.csv")[0] and "sd" not in read_csv(tmp_path / "p.csv")[0]


def test_an_ensemble_of_few_rows_has_no_intervals_of_its_own_accord(ensemble):
    """8 rows held out: nine in ten cannot be said, half can if it is asked for."""
    predictor = Predictor.from_pretrained(ensemble, "cpu")
    predictor.calibrations = [Calibration.of(np.arange(1.0, 9.0))]
    assert "lower" not in Columns(predictor).names
    assert "lower" in Columns(predictor, 0.5).names
    predictor.calibrations = [Calibration.of(np.arange(1.0, 10.0))]
    assert "lower" in Columns(predictor).names


def test_a_column_that_is_there_already(lyra, ensemble, tmp_path):
    table = write_table(tmp_path / "new.csv", ["seq", "upper"], [("ACGTACGTAC", "1")])
    outcome = lyra("predict", ensemble, table, "-o", tmp_path / "p.csv")
    assert outcome.code == 2 and "already has a column upper; rename it" in outcome.err


def test_no_row_is_left(lyra, ensemble, tmp_path):
    """Every sequence is skipped: the table has its header, and no row."""
    table = write_table(tmp_path / "new.csv", ["seq"], [("ACGJ",), ("JJ",)])
    outcome = lyra("predict", ensemble, table, "-o", tmp_path / "p.csv", "--on-invalid", "skip")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "p.csv").read_text() == "seq,prediction,sd,lower,upper,novel\n"


def test_a_mix_of_folds_has_intervals_of_one_width(lyra, tmp_path):
    """All replicates but one have seen a held-out row, so that their spread says nothing of its error."""
    rows = {sequence[:9]: y for sequence, y in noisy(90, 3)}
    table = write_table(tmp_path / "t.csv", ["seq", "label"], list(rows.items()))
    options = [*PAIRS[:5], "1", *PAIRS[6:-1], "folds"]
    outcome = lyra("train", table, "--out", tmp_path / "run", *options)
    assert outcome.code == 0, outcome.err
    calibration = read_config(tmp_path / "run" / "model")["metadata"]["calibration"]
    assert calibration[0]["floor"] is None
    widths = [float(r["upper"]) - float(r["lower"]) for r in read_csv(tmp_path / "run" / "predictions.csv")]
    assert np.ptp(widths) < 1e-4 and widths[0] > 0
