"""The modes of S4D: discretisation, powers without loss of phase, and the chain rule back to the parameters.

With ``z = dt A = x + iy``: ``a = e^z``, ``c = 2 C (e^z - 1) / A``. What there is per mode is done in float64; powers
``a^j`` are then fp32: the phase is counted in turns, ``y / 2 pi`` reduced to [-1/2, 1/2] and split into a multiple of
2^-12, whose products with j are exact, and a small rest. So an error of phase does not grow with j.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def round_to_nearest(x):
    """The nearest whole number, halves up."""
    return tl.floor(x + 0.5)


@triton.jit
def sincos64(turns):
    """sin and cos of 2 pi ``turns``, float64. Polynomials: no slow path, hence no stack."""
    quarter = round_to_nearest(turns * 4.0)
    x = (turns - quarter * 0.25) * 6.283185307179586
    x2 = x * x
    s = x2 * 2.8114572543455206e-15 - 7.647163731819816e-13
    s = 1.6059043836821613e-10 + x2 * s
    s = -2.505210838544172e-08 + x2 * s
    s = 2.7557319223985893e-06 + x2 * s
    s = -0.0001984126984126984 + x2 * s
    s = 0.008333333333333333 + x2 * s
    s = -0.16666666666666666 + x2 * s
    s = x + x * x2 * s
    c = x2 * 4.779477332387385e-14 - 1.1470745597729725e-11
    c = 2.08767569878681e-09 + x2 * c
    c = -2.755731922398589e-07 + x2 * c
    c = 2.48015873015873e-05 + x2 * c
    c = -0.001388888888888889 + x2 * c
    c = 0.041666666666666664 + x2 * c
    c = 1.0 + x2 * (-0.5 + x2 * c)
    return _turn(s, c, quarter)


@triton.jit
def sincos32(turns):
    """sin and cos of 2 pi ``turns``, fp32, for ``turns`` of a few units at most."""
    quarter = round_to_nearest(turns * 4.0)
    x = (turns - quarter * 0.25) * 6.283185307179586
    x2 = x * x
    s = -2.5052108e-08 * x2 + 2.7557319e-06
    s = -0.00019841270 + x2 * s
    s = 0.0083333333 + x2 * s
    s = x + x * x2 * (-0.16666667 + x2 * s)
    c = 2.0876757e-09 * x2 - 2.7557319e-07
    c = 2.4801587e-05 + x2 * c
    c = -0.0013888889 + x2 * c
    c = 0.041666667 + x2 * c
    c = 1.0 + x2 * (-0.5 + x2 * c)
    return _turn(s, c, quarter)


@triton.jit
def _turn(s, c, quarter):
    """(s, c) turned by ``quarter`` quarters, a whole number."""
    q = quarter.to(tl.int32) & 3
    odd = (q & 1) == 1
    sine = tl.where(odd, c, s)
    cosine = tl.where(odd, s, c)
    return tl.where(q >= 2, -sine, sine), tl.where((q == 1) | (q == 2), -cosine, cosine)


@triton.jit
def expm1_64(x):
    """``e^x - 1``, float64, without cancellation near 0."""
    series = x * 0.001388888888888889 + 0.008333333333333333  # 1 / 6!, 1 / 5!, ...: a division is 30 instructions
    series = x * series + 0.041666666666666664
    series = x * series + 0.16666666666666666
    series = x * series + 0.5
    series = x * (x * series + 1.0)
    return tl.where(tl.abs(x) < 1e-2, series, tl.exp(x) - 1.0)


@triton.jit
def modes(log_dt_ptr, log_A_real_ptr, A_imag_ptr, h, n, M, mask):
    """Of channels ``h`` and modes ``n`` (shapes that broadcast), float64: dt, Re A, Im A, x, and y in turns.

    ``log_dt_ptr (H,)``, ``log_A_real_ptr (H, M)``, ``A_imag_ptr (H, M)``, fp32; ``mask``: modes that there are.
    """
    dt = tl.exp(tl.load(log_dt_ptr + h + n * 0, mask=mask, other=0.0).to(tl.float64))
    offsets = h * M + n
    re = -tl.exp(tl.load(log_A_real_ptr + offsets, mask=mask, other=0.0).to(tl.float64))
    im = tl.load(A_imag_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
    turns = dt * im * 0.15915494309189535
    return dt, re, im, dt * re, turns - round_to_nearest(turns)


@triton.jit
def hold(re, im, x, turns):
    """``2 (e^z - 1) / A``, float64, from what :func:`modes` gives."""
    s, c = sincos64(turns * 0.5)
    versine = 2.0 * s * s  # 1 - cos, without cancellation near 0
    step_re = expm1_64(x) * (1.0 - versine) - versine
    step_im = tl.exp(x) * (2.0 * s * c)
    scale = 2.0 / (re * re + im * im)
    return (step_re * re + step_im * im) * scale, (step_im * re - step_re * im) * scale


@triton.jit
def load_pair(ptr, offsets, mask):
    """The complex number at ``offsets`` of an array (..., 2), float64: its two parts, 0 where not ``mask``."""
    re = tl.load(ptr + offsets * 2, mask=mask, other=0.0).to(tl.float64)
    im = tl.load(ptr + offsets * 2 + 1, mask=mask, other=0.0).to(tl.float64)
    return re, im


@triton.jit
def split_turns(turns):
    """Turns in float64 as a multiple of 2^-12 and a rest, both fp32."""
    turns = turns - round_to_nearest(turns)
    coarse = round_to_nearest(turns * 4096.0) * 0.000244140625
    return coarse.to(tl.float32), (turns - coarse).to(tl.float32)


@triton.jit
def powers(x, coarse, fine, start, j):
    """``e^(j x) e^(2 pi i (start + j turns))``, fp32, for whole numbers ``j`` up to 4096 (as fp32).

    ``coarse`` and ``fine``: the turns, see :func:`split_turns`.
    """
    turns = j * coarse
    turns = turns - round_to_nearest(turns)
    s, c = sincos32(turns + (start + j * fine))
    size = tl.exp(j * x)
    return size * c, size * s


@triton.jit
def chain(dt, re, im, x, turns, C_re, C_im, gc_re, gc_im, gz_re, gz_im):
    """From derivatives by c and by z (with c held), holomorphic: dL = Re(gc dc + gz dz), to the parameters, float64.

    Returns the gradients of log_dt (one term a mode), log_A_real, A_imag, Re C and Im C.
    """
    s_re, s_im = hold(re, im, x, turns)
    sine, cosine = sincos64(turns)
    size = 1.0 / (re * re + im * im)
    # dc/dz at fixed A is 2 C e^z / A; dc/dA at fixed z is -c / A.
    q_re = 2.0 * tl.exp(x) * (cosine * re + sine * im) * size
    q_im = 2.0 * tl.exp(x) * (sine * re - cosine * im) * size
    p_re = gc_re * C_re - gc_im * C_im  # gc C
    p_im = gc_re * C_im + gc_im * C_re
    z_re = gz_re + p_re * q_re - p_im * q_im
    z_im = gz_im + p_re * q_im + p_im * q_re
    w_re = p_re * s_re - p_im * s_im  # gc c
    w_im = p_re * s_im + p_im * s_re
    a_re = z_re * dt - (w_re * re + w_im * im) * size
    a_im = z_im * dt - (w_im * re - w_re * im) * size
    C_grad_re = gc_re * s_re - gc_im * s_im
    C_grad_im = -(gc_re * s_im + gc_im * s_re)
    return dt * (z_re * re - z_im * im), a_re * re, -a_im, C_grad_re, C_grad_im
