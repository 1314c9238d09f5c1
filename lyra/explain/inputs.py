"""The sequences to explain, from a file or the wild type, each with a name and its numbering."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..data.loading import encode_checked
from ..data.tables import MUTANT_COLUMNS, find_column, read_single_sequence
from ..errors import InputError
from ..prediction import Predictor
from ..prediction_files import Block, InputOptions, read_blocks
from .options import ExplainOptions

ID_COLUMNS = ("id", "name", "entry", "accession", *MUTANT_COLUMNS)  # what a row is called by, the first that is there


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


class Inputs:
    """All sequences to explain; may be read several times.

    Attributes:
        skipped: how many the last reading left out for letters outside the alphabet.
    """

    def __init__(
        self, predictor: Predictor, path: str | Path | None, options: InputOptions, explain: ExplainOptions
    ) -> None:
        """`path` None stands for the wild type: that of `options`, else the model's."""
        self.predictor, self.path, self.options, self.explain = predictor, path, options, explain
        self.skipped = 0

    def __iter__(self) -> Iterator[Item]:
        """Raises InputError: anything that a user can put right."""
        self.options.check()
        self.skipped = 0
        alphabet = self.predictor.alphabet
        seen: set[str] = set()
        where = "--wild-type" if self.path is None else self.path
        for block in self.blocks():
            tokens, offsets, keep = encode_checked(
                block.sequences, block.table.index, alphabet, self.options.on_invalid, where, block.column
            )
            self.skipped += int((~keep).sum())
            table = block.table[keep]
            for number, (row, name) in enumerate(zip(table.index, self.names(table), strict=True)):
                sequence = alphabet.decode(tokens[offsets[number] : offsets[number + 1]])
                name = unique(name, seen)
                place = name if self.path is None else f"{self.path}, row {row} ({name})"
                yield Item(name, sequence, place, self.numbered(len(sequence), block))

    def blocks(self) -> Iterator[Block]:
        if self.path is not None:
            yield from read_blocks(self.path, self.predictor, self.options)
            return
        given = self.options.wild_type
        wild_type = self.predictor.source.get("wild_type") if given is None else read_single_sequence(given)
        if wild_type is None:
            raise InputError("this model knows no wild type; give a file of sequences, or --wild-type SEQUENCE")
        if not wild_type:
            raise InputError("--wild-type: the sequence is empty; give its letters, or a FASTA file")
        yield Block(pd.DataFrame({"id": ["wild type"]}, index=[1]), [wild_type], "sequence")

    def names(self, table: pd.DataFrame) -> list[str]:
        """What each row is called: its name or mutations, else its line number."""
        column = find_column(table, str(self.path), None, ID_COLUMNS, "id", "")
        names = table[column].str.strip() if column is not None else [""] * len(table)
        return [name or f"row {row}" for row, name in zip(table.index, names, strict=True)]

    def numbered(self, length: int, block: Block) -> ExplainOptions:
        """The options with the number of the first residue: the one given, that of the mutations, that of the model's
        wild type for a sequence as long as it, else 1."""
        offset, source = self.options.offset, self.predictor.source
        if offset is None:
            offset = block.offset
        if offset is None and source.get("wild_type") and len(source["wild_type"]) == length:
            offset = source.get("offset")
        return replace(self.explain, offset=1 if offset is None else offset)


def unique(name: str, seen: set[str]) -> str:
    """The name, with a number behind it if it is taken."""
    candidate, count = name, 1
    while candidate in seen:
        count += 1
        candidate = f"{name} ({count})"
    seen.add(candidate)
    return candidate
