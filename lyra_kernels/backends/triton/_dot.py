"""Products of activations in their storage type with fp32 tables.

fp16 and bf16 activations are exact operands, so only the table's rounding costs accuracy. What there is to choose from
for a table, what it costs where a TF32 product costs 1, and the error of a scan's output before it is stored (relative
RMS against float64; 32 channels as a layer starts, d_state 64, L=128, states in TF32 rounded to nearest):

==============================  ====  ======  =======  =======
table                           cost  least   median   most
==============================  ====  ======  =======  =======
TF32, cut as the unit does it   1     5.8e-4  9.0e-4   1.3e-3
TF32, rounded to nearest        1     1.8e-4  3.5e-4   7.4e-4
fp16, the taps scaled           0.5   1.8e-4  3.5e-4   7.4e-4
fp16, powers as sums of two     0.8   1.6e-4  3.0e-4   5.0e-4
bf16                            0.5   9.6e-4  1.9e-3   3.8e-3
bf16, as sums of two            1     1.5e-4  2.7e-4   4.9e-4
==============================  ====  ======  =======  =======

Rounding the output to fp16 costs 2.1e-4, to bf16 1.7e-3. So cut TF32 would be four times what fp16 storage loses, and
one bf16 table as much as bf16 storage again; sums of two 16-bit parts cost no more than TF32 (a quarter on cards that
multiply fp32 instead), with half the registers for the activations, and what is left is mostly the states' rounding.
States have no bound on their range and stay in TF32, rounded to nearest first, one integer addition, because the unit
drops 13 bits without rounding. In the sweep for the parameters' gradients, where activations times their position are
operands too, tables are TF32 throughout.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._launch import interpreting

INTERPRETED = tl.constexpr(interpreting())


@triton.jit
def nearest(x, PREC: tl.constexpr):
    """fp32 such that dropping the bits that TF32 does not have rounds it to nearest. The interpreter drops none."""
    if PREC == "tf32":
        bits = x.to(tl.int32, bitcast=True) + 0x1000
        if INTERPRETED:
            bits = bits & -0x2000
        # A card's own NaN is 0x7fffffff: rounded up it would be -0.
        return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    else:
        return x


@triton.jit
def dot16(a, b, acc):
    """``acc + a b`` of two matrices in fp16 or bf16. Triton's interpreter gets bf16 wrong: there both are fp32."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def pair(x):
    """Two bfloat16 matrices whose sum is fp32 ``x`` within 2^-17 of it, the larger first."""
    # Cut in fp32: a conversion to bfloat16 and back would take a slower unit.
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def pair_transposed(a):
    """Of a :func:`pair`."""
    return tl.trans(a[0]), tl.trans(a[1])


@triton.jit
def pair_product(a, b, total):
    """``total + a b`` of two :func:`pair`, the smaller products first."""
    total = dot16(a[1], b[0], total)
    total = dot16(a[0], b[1], total)
    return dot16(a[0], b[0], total)


@triton.jit
def power_of_two(size):
    """The largest power of 2 up to ``size`` >= 0, and its inverse; 2^-100 at least."""
    bits = tl.maximum(size, 7.888609052210118e-31).to(tl.int32, bitcast=True) & 0x7F800000
    scale = bits.to(tl.float32, bitcast=True)
    return scale, 1.0 / scale


@triton.jit
def operand(table, like, PREC: tl.constexpr):
    """A table as operand beside activations of the type of ``like``, and what it lacks (itself where nothing does)."""
    if like == tl.float32:
        whole = nearest(table, PREC)
        return whole, whole
    else:
        whole = table.to(like)
        return whole, (table - whole.to(tl.float32)).to(like)


@triton.jit
def dot_table(x, whole, rest, acc, PREC: tl.constexpr):
    """``acc + x table`` of activations ``x`` in their storage type and an :func:`operand`."""
    if x.dtype == tl.float32:
        return tl.dot(nearest(x, PREC), whole, acc, input_precision=PREC)
    else:
        return dot16(x, rest, dot16(x, whole, acc))


@triton.jit
def split(x, PREC: tl.constexpr):
    """An operand of :func:`add_product`, three matrices: what fp32 ``x`` is the sum of, or ``x`` itself three times."""
    if PREC == "bf16x6":
        high = x.to(tl.bfloat16)
        x -= high.to(tl.float32)
        middle = x.to(tl.bfloat16)
        return high, middle, (x - middle.to(tl.float32)).to(tl.bfloat16)
    else:
        x = nearest(x, PREC)
        return x, x, x


@triton.jit
def add_product(a, b, total, rest, PREC: tl.constexpr):
    """Adds ``a b``, of two :func:`split` matrices, to ``total + rest``: both anew, for :func:`joined` to add."""
    if PREC == "bf16x6":
        total = dot16(a[0], b[0], total)
        rest = dot16(a[1], b[1], rest)
        rest = dot16(a[2], b[0], rest)
        rest = dot16(a[0], b[2], rest)
        rest = dot16(a[1], b[0], rest)
        rest = dot16(a[0], b[1], rest)
    else:
        total = tl.dot(a[0], b[0], total, input_precision=PREC)
    return total, rest


@triton.jit
def joined(total, rest, PREC: tl.constexpr):
    """The sum of products that :func:`add_product` kept in two parts."""
    if PREC == "bf16x6":
        return total + rest
    else:
        return total
