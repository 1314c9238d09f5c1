"""How a labelled table is to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError, argument, check_choice, shorten
from . import sequences, targets
from .tables import parse_separator

ON_INVALID = ("error", "skip", "unknown")
ON_MISSING = ("error", "skip")
DECIMALS = ("point", "comma")


@dataclass
class DataOptions:
    """How a table is read. Every column is found by its usual names when not given.

    Attributes:
        sequence, target, split, mutant: column names; `split` "none" ignores a column that is called so.
        wild_type: sequence (or FASTA file) that `mutant` refers to; offset: the number of its first residue.
        separator: between cells, "comma", "tab", "semicolon", "space", "pipe" or a character; None finds it.
        decimal: of numbers, "point" or "comma".
        alphabet: "protein", "dna", "rna"; None detects it.
        task: "regression", "classification", "token"; None finds it from the target.
        positive: of two classes, the one whose F1 and AUPRC are told; None takes the rarer one.
        na: target cells that stand for no value, texts between commas; None takes NA, NaN, None, null and such.
        on_missing: rows without a target: "error" or "skip".
        unlabelled: of a class per residue, the label of residues without one; "" if all have one.
        on_invalid: letters outside the alphabet: "error", "skip" the row, or read as the "unknown" letter.
        val_fraction, test_fraction: sizes of the parts drawn with `seed` when no column gives them.
        deduplicate: keep one copy of each sequence.
    """

    sequence: str | None = None
    target: str | None = None
    split: str | None = None
    mutant: str | None = None
    wild_type: str | None = None
    offset: int = 1
    separator: str | None = None
    decimal: str = "point"
    alphabet: str | None = None
    task: str | None = None
    positive: str | None = None
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
        for name, allowed in (("on_invalid", ON_INVALID), ("on_missing", ON_MISSING), ("decimal", DECIMALS)):
            check_choice(name, getattr(self, name), allowed)
        if self.task is not None:
            check_choice("task", self.task, targets.TASKS)
        if self.sequence is not None and (given := self.mutant or self.wild_type) is not None:
            other = argument("mutant" if self.mutant else "wild_type")
            raise InputError(
                f"{argument('sequence')} {shorten(self.sequence)} {other} {shorten(given)}: sequences come from the "
                "one or the "
                "other; leave one out"
            )
        sequences.choose_alphabet(self.alphabet, [], "")
        parse_separator(self.separator)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
