"""The folder of a trained model: its weights, and what it says about itself, written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from .alphabets import Alphabet
from .data.coverage import Coverage
from .data.sequences import TableSource
from .data.targets import Targets
from .errors import InputError
from .files import atomic_path
from .models import Ensemble, Lyra
from .outputs import Output, read_output
from .uncertainty import Calibration
from .version import __version__

CONFIG = "config.json"


@dataclass
class ModelDescription:
    """All that a prediction needs to know beside the weights; the folder keeps it as the model's metadata.

    Attributes:
        alphabet: what the model reads; targets: what it predicts.
        output: for a regression, the scaling from raw outputs to the target's units.
        source: the table that the model was trained on, its columns and wild type; None where that is not known.
        coverage: the letters and lengths of the sequences there; None in models of earlier versions.
        calibrations: of an ensemble of numbers, how far predictions of each target were off on rows held out; empty
            where that is not known.
    """

    alphabet: Alphabet
    targets: Targets
    output: Output | None = None
    source: TableSource | None = None
    coverage: Coverage | None = None
    calibrations: list[Calibration] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "lyra_version": __version__,
            "alphabet": asdict(self.alphabet),
            "targets": asdict(self.targets),
            "output": None if self.output is None else self.output.to_json(),
            "source": None if self.source is None else _columns(self.source),
            "coverage": None if self.coverage is None else asdict(self.coverage),
            "calibration": [calibration.to_json() for calibration in self.calibrations],
        }

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any], where: str) -> ModelDescription:
        """Reads what `to_json` gave; `where` names its origin in messages.

        Raises:
            InputError: it lacks what a prediction needs.
        """
        output, source, coverage = (metadata.get(name) for name in ("output", "source", "coverage"))
        calibrations = metadata.get("calibration") or []
        if isinstance(calibrations, dict):  # in models of earlier versions that of the one target
            calibrations = [calibrations]
        try:
            return cls(
                Alphabet(**metadata["alphabet"]),
                Targets(**metadata["targets"]),
                read_output(output) if output else None,
                TableSource(**source) if source else None,
                Coverage(**coverage) if coverage else None,
                [Calibration.from_json(one) for one in calibrations],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: has no usable alphabet, targets and output ({error}); give the model folder that `lyra "
                "train` wrote"
            ) from None


def _columns(source: TableSource) -> dict[str, Any]:
    """The columns, and where there are mutations what they refer to."""
    return {
        name: value for name, value in asdict(source).items() if source.mutant or name not in ("wild_type", "offset")
    }


def save_model(folder: Path, model: Lyra | Ensemble, description: ModelDescription) -> None:
    """Writes the folder, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    model.metadata = description.to_json()
    with atomic_path(folder) as unfinished:
        try:
            model.save_pretrained(unfinished)
        except SafetensorError as error:
            raise InputError(f"{folder}: cannot be written: {error}") from error


def load_model(path: str | Path) -> tuple[nn.Module, ModelDescription]:
    """The model in the folder that `lyra train` wrote, or in model/ inside, and what it says about itself.

    Weights are read with safetensors: nothing in the folder is executed.

    Raises:
        InputError: there is no such folder, or it holds no model.
    """
    folder = find_model_folder(path)
    config = read_config(folder)
    metadata = config.get("metadata") or {}
    kind = Ensemble if config.get("architectures") == [Ensemble.__name__] else Lyra
    try:
        model = kind.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: holds no usable model ({reason}); train it again") from None
    return model, ModelDescription.from_json(metadata, str(folder / CONFIG))


def find_model_folder(path: str | Path) -> Path:
    """The folder with config.json: the path itself, or model/ inside.

    Raises:
        InputError: neither is there.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    problem = f"has no {CONFIG}" if path.is_dir() else "is a file" if path.exists() else "does not exist"
    raise InputError(f"{path}: is no model folder ({problem}); give the model/ folder that `lyra train` wrote")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); train the model again") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: is not a model's configuration; give a folder that `lyra train` wrote")
    return config
