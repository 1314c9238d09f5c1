"""What a table is divided by, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..alphabets import Alphabet
from .batches import IGNORED
from .sequences import read_keys

PARTS = ("train", "val", "test")
ASIDE = "aside"  # in place of a part: the row takes part in none


@dataclass(frozen=True)
class Material:
    """The rows of a table that is to be divided.

    Attributes:
        where: how messages call the table; table: its N rows as text, indexed by line number.
        tokens, offsets, alphabet: their sequences, encoded.
        values, classes: their targets; no classes for a regression.
        wild_type: what the sequences are variants of, if that was said; offset: the number of its first residue.
        column: where sequences or mutations stand.
    """

    where: object
    table: pd.DataFrame
    tokens: np.ndarray
    offsets: np.ndarray
    alphabet: Alphabet
    values: list[np.ndarray]
    classes: list[str]
    wild_type: str | None = None
    offset: int = 1
    column: str = "sequence"

    @cached_property
    def keys(self) -> np.ndarray:
        """(N,) int, the same for the same sequence."""
        keys = np.empty(len(self.table), dtype=object)
        keys[:] = read_keys(self.tokens, self.offsets)
        return pd.factorize(keys)[0]

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) one number a row to divide evenly by: the class, the most frequent one of residues, or the target.

        Of several targets it is the first; a row without that one counts as one in the middle. Of a number per residue
        it is their mean.
        """
        if not self.classes:
            values = np.array(
                [np.nanmean(value) if value.ndim == 1 else np.ravel(value)[0] for value in self.values], dtype=float
            )
            return np.where(np.isnan(values), np.nanmedian(values), values) if np.isnan(values).any() else values
        counts = (np.bincount(np.ravel(value)[np.ravel(value) != IGNORED]) for value in self.values)
        return np.array([count.argmax() for count in counts], dtype=np.int64)


@dataclass(frozen=True)
class Grouping:
    """Rows that must stand together.

    Attributes:
        units: (N,) int, the same for rows of one group or of one sequence, and for all that hang together by these.
        labels: (N,) the name of each row's group; None where only copies of a sequence stand together.
        where: how messages call the table; what, several: and a group, groups, such as "group of column family";
            remedy: what makes groups smaller.
    """

    units: np.ndarray
    labels: np.ndarray | None = None
    where: object = ""
    what: str = "group"
    several: str = "groups"
    remedy: str = "smaller groups"

    def of(self, rows: np.ndarray) -> Grouping:
        """The grouping of some of the rows."""
        return replace(self, units=self.units[rows], labels=None if self.labels is None else self.labels[rows])

    @property
    def count(self) -> int:
        return len(np.unique(self.units))

    def largest(self) -> str:
        """What stands in the way of even parts, for a message."""
        assert self.labels is not None
        unit, counts = np.unique(self.units, return_counts=True)
        most = int(counts.argmax())
        names, sizes = np.unique(self.labels[self.units == unit[most]].astype(str), return_counts=True)
        more = f" with {len(names) - 1:,} that share sequences with it" if len(names) > 1 else ""
        return (
            f"the largest of {len(unit):,}, {self.what} {names[sizes.argmax()]}{more}, has {counts[most]:,} of the "
            f"{len(self.units):,} rows"
        )


@dataclass
class Split:
    """How a table is divided.

    Attributes:
        parts: (N,) object, "train", "val", "test" or "aside" of each row; with folds, those of the first.
        folds: the same for each fold, or nothing; fold_of: (N,) int, the fold that a row is test in, -1 for none.
        fold_names: what the folds are called.
        split, val_column: the columns that say which rows are test and validation, or None.
        groups: (N,) int, equal for rows kept together as a group or cluster, or None without such.
        said: what was found that nobody said, and how it was done.
    """

    parts: np.ndarray
    folds: list[np.ndarray] = field(default_factory=list)
    fold_of: np.ndarray | None = None
    fold_names: list[str] = field(default_factory=list)
    split: str | None = None
    val_column: str | None = None
    groups: np.ndarray | None = None
    said: list[str] = field(default_factory=list)

    @property
    def used(self) -> np.ndarray:
        """(N,) bool, the rows that stand in a part, of any fold."""
        return np.logical_or.reduce([parts != ASIDE for parts in self.folds or [self.parts]])

    def keep(self, wanted: np.ndarray) -> None:
        """Leaves all but the `wanted` (N,) out."""
        self.parts = self.parts[wanted]
        self.folds = [parts[wanted] for parts in self.folds]
        self.fold_of = None if self.fold_of is None else self.fold_of[wanted]
        self.groups = None if self.groups is None else self.groups[wanted]
