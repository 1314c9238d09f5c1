"""Nothing that a call does on a card waits for it: what a CUDA graph can capture, op by op and for whole models.

Both backends' launchers run on fake CUDA tensors, whose values nobody can read.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import lyra_kernels as lk
from benchmarks.gpu_static.launches import fake_card
from lyra import Lyra, LyraForTokenClassification
from lyra_kernels.backends import cuda
from lyra_kernels.schemas import OPS
from tests.card import kernels_for_cuda

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "repeat_interleave.T")
"""Operations whose result, or its shape, the host needs."""
KERNELS = ("rms_norm", "gated_conv", "s4d_kernel", "s4d_scan")
"""Ops that are one CUDA C++ kernel, and their backward another one."""
LAYOUTS = ("dense", "padded", "packed")
B, L, H, M = 3, 70, 12, 5


class _NothingWaits(TorchDispatchMode):
    """Refuses the values of tensors on the card, and copies between it and main memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        assert not name.startswith(WAITING), f"{name} waits for the card"
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, Tensor) and x.dim()]
        assert len({x.device.type for x in tensors}) < 2, f"{name} copies between the card and main memory"
        return out


def _kernels() -> SimpleNamespace:
    """What ``torch.ops.lyra_cuda`` has: kernels of the library's own signatures, and the pointwise parts of FFTs."""

    def sequences(x: Tensor, cu: Tensor | None) -> int:
        return x.shape[0] if cu is None else cu.shape[0] - 1

    return SimpleNamespace(
        **{name: _Kernel(OPS[name]) for op in KERNELS for name in (op, f"{op}_backward")},
        fft_pack=lambda x, lengths, cu, points: x.new_empty(sequences(x, cu), x.shape[2], points, dtype=torch.float32),
        fft_multiply_=lambda spectra, kernel, conjugate: None,
        fft_correlate=lambda a, b: a.new_empty(a.shape[1:]),
        fft_unpack=lambda x, signal, D, lengths, cu: torch.empty_like(x),
    )


class _Kernel:
    """An op of PyTorch, called directly or as its overload."""

    def __init__(self, op: Any) -> None:
        self.default = op

    def __call__(self, *args: Any) -> Any:
        return self.default(*args)


@pytest.fixture(params=["triton", "cuda", "cuda, by halves"])
def backend(request, monkeypatch):
    if request.param == "triton":
        yield "triton"
        return
    if request.param == "cuda, by halves":
        monkeypatch.setattr(cuda.fft_conv, "FEW", 0)
        monkeypatch.setattr(cuda.fft_conv, "SMALL", 0)
    with kernels_for_cuda(cuda.implementations(_kernels())):
        yield "cuda"


def _batch(layout: str) -> tuple[int, dict[str, Tensor]]:
    if layout == "dense":
        return B, {}
    integers = torch.empty(B + (layout == "packed"), dtype=torch.int64, device="cuda")
    return (1, {"cu_seqlens": integers}) if layout == "packed" else (B, {"lengths": integers})


def _r(*shape: int) -> Tensor:
    return torch.empty(*shape, device="cuda")


def _calls(layout: str):
    """Every public function, by name."""
    batch, lay = _batch(layout)
    u, spectrum, D = _r(batch, L, H), (_r(H), _r(H, M), _r(H, M)), _r(H)
    for algorithm in ("scan", "fft", "direct", "auto"):
        yield f"s4d_conv {algorithm}", lambda a=algorithm: lk.s4d_conv(u, *spectrum, _r(H, M, 2), D, algorithm=a, **lay)
    both = _r(2, H, M, 2)
    yield "s4d_conv both ways", lambda: lk.s4d_conv(u, *spectrum, both, D, bidirectional=True, **lay)
    state = _r(B, H, M, 2)
    yield (
        "s4d_conv with states",
        lambda: lk.s4d_conv(u, *spectrum, _r(H, M, 2), D, initial_state=state, return_final_state=True, **lay),
    )
    yield "fft_conv", lambda: lk.fft_conv(u, _r(H, L), D=D, reverse_kernel=_r(H, 9), **lay)
    yield "causal_conv", lambda: lk.causal_conv(u, _r(H, 4), D=D, **lay)
    yield "gated_conv", lambda: lk.gated_conv(_r(batch, L, 2 * H), _r(H, 1, 3), _r(H), _r(2 * H), **lay)
    tail = (_r(2 * H, H), _r(2 * H))
    yield "gelu_glu", lambda: lk.gelu_glu(u, *tail, residual=u, **lay)
    if layout == "dense":
        yield "rms_norm", lambda: lk.rms_norm(u, D)
        yield "s4d_kernel", lambda: lk.s4d_kernel(*spectrum, _r(H, M, 2), L)
    for width in (H, 200):  # one kernel, or products around it
        x, square = _r(batch, L, width), _r(width, width)
        weights = (_r(2 * width, width), _r(2 * width), _r(2 * width), _r(width, 1, 3), _r(width), square, _r(width))
        yield f"pgc {width}", lambda x=x, w=weights, n=width: lk.pgc(x, *w, _r(n), **lay)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_op_waits_for_the_card(layout, backend):
    ran = 0
    with fake_card(backwards=2, backend=backend):
        for name, call in _calls(layout):
            try:
                with _NothingWaits():
                    call()
            except Exception as error:
                raise AssertionError(f"{name}, {layout}, {backend}: {error}") from error
            ran += 1
    assert ran >= 11


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [Lyra, LyraForTokenClassification])
def test_no_model_waits_for_the_card(model, layout, backend):
    with fake_card(backwards=1, backend=backend) as calls:
        with torch.device("cuda"):
            module = model(20, H, 2)
        batch, lay = _batch(layout)
        x = _r(batch, L, 20)
        with _NothingWaits():
            assert module(x, **lay).shape[-1] == 2
    assert calls.launches


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense waits"),
        (lambda x: x.nonzero(), "nonzero waits"),
        (lambda x: x.cpu(), "copies between"),
        (lambda x: x + torch.ones(3).to("cuda"), "copies between"),
    ],
)
def test_waiting_is_noticed(wait, told):
    with fake_card(), pytest.raises(AssertionError, match=told), _NothingWaits():
        wait(_r(3))
