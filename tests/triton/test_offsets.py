"""Addresses beyond 2^31 elements do not wrap: kernels run with no memory behind them, and the addresses are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lyra_kernels.backends.triton import (
    _reduce,
    _row_table,
    _transpose,
    causal_conv,
    fft_conv_backward,
    gated_conv,
    gelu_glu,
    gelu_glu_backward,
    pgc,
    pgc_pairs,
    rms_norm,
    s4d_kernel,
    s4d_scan,
    s4d_scan_backward,
)

pytestmark = pytest.mark.interpreter


@pytest.fixture
def store_addresses(monkeypatch):
    """Runs one program, given its index, and returns the addresses that it stores to.

    Loads give zeros, but for a table of rows: they give the row ``run.row`` every time.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype
    from triton.runtime.interpreter import interpreter_builder as builder

    stored: list[np.ndarray] = []

    def load(self, ptrs, mask, other, *rest):
        element = ptrs.get_element_ty()
        values = np.zeros(ptrs.data.shape, _get_np_dtype(element))
        run.loaded.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)])
        if run.row is not None and values.dtype == np.int64:
            table, row = run.row
            values = np.array(row)[(ptrs.data.astype(np.int64) - table.data_ptr()) // 8 % len(row)]
        return TensorHandle(values, element)

    def store(self, ptrs, value, mask, *rest):
        stored.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)])

    def run(kernel, index, **arguments):
        x, y, z = (*index, 0, 0)[:3]
        stored.clear()
        with monkeypatch.context() as patch:
            place, size = builder.set_grid_idx, builder.set_grid_dim
            patch.setattr(InterpreterBuilder, "create_masked_load", load)
            patch.setattr(InterpreterBuilder, "create_masked_store", store)
            patch.setattr(builder, "set_grid_idx", lambda *_: place(x, y, z))
            patch.setattr(builder, "set_grid_dim", lambda *_: size(x + 1, y + 1, z + 1))
            kernel[(1,)](**arguments)
        return np.concatenate([s.ravel() for s in stored]).astype(np.int64)

    run.row, run.loaded = None, []
    return run


def _offsets(addresses: np.ndarray, buffer: torch.Tensor) -> tuple[int, int]:
    """First and last element, counted from the buffer's start."""
    elements = (addresses - buffer.data_ptr()) // buffer.element_size()
    return int(elements.min()), int(elements.max())


BIG = 1 << 26  # tokens, of 64 channels: 2^32 elements
LAST = BIG * 64 - 1


def test_rms_norm(store_addresses):
    x = torch.zeros(1)
    out = torch.zeros(1)
    args = {"x_ptr": x, "weight_ptr": None, "y_ptr": out, "num_rows": BIG, "C": 64, "eps": 1e-8, "HAS_WEIGHT": False}
    args |= _absent("residual")
    found = store_addresses(rms_norm._rms_norm, ((BIG // 64) - 1,), **args, BLOCK_R=64, BLOCK_C=64)
    assert _offsets(found, out) == (LAST + 1 - 64 * 64, LAST)


def _absent(*names):
    """Arguments that are left out, and the switches that say so."""
    return {**{f"{name}_ptr": None for name in names}, **{f"HAS_{name.upper()}": False for name in names}}


def test_gated_conv(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"xv_ptr": x, "weight_ptr": x, "out_ptr": out, "B": BIG // 1024, "L": 1024, "E": 64, "num_segments": 64}
    more = {"eps": 1e-8, "K": 3, "LEFT": 1, **_absent("bias", "norm", "seq", "lengths")}
    blocks = {"SEGMENT_LEN": 16, "BLOCK_R": 4, "BLOCK_E": 64}
    rows = BIG // 16
    found = store_addresses(gated_conv._gated_conv, (rows // 4 - 1,), **args, **more, **blocks)
    assert _offsets(found, out) == (LAST + 1 - 64 * 64, LAST)


@pytest.mark.parametrize("transposed", [False, True])
def test_gelu_glu(transposed, store_addresses):
    """The last tile, of sequences of 1,024 tokens; y's gradient may lie channels first, where 64 tokens are apart."""
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"y_ptr": x, "weight_ptr": x, "num_tokens": BIG, "L": 1024, "H": 64, "TRANSPOSED": transposed}
    absent = _absent("bias", "dropout", "seq", "lengths")
    unused = {"grad_ptr": None, "dz_ptr": None, "a_ptr": None, "BACKWARD": False, "OTHER_TRANSPOSED": False}
    unused |= _absent("residual")
    found = store_addresses(gelu_glu._gelu_glu, (BIG // 64 - 1, 1), **args, **absent, **unused, out_ptr=out,
                            PREC="ieee", WHOLE=True, BLOCK_T=64, BLOCK_N=32, BLOCK_K=64)  # fmt: skip
    assert _offsets(found, out) == (LAST + 1 - 64 * 64 + 32, LAST)
    found = store_addresses(gelu_glu_backward._gelu_glu_backward, (BIG // 64 - 1, 0), **args, **absent, grad_ptr=x,
                            dy_ptr=out, partial_ptr=None, PARAMETERS=False, GRAD_TRANSPOSED=False,
                            BLOCK_T=64, BLOCK_N=128, BLOCK_K=64)  # fmt: skip
    assert _offsets(found, out) == (LAST - 63 * 1024 - 63 if transposed else LAST + 1 - 64 * 64, LAST)


def test_pgc(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"u_ptr": x, "in_weight_ptr": x, "conv_weight_ptr": x, "out_weight_ptr": x, "out_ptr": out}
    sizes = {"L": 62, "DI": 64, "E": 64, "DO": 64, "eps": 1e-8, "K": 3, "LEFT": 1}
    absent = _absent("in_bias", "in_norm", "conv_bias", "out_bias", "out_norm", "residual", "lengths", "seq")
    batch = BIG // 62
    found = store_addresses(pgc._pgc, (batch - 1,), **args, **sizes, **absent,
                            PREC="ieee", BLOCK_T=64, BLOCK_K=16, BLOCK_E=64, BLOCK_D=64)  # fmt: skip
    assert _offsets(found, out) == ((batch - 1) * 62 * 64, batch * 62 * 64 - 1)
    sizes = {"L": 62, "num_tokens": batch * 62, "eps": 1e-8, "K": 3, "LEFT": 1}
    found = store_addresses(pgc_pairs._pgc_pairs, (batch - 1,), **args, **sizes, **absent,
                            BLOCK_T=64, BLOCK_K=64, BLOCK_E=64, BLOCK_D=64)  # fmt: skip
    assert _offsets(found, out) == ((batch - 1) * 62 * 64, batch * 62 * 64 - 1)


def test_s4d_kernel(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    length = 1 << 20
    args = {"log_dt_ptr": x, "log_A_real_ptr": x, "A_imag_ptr": x, "C_ptr": x, "out_ptr": out, "M": 4, "L": length}
    found = store_addresses(s4d_kernel._s4d_kernel, (length // 4096 - 1, 4095), **args,
                            PREC="ieee", I=64, J=64, BLOCK_N=16)  # fmt: skip
    assert _offsets(found, out) == (4096 * length - 4096, 4096 * length - 1)


def _table():
    return torch.zeros(_row_table.COLUMNS, dtype=torch.int64)


SCAN = {"PREC": "ieee", "SAVE_EVERY": 64, "BLOCK_R": 16, "T": 32, "BLOCK_N": 32}
FLAGS = dict.fromkeys(("HAS_OUTPUT", "FINAL", "PARTS", "SAVE", "KEEP", "ADJOINT", "BACK"), False)
LAYOUT = {"cu_seqlens_ptr": None, "PACKED": False, **_absent("lengths")}
ROWS = {"L": 64, "S": 1 << 20, "num_rows": 1 << 20, "num_segments": 1, "segment_len": 64, "H": 64, "M": 32}
"""As many sequences of 64 tokens as make ``BIG``; a state has as many numbers as 64 tokens of all channels."""


def _scan(store_addresses, **more):
    """The offsets that the last program of the scan stores to: the last channel of 16 rows of 64 tokens."""
    x = torch.zeros(1)
    pointers = ("u", "y", "log_dt", "log_A_real", "A_imag", "C", "base", "state", "checkpoints")
    arguments = {**{f"{name}_ptr": x for name in pointers}, **_absent("skip", "enter"), **LAYOUT, **ROWS}
    arguments |= {"between_ptr": None, "DIRECTIONS": 1, "checkpoint_stride": 64 * 32 * 2, **FLAGS, **SCAN, **more}
    return _offsets(store_addresses(s4d_scan._scan, (63, (1 << 16) - 1), **arguments), x)


@pytest.mark.parametrize("what", ["HAS_OUTPUT", "FINAL", "SAVE"])
def test_scan(store_addresses, what):
    assert _scan(store_addresses, **{what: True}) == (LAST - 15 * 4096 - 63, LAST)


def test_scan_parts(store_addresses):
    """Of one sequence, whose last row adds to no state."""
    found = _scan(store_addresses, PARTS=True, L=BIG, S=1, num_segments=1 << 20)
    assert found == (LAST - 15 * 4096 - 63, LAST - 4096)


def test_scan_backward(store_addresses):
    x = torch.zeros(1)
    args = {"grad_ptr": x, "u_ptr": x, "base_ptr": x, "checkpoints_ptr": x, **LAYOUT, **ROWS, "num_rows": 1 << 25}
    kernel = s4d_scan_backward._scan_backward
    found = store_addresses(kernel, (63, 1 << 20), **args, partial_ptr=x, checkpoint_stride=64 * 32 * 2,
                            **_absent("leave"), HAS_FINAL=False, DIRECTION=0, **SCAN)  # fmt: skip
    width = 4 * 32 + 32
    assert _offsets(found, x) == (((1 << 20) * 64 + 63) * width, ((1 << 20) * 64 + 64) * width - 1)


@pytest.mark.parametrize("back", [False, True])
def test_transpose(store_addresses, back):
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"x_ptr": x, "y_ptr": out, "L": BIG, "H": 64, "BACK": back, "L_ALIGNED": True}
    found = store_addresses(_transpose._transpose, (BIG // 64 - 1,), **args, BLOCK_L=64, BLOCK_H=64)
    low = LAST + 1 - 64 * 64 if back else BIG - 64
    assert _offsets(found, out) == (low, LAST)
    assert _offsets(np.concatenate([a.ravel() for a in store_addresses.loaded]).astype(np.int64), x)[1] == LAST


def test_transpose_of_many_sequences(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"x_ptr": x, "y_ptr": out, "L": 64, "H": 64, "BACK": False, "L_ALIGNED": False}
    found = store_addresses(_transpose._transpose, (BIG // 64 - 1,), **args, BLOCK_L=64, BLOCK_H=64)
    assert _offsets(found, out) == (LAST - 4095, LAST)


def test_rows_of_long_sequences(store_addresses):
    """Where rows start, counted in tokens: what is stored, and where."""
    columns = _row_table.COLUMNS
    table = torch.zeros(columns * 64, dtype=torch.int64)
    args = {"table_ptr": table, **LAYOUT}
    sizes = {"L": BIG, "S": 1 << 30, "num_rows": 1 << 31, "num_segments": 16, "segment_len": 1 << 22}
    found = store_addresses(_row_table._rows, (1 << 24,), **args, **sizes, BLOCK_R=64)
    assert _offsets(found, table) == ((1 << 30) * columns, ((1 << 30) + 64) * columns - 1)


def test_causal_conv(store_addresses):
    x, table = torch.zeros(1), _table()
    store_addresses.row = (table, [BIG - 64, 64])
    args = {"u_ptr": x, "taps_ptr": x, "out_ptr": x, "table_ptr": table, **_absent("reverse", "skip")}
    sizes = {"H": 64, "K": 64, "KR": 0, "num_rows": 1, "num_tiles": 2}
    found = store_addresses(causal_conv._conv, (63, 1, 0), **args, **sizes,
                            TRANSPOSE=False, PREC="ieee", BLOCK_R=16, T=32)  # fmt: skip
    assert _offsets(found, x) == (LAST - 31 * 64, LAST)


def test_causal_conv_partial_sums(store_addresses):
    x, table = torch.zeros(1), _table()
    store_addresses.row = (table, [0, 0])
    args = {"grad_ptr": x, "u_ptr": x, "partial_ptr": x, "table_ptr": table}
    sizes = {"H": 64, "num_rows": 1, "num_tiles": 1 << 17, "min_distance": 0}
    found = store_addresses(causal_conv._correlate, (63, (1 << 17) - 1), **args, **sizes,
                            PREC="ieee", BLOCK_R=16, T=32)  # fmt: skip
    assert _offsets(found, x) == (((1 << 17) * 64 - 1) * 1024, (1 << 17) * 64 * 1024 - 1)


def test_sum_rows(store_addresses):
    """It stores little; what it reads may lie anywhere."""
    x, out = torch.zeros(1), torch.zeros(1)
    args = {"x_ptr": x, "out_ptr": out, "num_rows": 1 << 5, "row_stride": 1 << 28, "num_columns": 32,
            "stretch_len": 1 << 5}  # fmt: skip
    store_addresses(_reduce._sum_rows, (0, 0), **args, BLOCK_R=16, BLOCK_C=32)
    low, high = _offsets(np.concatenate([a.ravel() for a in store_addresses.loaded]).astype(np.int64), x)
    assert (low, high) == (0, ((1 << 5) - 1) * (1 << 28) + 31)


def test_fft_conv_taps(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    channels, length = 1 << 20, 4096
    args = {"grad_ptr": x, "u_ptr": x, "d_taps_ptr": out, "table_ptr": _table()}
    sizes = {"H": channels, "L": length, "num_rows": 0, "rows_per_program": 1}
    precisions = {"PREC": "ieee", "TAPS_PREC": "ieee"}
    found = store_addresses(fft_conv_backward._fft_correlate, (channels - 1, 1), **args, **sizes, **precisions,
                            PHASES=2, REVERSE=True, A=16, B=16, C=8, SIZE=16)  # fmt: skip
    assert _offsets(found, out) == ((3 * channels - 1) * length, 4 * channels * length - 1)
