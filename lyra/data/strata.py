"""Strata: what each part has its share of, so that validation and test are distributed as training is."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy.stats import rankdata, skew

from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from .divisions import Material

BINS = 10
SKEWED = 1.0  # beyond which a distribution is called highly skewed (Bulmer 1979, Principles of Statistics)


def find_strata(
    material: Material, options: DataOptions, shares: Sequence[float]
) -> tuple[np.ndarray | None, list[str]]:
    """(N,) int, the stratum of each row or None, and what there is to say of it.

    Classes, of which a sequence with a class per residue has its most frequent one, are strata where each has enough
    rows for every part to get one. The strata of numbers, of those per residue their mean, are tenths of the rows in
    the order of their targets, fewer where there are few rows; unasked there are some where the target is skewed.

    Args:
        shares: of the parts that are drawn.

    Raises:
        InputError: strata are asked for, and no class has enough rows or all targets are equal.
    """
    shares = [share for share in shares if share > 0]
    if options.stratify is False or not shares:
        return None, []
    needed = ceil(1 / min(shares) - 1e-9)
    return (_classes if material.classes else _bins)(material, needed, options.stratify is None)


def _classes(material: Material, needed: int, unasked: bool) -> tuple[np.ndarray | None, list[str]]:
    labels, keys = material.labels, material.keys
    first = np.unique(keys, return_index=True)[1]
    counts = np.bincount(labels[first], minlength=len(material.classes))
    seen = np.flatnonzero(counts)
    fewest = seen[counts[seen].argmin()]
    if counts.max() < needed and not unasked:
        raise InputError(
            f"{material.where}: {argument('stratify', True)} needs a class with {needed} different sequences, one for "
            f"every part; the largest, {shorten(material.classes[counts.argmax()])}, has {counts.max()}"
        )
    if not unasked:
        return labels, []
    name, count = shorten(material.classes[fewest]), counts[fewest]
    if count < needed:
        return None, [f"parts drawn without regard to classes (class {name} has {count} sequences, {needed} needed)"]
    return labels, [f"parts drawn with classes in equal shares (each has at least {count:,} sequences)"]


def _bins(material: Material, needed: int, unasked: bool) -> tuple[np.ndarray | None, list[str]]:
    values = material.labels
    count = min(BINS, len(np.unique(material.keys)) // needed)
    if np.ptp(values) == 0 or count < 2:
        if unasked:
            return None, []
        why = "different targets" if count >= 2 else f"{2 * needed} different sequences"
        raise InputError(f"{material.where}: {argument('stratify', True)} needs {why}")
    skewness = float(skew(values))
    if unasked and abs(skewness) <= SKEWED:
        return None, []
    strata = ((rankdata(values) - 0.5) * count // len(values)).astype(np.int64)  # equal targets are in one
    names = {10: "tenths", 5: "fifths", 4: "quarters", 3: "thirds", 2: "halves"}
    said = f"parts drawn with {names.get(count, f'{count} quantile bins')} of the target in equal shares"
    return strata, [f"{said} (its skewness is {skewness:.1f})"] if unasked else []
