"""Native ops on activations that lie as (B, C, L), each this way or that: the numbers of those that lie as (B, L, C).

What is padding is NaN, and so is what an op leaves unwritten.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import lyra_kernels as lk
from lyra_kernels.layout import sequence_mask

from .block_checks import LAYOUTS, SUMMED, error, isa, layout, native, poisoned_outputs  # noqa: F401

OPS = torch.ops.lyra
SHAPES = [(3, 37, 5), (2, 130, 33), (2, 64, 16), (4, 3, 20), (1, 200, 48)]
"""(B, L, H): parts of vectors and of blocks, several chunks and tiles, less than a block, and whole ones."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def last(x: Tensor) -> Tensor:
    return x.contiguous()


def first(x: Tensor) -> Tensor:
    """The same numbers, lying as (B, C, L)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def modes(channels: int, directions: int, dtype: torch.dtype) -> list[Tensor]:
    values = -torch.rand(channels) * 3, torch.randn(channels, 3), torch.randn(channels, 3) * 5
    return [x.to(dtype) for x in (*values, torch.randn(directions, channels, 3, 2), torch.randn(channels))]


def scan(u, grad, batch, directions):
    spectrum = modes(u.shape[2], directions, torch.promote_types(u.dtype, torch.float32))
    sequences = u.shape[0] if batch[1] is None else batch[1].shape[0] - 1
    state = torch.randn(sequences, u.shape[2], 3, 2).to(spectrum[0]) if directions == 1 else None
    final = None if state is None else torch.randn_like(state)

    def run(u, grad, other, way):
        y, after, kept = OPS.s4d_scan(u, *spectrum, *batch, state, True)
        found = OPS.s4d_scan_backward(grad, final, u, *spectrum, *batch, state, kept)
        return [y, after, *found]

    return run


def direct(u, grad, batch, directions):
    dtype, channels = torch.promote_types(u.dtype, torch.float32), u.shape[2]
    kernels = [torch.randn(channels, 9).to(dtype), torch.randn(channels, 5).to(dtype) if directions == 2 else None]
    D = torch.randn(channels).to(dtype)

    def run(u, grad, other, way):
        return [OPS.causal_conv(u, *kernels, D, *batch), *OPS.causal_conv_backward(grad, u, *kernels, D, *batch)]

    return run


def tail(u, grad, batch, directions):
    dtype, channels = torch.promote_types(u.dtype, torch.float32), u.shape[2]
    sequences = u.shape[0] if batch[1] is None else batch[1].shape[0] - 1
    weights = [(torch.randn(*shape) / 4).to(dtype) for shape in ((2 * channels, channels), (2 * channels,))]
    mask = torch.randint(0, 2, (sequences, channels)).to(dtype) if directions == 2 else None

    def run(u, grad, other, way):
        out = OPS.gelu_glu(u, *weights, mask, other, *batch)
        return [out, *OPS.gelu_glu_backward(grad, u, *weights, mask, *batch)]

    return run


def block(u, grad, batch, directions):
    dtype, channels = torch.promote_types(u.dtype, torch.float32), u.shape[2]
    spectrum = modes(channels, directions, dtype)
    weights = [(torch.randn(*shape) / 4).to(dtype) for shape in ((2 * channels, channels), (2 * channels,))]
    args = [*spectrum, *weights, None, None, *batch, 1e-6, directions == 2]

    def run(u, grad, other, way):
        out, *kept = OPS.s4d_block(u, *args, True)
        return [out, *OPS.s4d_block_backward(grad, u, *args, *kept)]

    return run


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("make", [scan, direct, tail, block])
def test_either_order(make, kind, isa):  # noqa: F811
    dtypes = itertools.cycle((torch.float32, torch.float64, torch.bfloat16))
    for (shape, dtype), directions in itertools.product(zip(SHAPES, dtypes, strict=False), (1, 2)):
        size, length, *batch = layout(kind, *shape[:2])
        u, grad, other = (torch.randn(size, length, shape[2]).to(dtype) for _ in range(3))
        if batch[0] is not None:
            for x in (u, grad, other):
                x[~sequence_mask(batch[0], length).view(size, length)] = torch.nan
        run = make(u, grad, batch, directions)
        with poisoned_outputs():
            wanted = run(u, grad, other, last)
            for ways in itertools.product((last, first), repeat=3):
                found = run(*(way(x) for way, x in zip(ways, (u, grad, other), strict=True)), ways[0])
                assert found[0].stride() == torch.empty_like(ways[0](u)).stride()
                # Parts of activations are summed in tiles that depend on the order, and rounded where they are stored.
                for x, y in zip(found, wanted, strict=True):
                    close = 4 * SUMMED[dtype] if x.dtype != torch.bfloat16 else 8e-3
                    assert x.numel() == 0 or error(x, y) <= close, (shape, directions, ways)


@pytest.mark.parametrize("algorithm", ["scan", "direct"])
@pytest.mark.parametrize("given", [False, True])
def test_a_published_layer_is_contiguous_and_copies_nothing(algorithm, given):
    layer, u = lk.S4D(20, 8, algorithm=algorithm), torch.randn(2, 20, 70, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        y = layer(u, residual=torch.randn_like(u) if given else None)
    assert y.is_contiguous() and any(x.data_ptr() == u.data_ptr() for x in kept)
    y += 1  # no view of another tensor, which autograd would refuse to change
    u.grad = None
    y.backward(torch.ones_like(y))
    assert u.grad is not None and u.grad.shape == u.shape
