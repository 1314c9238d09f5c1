"""Parts and folds drawn with a seed: copies and groups together, strata alike in all."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd

from ..errors import InputError, argument
from .divisions import Grouping

FINEST = 20  # parts of groups are put together from as many folds, which makes shares of 0.05, 0.1, 0.15, ... exact


def check_fraction(value: float, name: str) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{argument(name)} {value}: must be at least 0 and below 1")


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    check_fraction(val_fraction, "val_fraction")
    check_fraction(test_fraction, "test_fraction")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"{argument('val_fraction')} {val_fraction} {argument('test_fraction')} {test_fraction}: leave nothing to "
            "train on; their sum must be below 1"
        )


def draw_order(strata: np.ndarray | None, count: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of `count` units in which any first few are of each stratum in its share, to within one.

    Within a stratum the units stand in random order; the i-th of its n comes at (i + 1/2) / n of the way.
    """
    order = rng.permutation(count)
    if strata is None:
        return order
    of = pd.Series(strata[order])
    place = (of.groupby(of).cumcount() + 0.5) / of.groupby(of).transform("size")
    return order[np.argsort(place.to_numpy(), kind="stable")]


def draw_parts(
    keys: Sequence[Hashable] | np.ndarray, val_fraction: float, test_fraction: float, seed: int,
    strata: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Random parts in which rows with the same key always stay together; shares are of distinct keys.

    Args:
        strata: (N,) int, of which each part has its share; a key's is that of its first row.
    """
    check_fractions(val_fraction, test_fraction)
    units, distinct = pd.factorize(np.fromiter(keys, dtype=object, count=len(keys)))
    if strata is not None:
        strata = strata[np.unique(units, return_index=True)[1]]
    count = len(distinct)
    order = draw_order(strata, count, np.random.default_rng(seed))
    n_test, n_val = round(test_fraction * count), round(val_fraction * count)
    part_of_unit = np.full(count, "train", dtype=object)
    part_of_unit[order[:n_test]] = "test"
    part_of_unit[order[n_test : n_test + n_val]] = "val"
    return part_of_unit[units]


def draw(
    grouping: Grouping, strata: np.ndarray | None, val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """`draw_parts` of rows in groups, where shares are of rows, as nearly as the groups allow.

    Raises:
        InputError: a part of whole groups would be far from the share asked for.
    """
    if grouping.labels is None:
        return draw_parts(grouping.units, val_fraction, test_fraction, seed, strata)
    check_fractions(val_fraction, test_fraction)
    parts = np.full(len(grouping.units), "train", dtype=object)
    left = 1.0
    for part, share in (("test", test_fraction), ("val", val_fraction)):
        if share == 0:
            continue
        rest = np.flatnonzero(parts == "train")
        chosen = _take(grouping.of(rest), None if strata is None else strata[rest], share / left, seed)
        parts[rest[chosen]] = part
        check_size(int(chosen.sum()), share, part, grouping)
        left -= share
    return parts


def _take(grouping: Grouping, strata: np.ndarray | None, share: float, seed: int) -> np.ndarray:
    """(N,) bool, whole groups that have about `share` of the rows: a few of many folds, those nearest in size."""
    groups = grouping.count
    if groups < 2:
        return np.zeros(len(grouping.units), dtype=bool)
    nearest = Fraction(share).limit_denominator(min(max(FINEST, ceil(1 / share)), groups))
    nearest = min(max(nearest, Fraction(1, groups)), Fraction(groups - 1, groups))
    folds = kept_whole(grouping, strata, nearest.denominator, seed)
    sizes = np.bincount(folds, minlength=nearest.denominator)
    off = np.abs(sizes - share * len(folds) / nearest.numerator)
    return np.isin(folds, np.argsort(off, kind="stable")[: nearest.numerator])


def kept_whole(grouping: Grouping, strata: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """(N,) int, a fold of each row: of strata and rows every fold has its share, as nearly as whole groups allow.

    Groups are put one after the other where they make folds most even, which takes about 30 us a group and fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units, first = np.unique(grouping.units, return_index=True)
    copies = grouping.labels is None  # so that each unit counts once, however many copies there are
    labels = np.zeros(len(grouping.units), dtype=np.int64) if strata is None else strata
    groups = units if copies else grouping.units
    labels = labels[first] if copies else labels
    if np.unique(labels, return_counts=True)[1].max() < count:
        labels = np.zeros_like(labels)
    kind = (StratifiedKFold if copies else StratifiedGroupKFold)(count, shuffle=True, random_state=seed % 2**32)
    folds = np.zeros(len(groups), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a stratum has fewer rows than there are folds
        for number, (_, test) in enumerate(kind.split(folds, labels, groups)):
            folds[test] = number
    return folds[np.searchsorted(units, grouping.units)] if copies else folds


def draw_folds(grouping: Grouping, strata: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """(N,) int, the fold of each row; groups whole, strata alike.

    Raises:
        InputError: there are fewer groups or sequences than folds, or groups that make folds very uneven.
    """
    if grouping.count < count:
        what = "different sequences" if grouping.labels is None else grouping.several
        raise InputError(f"{grouping.where}: {argument('folds', count)} of {grouping.count:,} {what}: must be no more")
    folds = kept_whole(grouping, strata, count, seed)
    if grouping.labels is not None:
        for number, size in enumerate(np.bincount(folds, minlength=count)):
            check_size(int(size), 1 / count, f"fold {number + 1}", grouping)
    return folds


def check_size(size: int, share: float, part: str, grouping: Grouping) -> None:
    """Raises InputError for a part that is empty, or less than half or more than twice what was asked for."""
    rows = len(grouping.units)
    if size > 0 and share * rows / 2 <= size <= share * rows * 2:
        return
    fold = part.startswith("fold")
    what = f"{part} of {round(1 / share)}" if fold else f"the {part} part"
    other = f"fewer {argument('folds')}" if fold else f"another {argument(f'{part}_fraction')}"
    raise InputError(
        f"{grouping.where}: {what} would have {size:,} rows where {share * rows:,.0f} were asked for, since groups "
        f"stay whole: {grouping.largest()}; give {other} or {grouping.remedy}"
    )
