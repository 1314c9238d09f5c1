"""Which combinations are tried where there are too many to try all: a covering array.

With strength t, any t values of different axes occur together in some row, if not every combination of all axes does.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def product(axes: Mapping[str, Sequence[Any]]) -> list[Row]:
    """Every combination."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


class _Missing:
    """The combinations of ``strength`` values that no row has yet, as tuples of (axis, value) in the axes' order."""

    def __init__(self, axes: Mapping[str, Sequence[Any]], strength: int) -> None:
        self.groups = list(itertools.combinations(axes, min(strength, len(axes))))
        self.left = {
            tuple(zip(group, values, strict=True))
            for group in self.groups
            for values in itertools.product(*(axes[name] for name in group))
        }

    def best(self, row: Row, name: str, values: Sequence[Any]) -> Any:
        """The value of ``name`` with which a row that is not complete has the most of them."""
        groups = [g for g in self.groups if name in g and all(n in row or n == name for n in g)]

        def gained(value: Any) -> int:
            have = {**row, name: value}
            return sum(tuple((n, have[n]) for n in group) in self.left for group in groups)

        return max(values, key=gained)

    def take(self, row: Row) -> None:
        self.left.difference_update(tuple((n, row[n]) for n in group) for group in self.groups)


def _complete(row: Row, axes: Mapping[str, Sequence[Any]], missing: _Missing) -> Row:
    """The row with a value for every axis, each the one that adds most."""
    for name, values in axes.items():
        if name not in row:
            row[name] = missing.best(row, name, values)
    missing.take(row)
    return {name: row[name] for name in axes}


def cover(axes: Mapping[str, Sequence[Any]], strength: int, begun: Iterable[Row] = ()) -> list[Row]:
    """Rows in which any ``strength`` values of different axes occur together; the same in every run.

    Args:
        axes: values by name, each axis with at least one.
        strength: 2 for pairs, 3 for triples.
        begun: rows that are wanted in any case; axes that they leave out are filled in.
    """
    missing = _Missing(axes, strength)
    # By axis too: what is equal would be taken in the order of a set, which no two runs share.
    order = {
        (name, value): (axis, place)
        for axis, (name, values) in enumerate(axes.items())
        for place, value in enumerate(values)
    }
    rows = [_complete(dict(row), axes, missing) for row in begun]
    for group in sorted(missing.left, key=lambda g: [order[item] for item in g]):
        if group in missing.left:
            rows.append(_complete(dict(group), axes, missing))
    return rows


def _distinct(pool: Sequence[Row]) -> list[list[int]]:
    """Columns of the pool's values, numbered; of those that tell the same rows apart only the first."""
    names = dict.fromkeys(name for row in pool for name in row)
    columns: dict[tuple[int, ...], None] = {}
    for name in names:
        numbers: dict[str, int] = {}
        column = tuple(numbers.setdefault(repr(row.get(name)), len(numbers)) for row in pool)
        if len(numbers) > 1:
            columns.setdefault(column)
    return [list(column) for column in columns]


def choose(pool: Sequence[Row], strength: int) -> list[int]:
    """Which rows of a pool to take so that whatever ``strength`` values occur together in the pool do so in them.

    Greedy: always the row that adds most, of several the first. Returns indices, in the order in which they were taken.
    """
    columns = _distinct(pool)
    groups = list(itertools.combinations(range(len(columns)), min(strength, len(columns))))
    left = [{(g, *(columns[c][i] for c in group)) for g, group in enumerate(groups)} for i in range(len(pool))]
    seen: set[tuple[int, ...]] = set()
    queue = [(-len(items), i) for i, items in enumerate(left)]
    heapq.heapify(queue)
    taken = []
    while queue:
        _, i = heapq.heappop(queue)
        left[i] -= seen
        if not left[i]:
            continue
        if queue and (-len(left[i]), i) > queue[0]:  # what it adds has shrunk since it was queued
            heapq.heappush(queue, (-len(left[i]), i))
            continue
        taken.append(i)
        seen |= left[i]
    return taken or [0][: len(pool)]
