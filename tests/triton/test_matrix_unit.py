"""The stand-in for a card's products: against whole-number arithmetic, by hand, and in a kernel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from lyra_kernels.backends.triton._launch import interpreting

from . import matrix_unit
from .matrix_unit import AMPERE, HOPPER, cut_tf32, fma_product, product, round_tf32, unit_product

SHAPE = (5, 16, 3)


def _operands(spread=0, seed=0):
    """Random a, b and c, times powers of two up to 2^spread either way."""
    random = np.random.default_rng(seed)
    m, k, n = SHAPE
    out = []
    for shape in ((m, k), (k, n), (m, n)):
        powers = random.integers(-spread, spread + 1, shape)
        out.append(np.ldexp(random.standard_normal(shape), powers).astype(np.float32))
    return out


def _exponent(x: Fraction) -> int:
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= abs(x) else e - 1


def _cut(x: Fraction, quantum: Fraction) -> Fraction:
    return int(x / quantum) * quantum  # int() cuts towards zero


def _by_fractions(a, b, c, block, bits):
    """One element of ``c + a b``, straight from the definition."""
    total = Fraction(float(c))
    for k in range(0, len(a), block):
        pairs = zip(a[k : k + block].tolist(), b[k : k + block].tolist(), strict=True)
        pairs = [(Fraction(x), Fraction(y)) for x, y in pairs if x and y]
        exponents = [_exponent(x) + _exponent(y) for x, y in pairs] + ([_exponent(total)] if total else [])
        quantum = Fraction(2) ** (max(exponents, default=0) - bits)
        total = sum((_cut(x * y, quantum) for x, y in pairs), _cut(total, quantum))
        if total:
            total = _cut(total, Fraction(2) ** (_exponent(total) - 23))
    return float(total)


@pytest.mark.parametrize("unit", [AMPERE, HOPPER])
@pytest.mark.parametrize("spread", [0, 3, 15, 40])
def test_against_fractions(spread, unit):
    a, b, c = _operands(spread)
    a[0, ::3], b[1], c[1] = 0.0, 0.0, 0.0
    a, b = cut_tf32(a), cut_tf32(b)
    for block in (unit.tf32, unit.half):
        found = unit_product(a, b, c, block, unit.bits)
        wanted = [[_by_fractions(a[i], b[:, j], c[i, j], block, unit.bits) for j in range(3)] for i in range(5)]
        assert found.dtype == np.float32 and found.tolist() == wanted


def _sum(terms, start, unit, block=None):
    a = np.zeros((1, 16), np.float32)
    a[0, : len(terms)] = terms
    b = np.ones((16, 1), np.float32)
    return float(unit_product(a, b, np.full((1, 1), start, np.float32), block or unit.tf32, unit.bits)[0, 0])


def test_sums_are_cut_not_rounded():
    ulp = 2.0**-23
    assert _sum([0.875 * ulp], 1.0, HOPPER) == 1.0
    assert _sum([-0.125 * ulp], 1.0, HOPPER) == 1.0  # it is cut before it is added
    assert _sum([-0.25 * ulp], 1.0, HOPPER) == 1.0 - ulp / 2  # where an ulp is half as large
    assert _sum([0.875 * ulp], -1.0, HOPPER) == -1.0 + ulp  # -(1 - 3/4 ulp)


def test_bits_below_the_last_are_added_within_a_block():
    quarter = 2.0**-25
    assert _sum([quarter] * 4, 1.0, HOPPER) == 1.0 + 2.0**-23
    assert _sum([quarter] * 4, 1.0, AMPERE) == 1.0  # one bit fewer
    assert _sum([2 * quarter] * 2, 1.0, AMPERE) == 1.0 + 2.0**-23
    assert _sum([2 * quarter, 0, 0, 0, 2 * quarter], 1.0, AMPERE) == 1.0  # in two blocks
    assert _sum([quarter] * 2 + [0] * 6 + [quarter] * 2, 1.0, HOPPER) == 1.0


def test_operands():
    x = np.array([1 + 2**-11, 1 + 2**-11 - 2**-23, -1 - 2**-11, 0.0, np.inf, np.nan, 2**-140], np.float32)
    assert np.array_equal(round_tf32(x)[:5], [1 + 2**-10, 1, -1 - 2**-10, 0, np.inf])
    assert np.array_equal(cut_tf32(x)[:5], [1, 1, -1, 0, np.inf]) and np.isnan(round_tf32(x)[5])
    one = np.ones((1, 1), np.float32)
    assert product(one * np.float32(1 + 2**-11), one, 0 * one, "TF32") == 1.0


def test_three_products_keep_what_one_drops():
    a, b, c = _operands()
    exact = c + np.matmul(a, b, dtype=np.float64)
    found = {p: product(a, b, c, p) for p in ("TF32", "TF32x3", "IEEE")}
    errors = {p: np.linalg.norm(y - exact) / np.linalg.norm(exact) for p, y in found.items()}
    assert 1e-4 < errors["TF32"] < 2e-3 and errors["TF32x3"] < 4e-7 and errors["IEEE"] < 2e-7


@pytest.mark.parametrize(("precision", "least", "most"), [("TF32x3", 3e-8, 1e-7), ("IEEE", 0.0, 3e-9)])
def test_only_the_unit_makes_sums_too_small(precision, least, most):
    """On average, relative: half an ulp of the sum and, in part, of the sum before. Rounding to nearest: nothing."""
    random = np.random.default_rng(1)
    a, b = (random.standard_normal(s, dtype=np.float32) for s in ((200, 16), (16, 200)))
    exact = np.matmul(a, b, dtype=np.float64)
    found = product(a, b, np.zeros((200, 200), np.float32), precision)
    assert least <= abs(((exact - found) * exact).sum()) / (exact**2).sum() <= most


@pytest.mark.parametrize("precision", ["TF32", "TF32x3", "IEEE"])
def test_a_part_has_the_bits_of_the_whole_without_any_library(precision, monkeypatch):
    a, b, c = _operands(5)
    for name in ("matmul", "dot", "einsum", "inner", "tensordot"):
        monkeypatch.setattr(np, name, None)
    whole = product(a, b, c, precision)
    assert np.array_equal(product(a[1:3], b[:, 2:], c[1:3, 2:], precision), whole[1:3, 2:])
    assert np.array_equal(product(np.asfortranarray(a), b, c, precision), whole)


def test_16_bit_operands_are_the_units():
    a, b, c = _operands()
    half = [x.astype(np.float16).astype(np.float32) for x in (a, b)]
    assert np.array_equal(product(*half, c, "IEEE"), unit_product(*half, c, HOPPER.half, HOPPER.bits))
    assert np.array_equal(product(a, half[1], c, "IEEE"), fma_product(a, half[1], c))


@pytest.mark.parametrize("precision", ["TF32", "TF32x3", "IEEE"])
def test_infinity_and_nan(precision):
    a, b, c = _operands()
    a[0, 3], a[1, 2], c[2, 0] = np.inf, np.nan, -np.inf
    found, whole = product(a, b, c, precision), product(*_operands(), precision)
    assert np.isinf(found[0]).all() and np.isnan(found[1]).all() and found[2, 0] == -np.inf
    assert np.array_equal(np.sign(found[0]), np.sign(b[3]))
    assert np.array_equal(found[3:], whole[3:]) and np.array_equal(found[2, 1:], whole[2, 1:])


def test_unknown_precision():
    with pytest.raises(NotImplementedError, match="BF16x9"):
        product(*_operands(), "BF16x9")


@pytest.mark.parametrize("precision", ["tf32", "tf32x3", "ieee"])
def test_a_kernel_computes_with_it(precision, monkeypatch):
    import triton
    import triton.language as tl

    if not interpreting():
        pytest.skip("a card has a matrix unit of its own")

    @triton.jit
    def kernel(x, out, PREC: tl.constexpr):
        at = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
        value = tl.load(x + at)
        tl.store(out + at, tl.dot(value, value, value, input_precision=PREC))

    x, out, other = torch.randn(16, 16), torch.empty(16, 16), torch.empty(16, 16)
    kernel[(1,)](x, out, precision)
    name = precision.upper().replace("X", "x")
    assert np.array_equal(out.numpy(), product(*[x.numpy()] * 3, name))
    matrix_unit.install(monkeypatch, AMPERE)
    kernel[(1,)](x, other, precision)
    assert torch.equal(out, other) == (precision == "ieee")
