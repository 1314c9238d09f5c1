"""Predictions from sequences: any number of them, in bounded memory, in the order given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data.batches import SequenceDataset, SortedSampler, max_tokens_per_batch
from .data.sequences import encode_checked
from .data.targets import Targets
from .errors import InputError, argument
from .graphs import Replayed
from .model_folder import ModelDescription, load_model
from .outputs import Output
from .settings.data import BATCH_SIZE, DEVICE


@torch.inference_mode()
def predict_encoded(
    model: nn.Module,
    convert: Callable[[Tensor], Tensor],
    dataset: SequenceDataset,
    per_token: bool,
    batch_size: int = BATCH_SIZE,
    replayed: Replayed | None = None,
) -> list[np.ndarray] | np.ndarray:
    """Predictions for each row of a dataset, in its order; sequences of similar length run together.

    Args:
        model: called as model(tokens, lengths=...), in its own training or evaluation mode.
        convert: from the raw outputs (..., d_output) to predictions.
        per_token: one prediction for each residue.
        replayed: calls the model in its place, in batches of few shapes.

    Returns:
        an array (N, ...) of predictions, or with `per_token` a list of arrays (L, ...).
    """
    device = next(model.parameters()).device
    results: list[Any] = [None] * len(dataset)
    for rows in SortedSampler(dataset.lengths, batch_size, max_tokens_per_batch(batch_size)):
        batch = dataset[rows]
        if replayed is not None:
            raw = replayed(batch.in_bucket().to(device))
        else:
            batch = batch.to(device)
            raw = model(batch.tokens, lengths=batch.lengths)
        predictions = convert(raw).cpu().numpy()
        for row, prediction in zip(rows, predictions, strict=True):
            results[row] = prediction[: dataset.lengths[row]] if per_token else prediction
    if per_token:
        return results
    return np.stack(results) if results else np.zeros(0)


def converter(targets: Targets, output: Output | None) -> Callable[[Tensor], Tensor]:
    """From raw outputs (..., d_output) to numbers in the targets' units, or to probabilities, in float64."""
    if output is not None:
        return lambda raw: output.predict(output.select(raw.float()))
    if targets.names:
        return lambda raw: torch.sigmoid(raw.double())
    return lambda raw: torch.softmax(raw.double(), dim=-1)


class Predictor:
    """A trained model with its alphabet, its classes and its output scaling.

    Attributes:
        model: the network, in evaluation mode.
        alphabet, targets: what it reads and what it predicts.
        output: the scaling of a regression, else None.
        source: the columns, and the wild type if any, of the table it was trained on; None if that is not known.
        coverage: the letters and lengths of the sequences it was trained on; None in models of earlier versions.
    """

    def __init__(
        self, model: nn.Module, metadata: ModelDescription | Mapping[str, Any], where: str = "metadata"
    ) -> None:
        """`metadata` is what training stored with the model; `where` names its origin in messages.

        Raises:
            InputError: the metadata lacks what a prediction needs.
        """
        self.model = model.eval()
        described = metadata if isinstance(metadata, ModelDescription) else ModelDescription.from_json(metadata, where)
        self.alphabet, self.targets, self.output = described.alphabet, described.targets, described.output
        self.source, self.coverage = described.source, described.coverage
        self._replayed: Replayed | None = None

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = DEVICE) -> Predictor:
        """Loads the folder that `lyra train` wrote (its output folder, or model/ inside).

        Weights are read with safetensors: nothing in the folder is executed.

        Raises:
            InputError: there is no such folder, or it holds no model.
        """
        return cls(*load_model(path)).to(device)

    def to(self, device: str) -> Predictor:
        """Moves to a device; "auto" is a GPU if there is one, else the CPU.

        Raises:
            InputError: there is no such device.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model.to(device)
            if self.output is not None:
                self.output.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"{argument('device')} {device}: cannot be used ({str(error).splitlines()[0]}); try cpu"
            ) from None
        return self

    def use_graphs(self, wanted: bool | None, warn: Callable[[str], None]) -> Predictor:
        """Whether batches are replayed as CUDA graphs; None says yes where the model is on a CUDA card.

        Args:
            warn: told why, should no graph come about; predictions are then made without.

        Raises:
            InputError: they are wanted, and there is no card.
        """
        device = next(self.model.parameters()).device
        if wanted and device.type != "cuda":
            raise InputError(f"{argument('graphs', True)}: needs a CUDA card, and the device is {device.type}; leave "
                             "it out")  # fmt: skip
        self._replayed = Replayed(self.model, warn) if wanted is not False and device.type == "cuda" else None
        return self

    def predict_dataset(self, dataset: SequenceDataset, batch_size: int = BATCH_SIZE) -> list[np.ndarray] | np.ndarray:
        """Predictions for the rows of a dataset; see `predict`."""
        convert = converter(self.targets, self.output)
        return predict_encoded(self.model, convert, dataset, self.targets.task == "token", batch_size, self._replayed)

    def predict(
        self, sequences: Sequence[str], *, unknown: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[np.ndarray] | np.ndarray:
        """Predictions in the order of the sequences.

        Args:
            sequences: text; `unknown` reads letters outside the alphabet as its unknown letter.

        Returns:
            regression (N,); classification (N, classes) probabilities; token: a list of (L, classes); several targets
            (N, T) numbers, or probabilities of "multilabel".

        Raises:
            InputError: a letter outside the model's alphabet.
        """
        rows = range(len(sequences))
        on_invalid = "unknown" if unknown else "error"
        tokens, offsets, _ = encode_checked(list(sequences), rows, self.alphabet, on_invalid, "sequences", "0")
        return self.predict_dataset(SequenceDataset(tokens, offsets, np.arange(len(sequences))), batch_size)

    def cells(self, predictions: Iterable[np.ndarray]) -> Iterator[dict[str, str]]:
        """Predictions as the columns of a table: `prediction`, and for classes one `p_CLASS` each.

        Of several targets `prediction_TARGET` each, or `p_TARGET` for the probability of a label.
        """
        classes = self.targets.classes
        for prediction in predictions:
            if self.targets.names:
                digits = 6 if self.output is None else self.digits
                numbers = (f"{float(number):.{digits}g}" for number in prediction)
                yield dict(zip(self.columns, numbers, strict=True))
            elif self.targets.task == "regression":
                yield {"prediction": f"{float(prediction):.{self.digits}g}"}
            elif self.targets.task == "token":
                labels = [classes[i] for i in prediction.argmax(-1)]
                yield {"prediction": self.targets.separator.join(labels)}
            else:
                probabilities = {f"p_{name}": f"{float(p):.6g}" for name, p in zip(classes, prediction, strict=True)}
                yield {"prediction": classes[int(prediction.argmax())], **probabilities}

    @property
    def digits(self) -> int:
        """Significant digits of a number in the target's units."""
        return 7 if self.output is None else self.output.digits

    @property
    def columns(self) -> list[str]:
        """Names of the columns that `cells` gives."""
        if self.targets.names:
            return [f"{'prediction' if self.output is not None else 'p'}_{name}" for name in self.targets.names]
        extra = [f"p_{name}" for name in self.targets.classes] if self.targets.task == "classification" else []
        return ["prediction", *extra]
