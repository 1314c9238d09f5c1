"""Checks of a native op against the float64 reference, shared by the tests of the PGC side's kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor

import lyra_kernels  # noqa: F401  (registers the operators)
from lyra_kernels import reference

native = pytest.importorskip("lyra_kernels._C", reason="the native kernels are not built")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Relative RMS error: activations as stored, and parameter gradients, which are sums in the compute dtype.
STORED = {torch.float32: 1e-6, torch.float64: 1e-14, torch.float16: 1e-3, torch.bfloat16: 5e-3}
SUMMED = {torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2e-6, torch.bfloat16: 2e-6}
ROUNDING = ("avx512_bf16", "amx")
"""Instruction sets that round the operands of bfloat16 layers' products: parameters, and what lies between products."""
ROUNDED = 8e-3
"""The error that this leaves in all of a layer's results: each product's operands are off by up to 2^-9."""
LAYOUTS = ["dense", "padded", "packed"]


@pytest.fixture(params=native.available_cpu_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on every instruction set that was built and that this machine has."""
    with on_isa(request.param):
        yield request.param


@contextmanager
def on_isa(name: str) -> Iterator[None]:
    """Runs on one instruction set."""
    before = native.cpu_isa()
    assert native.set_cpu_isa(name)
    try:
        yield
    finally:
        native.set_cpu_isa(before)


def on_some_isa(index: int) -> AbstractContextManager[None]:
    """Runs on one of the instruction sets, which a drawn number says."""
    names = native.available_cpu_isas()
    return on_isa(names[index % len(names)])


def unrounded() -> AbstractContextManager[None]:
    """Runs on an instruction set that multiplies in float32."""
    now = native.cpu_isa()
    return on_isa("avx512" if now in ROUNDING else now)


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fresh tensors hold NaN instead of whatever the memory held: an element left unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def layout(kind: str, batch: int, length: int) -> tuple[int, int, Tensor | None, Tensor | None]:
    """(batch, length, lengths, cu_seqlens) of a batch, with an empty and a full sequence where there are two."""
    if kind == "dense":
        return batch, length, None, None
    if kind == "padded":
        lengths = torch.randint(0, length + 1, (batch,))
        lengths[:1] = length
        lengths[1:2] = 0
        return batch, length, lengths, None
    cuts = torch.sort(torch.randint(0, length + 1, (batch,))).values
    return 1, length, None, torch.cat([torch.tensor([0, 0]), cuts, torch.tensor([length])])


def real_rows(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, L, 1): whether a position belongs to a sequence."""
    if lengths is None:
        return torch.ones(x.shape[0], x.shape[1], 1, dtype=torch.bool)
    return (torch.arange(x.shape[1]) < lengths[:, None]).unsqueeze(-1)


def error(actual: Tensor, expected: Tensor, terms: Tensor | None = None) -> float:
    """RMS error relative to what is expected, or to ``terms``; NaN anywhere makes it NaN: compare with `<`."""
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).square().mean().sqrt()
    scale = expected if terms is None else terms
    return (difference / scale.double().square().mean().sqrt().clamp_min(1e-30)).item()


def check_op(
    name: str,
    inputs: Sequence[Tensor | None],
    rest: Sequence[object],
    lengths: Tensor | None,
    activations: Sequence[int] = (0,),
    in_backward: int | None = None,
    differentiated: int | None = None,
    slack: float = 1.0,
    bilinear: bool = False,
    products: bool = False,
) -> None:
    """Compares lyra::NAME and its backward with the reference in float64.

    Args:
        inputs: the leading arguments; the first is an activation.
        rest: the remaining arguments, lengths and cu_seqlens among them.
        activations: which inputs have rows of padding, whose contents must not matter.
        in_backward: how many leading inputs the backward op takes; all unless told.
        differentiated: how many leading inputs it returns gradients of; all unless told.
        slack: multiplies the tolerances; above 1 for shapes so small that a sum may cancel.
        bilinear: gradients are sums of products of the output's gradient and an input, by transforms here and in the
            reference. A transform's error goes with the sizes of the products, not with what of them is left, and in
            float64 the reference has it, too: there it is relative to these sizes.
        products: whether the op multiplies matrices.
    """
    first = inputs[0]
    assert first is not None
    dtype = first.dtype
    rounded = products and dtype == torch.bfloat16 and native.cpu_isa() in ROUNDING
    stored, summed = (ROUNDED, ROUNDED) if rounded else (STORED[dtype], SUMMED[dtype])
    exact = [None if x is None else x.double().requires_grad_() for x in inputs]
    expected = getattr(reference, name)(*exact, *rest)
    given = [
        torch.where(real_rows(x, lengths), x, torch.nan) if i in activations and x is not None else x
        for i, x in enumerate(inputs)
    ]
    grad = torch.randn(expected.shape).to(dtype)
    exact = exact[:differentiated]
    wanted = [x for x in exact if x is not None]
    gradients = iter(torch.autograd.grad(expected, wanted, grad.double()))
    sizes: Iterator[Tensor | None] = iter([None] * len(wanted))
    if bilinear:
        positive = [None if x is None else x.detach().abs().requires_grad_() for x in exact]
        of_sizes = getattr(reference, name)(*positive, *rest)
        sizes = iter(torch.autograd.grad(of_sizes, [x for x in positive if x is not None], grad.double().abs()))
    bad_grad = torch.where(real_rows(grad, lengths), grad, torch.nan)
    with poisoned_outputs():
        actual = getattr(torch.ops.lyra, name)(*given, *rest)
        actual_gradients = getattr(torch.ops.lyra, name + "_backward")(bad_grad, *given[:in_backward], *rest)

    assert actual.dtype == dtype
    assert error(actual, expected.detach()) <= slack * stored
    assert (actual.masked_select(~real_rows(actual, lengths)) == 0).all()
    for i, (x, gradient) in enumerate(zip(exact, actual_gradients, strict=True)):
        if x is None:
            assert gradient.shape == (0,)
            continue
        assert gradient.dtype == (dtype if i in activations else compute_dtype(dtype))
        exact_gradient, size = next(gradients), next(sizes)
        found = error(gradient, exact_gradient, size if dtype == torch.float64 else None)
        assert found <= slack * (stored if i in activations else summed), f"gradient {i}"
        if i in activations:
            assert (gradient.masked_select(~real_rows(gradient, lengths)) == 0).all()


def check_threads(
    name: str,
    inputs: Sequence[Tensor | None],
    rest: Sequence[object],
    grad: Tensor,
    in_backward: int | None = None,
) -> None:
    """Outputs and gradients have the same bits with one, two and three threads."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            forward = getattr(torch.ops.lyra, name)(*inputs, *rest)
            backward = getattr(torch.ops.lyra, name + "_backward")(grad, *inputs[:in_backward], *rest)
            results.append([forward, *backward])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
