"""A Fourier transform of N points inside one program, for convolutions of real sequences of up to N tokens.

The transform is taken at the frequencies (f - 1/4) / N, f = 0..N-1, which makes a convolution one modulo x^N = i: a
term of index t >= N wraps to t - N times i. For a real sequence and a real kernel everything that wraps is imaginary,
so the real part is the linear convolution: N points serve N tokens, with neither padding to 2 N nor the untangling of a
real transform. A lag of -m stands at N - m times -i; its terms wrap back to real ones. So one complex kernel,

    k_t = K0_t - i K1_(N-t-1),    y = Re T^-1 (T k * T u),    y_t = sum_{s<=t} K0_{t-s} u_s + sum_{s>t} K1_{s-t-1} u_s,

holds both directions. T T^H = N, hence the gradients: T^-1 (conj(T k) T g) is that of u, and W = T^-1 (conj(T u) T g)
summed over the batch holds those of the taps, Re W_t = dK0_t and -Im W_t = dK1_(N-t-1).

N = A B C points are a cube, t = (a B + b) C + c. Each of its sides is transformed by a product with a small DFT matrix
on the left, (side, side) @ (side, N / side), turns of the frequencies between them. Sides of 16 and 32 cost a third of
the multiply-adds of two sides of 64, their matrices fit in registers, and their products are ``mma.sync`` on every
card: no operand has to lie in shared memory. Frequencies stay in the order in which they come out.

Matrices and turns are made in the kernel from whole numbers, reduced modulo a turn before they become fractions.
Operands of single TF32 products are rounded first: cut short, they add up to 2.4e-3 of what comes out of a transform
and back; rounded, to 4e-4.

Where fp32 is meant, products are six of bf16 (``bf16x6``, :func:`._dot.split`). A matrix unit cuts its sums towards
zero instead of rounding them. Three TF32 products do so in full: each stage makes what passes through it smaller by
4.5e-8 to 9e-8, always the same way, a convolution by 3e-7 to 5.5e-7. Products of two bf16 parts have 16 bits, so their
sum mostly fits in fp32 and there is nothing to cut, where both parts are the largest; the other five products, a 256th
of it, are summed apart, and what joins the two is an fp32 addition, rounded to nearest. RMS error of a convolution of
random numbers against float64, by the stand-in for the unit that the tests use (tests/triton/matrix_unit.py):

======  ======================  =======================  ===========  ==================
length  three TF32 (measured)   fp32 on the CUDA cores   six of bf16  torch.fft, on CPUs
======  ======================  =======================  ===========  ==================
100     3.6e-7 (3.0e-7)         1.5e-7                   9.8e-8       1.7e-7
512     5.2e-7                  2.8e-7                   1.7e-7       2.2e-7
4096    6.1e-7                  3.2e-7                   1.8e-7       2.4e-7
======  ======================  =======================  ===========  ==================

(On an H200, measured: the S4D convolution of 100 tokens, with the skip weight as a tap.) Six bf16 products take a
matrix unit as long as three of TF32, which are half as fast, and need fewer registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._dot import add_product, joined, split


@triton.jit
def _turned(phase, TURN: tl.constexpr, PREC: tl.constexpr):
    """``e^(-2 pi i phase / TURN)`` of whole numbers; TURN is a power of two up to 2^14. From an eighth of a turn.

    What comes last is added in full, so most of the error is that of rounding to fp32: RMS 2.3e-8 to 3.2e-8 of 1, where
    correctly rounded values have 2.1e-8. The angle is a multiple of 804 / 1024, which is exact, and a rest. Beside
    single TF32 products the plain polynomials do, which spare 7 to 10 % of the time of the kernel in 16 bits (by the
    time model, at 8 x 2048 and 64 x 4096).
    """
    phase = (phase * 8) & (8 * TURN - 1)
    quarter = (phase + TURN) // (2 * TURN)
    eighths = (phase - quarter * (2 * TURN)).to(tl.float32) * (1.0 / TURN)
    if PREC == "tf32":
        x = eighths * 0.7853981633974483
        x2 = x * x
        s = 0.0083333333 + x2 * (2.7557319e-06 * x2 - 0.00019841270)
        s = x + x * x2 * (-0.16666667 + x2 * s)
        c = -0.0013888889 + x2 * (2.4801587e-05 - 2.7557319e-07 * x2)
        c = 1.0 + x2 * (-0.5 + x2 * (0.041666667 + x2 * c))
    else:
        exact = eighths * 0.78515625
        rest = eighths * 0.000241913397448
        x = exact + rest
        x2 = x * x
        s = 0.0083333333 + x2 * (2.7557319e-06 * x2 - 0.00019841270)
        s = exact + (rest + x * x2 * (-0.16666667 + x2 * s))
        c = 0.041666667 + x2 * (-0.0013888889 + x2 * (2.4801587e-05 - 2.7557319e-07 * x2))
        c = 1.0 - (eighths * eighths * 0.30842514 - x2 * x2 * c)
    odd = (quarter & 1) == 1
    cosine = tl.where(odd, s, c)
    sine = tl.where(odd, c, s)
    # Quarters 0 to 4: cosine c -s -c s c, sine s c -s -c s.
    return tl.where((quarter == 1) | (quarter == 2), -cosine, cosine), tl.where(quarter % 4 >= 2, sine, -sine)


@triton.jit
def _first_matrix(zero, A: tl.constexpr, TRANSPOSE: tl.constexpr, PREC: tl.constexpr):
    """``e^(-2 pi i (p - 1/4) a / A)``, p down and a across, or the other way round."""
    row = zero + tl.arange(0, A)[:, None]
    column = zero + tl.arange(0, A)[None, :]
    if TRANSPOSE:
        return _turned((4 * column - 1) * row, 4 * A, PREC)
    else:
        return _turned((4 * row - 1) * column, 4 * A, PREC)


@triton.jit
def _matrix(zero, Q: tl.constexpr, SIZE: tl.constexpr, PREC: tl.constexpr):
    """The DFT matrix of Q points, SIZE / Q times along the diagonal: products have sides of at least 16."""
    row = zero + tl.arange(0, SIZE)[:, None]
    column = zero + tl.arange(0, SIZE)[None, :]
    re, im = _turned((row % Q) * (column % Q), Q, PREC)
    same = row // Q == column // Q
    return tl.where(same, re, 0.0), tl.where(same, im, 0.0)


@triton.jit
def _outer_turns(zero, A: tl.constexpr, M: tl.constexpr, PREC: tl.constexpr):
    """What stands between the first side and the rest, (A, M). ``zero``: see :func:`forward`."""
    p = zero + tl.arange(0, A)[:, None]
    j = zero + tl.arange(0, M)[None, :]
    return _turned((4 * p - 1) * j, 4 * A * M, PREC)


@triton.jit
def _inner_turns(zero, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, PREC: tl.constexpr):
    """What stands between the second side and the third, (B, A C)."""
    q = zero + tl.arange(0, B)[:, None]
    c = zero + tl.arange(0, A * C)[None, :] % C
    return _turned(q * c, B * C, PREC)


@triton.jit
def advance(zero, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, SIZE: tl.constexpr, PREC: tl.constexpr):
    """What T multiplies by when each x_t becomes x_{t+1}: ``e^(2 pi i (f - 1/4) / N)`` at every f's place."""
    G: tl.constexpr = SIZE // C
    W: tl.constexpr = A * B // G
    row = zero + tl.arange(0, SIZE)[:, None]
    column = zero + tl.arange(0, W)[None, :]
    if B > 1:
        f = column % A + A * (column // A * G + row // C + B * (row % C))
    else:
        f = column * G + row // C + A * (row % C)
    return _turned(1 - 4 * f, 4 * A * B * C, PREC)


@triton.jit
def index(zero, I: tl.constexpr, J: tl.constexpr):
    """The numbers of the points of a transform, (I, J). ``zero``: see :func:`forward`."""
    return (zero + tl.arange(0, I))[:, None] * J + tl.arange(0, J)[None, :]


@triton.jit
def _to_last(x, ROWS: tl.constexpr, REST: tl.constexpr, C: tl.constexpr, SIZE: tl.constexpr):
    """(ROWS, REST C) to (SIZE, ...): the last side, with SIZE / C neighbours of the first, to the front."""
    G: tl.constexpr = SIZE // C
    x = tl.reshape(x, (ROWS // G, G, REST, C))
    return tl.reshape(tl.permute(x, (1, 3, 0, 2)), (SIZE, ROWS * REST // G))


@triton.jit
def _from_last(x, ROWS: tl.constexpr, REST: tl.constexpr, C: tl.constexpr, SIZE: tl.constexpr):
    """What :func:`_to_last` undoes: (SIZE, ...) to (ROWS, REST C)."""
    G: tl.constexpr = SIZE // C
    x = tl.reshape(x, (G, C, ROWS // G, REST))
    return tl.reshape(tl.permute(x, (2, 0, 3, 1)), (ROWS, REST * C))


@triton.jit
def _swap(x, ROWS: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr):
    """(ROWS, FIRST REST) to (FIRST, ROWS REST)."""
    x = tl.reshape(x, (ROWS, FIRST, REST))
    return tl.reshape(tl.permute(x, (1, 0, 2)), (FIRST, ROWS * REST))


@triton.jit
def _real_product(f, x, PREC: tl.constexpr):
    """``f x`` of two :func:`split` matrices."""
    none = tl.zeros((f[0].shape[0], x[0].shape[1]), tl.float32)
    total, rest = add_product(f, x, none, none, PREC)
    return joined(total, rest, PREC)


@triton.jit
def _sum_product(f, x, g, y, PREC: tl.constexpr):
    """``f x + g y``, rounded once."""
    none = tl.zeros((f[0].shape[0], x[0].shape[1]), tl.float32)
    total, rest = add_product(f, x, none, none, PREC)
    total, rest = add_product(g, y, total, rest, PREC)
    return joined(total, rest, PREC)


@triton.jit
def _product(f_re, f_im, x_re, x_im, PREC: tl.constexpr):
    """``f x`` of complex matrices."""
    x_re = split(x_re, PREC)
    x_im = split(x_im, PREC)
    f = split(f_re, PREC)
    y_re = _sum_product(f, x_re, split(-f_im, PREC), x_im, PREC)
    y_im = _sum_product(f, x_im, split(f_im, PREC), x_re, PREC)
    return y_re, y_im


@triton.jit
def forward(
    x_re,
    x_im,
    zero,
    COMPLEX: tl.constexpr,
    PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """T x of ``x (A, B C)``, as (SIZE, N / SIZE). ``x_im`` is read only where COMPLEX.

    Args:
        zero: 0, but not known to the compiler to be so before a row is looked at. Matrices and turns are then made
            anew for each row; lifted out of the loop over rows they would take most of a thread's registers.
    """
    f_re, f_im = _first_matrix(zero, A, False, PREC)
    if COMPLEX:
        y_re, y_im = _product(f_re, f_im, x_re, x_im, PREC)
    else:
        x = split(x_re, PREC)
        y_re = _real_product(split(f_re, PREC), x, PREC)
        y_im = _real_product(split(f_im, PREC), x, PREC)
    w_re, w_im = _outer_turns(zero, A, B * C, PREC)
    z_re = y_re * w_re - y_im * w_im
    z_im = y_re * w_im + y_im * w_re
    if B > 1:
        f_re, f_im = _matrix(zero, B, B, PREC)
        y_re, y_im = _product(f_re, f_im, _swap(z_re, A, B, C), _swap(z_im, A, B, C), PREC)
        w_re, w_im = _inner_turns(zero, A, B, C, PREC)
        z_re = y_re * w_re - y_im * w_im
        z_im = y_re * w_im + y_im * w_re
        f_re, f_im = _matrix(zero, C, SIZE, PREC)
        return _product(f_re, f_im, _to_last(z_re, B, A, C, SIZE), _to_last(z_im, B, A, C, SIZE), PREC)
    else:
        f_re, f_im = _matrix(zero, C, SIZE, PREC)
        return _product(f_re, f_im, _to_last(z_re, A, 1, C, SIZE), _to_last(z_im, A, 1, C, SIZE), PREC)


@triton.jit
def inverse(
    z_re,
    z_im,
    zero,
    COMPLEX: tl.constexpr,
    PREC: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
):
    """N T^-1 z, (A, B C): the real part, and where COMPLEX the imaginary one (else the real one twice)."""
    f_re, f_im = _matrix(zero, C, SIZE, PREC)
    y_re, y_im = _product(f_re, -f_im, z_re, z_im, PREC)
    if B > 1:
        z_re = _from_last(y_re, B, A, C, SIZE)
        z_im = _from_last(y_im, B, A, C, SIZE)
        w_re, w_im = _inner_turns(zero, A, B, C, PREC)
        y_re = z_re * w_re + z_im * w_im
        y_im = z_im * w_re - z_re * w_im
        f_re, f_im = _matrix(zero, B, B, PREC)
        z_re, z_im = _product(f_re, -f_im, y_re, y_im, PREC)
        z_re = _swap(z_re, B, A, C)
        z_im = _swap(z_im, B, A, C)
    else:
        z_re = _from_last(y_re, A, 1, C, SIZE)
        z_im = _from_last(y_im, A, 1, C, SIZE)
    w_re, w_im = _outer_turns(zero, A, B * C, PREC)
    y_re = z_re * w_re + z_im * w_im
    y_im = z_im * w_re - z_re * w_im
    f_re, f_im = _first_matrix(zero, A, True, PREC)
    if COMPLEX:
        return _product(f_re, -f_im, y_re, y_im, PREC)
    else:
        x_re = _sum_product(split(f_re, PREC), split(y_re, PREC), split(f_im, PREC), split(y_im, PREC), PREC)
        return x_re, x_re
