"""What a design may change, and what it is to be good at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import InputError, argument
from .positions import Positions, ranges


@dataclass(kw_only=True)
class DesignOptions:
    """How sequences are designed from a wild type.

    Attributes:
        max_mutations: substitutions in a design, at most.
        positions: those that may change, such as "10-60,72", in the numbering of the wild type; None is all.
        keep: positions that stay as they are.
        letters: those that may be put in, such as "ADEKS"; None is every letter that occurred in training.
        forbid: letters that may not.
        minimise: whether less is better.
        class_name: of a classifier, the class whose log-odds are the goal; None takes the positive one of two classes.
        caution: of an ensemble, how many standard deviations over its members a prediction is worth less; None is 1
            with an ensemble.
        top: how many designs to give.
        beam: designs of each number of mutations that are mutated further; 1 is the greedy search.
    """

    max_mutations: int = 3
    positions: Positions = None
    keep: Positions = None
    letters: str | None = None
    forbid: str | None = None
    minimise: bool = False
    class_name: str | None = None
    caution: float | None = None
    top: int = 10
    beam: int = 10

    def check(self) -> None:
        """Raises InputError for what no model could do."""
        for name in ("max_mutations", "top", "beam"):
            if getattr(self, name) < 1:
                raise InputError(f"{argument(name)} {getattr(self, name)}: must be above 0")
        if self.caution is not None and not (self.caution >= 0 and math.isfinite(self.caution)):
            raise InputError(f"{argument('caution')} {self.caution:g}: must be a number, 0 or above")
        if self.letters is not None and self.forbid is not None:
            raise InputError(f"{argument('letters')} and {argument('forbid')} say the same in two ways; give one")
        ranges("positions", self.positions)
        ranges("keep", self.keep)
