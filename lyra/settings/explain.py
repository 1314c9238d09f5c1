"""What is asked of a model, and which positions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, argument, check_choice, refuse_without_effect, shorten
from .data import BATCH_SIZE

SCALES = {"regression": ("target", "latent"), "classification": ("log-odds", "probability")}
SCALES["token"] = SCALES["multilabel"] = SCALES["classification"]
BASELINES = ("average", "unknown")
RANGE = re.compile(r"\s*(-?\d+)(?:\s*-\s*(-?\d+))?\s*")


@dataclass
class ExplainOptions:
    """How a sequence is explained.

    Attributes:
        positions: those to look at, in the numbering of `offset`: "10-60,72", or numbers; None is all.
        offset: the number of the sequence's first residue.
        class_name: of a classifier, the class to explain; None takes the one it predicts for the sequence. Of several
            targets, the one to explain, which must be said.
        at: of a model of a class per residue, the position whose class is explained; None takes the one of each
            substitution itself.
        scale: regression: "target", the target's own units, or "latent", before the learned sigmoid.
            Classification: "log-odds", ln(p / (1 - p)), or "probability". None takes the first.
        baseline: what attributions compare the sequence with: "average", every letter equally likely at every
            position, or "unknown", no letter at all (X or N throughout).
        steps: points of the integral of the gradient.
        pair_samples: letter pairs tried for each pair of positions, drawn with `seed`; all of them if there are fewer.
        batch_size: sequences a batch, at most.
    """

    positions: str | Sequence[int] | None = None
    offset: int = 1
    class_name: str | None = None
    at: int | None = None
    scale: str | None = None
    baseline: str = "average"
    steps: int = 128
    pair_samples: int = 50
    seed: int = 0
    batch_size: int = BATCH_SIZE

    def check(self) -> None:
        """Raises InputError for what no model could do."""
        check_choice("baseline", self.baseline, BASELINES)
        for name in ("steps", "pair_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{argument(name)} {getattr(self, name)}: must be above 0")
        if self.seed < 0:
            raise InputError(f"{argument('seed')} {self.seed}: must not be negative")
        self.ranges()

    def ranges(self) -> list[tuple[int, int]] | None:
        """`positions` as (first, last) pairs in the caller's numbering.

        Raises:
            InputError: they are not written like 10-60,72.
        """
        if self.positions is None:
            return None
        if not isinstance(self.positions, str):
            return [(int(number), int(number)) for number in self.positions]
        ranges = []
        for piece in self.positions.split(","):
            match = RANGE.fullmatch(piece)
            if match is None:
                raise InputError(f"{argument('positions')} {shorten(self.positions)}: {shorten(piece)} is no position "
                                 "and no "
                                 "range; write it like 10-60,72")  # fmt: skip
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise InputError(f"{argument('positions')} {shorten(self.positions)}: {first}-{last} runs backwards; "
                                 f"write {last}-{first}")  # fmt: skip
            ranges.append((first, last))
        return ranges

    def sites(self, length: int, where: str) -> np.ndarray:
        """Indices, from 0, of the positions asked for in a sequence; sorted, each once.

        Raises:
            InputError: a position that the sequence, `where` in the message, does not have.
        """
        ranges = self.ranges()
        if ranges is None:
            return np.arange(length)
        for first, last in ranges:
            self.index("positions", first, length, where)
            self.index("positions", last, length, where)
        spans = [np.arange(first, last + 1) - self.offset for first, last in ranges]
        return np.unique(np.concatenate(spans)) if spans else np.arange(0)

    def index(self, name: str, position: int, length: int, where: str) -> int:
        """The index, from 0, of a position; an InputError that names the argument if there is none."""
        if not 0 <= position - self.offset < length:
            raise InputError(f"{argument(name)} {position}: {where} has positions {self.offset} to "
                             f"{self.offset + length - 1}; choose among them, or give {argument('offset')}, the "
                             "number of the "
                             "first")  # fmt: skip
        return position - self.offset


@dataclass(kw_only=True)
class Contents:
    """What the folder is to hold.

    Attributes:
        pictures: for how many sequences, the first ones, pictures are drawn; the tables have all.
    """

    mutagenesis: bool = True
    attributions: bool = True
    pairs: bool = False
    pictures: int = 10

    def check_effects(self, given: Collection[str]) -> None:
        """Raises InputError for one of the settings `given` that makes no difference to what is written."""
        if not self.attributions:
            refuse_without_effect(given, ("steps", "baseline"), "without attributions")
        if not self.pairs:
            refuse_without_effect(given, ("pair_samples", "seed"), f"without {argument('pairs', True)}")
