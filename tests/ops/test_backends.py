"""The choice of a backend and of an instruction set."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
import torch

import lyra_kernels as lk
from lyra_kernels import backends

from ..card import kernels_for_cuda, pretended_card
from ..conftest import BACKENDS, why_not
from . import cases

native = pytest.mark.skipif(backends.cpu_isa() is None, reason="the C++ kernels are not built")


@pytest.mark.parametrize("name", BACKENDS)
def test_which_backends_this_run_covers(name):
    """One line in the report for each backend that the other tests leave out, with the reason."""
    reason = why_not(name)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")


def test_names_and_reasons():
    assert "reference" in lk.available_backends()
    report = lk.env_report()
    for name in backends.BACKENDS:
        works, reason = backends.availability()[name]
        assert reason
        assert report[f"backend {name}"].startswith("yes" if works else "no")
        assert (name in lk.available_backends()) == works


def test_unknown_backend():
    with pytest.raises(
        ValueError, match="backend 'gpu' does not exist: it must be one of triton, cuda, cpu, reference"
    ):
        with lk.use_backend("gpu"):
            pass


def test_absent_backend_is_refused_not_replaced(monkeypatch):
    monkeypatch.setattr(backends, "availability", lambda: {"cuda": (False, "no card")})
    with pytest.raises(RuntimeError, match="backend 'cuda' is not available here: no card"):
        with lk.use_backend("cuda"):
            pass


def test_backend_without_the_op_is_refused_not_replaced():
    assert backends.availability()["reference"][0]
    with pytest.raises(RuntimeError, match="backend 'triton' has no op 'nothing'"):
        pytest.importorskip("lyra_kernels.backends.triton")
        backends.implementation("nothing", "triton")


@pytest.fixture
def three_on_a_gpu():
    """Triton that has only rms_norm, CUDA C++ that has only that and pgc, and the reference: what serves rms_norm."""
    tables = {"triton": {"rms_norm": object()}, "cuda": {"rms_norm": object(), "pgc": object()}}
    with contextlib.ExitStack() as stack:
        for name, table in tables.items():
            changes = {"availability": lambda: (True, ""), "operations": lambda table=table: table}
            stack.enter_context(backends.redescribed(name, **changes))
        yield tables


def test_an_op_that_a_backend_lacks_is_served_by_the_next(three_on_a_gpu):
    device = torch.device("cuda")
    assert backends.serving("rms_norm", device) is three_on_a_gpu["triton"]["rms_norm"]
    assert backends.serving("pgc", device) is three_on_a_gpu["cuda"]["pgc"]
    assert backends.serving("gelu_glu", device) is backends.implementation("gelu_glu", "reference")
    assert backends.default_backend(device) == "triton"


def test_a_backend_that_does_not_work_serves_nothing(three_on_a_gpu):
    with backends.redescribed("triton", availability=lambda: (False, "no card")):
        assert backends.serving("rms_norm", torch.device("cuda")) is three_on_a_gpu["cuda"]["rms_norm"]


def test_a_new_backend_is_a_row(monkeypatch):
    """What describes itself as a backend can be asked for, refuses other devices, and serves its ops and no others."""
    new = backends.Backend("new", ("cpu",), lambda: (True, "here"), lambda: {"rms_norm": lambda x, weight, eps: x + 1})
    monkeypatch.setitem(backends._BACKENDS, "new", new)
    backends.refresh()
    try:
        assert "new" in lk.available_backends()
        x = torch.randn(2, 3, 4)
        with lk.use_backend("new"):
            torch.testing.assert_close(lk.rms_norm(x, None), x + 1)
            with pytest.raises(ValueError, match="backend 'new' computes on the CPU, but the tensors are on meta"):
                lk.rms_norm(x.to("meta"), None)
            with pytest.raises(RuntimeError, match="backend 'new' has no op 'gelu_glu'"):
                lk.gelu_glu(x, torch.randn(8, 4))
    finally:
        backends.refresh()


LAYERS = {
    "rms_norm": lambda: lk.RMSNorm(4),
    "pgc": lambda: lk.PGC(4),
    "s4d_scan": lambda: lk.S4D(4, d_state=4, transposed=False, algorithm="scan"),
    "s4d_kernel": lambda: lk.S4D(4, d_state=4, transposed=False, algorithm="direct"),
}


@pytest.fixture
def everything_available(monkeypatch):
    """A machine that has all backends, whose Triton is the usual one."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(backends, "availability", lambda: dict.fromkeys(backends.BACKENDS, (True, "")))


@pytest.mark.parametrize("op", LAYERS)
@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_cpu_tensors_on_a_backend_of_gpus(name, op, everything_available):
    message = f"^{op}: backend '{name}' computes on a GPU, but the tensors are on cpu: move them there, and the layer, "
    with lk.use_backend(name), pytest.raises(ValueError, match=message + r"with .to\("):
        LAYERS[op]()(torch.randn(2, 5, 4))


def test_tensors_of_a_gpu_on_the_backend_of_cpus():
    with pretended_card(), backends.use_backend("cpu"):
        layer = lk.RMSNorm(4).to("cuda")
        with pytest.raises(ValueError, match=r"^rms_norm: backend 'cpu' computes on the CPU, but .* on cuda:0: move"):
            layer(torch.randn(2, 5, 4, device="cuda"))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_meta_tensors_have_no_place(name):
    if name in lk.available_backends():
        with lk.use_backend(name):
            assert lk.rms_norm(torch.empty(2, 5, 4, device="meta"), None).shape == (2, 5, 4)


def test_nesting_and_restoring():
    assert backends.forced() is None
    with lk.use_backend("reference"):
        with lk.use_backend(None):
            assert backends.forced() is None
        assert backends.forced() == "reference"
        with pytest.raises(ZeroDivisionError), lk.use_backend("reference"):
            raise ZeroDivisionError
        assert backends.forced() == "reference"
    assert backends.forced() is None


def test_other_kernels_serve_calls():
    """What a backend is said to have is what runs, forward and backward, and nothing else is asked."""
    calls = []

    def forward(x, weight, eps):
        calls.append("forward")
        return torch.full_like(x, 3.0)

    def backward(grad, x, weight, eps):
        calls.append("backward")
        return torch.full_like(x, 5.0), torch.full_like(weight, 7.0)

    case = cases.make("rms_norm").leaves()
    with kernels_for_cuda({"rms_norm": forward, "rms_norm_backward": backward}), lk.use_backend("cuda"):
        y = case()[0]
        y.sum().backward()
    assert calls == ["forward", "backward"]
    assert (y == 3).all() and (case.tensors["x"].grad == 5).all() and (case.tensors["weight"].grad == 7).all()


@native
def test_instruction_sets():
    available = backends.available_cpu_isas()
    assert available[0] in ("baseline", "neon") and backends.cpu_isa() in available
    before = backends.cpu_isa()
    for isa in available:
        with backends.use_cpu_isa(isa):
            assert backends.cpu_isa() == isa
    assert backends.cpu_isa() == before
    with pytest.raises(ValueError, match=r"instruction set 'sse9' is not available; available: .*baseline"):
        with backends.use_cpu_isa("sse9"):
            pass


@native
def test_environment_variable_chooses_the_instruction_set():
    code = "import lyra_kernels.backends as b; print(b.cpu_isa())"
    isa = backends.available_cpu_isas()[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LYRA_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == isa, done.stderr


def test_works_without_the_native_module():
    """An installation without a compiler: same functions, same dispatcher ops, the reference behind them."""
    code = """
import sys
sys.modules["lyra_kernels._C"] = None
import torch, lyra_kernels as lk
assert "cpu" not in lk.available_backends()
x = torch.randn(2, 5, 8, requires_grad=True)
w = torch.randn(8)
lk.rms_norm(x, w).sum().backward()
torch.testing.assert_close(torch.ops.lyra.rms_norm(x.detach(), w, 1e-8), lk.rms_norm(x, w))
layer = lk.S4D(8, transposed=False)
layer(x).sum().backward()
torch.export.export(layer.eval(), (x.detach(),))
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]


def test_importing_imports_no_compiler():
    """What PyTorch and Triton compile with takes longer to import than all else, and most processes never compile."""
    code = """
import sys, torch
before = set(sys.modules)
import lyra, lyra_kernels
lyra_kernels.S4D(4, transposed=False)(torch.randn(1, 5, 4)).sum().backward()
print([name for name in ("torch._dynamo", "torch._inductor", "sympy", "triton") if name in set(sys.modules) - before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
