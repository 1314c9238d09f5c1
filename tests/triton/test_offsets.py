"""Addresses beyond 2^31 elements do not wrap: kernels run with no memory behind them, and the addresses are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lyra_kernels.backends.triton import (
    _reduce,
    _scan_rows,
    causal_conv,
    fft_conv,
    gated_conv,
    gelu_glu,
    pgc,
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

    def run(kernel, index, args, **constants):
        x, y, z = (*index, 0, 0)[:3]
        stored.clear()
        with monkeypatch.context() as patch:
            place, size = builder.set_grid_idx, builder.set_grid_dim
            patch.setattr(InterpreterBuilder, "create_masked_load", load)
            patch.setattr(InterpreterBuilder, "create_masked_store", store)
            patch.setattr(builder, "set_grid_idx", lambda *_: place(x, y, z))
            patch.setattr(builder, "set_grid_dim", lambda *_: size(x + 1, y + 1, z + 1))
            kernel[(1,)](*args, **constants)
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
    found = store_addresses(rms_norm._rms_norm, ((BIG // 64) - 1,), (x, None, out, BIG, 64, 1e-8),
                            WEIGHT=False, R=64, BC=64)  # fmt: skip
    assert _offsets(found, out) == (LAST + 1 - 64 * 64, LAST)


def test_gated_conv(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    constants = {"K": 3, "LEFT": 1, "BIAS": False, "NORM": False, "SEQ": False, "LENGTHS": False}
    args = (x, x, None, None, None, None, out, BIG // 1024, 1024, 64, 64, 1e-8)
    rows = BIG // 16
    found = store_addresses(gated_conv._gated_conv, (rows // 4 - 1,), args, **constants, SEGMENT=16, R=4, BE=64)
    assert _offsets(found, out) == (LAST + 1 - 64 * 64, LAST)


def test_gelu_glu(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    args = (x, x, None, None, None, None, None, None, out, None, None, BIG, 1024, 64)
    constants = {"BIAS": False, "MASK": False, "RESIDUAL": False, "SEQ": False, "LENGTHS": False, "BACKWARD": False}
    found = store_addresses(gelu_glu._gelu_glu, (BIG // 64 - 1, 1), args, **constants,
                            PREC="ieee", BT=64, BN=32, BK=16)  # fmt: skip
    assert _offsets(found, out) == (LAST + 1 - 64 * 64 + 32, LAST)


def test_pgc(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    args = (x, x, None, None, x, None, x, None, None, None, None, out, 62, 64, 64, 64, 1e-8)
    constants = dict.fromkeys(("IN_BIAS", "IN_NORM", "BIAS", "OUT_BIAS", "OUT_NORM", "LENGTHS", "SEQ"), False)
    batch = BIG // 62
    found = store_addresses(pgc._pgc, (batch - 1,), args, **constants,
                            K=3, LEFT=1, PREC="ieee", BT=64, BK=16, BE=64, BD=64)  # fmt: skip
    assert _offsets(found, out) == ((batch - 1) * 62 * 64, batch * 62 * 64 - 1)


def test_s4d_kernel(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    length = 1 << 20
    found = store_addresses(s4d_kernel._s4d_kernel, (length // 4096 - 1, 4095), (x, x, x, x, out, 4, length),
                            PREC="ieee", I=64, J=64, N=16)  # fmt: skip
    assert _offsets(found, out) == (4096 * length - 4096, 4096 * length - 1)


SCAN = {"STEP": 1, "SHIFT": 0, "PREC": "ieee", "CHUNK_": 64, "R": 16, "T": 32, "N": 32}
FLAGS = dict.fromkeys(("OUTPUT", "ADD", "SKIP", "ENTER", "FINAL", "PARTS", "SAVE", "ADJOINT", "BACK"), False)


def _scan(store_addresses, index, count, **flags):
    """The offsets that one program of the scan stores to; its rows are the last 64 of ``BIG`` tokens of 64 channels."""
    x, table = torch.zeros(1), torch.zeros(5, dtype=torch.int64)
    store_addresses.row = (table, [BIG - 64, 64, 1 << 21, 1 << 20, 3])
    args = (x, x, None, x, x, x, None, table, None, x, x, 64, 32, count, 64 * 32 * 2)
    found = store_addresses(s4d_scan._scan, index, args, **{**FLAGS, **flags}, **SCAN)
    return _offsets(found, x)


def test_scan_output(store_addresses):
    assert _scan(store_addresses, (63, 0), 1, OUTPUT=True) == (LAST + 1 - 63 * 64 - 1, LAST)


def test_scan_states(store_addresses):
    sizes = 64 * 32 * 2
    assert _scan(store_addresses, (63, 0), 1, FINAL=True) == ((1 << 20) * sizes + 63 * 64, ((1 << 20) + 1) * sizes - 1)
    assert _scan(store_addresses, (63, 0), 1, SAVE=True) == ((1 << 21) * sizes + 63 * 64, ((1 << 21) + 1) * sizes - 1)


def test_scan_parts(store_addresses):
    """A table of rows has an entry for every row: here all have the same, and none is the last of its sequence."""
    x, table = torch.zeros(1), torch.zeros(5, dtype=torch.int64)
    store_addresses.row = (table, [BIG - 64, 64, 0, 0, 0])
    args = (x, None, None, x, x, x, None, table, None, x, None, 64, 32, (1 << 20) + 16, 0)
    found = store_addresses(s4d_scan._scan, (63, 1 << 16), args, **{**FLAGS, "PARTS": True}, **SCAN)
    sizes = 64 * 32 * 2
    assert _offsets(found, x) == ((1 << 20) * sizes + 63 * 64, ((1 << 20) + 16) * sizes - 1)


def test_scan_backward(store_addresses):
    x, table = torch.zeros(1), torch.zeros(5, dtype=torch.int64)
    store_addresses.row = (table, [BIG - 64, 64, 1 << 21, 1 << 20, 3])
    args = (x, x, x, x, table, None, x, x, 64, 32, 1 << 25, 64 * 32 * 2)
    found = store_addresses(s4d_scan_backward._scan_backward, (63, 1 << 20), args, LEAVE=False, **SCAN)
    width = 6 * 32 + 32
    assert _offsets(found, x) == (((1 << 20) * 64 + 63) * width, ((1 << 20) * 64 + 64) * width - 1)


def test_rows_of_long_sequences(store_addresses):
    """Where rows start, counted in tokens: what is stored, and where."""
    table = torch.zeros(5 * 64, dtype=torch.int64)
    found = store_addresses(_scan_rows._rows, (1 << 24,), (table, None, None, BIG, 1 << 30, 1 << 31, 16, 1 << 22),
                            REVERSE=False, PADDED=False, PACKED=False, CHUNK_=64, BLOCK=64)  # fmt: skip
    assert _offsets(found, table) == ((1 << 30) * 5, ((1 << 30) + 64) * 5 - 1)


def test_causal_conv(store_addresses):
    x, table = torch.zeros(1), torch.zeros(5, dtype=torch.int64)
    store_addresses.row = (table, [BIG - 64, 64, 0, 0, 3])
    args = (x, x, None, None, x, table, 64, 64, 0, 1, 2)
    constants = {"REVERSE": False, "SKIP": False, "TRANSPOSE": False, "PREC": "ieee", "R": 16, "T": 32}
    found = store_addresses(causal_conv._conv, (63, 1, 0), args, **constants)
    assert _offsets(found, x) == (LAST - 31 * 64, LAST)


def test_causal_conv_partial_sums(store_addresses):
    x, table = torch.zeros(1), torch.zeros(5, dtype=torch.int64)
    store_addresses.row = (table, [0, 0, 0, 0, 3])
    args = (x, x, x, table, 64, 1, 1 << 17, 0)
    found = store_addresses(causal_conv._correlate, (63, (1 << 17) - 1), args, PREC="ieee", R=16, T=32)
    assert _offsets(found, x) == (((1 << 17) * 64 - 1) * 1024, (1 << 17) * 64 * 1024 - 1)


def test_sum_rows(store_addresses):
    """It stores little; what it reads may lie anywhere."""
    x, out = torch.zeros(1), torch.zeros(1)
    store_addresses(_reduce._sum_rows, (0,), (x, out, 1 << 5, 1 << 28, 32), ROWS=16, COLUMNS=32)
    low, high = _offsets(np.concatenate([a.ravel() for a in store_addresses.loaded]).astype(np.int64), x)
    assert (low, high) == (0, ((1 << 5) - 1) * (1 << 28) + 31)


def test_fft_conv_taps(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    channels, length = 1 << 20, 4096
    table = torch.zeros(5, dtype=torch.int64)
    found = store_addresses(fft_conv._fft_correlate, (channels - 1, 1), (x, x, out, table, channels, length, 0, 1),
                            PHASES=2, REVERSE=True, PREC="ieee", EXACT="ieee", A=16, B=16, C=8, SIZE=16)  # fmt: skip
    assert _offsets(found, out) == ((3 * channels - 1) * length, 4 * channels * length - 1)
