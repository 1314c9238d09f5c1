"""What is asked of a model, and which positions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, argument, check_choice, refuse_without_effect, shorten
from .data import BATCH_SIZE
from .positions import Positions, ranges, site, sites

SCALES = {"regression": ("target", "latent"), "classification": ("log-odds", "probability")}
SCALES["token"] = SCALES["multilabel"] = SCALES["classification"]
SCALES["token-regression"] = SCALES["regression"]
PAIR = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*")
BASELINES = ("average", "unknown")


@dataclass
class ExplainOptions:
    """How a sequence is explained.

    Attributes:
        positions: those to look at, in the numbering of `offset`: "10-60,72", or numbers; None is all.
        offset: the number of the sequence's first residue.
        class_name: of a classifier, the class to explain; None takes the one it predicts for the sequence. Of several
            targets, the one to explain, which must be said.
        at: of a model of a class or number per residue, the position whose answer is explained; None takes, of classes,
            the one of each substitution itself, and of numbers their mean over the sequence.
        scale: regression: "target", the target's own units, or "latent", before the learned sigmoid.
            Classification: "log-odds", ln(p / (1 - p)), or "probability". None takes the first.
        baseline: what attributions compare the sequence with: "average", every letter equally likely at every
            position, or "unknown", no letter at all (X or N throughout).
        steps: points of the integral of the gradient.
        pair_samples: letter pairs tried for each pair of positions, drawn with `seed`; all of them if there are fewer.
        batch_size: sequences a batch, at most.
    """

    positions: Positions = None
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
        ranges("positions", self.positions)

    def sites(self, length: int, where: str) -> np.ndarray:
        """Indices, from 0, of the positions asked for in a sequence, `where` in messages; sorted, each once.

        Raises:
            InputError: a position that the sequence does not have.
        """
        return sites("positions", self.positions, self.offset, length, where)

    def index(self, name: str, position: int, length: int, where: str) -> int:
        """The index, from 0, of a position; an InputError that names the argument if there is none."""
        return site(name, position, self.offset, length, where)


def parse_maps(texts: Iterable[str]) -> list[tuple[int, int]]:
    """Pairs of positions from texts like 39,54 or 39,54;7,9; each once, the lower position first.

    Raises:
        InputError: one is not written like that, or names one position twice.
    """
    found: dict[tuple[int, int], None] = {}
    for text in texts:
        for piece in text.split(";"):
            match = PAIR.fullmatch(piece)
            if match is None:
                raise InputError(
                    f"{argument('maps')} {shorten(text)}: {shorten(piece)} is no pair of positions; write it like 39,54"
                )
            first, second = sorted((int(match[1]), int(match[2])))
            if first == second:
                raise InputError(f"{argument('maps')} {shorten(text)}: {first} is there twice; give two positions")
            found[first, second] = None
    return list(found)


@dataclass(kw_only=True)
class Contents:
    """What the folder is to hold.

    Attributes:
        maps: pairs of positions of which every pair of letters is tried.
        logo: whether sequence logos are drawn, too.
        measured: a table of single and double mutants, whose measured epistasis is compared; target: its column of
            measurements; wild_type_value: of the sequence itself, where no row has it.
        pictures: for how many sequences, the first ones, pictures are drawn; the tables have all.
    """

    mutagenesis: bool = True
    attributions: bool = True
    pairs: bool = False
    maps: Sequence[tuple[int, int]] | None = None
    logo: bool = False
    measured: str | None = None
    target: str | None = None
    wild_type_value: float | None = None
    pictures: int = 10

    def any(self) -> bool:
        """Whether there is something to write."""
        return self.mutagenesis or self.attributions or self.pairs or bool(self.maps) or self.measured is not None

    def check_effects(self, given: Collection[str]) -> None:
        """Raises InputError for one of the settings `given` that makes no difference to what is written."""
        if not self.attributions:
            refuse_without_effect(given, ("steps", "baseline"), "without attributions")
        if not self.pairs:
            refuse_without_effect(given, ("pair_samples", "seed"), f"without {argument('pairs', True)}")
        if self.measured is None:
            refuse_without_effect(given, ("target", "wild_type_value"), f"without {argument('measured')}")
        if not (self.mutagenesis or self.attributions) or self.pictures == 0:
            without = "pictures" if self.pictures == 0 else "substitutions and attributions"
            refuse_without_effect(given, ("logo",), f"without {without}")
