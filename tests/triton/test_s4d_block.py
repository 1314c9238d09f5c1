"""s4d_block against float64, and against the ops that it is made of: layouts, absent arguments, widths, dtypes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import lyra_kernels.reference as reference
from lyra_kernels.backends import composed
from lyra_kernels.backends.triton import IMPLEMENTATIONS
from lyra_kernels.schemas import CONTRACTS

from ..ops.cases import terms_of_log_dt
from .support import TOLERANCE, doubled, guarded, padding, relative_error
from .test_s4d_kernel import parameters

CONTRACT = CONTRACTS["s4d_block"]
FUSED = tuple(IMPLEMENTATIONS[name] for name in ("s4d_block", "s4d_block_backward"))
SINGLE = tuple(
    partial(getattr(composed, name), IMPLEMENTATIONS.__getitem__) for name in ("s4d_block", "s4d_block_backward")
)


def run(functions, args, grad):
    """The output and the gradients, which an op leaves buffers for."""
    forward, backward = functions
    out, *kept = forward(*args, True)
    assert torch.equal(forward(*args, False)[0], out)
    assert [k.shape for k in kept] == [k.shape for k in CONTRACT.fake(*args, True)[1:]]
    passed = [args[i] for i in CONTRACT.passed]
    return out, *backward(grad, *passed, *(guarded(k) for k in kept))


def check(device, batch, length, channels, modes=3, *, dtype=torch.float32, norm=True, D=True, bias=True, mask=True,
          add_input=True, directions=1, lengths=None, cu_seqlens=None, channels_first=False):  # fmt: skip
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    args = [
        torch.randn(batch, length, channels).to(dtype) * 2,
        *parameters(channels, modes, directions=directions),
        torch.randn(channels) if D else None,
        torch.randn(2 * channels, channels) / channels**0.5,
        torch.randn(2 * channels) if bias else None,
        torch.rand(channels) + 0.5 if norm else None,
        (torch.rand(sequences, channels) > 0.3).float() / 0.7 if mask else None,
        lengths,
        cu_seqlens,
    ]
    args = [a.to(device) if a is not None else None for a in args] + [1e-6, add_input]
    exact = doubled(args)
    present = [i for i in CONTRACT.returned if args[i] is not None]
    for i in present:
        exact[i].requires_grad_()
    wanted = reference.s4d_block(*exact)
    grad = torch.randn(wanted.shape, device=device).to(dtype)
    expected = dict(zip(present, torch.autograd.grad(wanted, [exact[i] for i in present], grad.double()), strict=True))
    if lengths is not None:
        hidden = padding(lengths, length).to(device)
        args[0][hidden] = grad[hidden] = float("nan")
    given, grad = [guarded(a) if isinstance(a, torch.Tensor) else a for a in args], guarded(grad)
    if channels_first:
        given[0], grad = (guarded(x.transpose(1, 2)).transpose(1, 2) for x in (given[0], grad))
    found = run(FUSED, given, grad)
    # Rounding of what is between the ops in 16 bits is theirs too.
    single = [None] * len(found) if dtype == torch.float32 else run(SINGLE, given, grad)
    assert found[0].dtype == dtype and found[0].stride() == found[1].stride() == given[0].stride()

    def limit(other, wanted, terms=None):
        return TOLERANCE[dtype] if other is None else 1.1 * relative_error(other, wanted, terms)

    assert relative_error(found[0], wanted) <= limit(single[0], wanted)
    for i, gradient, other in zip(CONTRACT.returned, found[1:], single[1:], strict=True):
        if i not in present:
            assert gradient.shape == (0,)
            continue
        assert gradient.dtype == args[i].dtype and (gradient.is_contiguous() or (channels_first and i == 0))
        terms = None
        if CONTRACT.arguments[i].name == "log_dt":
            terms = terms_of_log_dt(exact[3], *(expected[j] for j in (1, 2, 3)))
        error = relative_error(gradient, expected[i], terms)
        assert error <= limit(other, expected[i], terms), f"gradient {i}: {error}"
    if lengths is not None:
        assert not found[0][hidden].any() and not found[1][hidden].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_first(dtype, device):
    lengths = torch.tensor([48, 21])
    check(device, 2, 48, 16, dtype=dtype, norm=False, add_input=False, lengths=lengths, channels_first=True)


@pytest.mark.parametrize(("batch", "length", "channels"), [(2, 37, 5), (1, 1, 17), (1, 64, 33), (0, 3, 4), (2, 0, 4)])
def test_dense(batch, length, channels, device):
    check(device, batch, length, channels)


@pytest.mark.parametrize("absent", ["norm", "D", "bias", "mask", "add_input"])
def test_absent(absent, device):
    check(device, 2, 33, 4, **{absent: False})


def test_padded(device):
    check(device, 3, 40, 4, lengths=torch.tensor([40, 0, 17]))


def test_packed(device):
    check(device, 1, 70, 4, cu_seqlens=torch.tensor([0, 1, 1, 50, 70]))


def test_bidirectional(device):
    check(device, 2, 40, 3, directions=2, lengths=torch.tensor([40, 11]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage(dtype, device):
    check(device, 2, 40, 8, dtype=dtype)


@pytest.mark.full
@pytest.mark.parametrize("channels", [16, 100, 512, 513])
def test_widths(channels, device):
    check(device, 1, 70, channels)


@pytest.mark.full
def test_more_modes_than_the_scan_takes(device):
    check(device, 1, 40, 2, 65)
