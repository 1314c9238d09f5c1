"""The table of rows: which tokens the programs of a kernel over sequences take, without asking the host.

A *row* is a stretch of at most ``segment`` tokens of one sequence, walked by one lane of a program. Where the sequences
alone fill the card there is one row a sequence, else several.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas import SCAN_CHUNK as CHUNK
from ._launch import Config, cdiv, jit, launch, processors

COLUMNS = 5


@triton.jit
def column_ptrs(table_ptr, row, COLUMN: tl.constexpr):
    """Pointers to a column of the table at ``row``, int64, of its shape.

    Columns: "start", the row's first token, counted in the tokens of the batch; "length", how many it has;
    "checkpoint", the slot of its first; "sequence"; "flags", 1 for the first row of a sequence plus 2 for the last.
    """
    # By name: constants of a module would cost each launch microseconds, in which Triton looks if they have changed.
    ptrs = table_ptr + row * 5
    if COLUMN == "start":
        return ptrs
    elif COLUMN == "length":
        return ptrs + 1
    elif COLUMN == "checkpoint":
        return ptrs + 2
    elif COLUMN == "sequence":
        return ptrs + 3
    else:
        tl.static_assert(COLUMN == "flags")
        return ptrs + 4


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
    REVERSE: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """The table of rows of a batch, BLOCK_R rows a program.

    Args:
        table_ptr: ``(num_rows, 5)`` int64, written; see :func:`column_ptrs`.
        lengths_ptr: ``(S,)`` int64, tokens of each sequence; read where HAS_LENGTHS.
        cu_seqlens_ptr: ``(S + 1,)`` int64, where packed sequences begin; read where PACKED.
        L: tokens of a sequence where not PACKED.
        S: sequences.
        num_segments: rows of a sequence where not PACKED.
        segment_len: tokens of a row, but of the last of a sequence.
        REVERSE: a sequence is walked from its end: its first row begins at its last token.
        SAVE_EVERY: tokens between checkpoints.
    """
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = row < num_rows
    if PACKED:
        # Sequence s takes the rows from cu_seqlens[s] // segment_len + s on.
        s = tl.zeros((BLOCK_R,), tl.int64) - 1
        for first in range(0, S, 32):
            candidate = first + tl.arange(0, 32)
            begin = tl.load(cu_seqlens_ptr + candidate, mask=candidate < S, other=0) // segment_len + candidate
            s += tl.sum(((candidate < S)[None, :] & (begin[None, :] <= row[:, None])).to(tl.int64), axis=1)
        begin = tl.load(cu_seqlens_ptr + s, mask=row_mask, other=0)
        length = tl.load(cu_seqlens_ptr + s + 1, mask=row_mask, other=0) - begin
        i = row - (begin // segment_len + s)
        slot = begin // SAVE_EVERY + s
    else:
        s = (row // num_segments).to(tl.int64)
        i = (row % num_segments).to(tl.int64)
        begin = s * L
        if HAS_LENGTHS:
            length = tl.load(lengths_ptr + s, mask=row_mask, other=0)
        else:
            length = begin * 0 + L
        slot = s * ((L + SAVE_EVERY - 1) // SAVE_EVERY)
    tokens = tl.maximum(length - i * segment_len, 0)
    tokens = tl.minimum(tokens, segment_len)
    start = begin + i * segment_len
    if REVERSE:
        start = begin + length - 1 - i * segment_len
    last = i == tl.maximum((length + segment_len - 1) // segment_len, 1) - 1
    flags = (i == 0).to(tl.int64) + 2 * last.to(tl.int64)
    row = row.to(tl.int64)
    tl.store(column_ptrs(table_ptr, row, "start"), start, mask=row_mask)
    tl.store(column_ptrs(table_ptr, row, "length"), tokens, mask=row_mask)
    tl.store(column_ptrs(table_ptr, row, "checkpoint"), slot + i * (segment_len // SAVE_EVERY), mask=row_mask)
    tl.store(column_ptrs(table_ptr, row, "sequence"), s, mask=row_mask)
    tl.store(column_ptrs(table_ptr, row, "flags"), flags, mask=row_mask)


@dataclass
class Rows:
    """Rows of a batch: ``table (count, COLUMNS)`` int64, and how sequences are cut into them."""

    table: Tensor
    count: int
    segments: int  # a sequence, in a dense or padded batch
    segment: int
    reverse: bool


def rows(u: Tensor, lengths: Tensor | None, cu: Tensor | None, segment: int, reverse: bool) -> Rows:
    """Cut the sequences of ``u (B, L, H)`` into rows of ``segment`` tokens, a multiple of 64, without asking the host.

    With ``reverse`` a sequence is walked from its end.
    """
    batch, length, _ = u.shape
    sequences = batch if cu is None else cu.shape[0] - 1
    segments = max(cdiv(length, segment), 1)
    count = batch * segments if cu is None else length // segment + sequences
    table = torch.empty(count, COLUMNS, dtype=torch.int64, device=u.device)
    launch(
        _rows,
        lambda c: (cdiv(count, c.blocks["BLOCK_R"]),),
        {
            "table_ptr": table,
            "lengths_ptr": lengths,
            "cu_seqlens_ptr": cu,
            "L": length,
            "S": sequences,
            "num_rows": count,
            "num_segments": segments,
            "segment_len": segment,
        },
        {"REVERSE": reverse, "HAS_LENGTHS": lengths is not None, "PACKED": cu is not None, "SAVE_EVERY": CHUNK},
        [Config({"BLOCK_R": 64}, 2, 1)],
    )
    return Rows(table, count, segments, segment, reverse)


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
