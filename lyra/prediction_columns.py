"""Predictions as columns of a table, and of an ensemble how sure they are and what about a sequence is new."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .data.batches import SequenceDataset
from .prediction import Predictor
from .settings.data import BATCH_SIZE, INTERVAL
from .uncertainty import needed_rows


class Columns:
    """The columns that a model adds to a table.

    A model alone, and one of a class per residue, gives what `Predictor.cells` gives. An ensemble adds

    - `sd`: the standard deviation of its members' predictions, or of their probabilities of the predicted class;
    - `lower`, `upper`: for numbers, the interval that covers a share `interval` of measurements (see
      `lyra.uncertainty.Calibration`);
    - `novel`: what training never had, such as a letter at its position (W39) or the length; empty if nothing.

    Of several targets each prediction has its own `sd_TARGET`, `lower_TARGET` and `upper_TARGET` behind it. Of a number
    per residue, all but `novel` hold as many numbers as there are residues.

    Args:
        predictor: the model.
        interval: the share; None takes .9 where the model has intervals.

    Raises:
        InputError: an interval is asked of a model that has none.
    """

    def __init__(self, predictor: Predictor, interval: float | None = None) -> None:
        self.predictor = predictor
        targets = predictor.targets.names
        if interval is not None:  # says what is wrong before anything is read
            predictor.interval(np.zeros((0, predictor.members, len(targets)) if targets else (0, 1)), interval)
        self.coverage = INTERVAL if interval is None else interval
        self.ensemble = predictor.members > 1 and predictor.targets.task != "token"
        needed = needed_rows(self.coverage)
        self.calibrations = [one if one.rows >= needed else None for one in predictor.calibrations]
        if not self.ensemble or not self.calibrations:
            self.calibrations = [None] * max(1, len(targets))

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        if not self.ensemble:
            return self.predictor.columns
        ends = [f"_{name}" for name in self.predictor.targets.names] or [""]
        more = [
            [f"{name}{end}" for name in ("sd", *(("lower", "upper") if one is not None else ()))]
            for end, one in zip(ends, self.calibrations, strict=True)
        ]
        return [*beside(self.predictor.columns, more), *(["novel"] if self.predictor.coverage is not None else [])]

    def cells(self, dataset: SequenceDataset, batch_size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The cells of each row of a dataset."""
        if self.ensemble:
            yield from self.of_members(self.predictor.members_of(dataset, batch_size), dataset)
            return
        for cell in self.predictor.cells(self.predictor.predict_dataset(dataset, batch_size)):
            yield list(cell.values())

    def _of_residues(self, members: list[np.ndarray], dataset: SequenceDataset) -> Iterator[list[str]]:
        """`of_members` of numbers per residue, (L, R) of each sequence."""
        (calibration,) = self.calibrations
        new = [] if self.predictor.coverage is None else [[text] for text in self.predictor.novelty(dataset)]
        for each, others in zip(members, new or [[]] * len(members), strict=True):
            cells = [self.predictor.joined(each.mean(1)), self.predictor.joined(each.std(1), 4)]
            if calibration is not None:
                cells += [self.predictor.joined(side) for side in calibration.interval(each, self.coverage).T]
            yield [*cells, *others]

    def of_members(self, members: np.ndarray | list[np.ndarray], dataset: SequenceDataset) -> Iterator[list[str]]:
        """The same from what the members of an ensemble predict, (N, R, ...), or a list of (L, R)."""
        if isinstance(members, list):
            yield from self._of_residues(members, dataset)
            return
        predicted, spread = members.mean(1), members.std(1)
        if self.predictor.targets.classes:
            spread = np.take_along_axis(spread, predicted.argmax(-1)[:, None], axis=1)
        more = []  # of each target its columns
        for i, (one, sd) in enumerate(
            zip(self.calibrations, spread.reshape(len(members), len(self.calibrations)).T, strict=True)
        ):
            more.append([[f"{value:.4g}" for value in sd]])
            if one is not None:
                bounds = one.interval(members[..., i] if self.predictor.targets.names else members, self.coverage)
                more[-1] += [[f"{value:.{self.predictor.digits}g}" for value in side] for side in bounds.T]
        novel = None if self.predictor.coverage is None else self.predictor.novelty(dataset)
        for row, cell in enumerate(self.predictor.cells(predicted)):
            told = beside([*cell.values()], [[column[row] for column in columns] for columns in more])
            yield told if novel is None else [*told, novel[row]]


def beside(predictions: list[str], more: list[list[str]]) -> list[str]:
    """What there is of one target behind its predictions, and of several behind each one's."""
    if len(more) == 1:
        return [*predictions, *more[0]]
    return [text for one, others in zip(predictions, more, strict=True) for text in (one, *others)]
