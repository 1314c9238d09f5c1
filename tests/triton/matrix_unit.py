"""What ``tl.dot`` gives on a card, for Triton's interpreter, whose own products are the BLAS library's.

A matrix unit multiplies exactly, but it does not add as IEEE 754 does. The products of one block of k and the
accumulator are shifted to the largest of their exponents, cut off a few bits below fp32's last, added, and the sum is
cut to fp32, towards zero. That is the model of Fasi, Higham, Mikaitis and Pranesh (Numerical behavior of NVIDIA tensor
cores, 2021), with the sizes of blocks and the number of bits that MMA-Sim (arXiv 2511.10909) found bit for bit. So a
sum is too small by half a unit of its last place on average, and such errors do not average out: this is what separates
a card from a BLAS library.

What Triton makes of a product of fp32 operands (read in the code that 3.6 and 3.7 compile for sm_80 and sm_90):

=========  ==========================================================================================================
TF32       the unit on operands as they are; it drops 13 bits of each
TF32x3     big = cvt.rna.tf32(x), small = x - big; small big + big small from zero, NaN there made zero, then big big on
           top, all in the unit; that is added to the accumulator in fp32, rounded to nearest
IEEE       fp32 multiply-adds in the order of k
=========  ==========================================================================================================

16-bit operands reach the interpreter as fp32 values of at most 11 bits with IEEE (``dot16`` in
``lyra_kernels.backends.triton._dot``).

Everything here is one of numpy's elementwise operations, or a sum of whole numbers that float64 holds: the same bits on
every processor, and for a matrix as for a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

_FP32 = np.int64(-1 << 29)  # float64 without the bits that fp32 does not have
_LEAST, _NOT_FINITE = np.int16(-126), np.int16(128)  # exponents
_TF32 = np.int32(-1 << 13)


@dataclass(frozen=True)
class Unit:
    """A generation of matrix units.

    Args:
        tf32: products of TF32 operands that are added at once.
        half: of 16-bit operands.
        bits: of a sum behind the point, where its largest term has an exponent of 0; fp32 has 23.
    """

    tf32: int
    half: int
    bits: int


AMPERE = Unit(4, 8, 24)
HOPPER = Unit(8, 16, 25)


def cut_tf32(x: np.ndarray) -> np.ndarray:
    """fp32 as the unit reads a TF32 operand: cut to 10 bits of mantissa."""
    return (x.view(np.int32) & _TF32).view(np.float32)


def round_tf32(x: np.ndarray) -> np.ndarray:
    """``cvt.rna.tf32.f32``: to nearest, halves away from zero. NaN stays NaN."""
    rounded = ((x.view(np.int32) + np.int32(0x1000)) & _TF32).view(np.float32)
    return np.where(np.isnan(x), x, rounded)


def unit_product(a: np.ndarray, b: np.ndarray, c: np.ndarray, block: int, bits: int) -> np.ndarray:
    """``c + a b`` as a matrix unit adds.

    Args:
        a: ``(M, K)`` fp32, of at most 11 significant bits.
        b: ``(K, N)`` fp32, likewise.
        c: ``(M, N)`` fp32, the accumulator.
        block: products added at once; K is a multiple of it, or less.
        bits: see :class:`Unit`.

    Returns:
        ``(M, N)`` fp32. Subnormal results are rounded instead of cut.
    """
    # k first: a block is then whole planes, and their sum one of planes.
    power_a, power_b = _exponent(a.T)[:, :, None], _exponent(b)[:, None, :]
    if max(power.max() for power in (power_a, power_b, _exponent(c))) == _NOT_FINITE:
        # Any order of summation gives the same infinity or NaN.
        plain = fma_product(a, b, c)
        finite = (np.where(np.isfinite(x), x, np.float32(0)) for x in (a, b, c))
        return np.where(np.isfinite(plain), unit_product(*finite, block, bits), plain)
    a, b = np.ascontiguousarray(a.T)[:, :, None], b[:, None, :]
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    shape = (min(block, len(b)), *c.shape)
    terms, powers = np.empty(shape), np.empty(shape, np.int16)
    for k in range(0, len(b), block):
        part = slice(k, k + block)
        # Exponents of the operands added: that of what they multiply to may be one more.
        top = np.add(power_a[part], power_b[part], out=powers).max(axis=0)
        top = np.maximum(np.maximum(top, _exponent(c)), _LEAST).astype(np.int64)
        scale, unit = _power_of_two(bits - top), _power_of_two(top - bits)
        np.multiply(wide_a[part], wide_b[part], out=terms)
        terms *= scale
        total = np.trunc(terms, out=terms).sum(axis=0) + np.trunc(c * scale)
        total *= unit
        with np.errstate(over="ignore"):
            c = (total.view(np.int64) & _FP32).view(np.float64).astype(np.float32)
    return c


def _exponent(x: np.ndarray) -> np.ndarray:
    """Of fp32 values, int16; that of 0 is below all others."""
    biased = ((x.view(np.int32) >> 23) & 0xFF).astype(np.int16)
    return np.where(x == 0, np.int16(-1000), np.maximum(biased, 1) - np.int16(127))


def _power_of_two(exponent: np.ndarray) -> np.ndarray:
    return ((exponent + 1023) << 52).view(np.float64)


def fma_product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``c + a b`` by fp32 multiply-adds in the order of k; rounded twice, which differs from once for one in 2^29."""
    wide_a, wide_b, total = a.astype(np.float64), b.astype(np.float64), c.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(b)):
            total = (wide_a[:, k, None] * wide_b[k] + total).astype(np.float32)
    return total


def product(a: np.ndarray, b: np.ndarray, c: np.ndarray, precision: str, unit: Unit = HOPPER) -> np.ndarray:
    """``c + a b`` of fp32 matrices as Triton computes it on a card; ``precision`` is TF32, TF32x3 or IEEE."""
    if precision == "TF32":
        return unit_product(cut_tf32(a), cut_tf32(b), c, unit.tf32, unit.bits)
    if precision == "TF32x3":
        big_a, big_b = round_tf32(a), round_tf32(b)
        with np.errstate(invalid="ignore"):
            small_a, small_b = cut_tf32(a - big_a), cut_tf32(b - big_b)
        total = unit_product(small_a, big_b, np.zeros_like(c), unit.tf32, unit.bits)
        total = unit_product(big_a, small_b, total, unit.tf32, unit.bits)
        total = np.where(np.isnan(total), np.float32(0), total)
        return unit_product(big_a, big_b, total, unit.tf32, unit.bits) + c
    if precision != "IEEE":
        raise NotImplementedError(precision)
    if np.array_equal(a, cut_tf32(a)) and np.array_equal(b, cut_tf32(b)):
        return unit_product(a, b, c, unit.half, unit.bits)
    return fma_product(a, b, c)


def install(monkeypatch: pytest.MonkeyPatch, unit: Unit = HOPPER) -> None:
    """Make the interpreter's ``tl.dot`` that of ``unit``. Compiled kernels are left alone."""
    from lyra_kernels.backends.triton import availability
    from lyra_kernels.backends.triton._launch import interpreting

    if not interpreting():
        return
    works, reason = availability()
    assert works, reason
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot(self: Any, a: Any, b: Any, d: Any, precision: Any, *rest: Any) -> Any:
        operands = (a.data, b.data, d.data)
        assert all(x.dtype == np.float32 for x in operands), [x.dtype for x in operands]
        return TensorHandle(product(*operands, precision.name, unit), d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
