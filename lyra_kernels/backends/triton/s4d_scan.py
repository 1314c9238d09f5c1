"""The S4D recurrence in linear time, chunks of T tokens at a time, as matrix products.

Within a chunk that state S enters, position t from 0, per channel (x the chunk as a row vector, R rows at a time):

    y = x Toeplitz(K) + Re(c a S  a^t) + D x,      S' = a^T S + x a^(T-1-s)

A program takes one channel of R rows. States stay in registers from chunk to chunk: u is read once and y written once,
and the next chunk of u is on its way while one is multiplied. Kernels read and write ``(B, H, L)`` memory, where a
chunk of a row is one line: out of channels-last memory every value is a request of its own, which took 3 times (fp32)
and 4 times (bf16) as long (H200, 64 x 4096 x 64). Other layouts are transposed before and after (:mod:`._transpose`),
which is still twice as fast. The second direction is the same with time reversed and a shift of one token (a token does
not see itself twice); a program walks its rows in both, and what the first has written the second finds in the cache.

Activations in 16 bits stay so, as operands beside tables in 16 bits; states are TF32. See ``_dot``.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from ...layout import count_sequences
from ..reference import operations as formulas
from . import LIMITS
from ._launch import MOST_ROWS, Config, cdiv, jit, launch, next_power_of_2, precision, refusal, refusing, supports
from ._row_table import CHUNK, Rows, rows, segment_length
from ._scan_rows import combine
from ._scan_walk import walk
from ._transpose import channels_first, lying_as, takes_channels_first

Modes = tuple[Tensor, Tensor, Tensor, Tensor]
MAX_MODES = LIMITS.scan_modes  # whose states fit in registers


@jit
def _scan(
    u_ptr,
    y_ptr,
    between_ptr,
    log_dt_ptr,
    log_A_real_ptr,
    A_imag_ptr,
    C_ptr,
    base_ptr,
    skip_ptr,
    enter_ptr,
    state_ptr,
    checkpoints_ptr,
    lengths_ptr,
    cu_seqlens_ptr,
    L,
    S,
    num_rows,
    num_segments,
    segment_len,
    H,
    M,
    checkpoint_stride,
    HAS_LENGTHS: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_OUTPUT: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HAS_ENTER: tl.constexpr,
    FINAL: tl.constexpr,
    PARTS: tl.constexpr,
    SAVE: tl.constexpr,
    KEEP: tl.constexpr,
    DIRECTIONS: tl.constexpr,
    ADJOINT: tl.constexpr,
    BACK: tl.constexpr,
    PREC: tl.constexpr,
    SAVE_EVERY: tl.constexpr,
    BLOCK_R: tl.constexpr,
    T: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """BLOCK_R rows of one channel, one direction after the other; see :func:`walk` for the arguments.

    Args:
        C_ptr, base_ptr: with a first dimension DIRECTIONS; so enter_ptr, and state_ptr where PARTS.
        between_ptr: as y but fp32, the outputs of the first of two directions, which the second adds to: y where that
            is fp32, else memory of which nothing is expected, nor left.
        checkpoints_ptr: in each slot ``(DIRECTIONS, H, M, 2)``.
    """
    if DIRECTIONS == 1:
        walk(
            u_ptr, y_ptr, None, log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, base_ptr, skip_ptr, enter_ptr,
            state_ptr, checkpoints_ptr, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len, H, M,
            checkpoint_stride, 0, HAS_LENGTHS, PACKED, HAS_OUTPUT, False, HAS_SKIP, HAS_ENTER, FINAL, PARTS, SAVE, KEEP,
            HAS_LENGTHS and HAS_OUTPUT, ADJOINT, 1, BACK, 0, PREC, SAVE_EVERY, BLOCK_R, T, BLOCK_N,
        )  # fmt: skip
    else:
        walk(
            u_ptr, between_ptr, None, log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, base_ptr, skip_ptr, enter_ptr,
            state_ptr, checkpoints_ptr, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len, H, M,
            checkpoint_stride, 0, HAS_LENGTHS, PACKED, HAS_OUTPUT, False, HAS_SKIP, HAS_ENTER, FINAL, PARTS, SAVE, KEEP,
            False, ADJOINT, 1, BACK, 0, PREC, SAVE_EVERY, BLOCK_R, T, BLOCK_N,
        )  # fmt: skip
        states = tl.cast(H, tl.int64) * (2 * M)
        C_ptr += states
        if KEEP:
            base_ptr += tl.cast(H, tl.int64) * (5 * M)
        if HAS_ENTER:
            enter_ptr += num_rows * states
        if PARTS:
            state_ptr += num_rows * states
        if SAVE:
            checkpoints_ptr += states
        if HAS_OUTPUT:  # what other threads of this program have stored is read next
            tl.debug_barrier()
        walk(
            u_ptr, y_ptr, between_ptr, log_dt_ptr, log_A_real_ptr, A_imag_ptr, C_ptr, base_ptr, skip_ptr, enter_ptr,
            state_ptr, checkpoints_ptr, lengths_ptr, cu_seqlens_ptr, L, S, num_rows, num_segments, segment_len, H, M,
            checkpoint_stride, num_segments >> 31, HAS_LENGTHS, PACKED, HAS_OUTPUT, HAS_OUTPUT, False, HAS_ENTER, FINAL,
            PARTS, SAVE, KEEP, HAS_LENGTHS and HAS_OUTPUT, ADJOINT, -1, BACK, 1, PREC, SAVE_EVERY, BLOCK_R, T, BLOCK_N,
        )  # fmt: skip


def configurations(modes: int, lean: bool = False) -> list[Config]:
    """16 rows: the smallest product a matrix unit takes. Chunks and warps so that no register is spilled.

    At least 32 modes: for 16 the compiler has each warp do every column of a product, and spills hundreds of bytes.
    ``lean``: shorter chunks, which leave registers.
    """
    block = next_power_of_2(max(modes, 32))
    chunk, warps = (16 if lean else 32, 4) if block <= 32 else (16, 8)
    return [Config({"BLOCK_R": 16, "T": chunk, "BLOCK_N": block}, warps, 1)]


def why_not(u: Tensor, A_imag: Tensor, cu_seqlens: Tensor | None) -> str | None:
    """Why the kernels do not take this call, or None."""
    known = supports(u) and A_imag.dtype == torch.float32
    small = 0 < A_imag.shape[1] <= MAX_MODES and count_sequences(u, cu_seqlens) <= MOST_ROWS
    if known and small and u.numel() > 0:
        return None
    return refusal(u, f"the scan takes 1 to {MAX_MODES} modes, in float32, and up to {MOST_ROWS} sequences")


def run_scan(
    u: Tensor,
    y: Tensor | None,
    modes: Modes,
    base: Tensor | None,
    skip: Tensor | None,
    row: Rows,
    enter: Tensor | None,
    state: Tensor | None,
    checkpoints: Tensor | None,
    config: Config,
    *,
    parts: bool = False,
    back: bool = False,
    adjoint: bool = False,
) -> None:
    """Launch ``_scan`` of ``u (B, H, L)`` in all directions; see there for what each argument does where it is given.

    ``modes``: log_dt, log_A_real, A_imag and C; ``base (directions, H, 5, M)`` is written. With ``back`` each row is
    walked from its end; with ``adjoint`` states are gradients, and the kernel's coefficients are applied to what enters
    a state, not to what leaves it.
    """
    log_dt, log_A_real, A_imag, C = modes
    directions, (channels, count) = C.shape[0], A_imag.shape
    between = None
    if y is not None and directions == 2:
        between = y if y.dtype == torch.float32 else torch.empty_like(y, dtype=torch.float32)
    launch(
        _scan,
        lambda c: (channels, cdiv(row.count, c.blocks["BLOCK_R"])),
        {
            "u_ptr": u,
            "y_ptr": y,
            "between_ptr": between,
            "log_dt_ptr": log_dt,
            "log_A_real_ptr": log_A_real,
            "A_imag_ptr": A_imag,
            "C_ptr": C,
            "base_ptr": base,
            "skip_ptr": skip,
            "enter_ptr": enter,
            "state_ptr": state,
            "checkpoints_ptr": checkpoints,
            **row.arguments(),
            "H": channels,
            "M": count,
            "checkpoint_stride": 0 if checkpoints is None else checkpoints.shape[-1],
        },
        {
            **row.constants(),
            "HAS_OUTPUT": y is not None,
            "HAS_SKIP": skip is not None,
            "HAS_ENTER": enter is not None,
            "FINAL": state is not None and not parts,
            "PARTS": parts,
            "SAVE": checkpoints is not None,
            "KEEP": base is not None,
            "DIRECTIONS": directions,
            "ADJOINT": adjoint,
            "BACK": back,
            "PREC": precision(u),
            "SAVE_EVERY": CHUNK,
        },
        [config],
    )


@refusing(lambda u, log_dt, log_A_real, A_imag, *rest: why_not(u, A_imag, rest[3]))
@takes_channels_first
def s4d_scan(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, save):
    """``torch.ops.lyra.s4d_scan``."""
    if why_not(u, A_imag, cu_seqlens):
        args = (u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state)
        return formulas()["s4d_scan"](*args, save)
    directions, (channels, count) = C.shape[0], A_imag.shape
    sequences = count_sequences(u, cu_seqlens)
    slots = u.shape[1] // CHUNK + sequences if cu_seqlens is not None else u.shape[0] * cdiv(u.shape[1], CHUNK)
    shape = (slots, directions * channels * count * 2) if save else (0,)
    checkpoints = u.new_empty(shape, dtype=torch.float32)
    config = configurations(count)[0]
    modes = (log_dt, log_A_real, A_imag, C)
    segment = segment_length(u, sequences, channels, config.blocks["BLOCK_R"])
    row = rows(u, lengths, cu_seqlens, segment)
    v = channels_first(u)
    y = torch.empty_like(v.transpose(1, 2))
    state = u.new_empty((sequences, channels, count, 2) if directions == 1 else (0,), dtype=torch.float32)
    enter = initial_state
    if row.count > sequences:
        parts = u.new_empty(directions, row.count, channels, count, 2, dtype=torch.float32)
        run_scan(v, None, modes, None, None, row, None, parts, None, config, parts=True)
        enter = combine(modes[:3], None, initial_state, parts, row)
    final = state if directions == 1 else None
    run_scan(v, y, modes, None, D, row, enter, final, checkpoints if save else None, config)
    return lying_as(y, u), state, checkpoints
