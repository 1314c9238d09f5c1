"""Metrics, baselines and the output scale against formulas written out here."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lyra.alphabets import DNA
from lyra.data import Targets
from lyra.metrics import epistasis_scores, evaluate
from lyra.model_folder import ModelDescription
from lyra.outputs import RegressionOutput
from lyra.training import selection

from .conftest import PAIRS, SMALL, read_csv, regression_rows, write_table

TOPS = {"ndcg", "top_recall"}
SCALES = (1e-12, 1e-9, 1.0, 1e12)


def exact_r2(predicted: np.ndarray, measured: np.ndarray) -> float:
    """1 - rss / tss of the very numbers, in fractions."""
    p, y = ([Fraction(float(value)) for value in values] for values in (predicted, measured))
    mean = sum(y) / len(y)
    return float(1 - sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / sum((b - mean) ** 2 for b in y))


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e9])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["spread", "two values", "two rows", "noise"])
def test_regression_scores(kind, scale, offset):
    """Against fractions and scipy, at every scale; an offset of up to 1e9 spreads."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=60)
    if kind.startswith("two"):
        measured = rng.integers(0, 2, 60) * 1.0 if kind == "two values" else np.array([1.0, 3.0])
    predicted = rng.normal(size=len(measured)) if kind == "noise" else measured + rng.normal(size=len(measured))
    measured, predicted = (scale * (values + offset) for values in (measured, predicted))
    scores = evaluate("regression", predicted, measured)
    residual = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(predicted, measured, strict=True)]
    assert scores["r2"] == pytest.approx(exact_r2(predicted, measured), rel=1e-6, abs=1e-9)
    assert scores["rmse"] == pytest.approx(float(sum(r * r for r in residual) / len(residual)) ** 0.5, rel=1e-9, abs=0)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(predicted, measured).statistic)
    centred = [(values - values.mean()) / scale for values in (predicted, measured)]
    assert scores["pearson"] == pytest.approx(stats.pearsonr(*centred).statistic, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-12, 12), st.floats(-3, 3), st.integers(3, 40))
def test_regression_scores_do_not_know_units(seed, power, shift, rows):
    """The same number whatever the unit and the zero of the target; the RMSE in the unit."""
    rng = np.random.default_rng(seed)
    measured, predicted = rng.normal(size=(2, rows))
    unit, zero = 10.0**power, 10.0**power * shift
    plain = evaluate("regression", predicted, measured)
    other = evaluate("regression", predicted * unit + zero, measured * unit + zero)
    for name in ("r2", "spearman", "pearson"):
        assert other[name] == pytest.approx(plain[name], rel=1e-6, abs=1e-9), name
    assert other["rmse"] == pytest.approx(plain["rmse"] * unit, rel=1e-6)


def exact_classification(probabilities: np.ndarray, targets: np.ndarray, positive: int) -> dict[str, Fraction | float]:
    """Accuracy, F1 and AUROC by counting, in fractions; MCC as Gorodkin defines it."""
    chosen, classes = probabilities.argmax(1), probabilities.shape[1]
    found: dict[str, Fraction | float] = {"accuracy": Fraction(int((chosen == targets).sum()), len(targets))}

    def f1(c: int) -> Fraction | None:
        tp, fp, fn = (int(x.sum()) for x in ((chosen == c) & (targets == c), (chosen == c) & (targets != c),
                                             (chosen != c) & (targets == c)))  # fmt: skip
        return Fraction(2 * tp, 2 * tp + fp + fn) if tp + fp + fn else None

    def auroc(c: int) -> Fraction:
        inside, outside = probabilities[targets == c, c], probabilities[targets != c, c]
        wins = sum(Fraction(int(a > b)) + Fraction(int(a == b), 2) for a in inside for b in outside)
        return wins / (len(inside) * len(outside))

    several = range(classes) if classes > 2 else [positive]
    values = [value for c in several if (value := f1(c)) is not None]
    found["f1"] = sum(values) / Fraction(len(values))
    found["auroc"] = sum(map(auroc, several)) / Fraction(len(several))
    x, y = (np.eye(classes)[labels] for labels in (chosen, targets))
    covariance = [((a - a.mean(0)) * (b - b.mean(0))).sum() for a, b in ((x, y), (x, x), (y, y))]
    found["mcc"] = covariance[0] / (covariance[1] * covariance[2]) ** 0.5 if covariance[1] else 0.0
    return found


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_classification_scores(classes, seed):
    """Against counts in fractions and scikit-learn, with ties and rare classes."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(20, 70))
    targets = np.concatenate([np.arange(classes), np.minimum(rng.geometric(0.6, size=rows) - 1, classes - 1)])
    raw = np.round(rng.random((len(targets), classes)) + 0.5 * np.eye(classes)[targets], 1) + 0.05
    probabilities = raw / raw.sum(1, keepdims=True)
    positive = seed % 2
    scores = evaluate("classification", probabilities, targets, positive)
    for name, value in exact_classification(probabilities, targets, positive).items():
        assert scores[name] == pytest.approx(float(value), rel=1e-12), name
    chosen = probabilities.argmax(1)
    assert scores["mcc"] == pytest.approx(sklearn.matthews_corrcoef(targets, chosen))
    one = [positive] if classes == 2 else range(classes)
    precision = [sklearn.average_precision_score(targets == c, probabilities[:, c]) for c in one]
    assert scores["auprc"] == pytest.approx(np.mean(precision))
    ranking = [sklearn.roc_auc_score(targets == c, probabilities[:, c]) for c in one]
    assert scores["auroc"] == pytest.approx(np.mean(ranking))
    f1 = {"average": "macro"} if classes > 2 else {"pos_label": positive}
    assert scores["f1"] == pytest.approx(sklearn.f1_score(targets, chosen, **f1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.data())
def test_classification_scores_do_not_know_names(seed, classes, data):
    """The order of the classes, which their names decide, changes no score."""
    rng = np.random.default_rng(seed)
    targets, raw = rng.integers(0, classes, 40), rng.random((40, classes))
    order = np.array(data.draw(st.permutations(range(classes))))
    place = np.argsort(order)
    plain = evaluate("classification", raw, targets, positive=1)
    other = evaluate("classification", raw[:, order], place[targets], positive=int(place[1]))
    assert other == pytest.approx(plain, nan_ok=True)


def test_a_model_that_learned_nothing_has_no_correlation():
    """One class for everything: MCC 0, F1 of the class never predicted 0; the epsilon of a library once made it
    0.96."""
    targets = np.array([0] * 39 + [1])
    never = np.tile([0.9, 0.1], (40, 1))
    scores = evaluate("classification", never, targets, positive=1)
    assert scores == {"accuracy": 0.975, "mcc": 0.0, "auroc": 0.5, "auprc": 1 / 40, "f1": 0.0}
    assert evaluate("classification", never, targets, positive=0)["f1"] == pytest.approx(2 * 39 / (2 * 39 + 1))


@pytest.mark.parametrize(
    ("task", "predictions", "targets", "undefined"),
    [
        ("regression", np.ones(5), np.arange(5.0), {"spearman", "pearson", *TOPS}),
        ("regression", np.ones(20), np.arange(20.0), {"spearman", "pearson", "top_recall"}),
        ("regression", np.arange(9.0), np.arange(9.0), TOPS),
        ("regression", np.arange(5.0), np.ones(5), {"r2", "spearman", "pearson", *TOPS}),
        ("regression", np.arange(5.0), np.full(5, 0.1), {"r2", "spearman", "pearson", *TOPS}),
        ("regression", np.ones(1), np.ones(1), {"r2", "spearman", "pearson", *TOPS}),
        ("regression", np.full(4, np.nan), np.arange(4.0), {"r2", "spearman", "pearson", "rmse", *TOPS}),
        ("regression", np.ones(0), np.ones(0), {"r2", "spearman", "pearson", "rmse", *TOPS}),
        ("classification", np.full((3, 2), 0.5), np.zeros(3, dtype=int), {"auroc", "auprc", "mcc", "f1"}),
        ("classification", np.full((3, 2), 0.5), np.ones(3, dtype=int), {"auroc", "auprc", "mcc"}),
        ("token", np.zeros((0, 2)), np.zeros(0, dtype=int), {"accuracy", "mcc", "auroc", "auprc", "f1"}),
    ],
)
def test_a_score_that_is_undefined_is_none(task, predictions, targets, undefined):
    scores = evaluate(task, predictions, targets)
    assert {name for name, value in scores.items() if value is None} == undefined


@pytest.mark.parametrize(("offset", "scale"), [(1e9, 1e-6), (1e6, 1e-9), (1e3, 1e-12)])
@pytest.mark.parametrize("rows", [2, 3, 10, 300])
def test_r2_far_from_zero(offset, scale, rows):
    """The mean of such targets is rounded by as much as they differ; a constant can still not explain anything."""
    rng = np.random.default_rng(rows)
    measured = offset + scale * rng.normal(size=rows)
    for predicted in (np.full(rows, measured.mean()), measured + scale * rng.normal(size=rows)):
        score = evaluate("regression", predicted, measured)["r2"]
        assert score == pytest.approx(exact_r2(predicted, measured), rel=1e-6, abs=1e-9)
    assert evaluate("regression", np.full(rows, measured.mean()), measured)["r2"] <= 0


def test_a_perfect_score_is_one():
    targets = np.arange(7) % 3
    assert evaluate("classification", np.eye(3)[targets], targets) == dict.fromkeys(
        ("accuracy", "mcc", "auroc", "auprc", "f1"), 1.0
    )


def test_no_probabilities_no_scores():
    scores = evaluate("classification", np.array([[np.nan, np.nan], [0.3, 0.7]]), np.array([0, 1]))
    assert set(scores.values()) == {None}


def test_of_one_row_the_error_is_the_score():
    assert evaluate("regression", np.array([2.5]), np.array([1.0]))["rmse"] == 1.5


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_the_top(seed):
    """NDCG against scikit-learn's, of gains from 0 to 1 and with ties; top recall against counts of rows."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(10, 200))
    measured = rng.normal(size=rows) if seed % 2 else rng.integers(0, 6, rows) * 3.0
    predicted = measured + rng.normal(size=rows)
    predicted = np.round(predicted) if seed % 4 > 1 else predicted
    scores = evaluate("regression", predicted, measured)
    gains = (measured - measured.min()) / np.ptp(measured)
    assert scores["ndcg"] == pytest.approx(sklearn.ndcg_score([gains], [predicted], k=rows // 10))
    best, chosen = ({i for i, y in enumerate(v) if y >= np.percentile(v, 90)} for v in (measured, predicted))
    assert scores["top_recall"] == pytest.approx(len(best & chosen) / len(best))


ROWS = [  # val_r2, val_loss; the epoch kept, and why
    ([(0.1, 1.0), (0.3, 0.9), (0.2, 0.5)], 2, "by the best validation R²"),
    ([(0.0, 1.0), (0.0, 0.7), (0.0, 0.8)], 2, "by the least validation loss among 3 epochs of the same validation R²"),
    (
        [(None, 1.0), (None, 0.7), (None, 0.9)],
        2,
        "by the least validation loss (R² is undefined on the validation part)",
    ),
    ([(0.5, float("nan")), (0.5, 0.7)], 2, "by the least validation loss among 2 epochs of the same validation R²"),
    ([(0.5, 0.7), (0.5, 0.7)], 1, "by the least validation loss among 2 epochs of the same validation R²"),
]


@pytest.mark.parametrize(("rows", "kept", "why"), ROWS)
def test_the_epoch_that_is_kept(rows, kept, why):
    history = [{"val_r2": score, "val_loss": loss} for score, loss in rows]
    assert selection.best_epoch("regression", history) == kept
    assert selection.reason("regression", history, "R²") == why


@pytest.mark.parametrize(
    ("measured", "says"),
    [(["4.5"], "the validation part is one row"), (["4.5", "4.5", "4.50"], "the validation part has one value only")],
)
def test_without_a_score_the_loss_decides(lyra, tmp_path, measured, says):
    """The epoch kept is the one of least validation loss, the run says so, and the weights are that epoch's."""
    rows = [(s, y, "train") for s, y in regression_rows(40)]
    rows += [(s, y, "val") for (s, _), y in zip(regression_rows(60)[50:], measured, strict=False)]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "set"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *PAIRS[:4], *PAIRS[6:], "--epochs", "6")
    assert outcome.code == 0, outcome.err
    assert f"warning: {says}, so the epoch to keep is chosen by the validation loss" in outcome.err
    losses = [float(row["val_loss"]) for row in read_csv(tmp_path / "run" / "history.csv")]
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (network,) = facts["networks"]
    assert network["best_epoch"] == 1 + int(np.argmin(losses))
    assert network["chosen"] == "by the least validation loss (R² is undefined on the validation part)"
    assert facts["validation"]["rmse"] is not None and facts["validation"]["r2"] is None
    std = RegressionOutput.fit("linear", np.array([float(y) for _, y, part in rows if part == "train"])).std
    assert (facts["validation"]["rmse"] / float(std)) ** 2 == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_the_validation_loss_is_that_of_the_rows(lyra, tmp_path, precision):
    """In batches of unequal sizes, and of targets far from zero in half precision."""
    rows = [
        (s, f"{float(y) + 1e6}", "train" if i < 24 else "val") for i, (s, y) in enumerate(regression_rows(324, 4, 12))
    ]
    table = write_table(tmp_path / "t.csv", ["seq", "label", "set"], rows)
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--output", "linear", "--precision", precision)
    assert outcome.code == 0, outcome.err
    std = RegressionOutput.fit("linear", np.array([float(y) for _, y, part in rows if part == "train"])).std
    for row in read_csv(tmp_path / "run" / "history.csv"):
        loss = (float(row["val_rmse"]) / std) ** 2
        assert float(row["val_loss"]) == pytest.approx(loss, rel=1e-4 if precision == "32-true" else 0.02)


def run_of(lyra, folder, name, factor=1.0, shift=0.0):
    """A run on a target in other units: what metrics.json says, and the predictions in the first units."""
    rows = [(s, repr(float(y) * factor + shift)) for s, y in regression_rows(60)]
    table = write_table(folder / f"{name}.csv", ["seq", "label"], rows)
    assert lyra("train", table, "--out", folder / name, *SMALL).code == 0
    facts = json.loads((folder / name / "metrics.json").read_text())
    predictions = [float(row["prediction"]) for row in read_csv(folder / name / "predictions.csv")]
    return facts, (np.array(predictions) - shift) / factor


def test_units_change_nothing(lyra, tmp_path):
    """A run on a target in other units, or far from zero, is the same run: scores, epoch, predictions in those
    units."""
    first, predicted = run_of(lyra, tmp_path, "plain")
    for scale, offset in ((1e-9, 0.0), (1e-2, 1e6), (1e12, 0.0)):
        second, again = run_of(lyra, tmp_path, f"scaled by {scale}", scale, offset)
        assert first["networks"][0]["best_epoch"] == second["networks"][0]["best_epoch"]
        for part in ("validation", "test"):
            for name in ("r2", "pearson"):
                assert second[part][name] == pytest.approx(first[part][name], rel=1e-3, abs=1e-4)
            assert second[part]["rmse"] == pytest.approx(first[part]["rmse"] * scale, rel=1e-3)
        np.testing.assert_allclose(again, predicted, rtol=1e-3, atol=1e-3)
        assert len(set(again.tolist())) == len(set(predicted.tolist())), "no digits are lost"


def test_epistasis_scores():
    rng = np.random.default_rng(3)
    additive, residual = rng.normal(size=500), rng.normal(size=500)
    residual -= residual.mean()
    measured = additive + residual
    perfect = epistasis_scores(measured, additive, measured)
    assert perfect == pytest.approx({"epistasis_r2": 1, "epistasis_pearson": 1})
    half = epistasis_scores(measured, additive, additive + 0.5 * residual)
    assert half == pytest.approx({"epistasis_r2": 0.75, "epistasis_pearson": 1}, rel=1e-6)
    nothing = epistasis_scores(measured, additive, additive)
    assert np.isnan(list(nothing.values())).all()


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_output_scale(kind):
    values = np.random.default_rng(4).normal(5, 3, size=1000)
    output = RegressionOutput.fit(kind, values)
    targets = torch.from_numpy(values)
    standard = output.standardise(targets)
    assert float(standard.mean()) == pytest.approx(0, abs=1e-6) and float(standard.std(correction=0)) == pytest.approx(
        1
    )
    raw = torch.linspace(-8, 8, 50)
    described = ModelDescription(DNA, Targets("regression"), output).to_json()
    again = ModelDescription.from_json(json.loads(json.dumps(described)), "").output
    torch.testing.assert_close(again.predict(raw), output.predict(raw))
    predicted = output.predict(raw).detach().numpy()
    if kind == "sigmoid":
        assert (np.diff(predicted) > 0).all()
        np.testing.assert_allclose(predicted[[0, -1]], np.quantile(values, [0.01, 0.99]), rtol=0.01)
    else:
        np.testing.assert_allclose(predicted, raw.numpy() * values.std() + values.mean(), rtol=1e-6)


def test_a_loss_that_is_no_number_ends_in_one_line(lyra, tmp_path):
    table = write_table(tmp_path / "t.csv", ["seq", "label"], regression_rows())
    outcome = lyra("train", table, "--out", tmp_path / "run", *SMALL, "--lr", "1e30", "--output", "linear")
    assert outcome.code == 2
    assert "lyra: error: the loss is not finite after epoch 1; try a lower --lr" in outcome.err
