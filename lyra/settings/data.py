"""How tables and sequences are to be read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..alphabets import ALPHABETS
from ..errors import InputError, argument, check_choice, refuse_without_effect, shorten

TASKS = ("regression", "classification", "token", "token-regression", "multilabel")
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
ON_INVALID = ("error", "skip", "unknown")
TRANSFORMS = ("none", "log", "rank")
ON_MISSING = ("error", "skip")
DECIMALS = ("point", "comma")
HOLDOUTS = ("random", "position", "degree")
EITHER = (("split", "folds"), ("split", "holdout"), ("group", "cluster"), ("group", "holdout"), ("cluster", "holdout"))
MOST_FOLDS = 100
NONE = "none"  # given as the split column, where there is none
BATCH_SIZE = 256  # sequences that a model predicts for at once
DEVICE = "auto"  # where: a GPU if there is one
INTERVAL = 0.9  # share of targets that an ensemble's intervals are to cover
MUTATION_OPTIONS = ("wild_type", "offset")


@dataclass
class DataOptions:
    """How a table is read. Every column is found by its usual names when not given.

    Attributes:
        sequence, target, split, mutant: column names; `split` "none" ignores a column that is called so. `target` may
            be several names: numbers, or classes that each are there (1) or not (0).
        wild_type: sequence (or FASTA file) that `mutant` refers to; offset: the number of its first residue.
        separator: between cells, "comma", "tab", "semicolon", "space", "pipe" or a character; None finds it.
        decimal: of numbers, "point" or "comma".
        alphabet: "protein", "dna", "rna"; None detects it.
        task: "regression", "classification", "token" (a class per residue), "token-regression" (a number per residue),
            "multilabel"; None finds it from the target.
        positive: of two classes, the one whose F1 and AUPRC are told; None takes the rarer one.
        weight: column of row weights in the loss; error: column of the targets' standard errors, by which rows are
            weighted.
        replicates: columns of the same quantity, names with commas between them; the target is their mean.
        censored: whether targets may be limits, such as <0.5 or >1000.
        transform: the scale on which numbers are learned: "log", log10, or "rank", normal scores of the training ranks;
            predictions and scores are in the target's own units.
        na: target cells, or of residues entries in them, that stand for no value, texts between commas; None takes NA,
            NaN, None, null and such.
        on_missing: rows without a target: "error" or "skip".
        unlabelled: of a class or number per residue, what stands for residues without one; "" if all have one.
        on_invalid: letters outside the alphabet: "error", "skip" the row, or read as the "unknown" letter.
        val_fraction, test_fraction: sizes of the parts drawn with `seed` when no column gives them.
        group: column whose equal values stand in one part, always.
        cluster: sequence identity, 0 to 1, from which sequences are clustered to stand in one part.
        stratify: draw parts in which classes, or tenths of a numeric target, are alike; None does where it matters.
        holdout: what the test part has that training has not: "random", nothing but chance; "position", mutations at
            other positions; "degree", more than `max_degree` mutations.
        folds: a number of folds, or the column that says which fold a row is in; None is one split.
        deduplicate: keep one copy of each sequence.
    """

    sequence: str | None = None
    target: str | Sequence[str] | None = None
    split: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int = 1
    separator: str | None = None
    decimal: str = "point"
    alphabet: str | None = None
    task: str | None = None
    positive: str | None = None
    weight: str | None = None
    error: str | None = None
    replicates: str | None = None
    censored: bool = False
    transform: str = "none"
    na: str | None = None
    on_missing: str = "error"
    unlabelled: str = "-"
    on_invalid: str = "error"
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    group: str | None = None
    cluster: float | None = None
    stratify: bool | None = None
    holdout: str = "random"
    max_degree: int = 2
    folds: int | str | None = None
    deduplicate: bool = False

    @property
    def number_of_folds(self) -> int | None:
        """How many folds are to be drawn; None where there are none, or a column says."""
        if self.folds is None or not re.fullmatch(r"\s*[+-]?\d+\s*", str(self.folds)):
            return None
        return int(self.folds)

    def check(self) -> None:
        """Raises InputError for an option that no table could follow."""
        for name, allowed in (
            ("on_invalid", ON_INVALID),
            ("on_missing", ON_MISSING),
            ("decimal", DECIMALS),
            ("transform", TRANSFORMS),
        ):
            check_choice(name, getattr(self, name), allowed)
        if self.transform == "rank" and self.error is not None:
            raise InputError(
                f"{argument('transform', 'rank')} {argument('error', self.error)}: an error of measurement is none of "
                f"a rank; give {argument('weight')}, or leave one out"
            )
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if self.weight is not None and self.error is not None:
            raise InputError(
                f"{argument('weight')} {shorten(self.weight)} {argument('error')} {shorten(self.error)}: rows are "
                "weighted by the one or the other; leave one out"
            )
        self._check_several()
        for name in ("target", "error"):
            if self.replicates is not None and (value := getattr(self, name)) is not None:
                raise InputError(
                    f"{argument('replicates')} {shorten(self.replicates)} {argument(name)} {shorten(value)}: "
                    f"replicates give the {name} by themselves; leave one out"
                )
        if self.replicates is not None and self.censored:
            raise InputError(
                f"{argument('replicates')} {shorten(self.replicates)} {argument('censored', True)}: a limit has no "
                "mean with measurements; give one column with limits as the target"
            )
        if self.numeric and self.task not in (None, "regression"):
            name = argument("censored", True) if self.censored else argument("replicates", self.replicates)
            raise InputError(
                f"{name} {argument('task', self.task)}: the target is one number a sequence; leave one out"
            )
        refers = self.wild_type if self.holdout == "random" else None  # else sequences may be its variants
        check_one_origin(self.sequence, "mutant" if self.mutant else "wild_type", self.mutant or refers)
        self._check_division()
        if self.alphabet is not None and self.alphabet.lower() not in ALPHABETS:
            check_choice("alphabet", self.alphabet, ALPHABETS)
        parse_separator(self.separator)

    @property
    def names(self) -> list[str]:
        """The target columns that were given."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())

    def _check_several(self) -> None:
        """Raises InputError for an option that means nothing with as many targets."""
        if len(self.names) < 2:
            if self.task == "multilabel":
                raise InputError(
                    f"{argument('task', 'multilabel')}: needs several columns of 0 and 1; give {argument('target')} "
                    "for each"
                )
            return
        for name, value in (("error", self.error), ("censored", self.censored or None)):
            if value is not None:
                raise InputError(f"{argument(name, value)}: is for one target, and there are {len(self.names)}; leave "
                                 "it out")  # fmt: skip
        if self.task not in (None, "regression", "multilabel"):
            raise InputError(
                f"{argument('task', self.task)}: several targets are numbers (regression) or 0 and 1 each (multilabel)"
                "; leave it out"
            )

    @property
    def numeric(self) -> bool:
        """Whether another option says that the target is a number."""
        return self.censored or self.replicates is not None

    def _check_division(self) -> None:
        check_choice("holdout", self.holdout, HOLDOUTS)
        if self.cluster is not None and not 0 < self.cluster <= 1:
            raise InputError(f"{argument('cluster')} {self.cluster}: must be above 0 and at most 1, such as 0.5")
        if self.max_degree < 1:
            raise InputError(f"{argument('max_degree')} {self.max_degree}: must be above 0")
        if self.seed < 0:
            raise InputError(f"{argument('seed')} {self.seed}: must not be negative")
        number = self.number_of_folds
        if number is not None and not 2 <= number <= MOST_FOLDS:
            raise InputError(f"{argument('folds')} {number}: must be 2 to {MOST_FOLDS}")
        if self.folds is not None and not 0 < self.val_fraction < 1:
            raise InputError(
                f"{argument('val_fraction')} {self.val_fraction}: must be above 0 and below 1 with "
                f"{argument('folds')}, of which each has its own validation part"
            )
        chosen = {name: getattr(self, name) for name in ("split", "group", "cluster", "holdout", "folds")}
        chosen["split"] = None if str(self.split).lower() == NONE else self.split
        chosen["holdout"] = None if self.holdout == "random" else self.holdout
        clashes = EITHER + ((("folds", "holdout"),) if self.holdout == "degree" else ())
        for one, other in clashes:
            if chosen[one] is not None and chosen[other] is not None:
                raise InputError(
                    f"{argument(one, chosen[one])} {argument(other, chosen[other])}: each says how the table is "
                    "divided; leave one out"
                )

    def check_effects(self, given: Collection[str]) -> None:
        """Raises InputError for one of the settings `given` that the way of dividing makes no use of."""
        if self.holdout != "degree":
            refuse_without_effect(given, ("max_degree",), f"without {argument('holdout', 'degree')}")
        else:
            refuse_without_effect(
                given, ("test_fraction",), f"rows of more than {argument('max_degree')} mutations are the test part"
            )
        if self.holdout == "position":
            refuse_without_effect(given, ("stratify",), "it is positions that are drawn, not rows")
        if self.folds is not None:
            refuse_without_effect(given, ("test_fraction",), f"each of the {argument('folds')} is the test part once")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class InputOptions:
    """How the file is read; None takes what the model was trained with. See `DataOptions`.

    Attributes:
        interval: of an ensemble of numbers, the share of measurements that the intervals are to cover; None takes .9.
    """

    sequence: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int | None = None
    separator: str | None = None
    on_invalid: str = "error"
    batch_size: int = BATCH_SIZE
    interval: float | None = None

    def check(self) -> None:
        check_choice("on_invalid", self.on_invalid, ON_INVALID)
        if self.batch_size < 1:
            raise InputError(f"{argument('batch_size')} {self.batch_size}: must be above 0")
        parse_separator(self.separator)
        check_one_origin(self.sequence, "mutant", self.mutant)

    @property
    def given(self) -> list[str]:
        """Names of the options that say where sequences come from, as far as they were given."""
        return [
            name for name in ("sequence", "mutant", "separator", *MUTATION_OPTIONS) if getattr(self, name) is not None
        ]


def parse_separator(given: str | None) -> str | None:
    """The character that a separator, given by its name or itself, stands for.

    Raises:
        InputError: it is neither a name nor one character.
    """
    if given is None:
        return None
    found = SEPARATORS.get(given.lower(), "\t" if given == "\\t" else given)
    if len(found) != 1 or found.isalnum() or found in "\"'\n\r+-.":
        raise InputError(
            f"{argument('separator')} {shorten(given)}: must be one of {', '.join(SEPARATORS)}, or one such character"
        )
    return found


def check_one_origin(sequence: str | None, name: str, other: str | None) -> None:
    """Raises InputError where sequences would come from a column of them and from mutations, `other`, as well."""
    if sequence is not None and other is not None:
        raise InputError(
            f"{argument('sequence')} {shorten(sequence)} {argument(name)} {shorten(other)}: sequences come from the "
            "one or the other; leave one out"
        )
