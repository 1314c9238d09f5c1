"""Test parts of a mutational scan that are unlike training by design: other positions, or more mutations."""

from __future__ import annotations

import numpy as np

from ..errors import InputError, argument, shorten
from ..settings.data import DataOptions
from .divisions import ASIDE, PARTS, Grouping, Material, Split
from .draws import draw, draw_folds, draw_parts
from .strata import find_strata
from .tables import listed
from .wild_types import encode_wild_type

MIXED = "with mutations at positions of several parts"  # why rows are set aside
USUAL = 0.5  # share of the sequences that must have a position's most common letter for it to be the wild type's


def find_mutated(material: Material, options: DataOptions) -> tuple[np.ndarray, list[str]]:
    """(N, L) bool, the positions at which each sequence differs from the wild type, and what there is to say of that.

    Raises:
        InputError: sequences of other lengths than the wild type, no mutations, or, where no wild type is given, no
            letter that most sequences have at a position.
    """
    name = argument("holdout", options.holdout)
    lengths = np.diff(material.offsets)
    wild_type = None if material.wild_type is None else encode_wild_type(material.wild_type, material.alphabet)
    length = int(lengths[0]) if wild_type is None else len(wild_type)
    if (lengths != length).any():
        at = int((lengths != length).argmax())
        what = "the wild type" if wild_type is not None else "the first sequence"
        raise InputError(
            f"{material.where}, row {material.table.index[at]}, column {material.column}: has {lengths[at]} letters, "
            f"{what} {length}; {name} needs variants of one wild type, all as long as it is"
        )
    tokens, said = material.tokens.reshape(-1, length), []
    if wild_type is None:
        wild_type = common_letters(material, tokens, name)
        letters = shorten(material.alphabet.decode(wild_type))
        said = [f"wild type {letters} (the most common letter at each position)"]
    mutated = tokens != wild_type
    if not mutated.any():
        raise InputError(f"{material.where}: {name}: no row has a mutation")
    if (never := np.flatnonzero(mutated.all(0))).size:
        places = listed([f"{material.alphabet.decode(wild_type[[site]])}{site + material.offset}" for site in never])
        said.append(f"no row has the wild type's {places}, which counts as a mutation of every row")
    return mutated, said


def common_letters(material: Material, tokens: np.ndarray, name: str) -> np.ndarray:
    """(L,) the most common token at each position; an InputError where none is that of most sequences."""
    size = len(material.alphabet)
    counts = np.stack([(tokens == token).sum(0) for token in range(size)])
    rare = counts.max(0) < USUAL * len(tokens)
    if rare.any():
        raise InputError(
            f"{material.where}, column {material.column}: {name} needs the wild type, and at position "
            f"{int(rare.argmax()) + material.offset} no letter is that of most sequences; give {argument('wild_type')}"
        )
    return counts.argmax(0).astype(tokens.dtype)


def find_holdout(material: Material, options: DataOptions) -> Split:
    """The split by `options.holdout`, "position" or "degree".

    Raises:
        InputError: see `find_mutated`; or a part would have nothing in it.
    """
    mutated, said = find_mutated(material, options)
    divide = by_degree if options.holdout == "degree" else by_position
    parts, more = divide(mutated, material, options)
    return Split(parts, said=[*said, *more])


def by_degree(mutated: np.ndarray, material: Material, options: DataOptions) -> tuple[np.ndarray, list[str]]:
    """Rows of more than `max_degree` mutations are the test part; validation is drawn from the others.

    The wild type is in training.
    """
    degree, limit = mutated.sum(1), options.max_degree
    least, most = degree[degree > 0].min(), degree.max()
    if most <= limit or least > limit:
        has = f"no row has more than {most}" if most <= limit else f"every mutant has at least {least}"
        fits = f"give at least {least} and less than {most}" if least < most else "there is no other degree to test on"
        raise InputError(f"{material.where}: {argument('max_degree', limit)} mutations: {has}; {fits}")
    parts = np.where(degree > limit, "test", "train").astype(object)  # of which some are for validation
    rest = np.flatnonzero((degree > 0) & (degree <= limit))
    strata, said = find_strata(material, options, [options.val_fraction])
    grouping = Grouping(material.keys, None, material.where).of(rest)
    parts[rest] = draw(grouping, None if strata is None else strata[rest], options.val_fraction, 0.0, options.seed)
    return parts, said


def by_position(mutated: np.ndarray, material: Material, options: DataOptions) -> tuple[np.ndarray, list[str]]:
    """Positions are divided into parts; a row is where all of its mutations are, or aside. The wild type trains."""
    sites = np.flatnonzero(mutated.any(0))
    shares = {"val": options.val_fraction, "test": options.test_fraction}
    refuse_few_sites(len(sites), shares, material)
    part_of_site = np.full(mutated.shape[1], "train", dtype=object)
    part_of_site[sites] = draw_parts(sites, shares["val"], shares["test"], options.seed)
    parts = parts_by_site(mutated, part_of_site)
    for part, share in shares.items():
        if share and not (parts == part).any():
            raise InputError(
                f"{material.where}: no row has all of its mutations at the positions of the {part} part "
                f"({(part_of_site == part).sum()} of {len(sites)}); give a larger {argument(f'{part}_fraction')}"
            )
    numbers = [f"{(part_of_site[sites] == part).sum()} {part}" for part in PARTS]
    return parts, [f"positions: {', '.join(numbers)}"]


def refuse_few_sites(count: int, shares: dict[str, float], material: Material) -> None:
    """Raises InputError where a share of the mutated positions is less than one."""
    for part, share in shares.items():
        if share and round(share * count) == 0:
            raise InputError(
                f"{material.where}: {argument(f'{part}_fraction')} {share:g} of {count} mutated positions is none; "
                f"give at least {np.ceil(100 / count) / 100:g}"
            )


def parts_by_site(mutated: np.ndarray, part_of_site: np.ndarray) -> np.ndarray:
    """(N,) the part that all mutations of a row are in, "aside" where they are in several, "train" without any."""
    degree = mutated.sum(1)
    parts = np.full(len(mutated), ASIDE, dtype=object)
    for part in reversed(PARTS):
        parts[mutated[:, part_of_site == part].sum(1) == degree] = part
    return parts


def folds_by_position(mutated: np.ndarray, material: Material, options: DataOptions, count: int) -> Split:
    """Positions are divided into folds; those of a fold are its test part, a share of the others its validation part.

    A row with mutations in two folds is trained on in the folds that hold none of its positions out, and aside in the
    others.
    """
    sites = np.flatnonzero(mutated.any(0))
    fold_of_site = np.full(mutated.shape[1], -1)
    if len(sites) < count:
        raise InputError(f"{material.where}: {argument('folds', count)} of {len(sites)} mutated positions: must be no "
                         "more")  # fmt: skip
    fold_of_site[sites] = draw_folds(Grouping(sites), None, count, options.seed)
    folds, fold_of = [], np.full(len(mutated), -1)
    for number in range(count):
        part_of_site = np.full(mutated.shape[1], "train", dtype=object)
        part_of_site[fold_of_site == number] = "test"
        rest = np.flatnonzero((fold_of_site != number) & (fold_of_site >= 0))
        refuse_few_sites(len(rest), {"val": options.val_fraction}, material)
        part_of_site[rest] = draw_parts(rest, options.val_fraction, 0.0, options.seed + number)
        folds.append(parts_by_site(mutated, part_of_site))
        fold_of[folds[-1] == "test"] = number
    split = Split(folds[0], folds, fold_of, [str(number + 1) for number in range(count)])
    split.said = [f"{len(sites)} positions in {count} folds"]
    if never := int((split.used & (fold_of < 0) & mutated.any(1)).sum()):
        split.said.append(f"{never:,} rows with mutations in several folds are in no test part")
    return split
