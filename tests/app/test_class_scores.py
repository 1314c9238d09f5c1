"""Scores of each class, means over sequences and calibration, against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest

from lyra.metrics import calibration, class_scores, evaluate, mean_of_sequences


def test_scores_of_each_class():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    targets, raw = rng.integers(0, 3, 60), rng.random((60, 4)) * [1, 1, 1, 0.3]
    probabilities = raw / raw.sum(1, keepdims=True)
    found = class_scores(probabilities, targets, ["a", "b", "c", "none"])
    for index, name in enumerate("abc"):
        true, chosen = targets == index, probabilities.argmax(1) == index
        precision, recall, f1, _ = sklearn.precision_recall_fscore_support(true, chosen, average="binary")
        expected = {"rows": true.sum(), "precision": precision, "recall": recall, "f1": f1}
        expected["auroc"] = sklearn.roc_auc_score(true, probabilities[:, index])
        expected["auprc"] = sklearn.average_precision_score(true, probabilities[:, index])
        assert found[name] == pytest.approx(expected)
    assert found["none"]["rows"] == 0 and found["none"]["auroc"] is None and found["none"]["recall"] is None


def test_means_over_sequences():
    """Of those alone in which a score is defined, and it is said how many those are."""
    rng = np.random.default_rng(1)
    targets = [np.array([0, 1, 1]), np.array([1, 1]), np.array([1, 0, 0, 1])]
    probabilities = [np.stack([1 - p, p], 1) for p in (rng.random(len(y)) for y in targets)]
    found = mean_of_sequences(probabilities, targets, 1)
    each = [evaluate("token", p, y) for p, y in zip(probabilities, targets, strict=True)]
    assert (found["sequences"], found["auroc_defined"], found["mcc_defined"]) == (3, 2, 2)
    for name in ("auroc", "mcc"):
        assert found[name] == pytest.approx((each[0][name] + each[2][name]) / 2)
    assert mean_of_sequences(probabilities[1:2], targets[1:2], 1)["auroc"] is None


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration(classes):
    """Against a loop over rows in sorted order; scikit-learn's Brier score; what is calibrated has no error."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(classes)
    raw = rng.random((997, classes)) ** 3
    probabilities = raw / raw.sum(1, keepdims=True)
    targets = np.array([rng.choice(classes, p=p) for p in probabilities])
    found = calibration(probabilities, targets, positive=0)
    said, true = probabilities[:, 0], targets == 0
    if classes == 2:
        assert found.brier == pytest.approx(sklearn.brier_score_loss(true, said))
    else:
        said, true = probabilities.max(1), probabilities.argmax(1) == targets
        assert found.brier == pytest.approx(((probabilities - np.eye(3)[targets]) ** 2).sum() / 997)
    order, error = np.argsort(said), 0.0
    for rows in np.split(order, np.round(np.arange(1, 10) * 99.7).astype(int)):
        error += len(rows) / 997 * abs(true[rows].mean() - said[rows].mean())
    assert found.ece == pytest.approx(error) and found.ece < 0.05
    assert found.rows.sum() == 997 and np.ptp(found.rows) <= 1
    tied = calibration(np.tile([0.5, 0.5], (20, 1)), np.arange(20) % 4 // 3, positive=1)
    assert tied.rows.tolist() == [20] and tied.ece == pytest.approx(0.25)
