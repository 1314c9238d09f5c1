"""Rows that must stand in one part: copies of a sequence, groups that a column names, clusters of similar sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from .clusters import find_clusters
from .divisions import ASIDE, Grouping, Material
from .guesses import Role, find_column
from .targets import MISSING


def find_grouping(material: Material, options: DataOptions, warn: Callable[[str], None]) -> tuple[Grouping, list[str]]:
    """What must stay together, and what there is to say of it.

    Raises:
        InputError: the group of a row is missing, or the sequences cannot be clustered.
    """
    if options.group is not None:
        grouping = group_by_column(material, options.group, warn)
        return grouping, [f"{grouping.count:,} groups in column {shorten(options.group)}"]
    if options.cluster is not None:
        clusters, how = find_clusters(material, options.cluster, warn)
        count = len(np.unique(clusters))
        grouping = Grouping(
            clusters, clusters + 1, material.where, "cluster", "clusters", f"a higher {argument('cluster')}"
        )
        return grouping, [f"{count:,} clusters at {options.cluster:.0%} identity ({how})"]
    return Grouping(material.keys, None, material.where), []


def group_by_column(material: Material, given: str, warn: Callable[[str], None]) -> Grouping:
    """The groups that a column names; those that share a sequence are one."""
    column = find_column(list(material.table.columns), material.where, given, Role("group", "group", ()))
    assert column is not None
    cells = material.table[column].str.strip()
    missing = cells.str.lower().isin(MISSING).to_numpy()
    if missing.any():
        row, cell = material.table.index[missing.argmax()], cells.iloc[int(missing.argmax())]
        what = f"missing ({shorten(cell)})" if cell else "empty"
        raise InputError(
            f"{material.where}, row {row}, column {column}: the group is {what}; fill it in (a name of its own for a "
            "row that belongs to none) or remove the row"
        )
    codes, names = pd.factorize(cells)
    units = hang_together(material.keys, codes)
    if joined := len(names) - len(np.unique(units)):
        warn(
            f"{material.where}, column {column}: sequences stand in more than one group, so groups that share them "
            f"stay together, which leaves {len(names) - joined:,} of {len(names):,}"
        )
    return Grouping(units, cells.to_numpy(dtype=object), material.where, f"group of column {column}", "groups")


def hang_together(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) int, the same for rows that are linked by equal values in `one` or `other`, however many steps apart."""
    shift = int(one.max()) + 1
    links = coo_matrix((np.ones(len(one)), (one, other + shift)), shape=(shift + int(other.max()) + 1,) * 2)
    return connected_components(links, directed=False)[1][one]


def check_whole(grouping: Grouping, labels: np.ndarray, column: str, remedy: str) -> None:
    """Raises InputError where `column` puts rows of one group into two parts or folds, `labels`."""
    if grouping.labels is None:
        return
    table = pd.DataFrame({"group": grouping.labels, "part": labels})
    table = table[table["part"] != ASIDE]
    torn = table.groupby("group", sort=False)["part"].nunique()
    torn = torn[torn > 1]
    if len(torn):
        first = table[table["group"] == torn.index[0]]["part"].unique()
        raise InputError(
            f"{grouping.where}, column {column}: tears {len(torn):,} {grouping.several} apart, such as "
            f"{grouping.what} {torn.index[0]}, which stands in {first[0]} and {first[1]}; {remedy}"
        )
