"""The CUDA kernels' own source, run on the CPU: values and gradients against float64, races, bounds.

Every call runs under the monitor, in two orders of the threads that must agree to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lyra_kernels as lk
from lyra_kernels import reference
from lyra_kernels.backends.cuda import fft_conv, gelu_glu_backward, halves
from lyra_kernels.backends.cuda.fft_conv import transform_size
from lyra_kernels.schemas import OPS
from tests.card import kernels_for_cuda

from .support import LACKING, check, compute_dtype, implementations, padding, relative_error

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


def gated_arguments(batch, length, channels, width, dtype=torch.float32, bias=True, norm=True):
    compute = compute_dtype(dtype)
    return [
        torch.randn(batch, length, 2 * channels).to(dtype),
        torch.randn(channels, 1, width, dtype=compute),
        torch.randn(channels, dtype=compute) if bias else None,
        torch.randn(2 * channels, dtype=compute) if norm else None,
    ]


class _NothingRead(TorchDispatchMode):
    """Refuses what makes the program wait for a card: the value of a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was read"
        return func(*args, **(kwargs or {}))


def _without_reading(call: Callable[[], Any]) -> Any:
    with _NothingRead():
        return call()


def test_schemas_are_those_of_the_library():
    lacking = {name for op in LACKING for name in (op, f"{op}_backward")}
    assert implementations().keys() == OPS.keys() - lacking
    kernels = [name for name, function in implementations().items() if hasattr(function, "_schema")]
    assert {"rms_norm", "gated_conv", "s4d_kernel", "s4d_scan"} < set(kernels)
    for name in kernels:
        schema, expected = str(implementations()[name]._schema), str(OPS[name]._schema)
        assert schema[schema.index("(") :] == expected[expected.index("(") :], name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 16), (37, 1), (2, 7), (300, 3), (5, 130), (1, 600)])
def test_rms_norm(shape, dtype):
    weight = torch.randn(shape[-1], dtype=compute_dtype(dtype))
    check("rms_norm", [torch.randn(shape).to(dtype), weight, 0.1], 2)


def test_rms_norm_without_weight():
    check("rms_norm", [torch.randn(9, 12), None, 1e-6], 2)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "causal"),
    [
        (2, 37, 5, 3, False),
        (1, 1, 16, 3, False),
        (3, 130, 33, 4, True),
        (1, 33, 7, 5, False),
        (2, 70, 64, 1, True),
        (1, 40, 4, 31, False),
        (1, 9, 700, 3, False),
        (1, 70, 1, 3, True),
    ],
)
def test_gated_conv(batch, length, channels, width, causal):
    check("gated_conv", [*gated_arguments(batch, length, channels, width), None, None, 1e-8, causal], 4)


@pytest.mark.parametrize("channels", [1100, 2052])
def test_gated_conv_too_wide_for_shared_memory(channels):
    check("gated_conv", [*gated_arguments(1, 5, channels, 9), None, None, 1e-8, False], 4)


@pytest.mark.parametrize(("bias", "norm"), [(False, True), (True, False), (False, False)])
def test_gated_conv_absent_parameters(bias, norm):
    check("gated_conv", [*gated_arguments(2, 9, 6, 3, bias=bias, norm=norm), None, None, 1e-6, False], 4)


@pytest.mark.parametrize("causal", [False, True])
def test_gated_conv_padded(causal):
    lengths = torch.tensor([71, 0, 7, 64])
    arguments = [*gated_arguments(4, 71, 12, 3), lengths, None, 0.0, causal]
    check("gated_conv", arguments, 4, hide=padding(lengths, 71))


@pytest.mark.parametrize("causal", [False, True])
def test_gated_conv_packed(causal):
    cu_seqlens = torch.tensor([0, 1, 1, 66, 130, 143])
    check("gated_conv", [*gated_arguments(1, 143, 12, 5), None, cu_seqlens, 1e-8, causal], 4)


@pytest.mark.parametrize("channels", [20, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_conv_storage(dtype, channels):
    check("gated_conv", [*gated_arguments(2, 70, channels, 3, dtype), None, None, 1e-8, False], 4)


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_gated_conv_empty(batch, length):
    check("gated_conv", [*gated_arguments(batch, length, 4, 3), None, None, 1e-8, False], 4)


def test_gated_conv_rejects_what_would_read_out_of_bounds():
    xv, weight, bias, norm = gated_arguments(1, 5, 4, 3)
    op = implementations()["gated_conv"]
    with pytest.raises(RuntimeError, match="xv has size 7"):
        op(xv[..., :7].contiguous(), weight, bias, norm, None, None, 1e-8, False)
    with pytest.raises(RuntimeError, match="conv_bias has the wrong dtype"):
        op(xv, weight, bias.double(), norm, None, None, 1e-8, False)
    with pytest.raises(RuntimeError, match="lengths has size 2"):
        op(xv, weight, bias, norm, torch.tensor([1, 2]), None, 1e-8, False)


def conv_arguments(batch, length, channels, taps, reverse, dtype=torch.float32, skip=True):
    compute = compute_dtype(dtype)
    return [
        torch.randn(batch, length, channels).to(dtype),
        torch.randn(channels, taps, dtype=compute),
        torch.randn(channels, taps, dtype=compute) if reverse else None,
        torch.randn(channels, dtype=compute) if skip else None,
    ]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "taps"), [(2, 37, 5, 37), (1, 1, 1, 1), (1, 70, 40, 9), (3, 64, 33, 100)]
)
def test_fft_conv(batch, length, channels, taps, reverse):
    check("fft_conv", [*conv_arguments(batch, length, channels, taps, reverse), None, None], 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fft_conv_storage(dtype):
    check("fft_conv", [*conv_arguments(2, 21, 6, 21, True, dtype), None, None], 4)


@pytest.mark.parametrize("reverse", [False, True])
def test_fft_conv_layouts(reverse):
    lengths = torch.tensor([70, 0, 7])
    arguments = conv_arguments(3, 70, 6, 70, reverse)
    check("fft_conv", [*arguments, lengths, None], 4, hide=padding(lengths, 70))
    cu_seqlens = torch.tensor([0, 1, 1, 70, 134])
    check("fft_conv", [*conv_arguments(1, 134, 6, 134, reverse, skip=False), None, cu_seqlens], 4)


@pytest.mark.parametrize(("before", "behind"), [(True, True), (True, False), (False, True)])
def test_gated_fft_conv(before, behind):
    lengths = torch.tensor([33, 0, 7])
    arguments = conv_arguments(3, 33, 5, 33, True)
    gates = [torch.randn(3, 33, 5) if there else None for there in (before, behind)]
    check("gated_fft_conv", [*arguments, *gates, lengths, None], 6, hide=padding(lengths, 33))


@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_fft_conv_empty(batch, length):
    check("causal_conv", [*conv_arguments(batch, length, 4, 3, True), None, None], 4)


@pytest.mark.parametrize("by", ["whole", "halves"])
@pytest.mark.parametrize(
    ("cu_seqlens", "taps", "reverse"),
    [
        ([0, 20], 20, 17),
        ([0, 7, 7, 20], 20, None),
        ([0, 1, 1, 2, 31, 33, 33, 47], 47, 50),
        ([0, 40, 65, 70, 123], 8, 3),
        ([0, 3, 24, 30, 83], 24, 1),
        ([0, 5, 6, 11], 0, 0),
    ],
)
@pytest.mark.parametrize("name", ["fft_conv", "causal_conv"])
def test_packed_convolutions_read_no_value(name, cu_seqlens, taps, reverse, by, monkeypatch):
    """Neither way waits for the card, which a capture cannot do; both give what each sequence gives alone."""
    monkeypatch.setattr(fft_conv, "FEW", -1 if by == "halves" else 100)
    monkeypatch.setattr(fft_conv, "SMALL", 0)
    packed = torch.tensor(cu_seqlens)
    args = [torch.randn(1, cu_seqlens[-1], 3), torch.randn(3, taps)]
    args += [None if reverse is None else torch.randn(3, reverse), torch.randn(3), None]
    wanted = reference.fft_conv(*(a if a is None else a.double() for a in args), packed)
    found = _without_reading(lambda: implementations()[name](*args, packed))
    assert relative_error(found, wanted) < 1e-6
    gradients = _without_reading(lambda: implementations()[f"{name}_backward"](found, *args, packed))
    leaves = [a if a is None else a.double().requires_grad_() for a in args[:4]]
    given = [leaf for leaf in leaves if leaf is not None]
    exact = torch.autograd.grad(
        reference.fft_conv(*leaves, None, packed), given, found.double(), materialize_grads=True
    )
    present = [gradient for gradient, leaf in zip(gradients, leaves, strict=True) if leaf is not None]
    for a, b in zip(present, exact, strict=True):
        assert relative_error(a, b) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_convolutions_by_halves_of_all_dtypes(dtype, monkeypatch):
    monkeypatch.setattr(fft_conv, "FEW", -1)
    monkeypatch.setattr(fft_conv, "SMALL", 0)
    packed = torch.tensor([0, 9, 10, 10, 77, 100])
    check("fft_conv", [*conv_arguments(1, 100, 5, 60, True, dtype), None, packed], 4)


def test_halves_keep_sequences_apart(monkeypatch):
    """A NaN in one of them reaches no other, in either direction."""
    monkeypatch.setattr(fft_conv, "FEW", -1)
    monkeypatch.setattr(fft_conv, "SMALL", 0)
    packed = torch.tensor([0, 11, 30, 49])
    args = conv_arguments(1, 49, 3, 49, True)
    args[0][:, 11:30] = torch.nan
    grad = torch.randn(1, 49, 3)
    grad[:, 11:30] = torch.nan
    y = implementations()["fft_conv"](*args, None, packed)
    du = implementations()["fft_conv_backward"](grad, *args, None, packed)[0]
    for x in (y, du):
        assert not x[:, :11].isnan().any() and not x[:, 30:].isnan().any()


def test_many_packed_sequences_do_not_get_a_transform_of_all_tokens_each():
    u, some, many = torch.empty(1, 1 << 16, 64, device="meta"), torch.empty(3), torch.empty(1001)
    by_halves = fft_conv.FftConv._by_halves
    assert by_halves(u, many) and not by_halves(u, some) and not by_halves(u[:, :100], many) and not by_halves(u, None)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 7, 12, 40, 61])
def test_every_pair_of_tokens_comes_apart_at_one_cut(tokens):
    for taps in range(1, tokens + 1):
        block = halves.block_size(taps)
        padded = -(-tokens // block) * block
        seen = torch.zeros(padded, padded, dtype=torch.int64)
        row = torch.arange(padded)
        for cut in halves.cuts(block, padded):
            for left, right in zip(cut.left(row), cut.right(row), strict=True):
                assert right[0] == left[-1] + 1
                seen[left[:, None], right[None, :]] += 1
        apart = row[None, :] - row[:, None]
        assert (seen[(apart > 0) & (apart < taps)] == 1).all() and (seen[apart <= 0] == 0).all() and seen.max() <= 1


def test_transform_size():
    assert [transform_size(n) for n in (1, 4, 5, 13, 100, 1000)] == [8, 8, 16, 32, 240, 2048]
    assert all(transform_size(n) >= 2 * n and transform_size(n) % 8 == 0 for n in range(1, 3000))


@pytest.mark.parametrize("norms", [False, True])
def test_pgc(norms):
    d, E, width = 6, 8, 3
    lengths = torch.tensor([11, 0, 5])
    arguments = [
        torch.randn(3, 11, d),
        torch.randn(2 * E, d),
        torch.randn(2 * E),
        torch.randn(2 * E) if norms else None,
        torch.randn(E, 1, width),
        torch.randn(E),
        torch.randn(d, E),
        torch.randn(d) if norms else None,
        torch.randn(d) if norms else None,
    ]
    residual = torch.randn(3, 11, d)
    check("pgc", [*arguments, residual, lengths, None, 1e-6, False], 9, hide=padding(lengths, 11))
    check("pgc", [*arguments, None, None, None, 1e-6, True], 9)


@pytest.mark.parametrize("kind", ["dense", "padded", "packed"])
def test_gelu_glu(kind):
    H, lengths, cu_seqlens, hide = 6, None, None, None
    y = torch.randn(3, 11, H)
    if kind == "padded":
        lengths = torch.tensor([11, 0, 5])
        hide = padding(lengths, 11)
    if kind == "packed":
        y, cu_seqlens = torch.randn(1, 33, H), torch.tensor([0, 4, 4, 33])
    rest = [torch.rand(3, H), None, lengths, cu_seqlens]
    ops = {"gelu_glu_backward": gelu_glu_backward}
    check("gelu_glu", [y, torch.randn(2 * H, H), torch.randn(2 * H), *rest], 3, hide=hide, replace=ops)


@pytest.fixture
def cuda_backend():
    """The emulated ops in the place of the CUDA backend."""
    with kernels_for_cuda(implementations()):
        yield


def test_public_functions_on_the_cuda_backend(cuda_backend):
    xv, weight, bias, norm = (x.requires_grad_() for x in gated_arguments(2, 21, 8, 3))
    results = {}
    for name in ("cuda", "reference"):
        with lk.use_backend(name):
            out = lk.rms_norm(lk.gated_conv(xv, weight, bias, norm))
            results[name] = [out, *torch.autograd.grad(out.square().sum() + out.sum(), [xv, weight, bias, norm])]
    for found, wanted in zip(results["cuda"], results["reference"], strict=True):
        assert relative_error(found, wanted) < 3e-6
