"""How tables and sequences are to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..alphabets import ALPHABETS
from ..errors import InputError, argument, check_choice, shorten

TASKS = ("regression", "classification", "token", "multilabel")
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
ON_INVALID = ("error", "skip", "unknown")
TRANSFORMS = ("none", "log", "rank")
ON_MISSING = ("error", "skip")
DECIMALS = ("point", "comma")
BATCH_SIZE = 256  # sequences that a model predicts for at once
DEVICE = "auto"  # where: a GPU if there is one
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
        task: "regression", "classification", "token", "multilabel"; None finds it from the target.
        positive: of two classes, the one whose F1 and AUPRC are told; None takes the rarer one.
        weight: column of row weights in the loss; error: column of the targets' standard errors, by which rows are
            weighted.
        replicates: columns of the same quantity, names with commas between them; the target is their mean.
        censored: whether targets may be limits, such as <0.5 or >1000.
        transform: the scale on which numbers are learned: "log", log10, or "rank", normal scores of the training ranks;
            predictions and scores are in the target's own units.
        na: target cells that stand for no value, texts between commas; None takes NA, NaN, None, null and such.
        on_missing: rows without a target: "error" or "skip".
        unlabelled: of a class per residue, the label of residues without one; "" if all have one.
        on_invalid: letters outside the alphabet: "error", "skip" the row, or read as the "unknown" letter.
        val_fraction, test_fraction: sizes of the parts drawn with `seed` when no column gives them.
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
    deduplicate: bool = False

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
            raise InputError(f"{name} {argument('task', self.task)}: the target is a number; leave one out")
        check_one_origin(self.sequence, "mutant" if self.mutant else "wild_type", self.mutant or self.wild_type)
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class InputOptions:
    """How the file is read; None takes what the model was trained with. See `DataOptions`."""

    sequence: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int | None = None
    separator: str | None = None
    on_invalid: str = "error"
    batch_size: int = BATCH_SIZE

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
