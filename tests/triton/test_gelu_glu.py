"""gelu_glu against float64: layouts, absent arguments, channel counts, dtypes."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels.reference as reference
from lyra_kernels.backends.triton import IMPLEMENTATIONS, gelu_glu

from .support import TOLERANCE, channels_first, doubled, guarded, padding, relative_error


def check(device, batch, length, channels, *, dtype=torch.float32, bias=True, mask=True, residual=True,
          lengths=None, cu_seqlens=None, transposed=False):  # fmt: skip
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    args = [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(2 * channels, channels) / channels**0.5,
        torch.randn(2 * channels) if bias else None,
        (torch.rand(sequences, channels) > 0.3).float() / 0.7 if mask else None,
        torch.randn(batch, length, channels).to(dtype) if residual else None,
        lengths,
        cu_seqlens,
    ]
    args = [a.to(device) if a is not None else None for a in args]
    exact = doubled(args)
    present = [i for i in range(3) if args[i] is not None]
    for i in present:
        exact[i].requires_grad_()
    wanted = reference.gelu_glu(*exact)
    grad = torch.randn(wanted.shape, device=device).to(dtype)
    wanted_gradients = torch.autograd.grad(wanted, [exact[i] for i in present], grad.double())
    if lengths is not None:
        hidden = padding(lengths, length).to(device)
        for x in (args[0], args[4], grad):
            if x is not None:
                x[hidden] = float("nan")
    given = [guarded(a) if isinstance(a, torch.Tensor) else a for a in args]
    if transposed:
        given[0] = guarded(args[0].transpose(1, 2)).transpose(1, 2)
    as_read = gelu_glu.readable(given[0])
    assert (as_read is given[0]) == (not transposed or length % 16 == 0)
    limit = TOLERANCE[dtype]
    found = IMPLEMENTATIONS["gelu_glu"](*given)
    assert found.dtype == dtype and relative_error(found, wanted) <= limit
    # As autograd gives it for a sum of the output.
    assert found.stride() == as_read.stride() or (given[4] is not None and found.is_contiguous())
    grad = guarded(grad) if found.is_contiguous() else channels_first(grad)
    gradients = IMPLEMENTATIONS["gelu_glu_backward"](grad, *given[:4], *given[5:])
    for i, gradient in enumerate(gradients):
        if i not in present:
            assert gradient.shape == (0,)
            continue
        assert gradient.dtype == args[i].dtype and gradient.stride() == (as_read if i == 0 else given[i]).stride()
        assert relative_error(gradient, wanted_gradients[present.index(i)]) <= limit, f"gradient {i}"
    if lengths is not None:
        assert not found[hidden].any() and not gradients[0][hidden].any()


@pytest.mark.parametrize(("batch", "length", "channels"), [(2, 37, 5), (1, 1, 64), (1, 70, 100), (0, 3, 4), (2, 0, 4)])
def test_dense(batch, length, channels, device):
    check(device, batch, length, channels)


@pytest.mark.parametrize("present", ["bias", "mask", "residual", ""])
def test_absent(present, device):
    check(device, 2, 9, 6, **{name: name == present for name in ("bias", "mask", "residual")})


def test_padded(device):
    check(device, 3, 21, 6, lengths=torch.tensor([21, 0, 7]))


def test_packed(device):
    check(device, 1, 43, 6, cu_seqlens=torch.tensor([0, 1, 1, 18, 43]))


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 16, 20), (2, 80, 64), (1, 19, 16), (2, 9, 70)])
def test_storage(batch, length, channels, transposed, dtype, device):
    check(device, batch, length, channels, dtype=dtype, transposed=transposed)


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
def test_storage_padded(transposed, dtype, device):
    check(device, 3, 32, 32, dtype=dtype, lengths=torch.tensor([32, 0, 7]), transposed=transposed)


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("present", ["bias", "mask", ""])
def test_storage_packed(present, transposed, dtype, device):
    flags = {name: name == present for name in ("bias", "mask", "residual")}
    check(device, 1, 96, 48, dtype=dtype, cu_seqlens=torch.tensor([0, 1, 1, 18, 96]), transposed=transposed, **flags)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_gelu(size, device):
    """No worse than twice torch's own; weights that pass z1 on, with z2 so large that its sigmoid is 1."""
    y = size * torch.randn(1, 256, 16, device=device)
    weight = torch.cat([torch.eye(16), torch.zeros(16, 16)]).to(device)
    bias = torch.cat([torch.zeros(16), torch.full((16,), 40.0)]).to(device)
    exact = torch.nn.functional.gelu(y.double())
    found = IMPLEMENTATIONS["gelu_glu"](y, weight, bias, None, None, None, None)
    assert relative_error(found, exact) <= 2 * relative_error(torch.nn.functional.gelu(y), exact) + 6e-8


@pytest.mark.parametrize("value", [float("nan"), 1e30, -1e30])
def test_extremes(value, device):
    y = torch.full((1, 1, 1), value, device=device)
    weight = torch.tensor([[1.0], [0.0]], device=device)
    found = IMPLEMENTATIONS["gelu_glu"](y, weight, torch.tensor([0.0, 40.0], device=device), None, None, None, None)
    wanted = torch.full((1, 1, 1), 0.0 if value < 0 else value)
    assert torch.allclose(found.cpu(), wanted, atol=1e-12, equal_nan=True)
