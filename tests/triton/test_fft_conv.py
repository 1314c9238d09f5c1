"""fft_conv and s4d_fft against float64: every size of transform, both directions, layouts, dtypes, shared rows."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk
import lyra_kernels.reference as reference
from lyra_kernels import backends
from lyra_kernels.backends.triton import IMPLEMENTATIONS, _launch, fft_conv, fft_conv_backward
from lyra_kernels.backends.triton._fft import advance, forward, inverse

from ..ops.cases import terms_of_log_dt
from .support import channels_first, check, doubled, guarded, padding, relative_error
from .test_s4d_kernel import parameters

WRT = range(4)
SIZES = (200, 512, 700, 1300, 2049, 4096)
"""A length for every size of transform, and the largest there is."""
SELDOM = (700, 2049)  # whose transforms are made as those of 512 and of 1300 and 4096 are, in the whole matrix only


def _taps(batch, length, channels, taps, reverse=None, skip=True, dtype=torch.float32):
    return [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, taps),
        None if reverse is None else torch.randn(channels, reverse),
        torch.randn(channels) if skip else None,
    ]


def _s4d(batch, length, channels, modes=4, directions=1, skip=True, dtype=torch.float32):
    *spectrum, C = parameters(channels, modes, directions=directions)
    u = torch.randn(batch, length, channels).to(dtype)
    return [u, *spectrum, C, torch.randn(channels) if skip else None]


@pytest.fixture
def shared(monkeypatch):
    """Rows are shared among programs, two each."""
    for module in (fft_conv, fft_conv_backward):
        monkeypatch.setattr(module, "rows_per_program", lambda u, count, least: min(2, count))


@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps", "reverse", "skip"),
    [(2, 37, 3, 37, None, True), (1, 1, 1, 1, None, False), (1, 2, 2, 2, 2, True), (1, 3, 1, 1, 3, False),
     (3, 255, 1, 500, None, True), (1, 256, 2, 5, 256, True), (2, 257, 1, 257, 33, False), (1, 9, 1, 0, 0, True),
     (1, 20, 1, 3, 50, True)],
)  # fmt: skip
def test_shapes(batch, length, channels, taps, reverse, skip, device):
    check("fft_conv", [*_taps(batch, length, channels, taps, reverse, skip), None, None], WRT, device)


@pytest.mark.parametrize(
    ("before", "behind", "dtype"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
    ids=str,
)
def test_gates(before, behind, dtype, device):
    lengths = torch.tensor([21, 0, 8])
    gates = [torch.randn(3, 21, 2).to(dtype) if there else None for there in (before, behind)]
    args = [*_taps(3, 21, 2, 21, 4, dtype=dtype), *gates, lengths, None]
    check("gated_fft_conv", args, range(6), device, hide=padding(lengths, 21))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [pytest.param(n, marks=[pytest.mark.full] * (n in SELDOM)) for n in SIZES])
def test_sizes(length, reverse, device):
    check("fft_conv", [*_taps(2, length, 1, length, length if reverse else None), None, None], WRT, device)


@pytest.mark.parametrize("reverse", [None, 70])
def test_padded(reverse, device, shared):
    lengths = torch.tensor([70, 0, 33])
    arguments = [*_taps(3, 70, 2, 70, reverse), lengths, None]
    check("fft_conv", arguments, WRT, device, hide=padding(lengths, 70))


@pytest.mark.parametrize("reverse", [None, 90])
def test_packed(reverse, device, shared):
    cu_seqlens = torch.tensor([0, 1, 1, 70, 90])
    check("fft_conv", [*_taps(1, 90, 2, 90, reverse), None, cu_seqlens], WRT, device)


LYING = {"both": (channels_first, channels_first), "u": (channels_first, guarded), "grad": (guarded, channels_first)}
"""Which of the activations and the output's gradient are channels first."""


@pytest.mark.parametrize("lying", LYING.values(), ids=LYING)
def test_channels_first(lying, device):
    """``(B, H, L)`` memory, in which the result and the gradient lie then, too."""
    lengths = torch.tensor([37, 20])
    arguments = [*_taps(2, 37, 2, 30, 9, dtype=torch.bfloat16), lengths, None]
    check("fft_conv", arguments, WRT, device, hide=padding(lengths, 37), lying=lying)


def test_s4d_channels_first(device):
    cu_seqlens = torch.tensor([0, 1, 1, 40])
    check("s4d_fft", [*_s4d(1, 40, 3), None, cu_seqlens], range(6), device, lying=LYING["both"])


def test_channels_first_where_there_is_no_kernel(device):
    u, *rest = [a.to(device) for a in _s4d(1, fft_conv.MAX_POINTS + 1, 2)]
    for given in (u, channels_first(u)):
        found = IMPLEMENTATIONS["s4d_fft"](given, *rest, None, None)
        assert relative_error(found, reference.s4d_fft(*doubled([u, *rest]), None, None)) <= 3e-6


@pytest.mark.parametrize("length", [40, 256, 4096])
def test_taps_that_no_token_reaches(length, device):
    """Their gradient is zero, not what rounding leaves."""
    arguments = [a.to(device) for a in _taps(1, length, 1, length + 3, length + 3)]
    _, d_kernel, d_reverse, _ = IMPLEMENTATIONS["fft_conv_backward"](arguments[0], *arguments, None, None)
    assert d_kernel[:, :length].all() and not d_kernel[:, length:].any()
    assert d_reverse[:, : length - 1].all() and not d_reverse[:, length - 1 :].any()


@pytest.mark.parametrize("length", [33, 2100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, length, device):
    check("fft_conv", [*_taps(2, length, 1, length, length, dtype=dtype), None, None], WRT, device)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_empty(batch, length, device):
    check("fft_conv", [*_taps(batch, length, 2, 3), None, None], WRT, device)
    check("s4d_fft", [*_s4d(batch, length, 2), None, None], range(6), device)


def test_beyond_the_largest_transform(device):
    length = fft_conv.MAX_POINTS + 1
    check("fft_conv", [*_taps(1, length, 1, 100), None, None], WRT, device)
    check("s4d_fft", [*_s4d(1, length, 1, directions=2), None, None], range(6), device)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "modes", "skip"),
    [(2, 37, 3, 32, True), (1, 1, 1, 1, False), (1, 2, 2, 5, True), (1, 3, 1, 20, True), (3, 300, 1, 33, False)],
)
def test_s4d_shapes(batch, length, channels, modes, skip, directions, device):
    check("s4d_fft", [*_s4d(batch, length, channels, modes, directions, skip), None, None], range(6), device)


@pytest.mark.parametrize("directions", [1, 2])
def test_s4d_layouts(directions, device, shared):
    lengths = torch.tensor([70, 0, 33])
    check("s4d_fft", [*_s4d(3, 70, 2, 4, directions), lengths, None], range(6), device, hide=padding(lengths, 70))
    cu_seqlens = torch.tensor([0, 1, 1, 70, 90])
    check("s4d_fft", [*_s4d(1, 90, 2, 4, directions), None, cu_seqlens], range(6), device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_s4d_storage(dtype, device):
    check("s4d_fft", [*_s4d(2, 50, 2, directions=2, dtype=dtype), None, None], range(6), device)


@pytest.mark.parametrize("length", [700, 4096])
def test_s4d_sizes(length, device):
    check("s4d_fft", [*_s4d(1, length, 1, 16, 2), None, None], range(6), device)


@pytest.mark.full
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [255, 256, 257, 511, 513, 1023, 1024, 1025, 2047, 2048, 3000, 4095, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matrix(dtype, length, directions, device):
    reverse = length - 1 if directions == 2 else None
    check("fft_conv", [*_taps(3, length, 2, length, reverse, dtype=dtype), None, None], WRT, device)
    lengths = torch.tensor([length, length // 3, 0])
    arguments = [*_s4d(3, length, 2, 32, directions, dtype=dtype), lengths, None]
    check("s4d_fft", arguments, range(6), device, hide=padding(lengths, length))


def _plain_and_found(op, arguments, device):
    """Relative errors of output and gradients against float64: the formula in fp32, and ours."""
    arguments = [a if a is None else a.to(device) for a in arguments]
    present = [i for i, a in enumerate(arguments) if a is not None]
    grad = torch.randn(arguments[0].shape, device=device)

    def plain(dtype):
        inputs = [a if a is None else a.to(dtype).requires_grad_() for a in arguments]
        y = getattr(reference, op)(*inputs, None, None)
        return [y, *torch.autograd.grad(y, [inputs[i] for i in present], grad.to(dtype))]

    gradients = IMPLEMENTATIONS[f"{op}_backward"](grad, *arguments, None, None)
    found = [IMPLEMENTATIONS[op](*arguments, None, None), *(gradients[i] for i in present)]
    exact = plain(torch.float64)
    terms = [None] * len(found)
    if op == "s4d_fft":
        terms[2] = terms_of_log_dt(arguments[3].double(), *exact[2:5])
    errors = [
        [relative_error(y, e, t) for y, e, t in zip(ys, exact, terms, strict=True)]
        for ys in (plain(torch.float32), found)
    ]
    return zip(*errors, strict=True)


def _no_worse(op, length, directions, device):
    if op == "s4d_fft":
        arguments = _s4d(2, length, 1, 32, directions)
    else:
        arguments = _taps(2, length, 1, length, length if directions == 2 else None)
    for i, (plain, found) in enumerate(_plain_and_found(op, arguments, device)):
        # A sum of few numbers may be exact by chance: then a few roundings, relative to the largest term.
        least = 6e-8 if i < 2 else 6e-7
        assert found <= max(least, 2 * plain), f"{'output' if i == 0 else f'gradient {i - 1}'}: {found} against {plain}"


@pytest.mark.parametrize(("length", "directions"), [(1, 2), (3, 1), (100, 1), (257, 2), (4096, 2)])
@pytest.mark.parametrize("op", ["fft_conv", "s4d_fft"])
def test_no_worse_than_plain_fp32(op, length, directions, device):
    """Against float64, at most twice the error of the same formula in fp32 with torch.fft."""
    _no_worse(op, length, directions, device)


@pytest.mark.full
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [2, 5, 17, 64, 200, 255, 256, 400, 512, 513, 700, 1024, 1025, 2048, 2049, 3000])
@pytest.mark.parametrize("op", ["fft_conv", "s4d_fft"])
def test_no_worse_than_plain_fp32_at_any_length(op, length, directions, device):
    _no_worse(op, length, directions, device)


@pytest.mark.parametrize(("products", "least", "most"), [("tf32x3", 2.5e-7, 4e-7), ("bf16x6", 0.0, 1.5e-7)])
def test_why_three_tf32_products_are_not_enough(products, least, most, device, monkeypatch):
    """They make every sum too small, and a convolution takes eight: 3.0e-7 on an H200, 3.3e-7 here.

    As the kernels were when that was measured, with the skip weight as a tap.
    """
    _, *spectrum, C, D = _s4d(2, 100, 1, 32)
    u = torch.randn(2, 100, 1, device=device)
    taps = reference.s4d_kernel(*(p.double() for p in spectrum), C[0].double(), 100)
    taps[:, 0] += D
    for module in (fft_conv, fft_conv_backward):
        monkeypatch.setattr(module, "taps_precision", lambda: products)
    arguments = [u, taps.float().to(device), None, None, None, None]
    wanted = reference.fft_conv(*doubled(arguments))
    assert least <= relative_error(IMPLEMENTATIONS["fft_conv"](*arguments), wanted) <= most


def test_results_do_not_depend_on_the_batch(device, shared):
    """A sequence alone, and one of three that two programs share: the same bits."""
    arguments = [a if a is None else a.to(device) for a in _taps(3, 60, 2, 60, 60)]
    together = IMPLEMENTATIONS["fft_conv"](*arguments, None, None)
    for i in range(3):
        alone = IMPLEMENTATIONS["fft_conv"](arguments[0][i : i + 1].contiguous(), *arguments[1:], None, None)
        assert torch.equal(alone[0], together[i])


def test_float64_takes_the_reference(device):
    args = [a.double().to(device) for a in _s4d(2, 20, 2)]
    found = IMPLEMENTATIONS["s4d_fft"](*args, None, None)
    assert relative_error(found, reference.s4d_fft(*args, None, None)) < 1e-14


@pytest.mark.parametrize(("bidirectional", "lying"), [(False, channels_first), (True, guarded)])
def test_s4d_conv_uses_it(bidirectional, lying, device, monkeypatch):
    """The public function, differentiated by autograd."""
    u, *spectrum, C, D = (a.to(device).requires_grad_() for a in _s4d(2, 30, 2, directions=1 + bidirectional))
    u = lying(u.detach()).requires_grad_()
    C_ = C if bidirectional else C[0]
    launched = []
    for module in (fft_conv, fft_conv_backward):
        monkeypatch.setattr(module, "launch", lambda kernel, *rest: launched.append(_launch.launch(kernel, *rest)))
    backends.refresh()  # it may have been asked before the interpreter was chosen
    with lk.use_backend("triton"):
        y = lk.s4d_conv(u, *spectrum, C_, D, bidirectional=bidirectional, algorithm="fft")
        assert y.stride() == u.stride()
        found = torch.autograd.grad(y.square().sum(), (u, *spectrum, C, D))
    assert len(launched) == 3
    exact = [a.detach().double().requires_grad_() for a in (u, *spectrum, C, D)]
    wanted = reference.s4d_fft(*exact, None, None)
    assert relative_error(y, wanted) <= 3e-6
    for a, b in zip(found, torch.autograd.grad(wanted.square().sum(), exact), strict=True):
        assert relative_error(a, b) <= 3e-6


@pytest.mark.interpreter  # a kernel defined in a test has no source for Triton's compiler
@pytest.mark.parametrize("sides", sorted(set(fft_conv.SIDES.values())))
def test_transform_and_back(sides, device):
    """T^-1 T is the identity on complex numbers, and `advance` is what a shift of one place does."""
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(x, out, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, SIZE: tl.constexpr, SHIFT: tl.constexpr):
        t = tl.arange(0, A)[:, None] * (B * C) + tl.arange(0, B * C)[None, :]
        re = tl.load(x + 2 * t)
        im = tl.load(x + 2 * t + 1)
        z_re, z_im = forward(re, im, 0, True, "ieee", A, B, C, SIZE)
        if SHIFT:
            w_re, w_im = advance(0, A, B, C, SIZE, "ieee")
            z_re, z_im = z_re * w_re - z_im * w_im, z_re * w_im + z_im * w_re
        re, im = inverse(z_re, z_im, 0, True, "ieee", A, B, C, SIZE)
        tl.store(out + 2 * t, re)
        tl.store(out + 2 * t + 1, im)

    A, B, C = sides
    points = A * B * C
    x = torch.randn(points, dtype=torch.complex64, device=device)
    out = torch.empty(points, 2, device=device)
    for shift in (False, True):
        kernel[(1,)](torch.view_as_real(x), out, A, B, C, max(C, 16), shift)
        wanted = torch.cat([x[1:], -1j * x[:1]]) if shift else x  # what leaves at the front comes back times 1 / i
        assert relative_error(out / points, torch.view_as_real(wanted)) < 1e-6


@pytest.mark.parametrize(
    ("shape", "least", "processors", "wanted"),
    [((8, 4096, 64), 4, 132, 4), ((8, 4096, 64), 4, 108, 8), ((8, 1024, 64), 2, 132, 2), ((8, 1024, 64), 4, 132, 4),
     ((8, 4096, 16), 4, 132, 1), ((1, 100, 1), 4, 132, 1), ((100, 256, 512), 4, 132, 25), ((3, 9, 9999), 2, 132, 3)],
)  # fmt: skip
def test_rows_of_a_program(shape, least, processors, wanted, monkeypatch):
    class Activations:
        is_cuda, device = True, None

    Activations.shape = shape
    monkeypatch.setattr(_launch, "_processors", lambda device: processors)
    assert fft_conv.rows_per_program(Activations, shape[0], least) == wanted


def test_tokens_of_no_sequence(device):
    args = [*_taps(1, 5, 2, 5), None, torch.zeros(1, dtype=torch.int64)]
    args = [a if a is None else a.to(device) for a in args]
    assert not IMPLEMENTATIONS["fft_conv"](*args).any()
    gradients = IMPLEMENTATIONS["fft_conv_backward"](torch.ones(1, 5, 2, device=device), *args)
    assert all(not g.any() for g in gradients)
