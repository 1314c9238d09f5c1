"""How variants are read and scored."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, argument, check_choice
from .data import parse_separator

ON_INVALID = ("error", "empty")


@dataclass(kw_only=True)
class VariantOptions:
    """How variants are read and scored.

    Attributes:
        genome: of a VCF, the FASTA file that its positions refer to.
        window: of a VCF, bases around each variant that the model reads; None takes the longest training sequence.
        hgvs: of a table, the column of HGVS strings.
        wild_type, offset: what those refer to, and the number of its first residue; None takes the model's.
        separator: between the table's cells; None finds it.
        class_name: of a classifier, the class whose log-odds are told; None takes the positive one of two classes.
        on_invalid: variants that cannot be scored: "error", or "empty" cells and the reason in the column note.
    """

    genome: str | None = None
    window: int | None = None
    hgvs: str | None = None
    wild_type: str | None = None
    offset: int | None = None
    separator: str | None = None
    class_name: str | None = None
    on_invalid: str = "error"

    def check(self) -> None:
        """Raises InputError for what no file could follow."""
        check_choice("on_invalid", self.on_invalid, ON_INVALID)
        parse_separator(self.separator)
        if self.window is not None and self.window < 1:
            raise InputError(f"{argument('window')} {self.window}: must be above 0")

    @property
    def given(self) -> list[str]:
        """Names of the options that were given, as far as they belong to one kind of file."""
        names = ("genome", "window", "hgvs", "wild_type", "offset", "separator")
        return [name for name in names if getattr(self, name) is not None]
