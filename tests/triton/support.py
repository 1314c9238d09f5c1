"""What every test of a kernel shares: NaN around and inside buffers, and the comparison with float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

import lyra_kernels.reference as reference
from lyra_kernels.backends.triton import IMPLEMENTATIONS
from lyra_kernels.schemas import CONTRACTS

from ..ops.cases import terms_of_log_dt

GUARD = 256  # elements on either side of a buffer
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 3e-3}
"""Relative RMS error."""


def guarded(x: Tensor, guards: list[Tensor] | None = None) -> Tensor:
    """A contiguous copy of ``x`` with NaN before and after it in memory (integers: no guard)."""
    if not x.is_floating_point():
        return x.contiguous()
    buffer = torch.full((x.numel() + 2 * GUARD,), float("nan"), dtype=x.dtype, device=x.device)
    if guards is not None:
        guards += [buffer[:GUARD], buffer[GUARD + x.numel() :]]
    inner = buffer[GUARD : GUARD + x.numel()].view(x.shape)
    inner.copy_(x)
    return inner


def channels_first(x: Tensor, guards: list[Tensor] | None = None) -> Tensor:
    """A copy of ``x (B, L, H)`` that lies in memory as ``(B, H, L)``, guarded."""
    return guarded(x.transpose(1, 2), guards).transpose(1, 2)


def lies_as(x: Tensor, other: Tensor) -> bool:
    """Whether both lie in the same order, contiguous or channels first."""
    return x.is_contiguous() if other.is_contiguous() else x.transpose(1, 2).is_contiguous()


def poison_allocations(monkeypatch: pytest.MonkeyPatch, guards: list[Tensor]) -> None:
    new_empty, empty_like = Tensor.new_empty, torch.empty_like

    def poisoned(x: Tensor) -> Tensor:
        if x.is_meta or isinstance(x, FakeTensor) or not x.is_floating_point():
            return x
        x.fill_(float("nan"))
        return guarded(x, guards) if x.is_contiguous() else channels_first(x, guards)

    monkeypatch.setattr(Tensor, "new_empty", lambda self, *a, **k: poisoned(new_empty(self, *a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: poisoned(empty_like(x, **k)))


def poison_masked_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter a masked load without ``other`` gives 0; a card gives anything: make it NaN."""
    from lyra_kernels.backends.triton._launch import interpreting

    if not interpreting():
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

    load = InterpreterBuilder.create_masked_load

    def poisoned(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        element = ptrs.get_element_ty()
        if other is None and element.is_floating():
            fill = np.zeros(ptrs.data.shape, _get_np_dtype(element))
            fill.view(np.uint8)[...] = 0xFF  # a NaN in every format
            other = TensorHandle(fill, element)
        return load(self, ptrs, mask, other, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", poisoned)


def round_to_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts fp32 to bf16; a card rounds, to nearest, and so does this."""
    from lyra_kernels.backends.triton._launch import interpreting

    if not interpreting():
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def converted(x: np.ndarray, source: Any, target: Any, *rest: Any) -> np.ndarray:
        if (source, target) == (tl.bfloat16, tl.float32):
            return np.asarray(x.astype(np.uint32) << 16)
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(x, source, target, *rest)
        bits = x.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return np.asarray(np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16))

    monkeypatch.setattr(interpreter, "_convert_float", converted)


def relative_error(found: Tensor, wanted: Tensor, terms: Tensor | None = None) -> float:
    """RMS of the difference over RMS of what is wanted, or of ``terms``, in float64; 0 for two empty tensors."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if wanted.numel() == 0:
        return 0.0
    found, wanted = found.detach().double(), wanted.detach().double()
    assert not found.isnan().any()
    scale = (wanted if terms is None else terms).norm()
    return float((found - wanted).norm() / (scale if scale > 0 else 1.0))


def doubled(args: Sequence[Any]) -> list[Any]:
    return [a.detach().double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


def check(
    name: str,
    args: Sequence[Any],
    wrt: Sequence[int],
    device: str = "cpu",
    tolerance: float | None = None,
    hide: Tensor | None = None,
    lying: Sequence[Callable[[Tensor], Tensor]] = (guarded, guarded),
) -> None:
    """An op's forward and backward against the reference in float64.

    Args:
        name: of an op with one output.
        args: its arguments, on the CPU; the first is the activations.
        wrt: indices of the arguments that the backward op gives gradients of.
        device: where to run.
        tolerance: on the relative RMS error; by the activations' dtype if None.
        hide: booleans of the activations' first two dimensions: positions that are filled with NaN for the
            kernel and whose output and gradient must be zero; a residual's too.
        lying: makes guarded copies of the activations and of the output's gradient, which lie in memory so.
    """
    contract = CONTRACTS[name]
    limit = TOLERANCE[args[0].dtype] if tolerance is None else tolerance
    args = [a.to(device) if isinstance(a, Tensor) else a for a in args]
    exact = doubled(args)
    for i in wrt:
        if isinstance(exact[i], Tensor):
            exact[i].requires_grad_()
    wanted = getattr(reference, name)(*exact)
    grad = torch.randn(wanted.shape, device=device).to(args[0].dtype)
    present = [i for i in wrt if isinstance(exact[i], Tensor)]
    wanted_gradients = dict(
        zip(
            present,
            torch.autograd.grad(wanted, [exact[i] for i in present], grad.double(), allow_unused=True),
            strict=True,
        )
    )
    given = [lying[0](args[0]), *(guarded(a) if isinstance(a, Tensor) else a for a in args[1:])]
    if hide is not None:
        hide = hide.to(device)
        for i in (0, *contract.residuals):
            if given[i] is not None:
                given[i][hide] = float("nan")
        grad = grad.clone()
        grad[hide] = float("nan")
    found = IMPLEMENTATIONS[name](*given)
    assert found.dtype == args[0].dtype and lies_as(found, given[0])
    assert relative_error(found, wanted) <= limit
    gradients = IMPLEMENTATIONS[f"{name}_backward"](*contract.backward_arguments([lying[1](grad)], given, []))
    if hide is not None:
        assert not found[hide].any() and not gradients[0][hide].any()
    for i, gradient in zip(wrt, gradients, strict=True):
        if i not in present:
            assert gradient.shape == (0,)
            continue
        assert gradient.dtype == args[i].dtype and lies_as(gradient, given[i])
        expected = wanted_gradients[i]
        expected = torch.zeros_like(exact[i]) if expected is None else expected
        # A gradient of a parameter sums what rounding left of many tokens: the same relative error or better.
        terms = None
        if name == "s4d_fft" and i == 1:
            terms = terms_of_log_dt(exact[3], *(wanted_gradients[j] for j in (1, 2, 3)))
        assert relative_error(gradient, expected, terms) <= limit, f"gradient {i}"


def padding(lengths: Tensor, length: int) -> Tensor:
    """``(B, length)`` booleans, true at padded positions."""
    return torch.arange(length) >= lengths[:, None]
