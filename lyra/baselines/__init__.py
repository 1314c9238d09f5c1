"""The models to beat: simple ones, fitted on the training part, their penalties chosen on the validation part."""

from .additive import MAX_FEATURES, AdditiveSigmoid, Ridge, fit_ridge, fit_sigmoid_additive
from .features import one_hot
from .kmers import Part, fit_kmers, fit_logistic
from .pairwise import PairwiseSigmoid, fit_pairwise
from .windows import fit_windows

__all__ = [
    "MAX_FEATURES",
    "AdditiveSigmoid",
    "PairwiseSigmoid",
    "Part",
    "Ridge",
    "fit_kmers",
    "fit_logistic",
    "fit_pairwise",
    "fit_ridge",
    "fit_sigmoid_additive",
    "fit_windows",
    "one_hot",
]
