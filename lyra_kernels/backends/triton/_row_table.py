"""Rows: which tokens the programs of a kernel over sequences take, without asking the host.

A *row* is a stretch of at most ``segment`` tokens of one sequence, walked by one lane of a program. Where the sequences
alone fill the card there is one row a sequence, else several. A program works out its rows by itself (:func:`row_at`);
those that go through all rows again and again read them from a table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import SCAN_CHUNK as CHUNK
from ._launch import Config, cdiv, jit, launch, processors

COLUMNS = 2


@triton.jit
def column_ptrs(table_ptr, row, COLUMN: tl.constexpr):
    """Pointers to a column of the table at ``row``, int64, of its shape.

    Columns: "start", the row's first token, counted in the tokens of the batch; "length", how many it has.
    """
    # By name: constants of a module would cost each launch microseconds, in which Triton looks if they have changed.
    ptrs = table_ptr + row * 2
    if COLUMN == "start":
        return ptrs
    else:
        tl.static_assert(COLUMN == "length")
        return ptrs + 1


@triton.jit
def row_at(
    row,
    lengths_ptr,
    cu_seqlens_ptr,
    L,
    S,
    num_rows,
    num_segments,
    segment_len,
    REVERSE: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
):
    """Of each ``row``, a tensor: its sequence, first token, tokens, slot of its first checkpoint, and flags.

    First tokens are counted in the tokens of the batch; flags: 1 for the first row of a sequence plus 2 for the last.
    A row that is not below num_rows has no tokens.

    Args:
        lengths_ptr: ``(S,)`` int64, tokens of each sequence; read where HAS_LENGTHS.
        cu_seqlens_ptr: ``(S + 1,)`` int64, where packed sequences begin; read where PACKED.
        L: tokens of a sequence where not PACKED.
        S: sequences.
        num_segments: rows of a sequence where not PACKED.
        segment_len: tokens of a row, but of the last of a sequence.
        REVERSE: a sequence is walked from its end: its first row begins at its last token.
        SAVE_EVERY: tokens between checkpoints.
    """
    there = row < num_rows
    if PACKED:
        # Sequence s takes the rows from cu_seqlens[s] // segment_len + s on: the last of them that begins in time.
        s = row.to(tl.int64) * 0
        candidates = S
        while candidates > 1:
            half = candidates // 2
            first = tl.load(cu_seqlens_ptr + (s + half)) // segment_len + (s + half)
            s = tl.where(first <= row, s + half, s)
            candidates -= half
        begin = tl.load(cu_seqlens_ptr + s, mask=there, other=0)
        length = tl.load(cu_seqlens_ptr + s + 1, mask=there, other=0) - begin
        i = row - (begin // segment_len + s)
        slot = begin // SAVE_EVERY + s
    else:
        s = (row // num_segments).to(tl.int64)
        i = (row % num_segments).to(tl.int64)
        begin = s * L
        if HAS_LENGTHS:
            length = tl.load(lengths_ptr + s, mask=there, other=0)
        else:
            length = begin * 0 + L
        slot = s * ((L + SAVE_EVERY - 1) // SAVE_EVERY)
    tokens = tl.minimum(tl.maximum(length - i * segment_len, 0), segment_len)
    start = begin + i * segment_len
    if REVERSE:
        start = begin + length - 1 - i * segment_len
    last = i == tl.maximum((length + segment_len - 1) // segment_len, 1) - 1
    flags = (i == 0).to(tl.int32) + 2 * last.to(tl.int32)
    slot += i * (segment_len // SAVE_EVERY)
    return s, start, tl.where(there, tokens, 0).to(tl.int32), slot, flags


@jit
def _rows(
    table_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    L,
    S,
    num_rows,
    num_segments,
    segment_len,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """The table of rows of a batch, BLOCK_R rows a program.

    Args:
        table_ptr: ``(num_rows, COLUMNS)`` int64, written; see :func:`column_ptrs`.
        others: as of :func:`row_at`.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    _, start, length, _, _ = row_at(
        row, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len, False, HAS_LENGTHS, PACKED, 1
    )
    tl.store(column_ptrs(table_ptr, row.to(tl.int64), "start"), start, mask=row < num_rows)
    tl.store(column_ptrs(table_ptr, row.to(tl.int64), "length"), length.to(tl.int64), mask=row < num_rows)


@dataclass
class Rows:
    """How the sequences of a batch are cut into rows; kernels work out the rest, see :func:`row_at`."""

    count: int
    segments: int  # a sequence, in a dense or padded batch
    segment: int  # tokens of a row
    sequences: int
    length: int  # of a sequence, or of the whole batch where it is packed
    lengths: Tensor | None
    cu: Tensor | None
    device: torch.device

    def arguments(self) -> dict[str, Any]:
        """Those of a kernel that calls :func:`row_at`, with L."""
        return {
            "lengths_ptr": self.lengths,
            "cu_seqlens_ptr": self.cu,
            "L": self.length,
            "S": self.sequences,
            "num_rows": self.count,
            "num_segments": self.segments,
            "segment_len": self.segment,
        }

    def constants(self) -> dict[str, Any]:
        """The layout's constexpr arguments of such a kernel."""
        return {"HAS_LENGTHS": self.lengths is not None, "PACKED": self.cu is not None}

    @functools.cached_property
    def table(self) -> Tensor:
        """First token and length of each row, ``(count, COLUMNS)`` int64, for kernels that ask often."""
        table = torch.empty(self.count, COLUMNS, dtype=torch.int64, device=self.device)
        launch(
            _rows,
            lambda c: (cdiv(self.count, c.blocks["BLOCK_R"]),),
            {"table_ptr": table, **self.arguments()},
            self.constants(),
            [Config({"BLOCK_R": 64}, 2, 1)],
        )
        return table


def rows(u: Tensor, lengths: Tensor | None, cu: Tensor | None, segment: int) -> Rows:
    """Cut the sequences of ``u (B, L, H)`` into rows of ``segment`` tokens, a multiple of 64."""
    batch, length, _ = u.shape
    sequences = batch if cu is None else cu.shape[0] - 1
    segments = max(cdiv(length, segment), 1)
    count = batch * segments if cu is None else length // segment + sequences
    return Rows(count, segments, segment, sequences, length, lengths, cu, u.device)


SHORTEST = 512
"""Tokens of the shortest segment that sequences are cut into: what a state costs weighs little beside them."""


def segment_length(u: Tensor, sequences: int, channels: int, rows_per_program: int) -> int:
    """Tokens a row: a whole sequence where that fills the card, else fewer, but enough that states cost little.

    Rows are walked twice where there are several a sequence, so that two or three make nothing faster; nor do more than
    the card has places for at once, which the last of them would wait for.
    """
    length = u.shape[1]
    whole = cdiv(length + 1, CHUNK) * CHUNK
    places = 2 * processors(u)
    wanted = max(places // channels, 1) * rows_per_program
    mean = u.shape[0] * length // max(sequences, 1)
    segments = min(wanted // max(sequences, 1), mean // SHORTEST)
    return whole if segments < 4 else cdiv(cdiv(mean, segments), CHUNK) * CHUNK
