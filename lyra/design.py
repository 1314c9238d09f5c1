"""Sequences that a model predicts to be better than a wild type, a few substitutions away from it.

    from lyra.design import DesignOptions, design

    table = design(Predictor.from_pretrained("run/model"), "MKTAYIAKQR", DesignOptions(max_mutations=4, keep="1"))

A model is right about sequences like those it was trained on. Every substitution leads away from them, and a search
looks for the places where the model is too hopeful: an ensemble's spread is the brake, a measurement the proof.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .data.sources import Source
from .data.tables import listed
from .errors import InputError, argument, shorten
from .files import atomic_text, table_separator
from .member_scores import MemberScore
from .prediction import Predictor
from .references import as_read, choose_wild_type, own_offset
from .settings.design import DesignOptions
from .settings.positions import sites

__all__ = ["DesignOptions", "design", "design_file"]

CHUNK = 4096  # designs predicted at once
Change = tuple[int, str]  # index of the position, new letter
Progress = Callable[[int, int], None]  # predictions made, and to be made at most


class Space:
    """What may be changed in a wild type.

    Attributes:
        wild_type: as the model reads it; changes: every substitution that is allowed, in order of position.
        notes: what to tell the user about them.
    """

    def __init__(self, predictor: Predictor, wild_type: str, offset: int, options: DesignOptions) -> None:
        """Raises InputError: a position or letter that is not there, or nothing left to change."""
        self.wild_type, self.offset = wild_type, offset
        self.notes: list[str] = []
        where, length = "the wild type", len(wild_type)
        residues = [letter for letter in predictor.alphabet.letters if letter.isalpha()]
        allowed = self._letters(predictor, residues, options)
        chosen = sites("positions", options.positions, offset, length, where)
        kept = sites("keep", options.keep, offset, length, where) if options.keep is not None else np.arange(0)
        self.changes: list[Change] = [
            (site, letter)
            for site in np.setdiff1d(chosen, kept).tolist()
            if wild_type[site] in residues
            for letter in allowed
            if letter != wild_type[site]
        ]
        if not self.changes:
            raise InputError(
                f"nothing may be changed in the wild type; allow more {argument('positions')} or {argument('letters')}"
            )
        self.positions = len({site for site, _ in self.changes})

    def _letters(self, predictor: Predictor, residues: list[str], options: DesignOptions) -> list[str]:
        """The letters that may be put in, in the alphabet's order."""
        known = residues
        if predictor.coverage is not None:
            known = [letter for letter in residues if letter in predictor.coverage.letters]
        unseen = [letter for letter in residues if letter not in known]
        if options.letters is not None:
            given = read_letters("letters", options.letters, predictor, residues)
            if strange := [letter for letter in given if letter in unseen]:
                self.notes.append(f"{argument('letters')}: {listed(strange)} never occurred in training")
            return [letter for letter in residues if letter in given]
        if unseen:
            self.notes.append(
                f"letters {listed(unseen)} never occurred in training, and are not put in; {argument('letters')} "
                "allows them"
            )
        forbidden = read_letters("forbid", options.forbid or "", predictor, residues)
        return [letter for letter in known if letter not in forbidden]

    def sequence(self, changes: Iterable[Change]) -> str:
        letters = list(self.wild_type)
        for site, letter in changes:
            letters[site] = letter
        return "".join(letters)

    def name(self, changes: Iterable[Change]) -> str:
        """The usual notation, such as A24G:D40N."""
        return ":".join(f"{self.wild_type[site]}{site + self.offset}{letter}" for site, letter in changes)


def read_letters(name: str, text: str, predictor: Predictor, residues: list[str]) -> list[str]:
    """Letters written like ADE or A,D,E, as the model reads them; an InputError for one that is no residue."""
    found = []
    for letter in "".join(text.replace(",", " ").split()):
        read = predictor.alphabet.decode(predictor.alphabet.encode(letter, unknown=True))
        if read not in residues:
            raise InputError(
                f"{argument(name)} {shorten(text)}: {shorten(letter)} is none of the residues {''.join(residues)}"
            )
        found.append(read)
    return found


class Design(NamedTuple):
    """Substitutions, in order of position, what is predicted, its spread over the members, and what it is worth."""

    changes: tuple[Change, ...]
    predicted: float = 0.0
    spread: float = 0.0
    merit: float = 0.0


def search(score: MemberScore, space: Space, options: DesignOptions, progress: Progress) -> list[Design]:
    """The best designs, best first: beam search over substitutions.

    From each of the `beam` best designs with m substitutions every one with m + 1 is tried, no position twice; the
    result is the best of all that were predicted, whatever their number of substitutions. Where the beam holds all
    designs, this is the exhaustive search; with a beam of 1 it is the greedy one.
    """
    sign = -1.0 if options.minimise else 1.0
    caution = 1.0 if options.caution is None else options.caution
    depth = min(options.max_mutations, space.positions)
    total = len(space.changes) * (1 + (depth - 1) * options.beam)
    done = 0

    best: list[Design] = []
    parents = [Design(())]
    for _ in range(depth):
        level: list[Design] = []
        candidates = children(parents, space)
        while part := list(islice(candidates, CHUNK)):
            found = score([space.sequence(changes) for changes in part])
            merit = sign * found.predicted - caution * found.spread
            order = np.argsort(-merit, kind="stable")[: max(options.beam, options.top)]
            level += [Design(part[i], *map(float, (found.predicted[i], found.spread[i], merit[i]))) for i in order]
            done += len(part)
            progress(min(done, total), total)
        level.sort(key=lambda found: -found.merit)
        best = sorted([*best, *level], key=lambda found: -found.merit)[: options.top]
        parents = level[: options.beam]
    progress(total, total)
    return best


def children(parents: Sequence[Design], space: Space) -> Iterator[tuple[Change, ...]]:
    """Every design with one substitution more, each once."""
    seen = set()
    for parent in parents:
        taken = {site for site, _ in parent.changes}
        for change in space.changes:
            if change[0] not in taken:
                child = tuple(sorted((*parent.changes, change)))
                if child not in seen:
                    seen.add(child)
                    yield child


def design(
    predictor: Predictor,
    wild_type: str,
    options: DesignOptions | None = None,
    *,
    offset: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """The sequences with the best predictions up to `max_mutations` substitutions from the wild type; see `search`.

    With an ensemble a design is worth its mean less `caution` standard deviations over the members: this keeps the
    search from what the members disagree on.

    Args:
        offset: the number of the first residue; None takes the model's for its own wild type, else 1.
        warn: told what was left out.

    Returns:
        one row a design, best first: mutant (such as A24G:D40N), mutations (how many), sequence, prediction (the
        target, or a class's log-odds), change (from the wild type's), and with an ensemble spread (the standard
        deviation of the prediction over its members). `attrs` holds unit and wild_type, its prediction.

    Raises:
        InputError: anything that a user can put right.
    """
    options = options or DesignOptions()
    options.check()
    score = MemberScore(predictor, options.class_name)
    if score.members == 1 and options.caution is not None:
        raise InputError(
            f"{argument('caution')}: has no effect, a single model has no members to disagree; leave it out"
        )
    sequence = as_read(predictor, wild_type)
    offset = own_offset(predictor.source, len(sequence)) if offset is None else offset
    space = Space(predictor, sequence, offset, options)
    for note in space.notes:
        warn(note)
    own = float(score([sequence]).predicted[0])
    found = search(score, space, options, progress)
    predicted = np.array([one.predicted for one in found])
    table: dict[str, object] = {
        "mutant": [space.name(one.changes) for one in found],
        "mutations": [len(one.changes) for one in found],
        "sequence": [space.sequence(one.changes) for one in found],
        "prediction": predicted,
        "change": predicted - own,
    }
    if score.members > 1:
        table["spread"] = [one.spread for one in found]
    frame = pd.DataFrame(table)
    frame.attrs |= {"unit": score.unit, "wild_type": own}
    return frame


def design_file(
    predictor: Predictor,
    wild_type: str | None,
    out: str | Path,
    options: DesignOptions,
    *,
    offset: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Writes the table of `design` to a CSV or TSV; `wild_type` is a sequence, a file with it, or None for the model's.

    Raises:
        InputError: anything that a user can put right.
    """
    separator = table_separator(out)
    if wild_type is not None and os.path.isfile(wild_type):
        Source(wild_type).check_output(out)

    def warn(text: str) -> None:
        say(f"warning: {text}")

    sequence, offset = choose_wild_type(predictor, wild_type, offset, warn)
    frame = design(predictor, sequence, options, offset=offset, warn=warn, progress=progress)
    if not ((frame["change"] < 0) if options.minimise else (frame["change"] > 0)).any():
        warn("no design is predicted to be better than the wild type")
    with atomic_text(out) as file:
        frame.to_csv(file, index=False, sep=separator, float_format=f"%.{predictor.digits}g", lineterminator="\n")
    return frame
