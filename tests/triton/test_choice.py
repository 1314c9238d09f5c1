"""What `explain_choice` says of calls of Triton kernels is what runs: kernels, or beyond limits the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels.backends import reference
from lyra_kernels.backends.triton import LIMITS, _launch

from ..ops import cases

pytestmark = pytest.mark.interpreter


class _Ran:
    """Formulas by name, and how many kernels: of what runs inside."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.formulas: list[str] = []
        self.kernels = 0
        table = reference.operations()
        for name in [name for name in table if not name.endswith("_backward")]:
            monkeypatch.setitem(table, name, lambda *args, name=name, f=table[name]: self._formula(name, f, args))
        monkeypatch.setattr(_launch, "_launch_by_triton", self._launched)
        self.launch = _launch._launch_by_triton

    def _formula(self, name: str, function: Any, args: tuple) -> Any:
        self.formulas.append(name)
        return function(*args)

    def _launched(self, *args: Any) -> None:
        self.kernels += 1


def _said_and_ran(monkeypatch: pytest.MonkeyPatch, function: Any, *args: Any, **options: Any) -> Any:
    with monkeypatch.context() as patch, lk.use_backend("triton"):
        ran = _Ran(patch)
        said = lk.explain_choice(function, *args, **options)
        assert not ran.formulas and not ran.kernels
        function(*args, **options)
    assert [op.op for op in said.ops if op.backend.name == "reference"] == ran.formulas
    assert any(op.backend.name == "triton" for op in said.ops) == (ran.kernels > 0)
    return said


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", cases.NAMES)
def test_kernels_and_formulas(name, layout, dtype, monkeypatch):
    case = cases.make(name, layout=layout).map(lambda x: x.to(dtype))
    said = _said_and_ran(monkeypatch, case.function, **case.tensors, **case.options)
    assert said.backend == ("reference" if dtype == torch.float64 else "triton")
    if dtype == torch.float64:
        told = [*said.why, *(other.why_not for other in said.alternatives if other.name == "triton")]
        assert any("kernels compute in float32, not in float64" in text for text in told)


def _s4d(modes: int, length: int, channels: int = 1, algorithm: str = "auto") -> tuple[Any, tuple, dict]:
    state = lk.S4DKernel(channels, 2 * modes)
    args = (torch.randn(1, length, channels), state.log_dt, state.log_A_real, state.A_imag, state.C)
    return lk.s4d_conv, args, {"algorithm": algorithm}


def _block(modes: int, channels: int) -> tuple[Any, tuple, dict]:
    _, (u, *modes_of), _ = _s4d(modes, 3, channels)
    return (
        lk.s4d_block,
        (u, *modes_of, None, torch.randn(2 * channels, channels)),
        {"norm_weight": torch.ones(channels)},
    )


def _gated_fft(length: int) -> tuple[Any, tuple, dict]:
    u = torch.randn(1, length, 1)
    return lk.fft_conv, (u, torch.randn(1, 9)), {"postgate": u}


def _gated(width: int, channels: int) -> tuple[Any, tuple, dict]:
    return lk.gated_conv, (torch.randn(1, 4, 2 * channels), torch.randn(channels, 1, width)), {}


def _pgc(width: int, channels: int) -> tuple[Any, tuple, dict]:
    r = torch.randn
    weights = (
        r(2 * channels, channels),
        None,
        r(2 * channels),
        r(channels, 1, width),
        None,
        r(3, channels),
        None,
        r(3),
    )
    return lk.pgc, (r(1, 4, channels), *weights), {}


@pytest.mark.parametrize(
    ("call", "served"),
    [
        (_s4d(LIMITS.scan_modes, 5), {"s4d_scan": "triton"}),
        (_s4d(LIMITS.scan_modes + 1, 5, algorithm="scan"), {"s4d_scan": "reference"}),
        (_s4d(2, LIMITS.transform, algorithm="fft"), {"s4d_fft": "triton"}),
        (_s4d(2, LIMITS.transform + 1, algorithm="fft"), {"s4d_kernel": "triton", "fft_conv": "reference"}),
        (_gated_fft(LIMITS.transform), {"fft_conv": "triton"}),
        (_gated_fft(LIMITS.transform + 1), {"fft_conv": "reference"}),
        (_block(2, 3), {"s4d_block": "triton"}),
        (_block(2, 513), {"rms_norm": "triton", "s4d_scan": "triton", "gelu_glu": "triton"}),
        (_block(65, 3), {"rms_norm": "triton", "s4d_scan": "reference", "gelu_glu": "triton"}),
        (_gated(15, 3), {"gated_conv": "triton"}),
        (_gated(17, 3), {"gated_conv": "reference"}),
        (_gated(3, 1025), {"gated_conv": "reference"}),
        (_pgc(3, 8), {"pgc": "triton"}),
        (_pgc(3, 129), {"pgc": "triton", "gated_conv": "triton", "rms_norm": "triton"}),
        (_pgc(33, 8), {"pgc": "triton", "gated_conv": "reference", "rms_norm": "triton"}),
        ((lk.rms_norm, (torch.randn(1, 8193), None), {}), {"rms_norm": "reference"}),
        ((lk.rms_norm, (torch.randn(0, 3), None), {}), {"rms_norm": "reference"}),
    ],
)
def test_at_the_limits(call, served, monkeypatch):
    function, args, options = call
    said = _said_and_ran(monkeypatch, function, *args, **options)
    assert {op.op: op.backend.name for op in said.ops} == served
