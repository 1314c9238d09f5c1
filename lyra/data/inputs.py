"""The sequences of a file for a model, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..alphabets import Alphabet
from ..errors import InputError
from ..settings.data import InputOptions
from .blocks import Block, Request
from .coverage import Coverage, Strangers
from .formats import format_of
from .rows import RowCount
from .sequences import TableSource, encode_checked, without_stop
from .sources import Source
from .wild_types import read_wild_type

Encoded: TypeAlias = tuple[Block, np.ndarray, np.ndarray, np.ndarray]  # tokens, offsets, which rows are kept


def without_new_stops(sequences: list[str], alphabet: Alphabet, coverage: Coverage | None) -> tuple[list[str], int]:
    """Proteins without a final '*', unless the model knows '*' from its training; and how many had one."""
    known = coverage is None or "*" in coverage.letters
    if alphabet.name != "protein" or known:
        return sequences, 0
    trimmed = list(map(without_stop, sequences))
    return trimmed, sum(map(len, sequences)) - sum(map(len, trimmed))


class Input:
    """The sequences of a file for a model, block by block, as often as wanted.

    Attributes:
        count: rows of the last reading so far, used and set aside.
        remarks: what was guessed of the file; notes: warnings about how it is read.
    """

    def __init__(
        self,
        path: str | Path | Source,
        options: InputOptions,
        *,
        alphabet: Alphabet,
        coverage: Coverage | None = None,
        trained: TableSource | None = None,
        numbered: bool = False,
    ) -> None:
        """Opens a file.

        Args:
            alphabet: the model's; coverage, trained: the sequences and the table that it was trained on, if known.
            numbered: whether whole sequences, too, are numbered from `options.offset`.

        Raises:
            InputError: the file cannot be read, or an option has no effect on it.
        """
        options.check()
        self.source, self.alphabet, self.coverage = Source.of(path), alphabet, coverage
        self.on_invalid = options.on_invalid
        self._outside = f"with letters outside the {alphabet.name} alphabet"
        self.notes: list[str] = []
        found = format_of(self.source)
        wild_type = read_wild_type(options.wild_type, self.notes.append) if found.columns else None
        self.reader = found.reader(self.source, Request(options, trained, wild_type, numbered))
        self.remarks = [self.source.remark] if self.source.remark else []
        self.remarks += self.reader.remarks
        self._begin()

    def _begin(self) -> None:
        self.count, self.stops = RowCount(), 0
        self.strangers = Strangers(self.alphabet, self.coverage)

    def encoded(self) -> Iterator[Encoded]:
        """Blocks with the tokens and offsets of the sequences that are kept, and which rows these are.

        Raises:
            InputError: anything that a user can put right, a file without sequences included.
        """
        self._begin()
        for block in self.reader.blocks():
            block.sequences = self._without_stops(block)
            rows = block.table.index
            tokens, offsets, keep = encode_checked(
                block.sequences, rows, self.alphabet, self.on_invalid, self.source, block.column
            )
            kept = [sequence for sequence, wanted in zip(block.sequences, keep, strict=True) if wanted]
            self.strangers.watch(kept, rows[keep].tolist(), tokens, offsets)
            self.count.used += int(keep.sum())
            self.count.aside[self._outside] += int((~keep).sum())
            yield block, tokens, offsets, keep
        self.count.aside["without anything in them"] = self.reader.blank
        if self.count.used + self.skipped == 0:
            raise InputError(f"{self.source}: has no sequences; it needs FASTA records, or a header line and rows")

    @property
    def skipped(self) -> int:
        """Sequences left out for their letters."""
        return self.count.aside[self._outside]

    def _without_stops(self, block: Block) -> list[str]:
        """Proteins without a final '*', unless the model knows '*' from its training."""
        if block.offset is not None:
            return block.sequences
        trimmed, stops = without_new_stops(block.sequences, self.alphabet, self.coverage)
        self.stops += stops
        return trimmed

    def warnings(self) -> list[str]:
        """What to tell about the sequences read, each a line."""
        found = [f"{self.stops:,} sequences end in '*', a stop codon, which is taken off"] if self.stops else []
        return [*self.notes, *(f"{self.source}: {text}" for text in (*found, *self.strangers.warnings()))]
