"""Addresses beyond 2^31 elements do not wrap: kernels run with no memory behind them, and the addresses are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lyra_kernels.triton import _launch, gated_conv, gelu_glu, pgc, rms_norm, s4d_kernel

pytestmark = pytest.mark.skipif(not _launch.interpreting(), reason="addresses are seen in Triton's interpreter")


@pytest.fixture
def store_addresses(monkeypatch):
    """Runs one program, given its index, and returns the addresses that it stores to; loads give zeros."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype
    from triton.runtime.interpreter import interpreter_builder as builder

    stored: list[np.ndarray] = []

    def load(self, ptrs, mask, other, *rest):
        element = ptrs.get_element_ty()
        return TensorHandle(np.zeros(ptrs.data.shape, _get_np_dtype(element)), element)

    def store(self, ptrs, value, mask, *rest):
        stored.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)])

    def run(kernel, index, args, **constants):
        x, y, z = (*index, 0, 0)[:3]
        with monkeypatch.context() as patch:
            place, size = builder.set_grid_idx, builder.set_grid_dim
            patch.setattr(InterpreterBuilder, "create_masked_load", load)
            patch.setattr(InterpreterBuilder, "create_masked_store", store)
            patch.setattr(builder, "set_grid_idx", lambda *_: place(x, y, z))
            patch.setattr(builder, "set_grid_dim", lambda *_: size(x + 1, y + 1, z + 1))
            kernel[(1,)](*args, **constants)
        return np.concatenate([s.ravel() for s in stored]).astype(np.int64)

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
    found = store_addresses(pgc._pgc, (0, batch - 1), args, **constants,
                            K=3, LEFT=1, PREC="ieee", BT=64, BK=16, BE=64, BD=64)  # fmt: skip
    assert _offsets(found, out) == ((batch - 1) * 62 * 64, batch * 62 * 64 - 1)


def test_s4d_kernel(store_addresses):
    x, out = torch.zeros(1), torch.zeros(1)
    length = 1 << 20
    found = store_addresses(s4d_kernel._s4d_kernel, (length // 4096 - 1, 4095), (x, x, x, x, out, 4, length),
                            PREC="ieee", I=64, J=64, N=16)  # fmt: skip
    assert _offsets(found, out) == (4096 * length - 4096, 4096 * length - 1)
