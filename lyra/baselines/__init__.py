"""The models to beat: simple ones, fitted on the training part, their penalties chosen on the validation part."""

from .additive import MAX_FEATURES, AdditiveSigmoid, Ridge, fit_ridge, fit_sigmoid_additive
from .features import one_hot
from .pairwise import PairwiseSigmoid, fit_pairwise

__all__ = [
    "MAX_FEATURES",
    "AdditiveSigmoid",
    "PairwiseSigmoid",
    "Ridge",
    "fit_pairwise",
    "fit_ridge",
    "fit_sigmoid_additive",
    "one_hot",
]
