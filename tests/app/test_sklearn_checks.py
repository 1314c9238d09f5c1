"""scikit-learn's own checks of estimators.

Most hand over tables of numbers, which are no sequences. So each estimator is checked behind a small reader that writes
numbers as letters, and as it is by those that hand over nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from lyra import LyraClassifier, LyraRegressor, LyraTokenClassifier, LyraTokenRegressor

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
TINY = {"d_model": 8, "d_state": 4, "epochs": 1, "positions": False, "alphabet": "protein", "val_fraction": 0.3,
        "accelerator": "cpu"}  # fmt: skip
FAILED = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 0 may be drawn for validation, a removed one not",
}
WITHOUT_DATA = (
    "check_estimator_cloneable", "check_estimator_repr", "check_estimator_tags_renamed", "check_valid_tag_types",
    "check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_get_params_invariance",
    "check_set_params", "check_mixin_order",
)  # fmt: skip


def letters(X: np.ndarray) -> list[str]:
    """Three letters for each number, which tell hundredths apart."""
    whole = np.round(np.asarray(X, dtype=float) * 100).astype(int) % 8000
    digits = np.stack([whole // 400, whole // 20 % 20, whole % 20], axis=-1)
    return ["".join(LETTERS[row].ravel()) for row in digits]


class OfNumbers(BaseEstimator):
    """Reads a table of numbers as sequences."""

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, X, y, multi_output=self.__sklearn_tags__().target_tags.multi_output)
        return super().fit(letters(X), y, sample_weight=sample_weight)

    def predict(self, X):
        return super().predict(self.read(X))

    def read(self, X):
        check_is_fitted(self, "predictor_")
        return letters(validate_data(self, X, reset=False))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        for of_task in filter(None, (tags.regressor_tags, tags.classifier_tags)):
            of_task.poor_score = True  # after one epoch
        return tags


class Regressor(OfNumbers, LyraRegressor):
    pass


class Classifier(OfNumbers, LyraClassifier):
    def predict_proba(self, X):
        return super().predict_proba(self.read(X))


@pytest.mark.filterwarnings("ignore::UserWarning")  # that numbers have other letters than those of training
@parametrize_with_checks(
    [Regressor(**TINY, mix="none"), Classifier(**TINY)], expected_failed_checks=lambda each: FAILED
)
def test_with_numbers_for_sequences(estimator, check):
    check(estimator)


@pytest.mark.parametrize("kind", [LyraRegressor, LyraClassifier, LyraTokenClassifier, LyraTokenRegressor])
@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_without_data(kind, name):
    getattr(estimator_checks, name)(kind.__name__, kind())


def test_tags_say_that_x_is_text():
    for kind, of in ((LyraRegressor, "regressor"), (LyraClassifier, "classifier"), (LyraTokenClassifier, None),
                     (LyraTokenRegressor, None)):  # fmt: skip
        tags = kind().__sklearn_tags__()
        assert tags.estimator_type == of and tags.target_tags.required
        assert tags.target_tags.multi_output == (kind is LyraRegressor) and tags.target_tags.single_output
        assert tags.input_tags.string and tags.input_tags.one_d_array and not tags.input_tags.two_d_array
