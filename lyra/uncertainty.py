"""How far predictions are off, from how far they were off on rows held out: conformal intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .errors import InputError, argument
from .transforms import Transform, back, mapped, read_transform

MOST = 1000  # scores that are kept


@dataclass(frozen=True)
class Calibration:
    """The errors of one target on held-out rows; part of a model's metadata.

    Split conformal prediction (Vovk, Gammerman, Shafer 2005; Lei et al. 2018): the interval around a prediction that
    covers a share `coverage` of new targets has as half width the k-th smallest of the n held-out errors,
    k = ceil((n + 1) coverage), if new rows are exchangeable with those held out. With `floor` errors are in units of
    sqrt(floor^2 + spread^2), `spread` being how far the replicates of an ensemble are apart for that sequence.

    The rows held out by `lyra train` have also chosen the epochs (but not in a mix by folds), the penalties and the
    weights of a mix, so that their errors are somewhat smaller than those on new rows, and the intervals narrower. The
    rows of `--folds` have chosen nothing.

    Errors are differences on `scale`, where the interval is as wide to both sides; it is mapped back to the target's
    units, which keeps what it covers, for a rising map keeps the order of targets and ends.

    Attributes:
        scores: errors in ascending order, at most `MOST` of them, which then stand for `rows` errors.
        rows: how many rows were held out; of residues, how many sequences.
        floor: in the units of `scale`; None where the spread plays no part.
        scale: the one that the target was learned on; None is its own.
    """

    scores: list[float]
    rows: int
    floor: float | None = None
    scale: Transform | None = None

    @classmethod
    def measured(
        cls, values: np.ndarray, predicted: np.ndarray, members: np.ndarray | None = None,
        scale: Transform | None = None,
    ) -> Calibration:  # fmt: skip
        """From held-out targets (N,) and their predictions (N,), in the target's units.

        Args:
            members: (N, R) what the replicates predict, where their spread says something of the errors.
        """
        spread = None if members is None else mapped(scale, members).std(1)
        return cls.of(mapped(scale, values) - mapped(scale, predicted), spread, scale)

    @classmethod
    def of(cls, errors: np.ndarray, spread: np.ndarray | None = None, scale: Transform | None = None) -> Calibration:
        """From the errors (N,) of held-out predictions and the replicates' spread there (N,), both on `scale`."""
        errors = np.abs(np.asarray(errors, np.float64))
        floor = None
        if spread is not None:
            floor = max(float(np.sqrt(np.mean(errors**2))), float(np.finfo(np.float64).tiny))
            errors = errors / np.hypot(floor, spread)
        scores = np.sort(errors)
        if len(scores) > MOST:  # the upper end of each of so many equal parts
            scores = scores[np.ceil(np.arange(1, MOST + 1) * len(scores) / MOST).astype(int) - 1]
        return cls(scores.tolist(), len(errors), floor, scale)  # not rounded: the interval ends on one of them

    @classmethod
    def of_groups(
        cls, errors: np.ndarray, groups: np.ndarray, spread: np.ndarray | None = None, scale: Transform | None = None
    ) -> Calibration:
        """From the errors (N,) at residues, those of a sequence being alike: `rows` is the number of sequences.

        Each sequence counts alike, whatever its length, and the intervals cover a share of a new sequence's residues,
        on average over such sequences: hierarchical conformal prediction (Lee, Barber, Willett 2023).

        Args:
            groups: (N,) the sequence of each; spread, scale: as for `of`.
        """
        one = cls.of(errors, spread)
        floor = one.floor
        errors = np.abs(errors) if spread is None or floor is None else np.abs(errors) / np.hypot(floor, spread)
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        order = np.argsort(errors)
        share = np.cumsum((1 / sizes[group])[order]) / len(sizes)
        steps = np.arange(1, MOST + 1) / MOST
        at = np.searchsorted(share, steps * (1 - 1e-12)).clip(max=len(order) - 1)
        return cls(errors[order][at].tolist(), len(sizes), floor, scale)

    def half_width(self, coverage: float, spread: np.ndarray) -> np.ndarray:
        """(N,) half widths of the intervals, on `scale`, for predictions with this spread (N,).

        Raises:
            InputError: `coverage` is no share, or so near to 1 that more rows would have had to be held out.
        """
        if not 0 < coverage < 1:
            raise InputError(f"{argument('interval')} {coverage}: must be above 0 and below 1, such as 0.9")
        if self.rows < (needed := needed_rows(coverage)):
            raise InputError(
                f"{argument('interval')} {coverage}: needs at least {needed:,} rows held out in training, and there "
                f"were {self.rows:,}; ask for less"
            )
        k = math.ceil((self.rows + 1) * exact(coverage))
        score = self.scores[
            -(-k * len(self.scores) // self.rows) - 1
        ]  # of those that are kept the first that is no less
        return np.full(len(spread), score) if self.floor is None else score * np.hypot(self.floor, spread)

    def interval(self, members: np.ndarray, coverage: float) -> np.ndarray:
        """(N, 2) the ends of the intervals in the target's units, from what the replicates (N, R) predict.

        Raises:
            InputError: as `half_width`.
        """
        half = self.half_width(coverage, mapped(self.scale, members).std(1))
        centre = mapped(self.scale, members.mean(1))
        return back(self.scale, np.stack([centre - half, centre + half], axis=1))

    def to_json(self) -> dict[str, Any]:
        scale = {} if self.scale is None else {"scale": self.scale.to_json()}
        return {"scores": self.scores, "rows": self.rows, "floor": self.floor, **scale}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(**{**saved, "scale": read_transform(saved.get("scale"))})


def needed_rows(coverage: float) -> int:
    """Rows that must be held out for intervals of this coverage: the least n with (n + 1) coverage <= n."""
    return math.ceil(exact(coverage) / (1 - exact(coverage)))


def exact(coverage: float) -> Fraction:
    """The decimal number that was meant: .9 / (1 - .9) of floats is above 9, and one row more would be asked for."""
    return Fraction(str(float(coverage)))
