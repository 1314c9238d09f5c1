"""The native PGC block against the float64 reference: tiles, halos, layouts, parts left out, instruction sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lyra_kernels import backends, reference

from .block_checks import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    check_op,
    check_threads,
    compute_dtype,
    isa,
    layout,
    native,
    poisoned_outputs,
    unrounded,
)

ALL = ("in_bias", "in_norm", "conv_bias", "out_bias", "out_norm", "residual")
ROLES = {"activations": (0, 9), "in_backward": 9, "differentiated": 9, "products": True}


def arguments(dtype, kind, batch, length, d, channels, out, width=3, causal=False, parts=ALL, seed=0):
    own = torch.manual_seed(seed).clone_state()
    batch, length, lengths, cu_seqlens = layout(kind, batch, length)
    compute = compute_dtype(dtype)

    def parameter(*shape, fan_in=1):
        return torch.randn(*shape, dtype=compute) / max(fan_in, 1) ** 0.5

    inputs = [
        torch.randn(batch, length, d).to(dtype),
        parameter(2 * channels, d, fan_in=d),
        parameter(2 * channels) if "in_bias" in parts else None,
        1 + parameter(2 * channels, fan_in=4) if "in_norm" in parts else None,
        parameter(channels, 1, width, fan_in=width),
        parameter(channels) if "conv_bias" in parts else None,
        parameter(out, channels, fan_in=channels),
        parameter(out) if "out_bias" in parts else None,
        1 + parameter(out, fan_in=4) if "out_norm" in parts else None,
        torch.randn(batch, length, out, generator=own).to(dtype) if "residual" in parts else None,
    ]
    return inputs, [lengths, cu_seqlens, 1e-8, causal], lengths


def check(*args, **kwargs):
    check_op("pgc", *arguments(*args, **kwargs), **ROLES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_dtypes_and_layouts(isa, dtype, kind):  # noqa: F811
    check(dtype, kind, 3, 150, 20, 24, 20)


@pytest.mark.parametrize("left_out", ALL)
def test_parts_left_out(left_out):
    check(torch.float32, "padded", 3, 110, 12, 9, 12, parts=[part for part in ALL if part != left_out])


def test_bare_block():
    check(torch.float32, "dense", 2, 100, 12, 9, 7, parts=())


@pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 31, 80])
@pytest.mark.parametrize("length", [1, 2, 93, 94, 95, 189, 500])
def test_widths_and_tile_boundaries(causal, width, length):
    check(torch.float32, "padded", 2, length, 6, 5, 6, width=width, causal=causal)


@pytest.mark.parametrize(
    "d, channels, out", [(1, 1, 2), (3, 16, 5), (16, 17, 31), (32, 8, 33), (64, 64, 64), (65, 130, 70)]
)
def test_channels(isa, d, channels, out):  # noqa: F811
    check(torch.float32, "dense", 2, 70, d, channels, out)


def test_products_deeper_than_one_piece():
    check(torch.float32, "dense", 1, 40, 530, 300, 290)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("batch, length", [(0, 5), (2, 0), (0, 0)])
def test_nothing(kind, batch, length):
    check(torch.float32, kind, batch, length, 6, 4, 6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data):
    draw = data.draw
    problem = arguments(
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 260)),
        draw(st.integers(2, 40)),  # the gradient of one normalised channel is a cancellation, nothing else
        draw(st.integers(2, 40)),
        draw(st.integers(2, 40)),
        width=draw(st.integers(1, 12)),
        causal=draw(st.booleans()),
        parts=draw(st.sets(st.sampled_from(ALL))),
        seed=draw(st.integers(0, 10**6)),
    )
    with unrounded():
        check_op("pgc", *problem, **ROLES, slack=50)


def sparse(rows, columns):
    """Two entries of 1 or -1 in each row, so that sums of products stay small whole numbers."""
    x = torch.zeros(rows, columns)
    for _ in range(2):
        x.scatter_(1, torch.randint(columns, (rows, 1)), torch.randint(0, 2, (rows, 1)) * 2.0 - 1)
    return x


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 230), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.booleans()
)
@example(1, 40, 300, 600, 290, True)  # deeper than one piece
def test_products_are_exact_in_whole_numbers(batch, length, d, channels, out, biased):
    """All that is between the products is a whole number that bfloat16 holds, and every sum one that float32 does."""
    torch.manual_seed(length)
    inputs = [
        torch.randint(-1, 2, (batch, length, d)).bfloat16(),
        sparse(2 * channels, d),
        torch.randint(-1, 2, (2 * channels,)).float() if biased else None,
        None,
        torch.randint(-1, 2, (channels, 1, 1)).float(),
        None,
        sparse(out, channels),
        torch.randint(-1, 2, (out,)).float() if biased else None,
        None,
    ]
    leaves = [x.double().requires_grad_() for x in inputs if x is not None]
    given_ = iter(leaves)
    exact = reference.pgc(*[x if x is None else next(given_) for x in inputs], None, None, None, 1e-8, False)
    grad = torch.zeros_like(exact)
    grad[..., 0], grad[..., -1] = 1, -1
    wanted = torch.autograd.grad(exact, leaves, grad)
    for name in native.available_cpu_isas():
        with backends.use_cpu_isa(name), poisoned_outputs():
            y = torch.ops.lyra.pgc(*inputs, None, None, None, 1e-8, False)
            found = torch.ops.lyra.pgc_backward(grad.bfloat16(), *inputs, None, None, 1e-8, False)
        assert torch.equal(y.double(), exact)
        found = [g for g, x in zip(found, inputs, strict=True) if x is not None]
        for g, w in zip(found, wanted, strict=True):
            assert torch.equal(g.double(), w), name


def test_sequences_do_not_see_each_other():
    inputs, _, _ = arguments(torch.float32, "dense", 1, 150, 8, 8, 8, width=5, parts=ALL[:-1])
    cu_seqlens = torch.tensor([0, 1, 70, 150])
    whole = torch.ops.lyra.pgc(*inputs, None, cu_seqlens, 1e-8, False)
    for begin, end in [(0, 1), (1, 70), (70, 150)]:
        piece = [inputs[0][:, begin:end].contiguous(), *inputs[1:]]
        alone = torch.ops.lyra.pgc(*piece, None, None, 1e-8, False)
        torch.testing.assert_close(whole[:, begin:end], alone, rtol=1e-6, atol=1e-6)


def test_causal_output_ignores_the_future():
    inputs, rest, _ = arguments(torch.float32, "dense", 1, 130, 8, 8, 8, width=4, causal=True)
    before = torch.ops.lyra.pgc(*inputs, *rest)
    inputs[0][:, 100:] = torch.nan
    after = torch.ops.lyra.pgc(*inputs, *rest)
    assert torch.equal(before[:, :100], after[:, :100])
    assert after[:, 100:].isnan().all()


def test_same_bits_for_any_number_of_threads():
    inputs, rest, _ = arguments(torch.float32, "padded", 5, 777, 24, 20, 24, width=7)
    check_threads("pgc", inputs, rest, torch.randn(5, 777, 24), in_backward=9)
