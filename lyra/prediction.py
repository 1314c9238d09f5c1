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
from .models import Ensemble
from .outputs import Output
from .settings.data import BATCH_SIZE, DEVICE, INTERVAL


@torch.inference_mode()
def predict_encoded(
    model: nn.Module,
    convert: Callable[[Tensor], Tensor],
    dataset: SequenceDataset,
    per_token: bool,
    batch_size: int = BATCH_SIZE,
    replayed: Replayed | None = None,
    call: Callable[..., Tensor] | None = None,
) -> list[np.ndarray] | np.ndarray:
    """Predictions for each row of a dataset, in its order; sequences of similar length run together.

    Args:
        model: called as model(tokens, lengths=...), in its own training or evaluation mode.
        convert: from the raw outputs (..., d_output) to predictions.
        per_token: one prediction for each residue.
        replayed: calls the model in its place, in batches of few shapes; call: likewise, in any.

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
            raw = (call or model)(batch.tokens, lengths=batch.lengths)
        predictions = convert(raw).cpu().numpy()
        for row, prediction in zip(rows, predictions, strict=True):
            results[row] = prediction[: dataset.lengths[row]] if per_token else prediction
    if per_token:
        return results
    return np.stack(results) if results else np.zeros(0)


def mean_of_members(members: list[np.ndarray] | np.ndarray) -> list[np.ndarray] | np.ndarray:
    """The ensemble's predictions, from those of its members: (N, R, ...), or of residues a list of (L, R, ...)."""
    return [each.mean(1) for each in members] if isinstance(members, list) else members.mean(1)


def predict_replicates(
    model: Ensemble, dataset: SequenceDataset, per_token: bool, batch_size: int = BATCH_SIZE
) -> list[np.ndarray] | np.ndarray:
    """What each replicate of an ensemble predicts: (N, R, ...), or with `per_token` a list of (L, R, ...)."""

    def replicates(tokens: Tensor, lengths: Tensor | None) -> Tensor:
        return model.replicated(tokens, lengths).movedim(0, 2 if per_token else 1)

    return predict_encoded(model, lambda raw: raw, dataset, per_token, batch_size, call=replicates)


def converter(targets: Targets, output: Output | None) -> Callable[[Tensor], Tensor]:
    """From raw outputs (..., d_output) to numbers in the targets' units, or to probabilities, in float64."""
    if output is not None:
        # What an ensemble gives is in float64, of which a target that spans many powers of ten needs all digits.
        return lambda raw: output.predict(output.select(raw if raw.dtype == torch.float64 else raw.float()))
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
        calibrations: how far an ensemble's predictions of each target were off on rows held out; empty where that is
            not known.
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
        self.calibrations = described.calibrations
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

    @property
    def members(self) -> int:
        """How many replicates an ensemble has: networks of other seeds or folds. 1 for a model that is no ensemble."""
        return max(self.model.count, 1) if isinstance(self.model, Ensemble) else 1

    def predict_members(
        self, sequences: Sequence[str], *, unknown: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[np.ndarray] | np.ndarray:
        """What each replicate predicts; arguments and errors as for `predict`.

        Returns:
            regression (N, members); classification (N, members, classes); token: a list of (L, members, classes);
            token-regression: a list of (L, members); several targets (N, members, T).
            Means over the members are the predictions; their standard deviation is the spread.
        """
        return self.members_of(self.encode(sequences, unknown), batch_size)

    def members_of(self, dataset: SequenceDataset, batch_size: int = BATCH_SIZE) -> list[np.ndarray] | np.ndarray:
        """What each replicate predicts for the rows of a dataset; see `predict_members`."""
        self.check_lengths(dataset.lengths)
        per_token = self.targets.per_residue
        if not len(dataset):
            several = self.targets.classes or self.targets.names
            return [] if per_token else np.zeros((0, self.members, *([len(several)] if several else [])))
        if isinstance(self.model, Ensemble):
            return predict_replicates(self.model, dataset, per_token, batch_size)
        alone = self.predict_dataset(dataset, batch_size)
        return [each[:, None] for each in alone] if isinstance(alone, list) else alone[:, None]

    def interval(self, members: np.ndarray, coverage: float = INTERVAL) -> np.ndarray:
        """(N, 2) the lower and upper end of the interval that covers a share `coverage` of targets; see `Calibration`.

        Args:
            members: (N, members) as `predict_members` gives them, or those of one sequence's residues (L, members); of
                several targets (N, members, T), and then the ends are (N, T, 2).

        Raises:
            InputError: the model is no ensemble, or predicts no number.
        """
        if not self.calibrations:
            if self.output is None:
                raise InputError(f"{argument('interval')}: the model predicts no number; leave it out")
            raise InputError(
                f"{argument('interval')}: the model is a single one, whose errors on other rows are not known; leave "
                f"it out, or train with {argument('ensemble', 3)}"
            )
        if not self.targets.names:
            return self.calibrations[0].interval(members, coverage)
        each = [one.interval(members[..., i], coverage) for i, one in enumerate(self.calibrations)]
        return np.stack(each, axis=1)

    def novelty(self, dataset: SequenceDataset) -> list[str]:
        """What each row of a dataset has that training never had; see `Coverage.novelty`."""
        assert self.coverage is not None, "a model that keeps what it was trained on"
        first = self.source.offset if self.source is not None and self.source.mutant else 1
        return self.coverage.novelty(dataset.tokens, dataset.starts, dataset.lengths, self.alphabet, first)

    def check_lengths(self, lengths: np.ndarray, rows: Sequence[int] | None = None, where: str = "sequences") -> None:
        """Raises InputError for a sequence of another length than the model reads, if it reads one alone.

        Args:
            lengths: (N,) of the sequences; rows: their numbers in `where`, from 0 if there are none.
        """
        wanted = getattr(self.model, "length", None)
        if wanted is not None and (other := np.flatnonzero(lengths != wanted)).size:
            row = int(other[0]) if rows is None else rows[int(other[0])]
            self.check_length(int(lengths[other[0]]), f"{where}, row {row}")

    def check_length(self, length: int, where: str) -> None:
        """The same for one sequence, `where` in the message."""
        wanted = getattr(self.model, "length", None)
        if wanted is not None and length != wanted:
            raise InputError(
                f"{where}: has {length:,} letters, and the model reads sequences of {wanted:,} alone; give such, or "
                f"train with {argument('positions', False)} {argument('mix', 'none')}"
            )

    def predict_dataset(self, dataset: SequenceDataset, batch_size: int = BATCH_SIZE) -> list[np.ndarray] | np.ndarray:
        """Predictions for the rows of a dataset; see `predict`."""
        self.check_lengths(dataset.lengths)
        convert = converter(self.targets, self.output)
        return predict_encoded(self.model, convert, dataset, self.targets.per_residue, batch_size, self._replayed)

    def predict(
        self, sequences: Sequence[str], *, unknown: bool = False, batch_size: int = BATCH_SIZE
    ) -> list[np.ndarray] | np.ndarray:
        """Predictions in the order of the sequences.

        Args:
            sequences: text; `unknown` reads letters outside the alphabet as its unknown letter.

        Returns:
            regression (N,); classification (N, classes) probabilities; token: a list of (L, classes); token-regression:
            a list of (L,); several targets (N, T) numbers, or probabilities of "multilabel".

        Raises:
            InputError: a letter outside the model's alphabet.
        """
        return self.predict_dataset(self.encode(sequences, unknown), batch_size)

    def encode(self, sequences: Sequence[str], unknown: bool = False) -> SequenceDataset:
        """The sequences as the model reads them; arguments and errors as for `predict`."""
        on_invalid = "unknown" if unknown else "error"
        rows = range(len(sequences))
        tokens, offsets, _ = encode_checked(list(sequences), rows, self.alphabet, on_invalid, "sequences", "0")
        return SequenceDataset(tokens, offsets, np.arange(len(sequences)))

    def cells(self, predictions: Iterable[np.ndarray]) -> Iterator[dict[str, str]]:
        """Predictions as the columns of a table: `prediction`, and for classes one `p_CLASS` each.

        Of several targets `prediction_TARGET` each, or `p_TARGET` for the probability of a label. The labels, or
        numbers, of residues stand in one cell, separated as in training.
        """
        classes = self.targets.classes
        for prediction in predictions:
            if self.targets.names:
                digits = 6 if self.output is None else self.digits
                numbers = (f"{float(number):.{digits}g}" for number in prediction)
                yield dict(zip(self.columns, numbers, strict=True))
            elif self.targets.task == "regression":
                yield {"prediction": f"{float(prediction):.{self.digits}g}"}
            elif self.targets.numeric:
                yield {"prediction": self.joined(prediction)}
            elif self.targets.task == "token":
                labels = [classes[i] for i in prediction.argmax(-1)]
                yield {"prediction": self.targets.separator.join(labels)}
            else:
                probabilities = {f"p_{name}": f"{float(p):.6g}" for name, p in zip(classes, prediction, strict=True)}
                yield {"prediction": classes[int(prediction.argmax())], **probabilities}

    def joined(self, numbers: np.ndarray, digits: int | None = None) -> str:
        """Numbers of residues (L,) in one cell; `digits` None takes those of a prediction."""
        return self.targets.separator.join(f"{float(number):.{digits or self.digits}g}" for number in numbers)

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
