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

    A model alone, and one of several targets, gives what `Predictor.cells` gives. An ensemble adds

    - `sd`: the standard deviation of its members' predictions, or of their probabilities of the predicted class;
    - `lower`, `upper`: for numbers, the interval that covers a share `interval` of measurements (see
      `lyra.uncertainty.Calibration`);
    - `novel`: what training never had, such as a letter at its position (W39) or the length; empty if nothing.

    Of a number per residue, all but `novel` hold as many numbers as there are residues.

    Args:
        predictor: the model.
        interval: the share; None takes .9 where the model has intervals.

    Raises:
        InputError: an interval is asked of a model that has none.
    """

    def __init__(self, predictor: Predictor, interval: float | None = None) -> None:
        self.predictor = predictor
        if interval is not None:  # says what is wrong before anything is read
            predictor.interval(np.zeros(1), np.zeros(1), interval)
        self.coverage = INTERVAL if interval is None else interval
        one = predictor.targets.task != "token" and not predictor.targets.names
        self.ensemble = predictor.members > 1 and one
        self.bounded = self.ensemble and predictor.calibration is not None and self._possible()

    def _possible(self) -> bool:
        assert self.predictor.calibration is not None
        return self.predictor.calibration.rows >= needed_rows(self.coverage)

    @property
    def names(self) -> list[str]:
        """Their names, in order."""
        return [*self.predictor.columns, *self._more()]

    def _more(self) -> list[str]:
        if not self.ensemble:
            return []
        novel = ["novel"] if self.predictor.coverage is not None else []
        return ["sd", *(["lower", "upper"] if self.bounded else []), *novel]

    def cells(self, dataset: SequenceDataset, batch_size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The cells of each row of a dataset."""
        if not self.ensemble:
            for cell in self.predictor.cells(self.predictor.predict_dataset(dataset, batch_size)):
                yield list(cell.values())
            return
        members = self.predictor.members_of(dataset, batch_size)
        if isinstance(members, list):
            yield from self._of_residues(members, dataset)
        else:
            yield from self.of_members(members, dataset)

    def _of_residues(self, members: list[np.ndarray], dataset: SequenceDataset) -> Iterator[list[str]]:
        """`of_members` of numbers per residue, (L, R) of each sequence."""
        new = [] if self.predictor.coverage is None else [[text] for text in self.predictor.novelty(dataset)]
        for each, others in zip(members, new or [[]] * len(members), strict=True):
            predicted, spread = each.mean(1), each.std(1)
            cells = [self.predictor.joined(predicted), self.predictor.joined(spread, 4)]
            if self.bounded:
                bounds = self.predictor.interval(predicted, spread, self.coverage)
                cells += [self.predictor.joined(side) for side in bounds.T]
            yield [*cells, *others]

    def of_members(self, members: np.ndarray, dataset: SequenceDataset) -> Iterator[list[str]]:
        """The same from what the members predict, (N, R, ...)."""
        predicted, spread = members.mean(1), members.std(1)
        if spread.ndim == 2:
            spread = np.take_along_axis(spread, predicted.argmax(-1)[:, None], axis=1)[:, 0]
        more = [[f"{value:.4g}" for value in spread]]
        if self.bounded:
            bounds = self.predictor.interval(predicted, spread, self.coverage)
            more += [[f"{value:.{self.predictor.digits}g}" for value in side] for side in bounds.T]
        if self.predictor.coverage is not None:
            more.append(self.predictor.novelty(dataset))
        for cell, *others in zip(self.predictor.cells(predicted), *more, strict=True):
            yield [*cell.values(), *others]
