"""The sequences to explain, from a file or the wild type, each with a name and its numbering."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..data import guesses
from ..data.blocks import Block
from ..data.guesses import find_column
from ..data.inputs import Encoded, Input
from ..data.sequences import encode_checked
from ..data.wild_types import read_wild_type
from ..errors import InputError, argument, refuse_without_effect
from ..prediction import Predictor
from ..references import own_offset
from ..settings.data import InputOptions
from ..settings.explain import ExplainOptions


@dataclass
class Item:
    """A sequence to explain, as the model reads it.

    Attributes:
        where: how messages call it: file, row and name.
        options: those of the run, with this sequence's numbering.
    """

    id: str
    sequence: str
    where: str
    options: ExplainOptions


class Items:
    """All sequences to explain; may be read several times.

    Attributes:
        given: the file, or None where it is the wild type; notes: warnings about that.
    """

    def __init__(
        self, predictor: Predictor, path: str | Path | None, options: InputOptions, explain: ExplainOptions
    ) -> None:
        """`path` None stands for the wild type: that of `options`, else the model's.

        Raises:
            InputError: the file cannot be read, or an option has no effect on it.
        """
        self.predictor, self.path, self.options, self.explain = predictor, path, options, explain
        self.given: Input | None = None
        self.notes: list[str] = []
        self.sequence: str | None = None  # the wild type, where it is what is explained
        options.check()
        if path is None:
            refuse_without_effect(options.given, ("sequence", "mutant", "separator"), "no file is given")
            self.sequence = predictor.source.wild_type if predictor.source is not None else None
            if options.wild_type is not None:
                self.sequence = read_wild_type(options.wild_type, self.notes.append)
            if self.sequence is None:
                raise InputError(
                    f"this model knows no wild type; give a file of sequences, or {argument('wild_type')} SEQUENCE"
                )
        else:
            self.given = Input(
                path, options, alphabet=predictor.alphabet, coverage=predictor.coverage, trained=predictor.source,
                numbered=True,
            )  # fmt: skip

    @property
    def skipped(self) -> int:
        """How many the last reading left out for letters outside the alphabet."""
        return self.given.skipped if self.given else 0

    def __iter__(self) -> Iterator[Item]:
        """Raises InputError: anything that a user can put right."""
        alphabet = self.predictor.alphabet
        seen: set[str] = set()
        for block, tokens, offsets, keep in self.given.encoded() if self.given else self.wild_type():
            table = block.table[keep]
            for number, (row, name) in enumerate(zip(table.index, self.names(table), strict=True)):
                sequence = alphabet.decode(tokens[offsets[number] : offsets[number + 1]])
                name = unique(name, seen)
                place = name if self.path is None else f"{self.path}, row {row} ({name})"
                yield Item(name, sequence, place, self.numbered(len(sequence), block))

    def wild_type(self) -> Iterator[Encoded]:
        assert self.sequence is not None
        block = Block(pd.DataFrame({"id": ["wild type"]}, index=[1]), [self.sequence], "sequence")
        rows, on_invalid = block.table.index, self.options.on_invalid
        yield (
            block,
            *encode_checked(
                block.sequences, rows, self.predictor.alphabet, on_invalid, argument("wild_type"), block.column
            ),
        )

    def names(self, table: pd.DataFrame) -> list[str]:
        """What each row is called: its name or mutations, else its line number."""
        column = find_column(table.columns, self.path, None, guesses.NAME)
        names = table[column].str.strip() if column is not None else [""] * len(table)
        return [name or f"row {row}" for row, name in zip(table.index, names, strict=True)]

    def numbered(self, length: int, block: Block) -> ExplainOptions:
        """The options with the number of the first residue: the one given, that of the mutations, that of the model's
        wild type for a sequence as long as it, else 1."""
        offset = self.options.offset if self.options.offset is not None else block.offset
        return replace(self.explain, offset=own_offset(self.predictor.source, length) if offset is None else offset)


def unique(name: str, seen: set[str]) -> str:
    """The name, with a number behind it if it is taken."""
    candidate, count = name, 1
    while candidate in seen:
        count += 1
        candidate = f"{name} ({count})"
    seen.add(candidate)
    return candidate
