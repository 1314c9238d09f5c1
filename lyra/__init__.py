"""Lyra: models of DNA, RNA and protein sequences from projected gated convolutions and state spaces.

`from lyra import Lyra` gives the model, `LyraRegressor`, `LyraClassifier`, `LyraTokenClassifier` and
`LyraTokenRegressor` are estimators as scikit-learn has them; `lyra train`, `lyra predict` and `lyra explain` on the
command line do the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from lyra_kernels import PGC, S4D, S4DKernel

    from . import explain
    from .estimators import LyraClassifier, LyraRegressor, LyraTokenClassifier, LyraTokenRegressor
    from .models import (
        Lyra,
        LyraBothStrands,
        LyraBothStrandsForTokenClassification,
        LyraForTokenClassification,
        parameter_groups,
    )
    from .prediction import Predictor

__all__ = [
    "PGC", "S4D", "Lyra", "LyraBothStrands", "LyraBothStrandsForTokenClassification", "LyraClassifier",
    "LyraForTokenClassification", "LyraRegressor", "LyraTokenClassifier", "LyraTokenRegressor", "Predictor",
    "S4DKernel", "explain", "parameter_groups",
]  # fmt: skip

# Imported at first use, so that `lyra --help` does not wait for torch.
_HOMES = dict.fromkeys(("PGC", "S4D", "S4DKernel"), "lyra_kernels") | {"Predictor": "lyra.prediction"}
_HOMES |= dict.fromkeys(
    ("LyraClassifier", "LyraRegressor", "LyraTokenClassifier", "LyraTokenRegressor"), "lyra.estimators"
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "explain":
        return importlib.import_module("lyra.explain")  # a part of the package, which keeps it
    value = getattr(importlib.import_module(_HOMES.get(name, "lyra.models")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
