"""One number for a sequence from each member of a model: what designs are ranked by, and variants compared in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .errors import InputError, argument, shorten
from .prediction import Predictor

TINY = np.finfo(np.float64).tiny


def log_odds(probabilities: np.ndarray, index: int) -> np.ndarray:
    """ln(p / (1 - p)) of a class, from the probabilities of all (..., classes).

    The others are added up, since 1 - p loses its digits where p is near 1; both are kept from being 0.
    """
    others = np.delete(probabilities, index, axis=-1).sum(-1)
    return np.log(np.maximum(probabilities[..., index], TINY)) - np.log(np.maximum(others, TINY))


class Scores(NamedTuple):
    """Numbers of sequences.

    Attributes:
        predicted: (N,) what the model as a whole predicts; members: (N, members) what each of its members does.
    """

    predicted: np.ndarray
    members: np.ndarray

    @property
    def spread(self) -> np.ndarray:
        """(N,) the standard deviation over the members; 0 for a single model."""
        return self.members.std(axis=-1)


class MemberScore:
    """A regression's prediction in the target's units, or the log-odds of a class; of one of several targets.

    Attributes:
        unit: what the number is, for people; members: how many a sequence has.
        class_name: the class, of a classifier, or which of several targets.
    """

    def __init__(self, predictor: Predictor, class_name: str | None = None) -> None:
        """`class_name` None takes the positive one of two classes.

        Raises:
            InputError: a model of a class or number per residue, or a class that the model does not have.
        """
        self.predictor, self.members, self.class_name = predictor, predictor.members, class_name
        self.index: int | None = None  # of the class or target
        task, classes = predictor.targets.task, predictor.targets.classes
        if predictor.targets.per_residue:
            what = "number" if predictor.targets.numeric else "class"
            raise InputError(
                f"this model gives a {what} to each residue; give one with one answer for the whole sequence"
            )
        if names := predictor.targets.names:
            if class_name not in names:
                given = "" if class_name is None else f" {shorten(class_name)}"
                raise InputError(
                    f"{argument('class_name')}{given}: this model has several targets; choose one of {', '.join(names)}"
                )
            assert class_name is not None
            self.index = names.index(class_name)
            self.unit = class_name if task == "regression" else f"log-odds of {class_name}"
            return
        if task == "regression":
            if class_name is not None:
                raise InputError(
                    f"{argument('class_name')} {shorten(class_name)}: this model predicts a number, no class; leave "
                    f"{argument('class_name')} out"
                )
            self.unit = (predictor.source and predictor.source.target) or "prediction"
            return
        self.class_name = predictor.targets.positive if class_name is None else class_name
        if self.class_name is None:
            raise InputError(f"give {argument('class_name')}, one of {', '.join(classes)}")
        if self.class_name not in classes:
            raise InputError(f"{argument('class_name')} {shorten(class_name)}: must be one of {', '.join(classes)}")
        self.index = classes.index(self.class_name)
        self.unit = f"log-odds of {self.class_name}"

    def __call__(self, sequences: Sequence[str]) -> Scores:
        """The numbers of sequences. An ensemble's log-odds are those of its mean probability.

        Raises:
            InputError: a prediction is no finite number.
        """
        members = np.asarray(self.predictor.predict_members(list(sequences)), dtype=np.float64)
        targets, index = self.predictor.targets, self.index
        if targets.names and index is not None:
            members = members[..., index]
            if targets.task == "multilabel":
                members, index = np.stack([1 - members, members], axis=-1), 1
        predicted = members.mean(1)
        if targets.task != "regression" and index is not None:
            predicted, members = log_odds(predicted, index), log_odds(members, index)
        if not np.isfinite(members).all():
            raise InputError("the model predicts something that is not a finite number; train it again")
        return Scores(predicted, members)
