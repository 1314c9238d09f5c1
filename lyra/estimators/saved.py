"""Fitted estimators as folders: the model as `lyra train` writes it, and the estimator's arguments as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from ..errors import InputError, argument
from ..files import atomic_path, check_folder, write_json
from ..model_folder import ModelDescription, save_model
from ..prediction import Predictor
from ..settings.data import DEVICE
from ..settings.training import Recipe
from ..version import __version__
from .inputs import plain

SETTINGS, HISTORY, MODEL = "estimator.json", "history.csv", "model"
OWN = re.compile(r"model/(config\.json|model\.safetensors|README\.md|\.gitattributes)|estimator\.json|history\.csv")
TASKS = {
    "LyraRegressor": "regression", "LyraClassifier": "classification", "LyraTokenClassifier": "token",
    "LyraTokenRegressor": "token-regression",
}  # fmt: skip

Estimator = TypeVar("Estimator", bound="SavedEstimator")


class SavedEstimator:
    """What is saved and loaded without pickle."""

    task: str  # of the models that it has
    predictor_: Predictor
    classes_: np.ndarray
    recipe_: Recipe
    shares_: dict[str, float]
    history_: pd.DataFrame

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the fitted model into a folder, from which `load`, `lyra predict` and `lyra explain` read it.

        Args:
            overwrite: replace what was saved there before.

        Raises:
            InputError: the folder has other things in it, or cannot be written.
        """
        check_is_fitted(self, "predictor_")
        out, known = Path(folder), self.predictor_
        check_folder(out, SETTINGS, OWN, overwrite, f"{argument('overwrite', True)} replaces it")
        description = ModelDescription(
            known.alphabet, known.targets, known.output, known.source, known.coverage, known.calibrations
        )
        settings: dict[str, Any] = {"lyra_version": __version__, "estimator": self.task, "arguments": self._plain()}
        if hasattr(self, "classes_"):
            settings["classes"] = {"values": self.classes_.tolist(), "dtype": str(self.classes_.dtype)}
        if hasattr(self, "recipe_"):
            settings["recipe"], settings["shares"] = self.recipe_.to_json(), self.shares_
        with atomic_path(out) as unfinished:
            save_model(unfinished / MODEL, known.model, description)  # type: ignore[arg-type]
            if hasattr(self, "history_"):
                self.history_.to_csv(unfinished / HISTORY, index=False, lineterminator="\n")
            write_json(unfinished / SETTINGS, settings)

    def _plain(self) -> dict[str, Any]:
        """The arguments as JSON has them; a random generator as the seed that it gave."""
        given = {name: plain(value) for name, value in self.get_params(deep=False).items()}  # type: ignore[attr-defined]
        if not isinstance(given["random_state"], int):
            given["random_state"] = self.recipe_.seed if hasattr(self, "recipe_") else 0
        return given

    @classmethod
    def load(cls: type[Estimator], folder: str | Path, *, device: str = DEVICE) -> Estimator:
        """The fitted estimator in a folder that `save` or `lyra train` wrote; nothing in it is executed.

        Of a folder that `lyra train` wrote, arguments are those by default, and classes are texts.

        Args:
            device: "auto" is a GPU if there is one, else the CPU.

        Raises:
            InputError: there is no such folder, or it holds no model for this estimator.
        """
        predictor = Predictor.from_pretrained(folder, device)
        if predictor.targets.task != cls.task:
            right = next((name for name, task in TASKS.items() if task == predictor.targets.task), "Predictor")
            raise InputError(f"{folder}: the task of this model is {predictor.targets.task}; load it with {right}")
        path = Path(folder) / SETTINGS
        try:
            settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            loaded = cls(**settings.get("arguments", {}))
            loaded.predictor_ = predictor
            classes = predictor.targets.classes
            if classes:
                loaded.classes_ = read_classes(settings.get("classes"), classes)
            if "recipe" in settings:
                loaded.recipe_, loaded.shares_ = Recipe(**settings["recipe"]), settings["shares"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); fit and save the estimator again") from None
        history = Path(folder) / HISTORY
        if history.exists():
            loaded.history_ = pd.read_csv(history, dtype={"network": str}, float_precision="round_trip")
        return loaded

    @classmethod
    def from_pretrained(cls: type[Estimator], folder: str | Path, *, device: str = DEVICE) -> Estimator:
        """`load` by the name that it has elsewhere."""
        return cls.load(folder, device=device)


def read_classes(saved: dict[str, Any] | None, names: list[str]) -> np.ndarray:
    """(K,) the classes as they were in y; texts where that is not known."""
    if saved is None:
        return np.array(names)
    found = np.array(saved["values"], dtype=np.dtype(saved["dtype"]))
    if list(map(str, found.tolist())) != names:
        raise ValueError("its classes are others than the model's")
    return found
