"""The tests of tests/ops that every backend has to pass, on the CUDA kernels under emulation.

Ops without a CUDA kernel of their own (pgc, gelu_glu, causal_conv) are compositions around the kernels that exist, so
a card without Triton serves every public function; see lyra_kernels/backends/cuda.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lyra_kernels as lk
from lyra_kernels import backends
from tests.card import kernels_for_cuda
from tests.ops import cases

from .support import LACKING, implementations, in_every_order

NAMES, ESSENTIAL = (
    tuple(name for name in names if name.split("-")[0] not in LACKING) for names in (cases.NAMES, cases.ESSENTIAL)
)


@pytest.fixture(scope="module", autouse=True)
def cuda_backend():
    """The emulated ops in the place of the CUDA backend, which serves every call."""
    with kernels_for_cuda(implementations()), lk.use_backend("cuda"):
        yield


@pytest.mark.parametrize("name, layout", cases.combos(NAMES))
def test_float32(name, layout):
    cases.assert_matches_reference(cases.make(name, layout))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name, dtype):
    layout = "padded" if name in cases.WITH_LAYOUT else "dense"
    cases.assert_matches_reference(cases.make(name, layout, dtype))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(ESSENTIAL),
    layout=st.sampled_from(cases.LAYOUTS),
    batch=st.integers(0, 3),
    length=st.sampled_from([0, 1, 2, 31, 63, 64, 65, 129]),
    channels=st.sampled_from([1, 3, 8, 15, 17]),
)
def test_any_shape(name, layout, batch, length, channels):
    layout = layout if name in cases.WITH_LAYOUT else "dense"
    if name.startswith(("rms_norm", "pgc")):
        channels = max(channels, 3)  # of one channel a norm leaves only the sign: nothing but rounding has a gradient
    cases.assert_matches_reference(cases.make(name, layout, batch=batch, length=length, channels=channels), 2e-5)


@pytest.mark.parametrize("name", ESSENTIAL)
def test_the_order_of_threads_changes_nothing(name):
    case = cases.make(name, "padded" if name in cases.WITH_LAYOUT else "dense", length=70, channels=9)
    with torch.no_grad():
        cotangents = cases.weights_like(case())

    def both():
        outputs, gradients = cases.gradients(case, cotangents)
        return *outputs, *gradients.values()

    in_every_order(both)


@pytest.mark.parametrize("layer", [lk.PGC(6), lk.S4D(6, 8, transposed=False), lk.S4D(6, 8, bidirectional=True)])
def test_layers(layer):
    x = torch.randn(2, 6, 40) if getattr(layer, "transposed", False) else torch.randn(2, 40, 6)
    x.requires_grad_()
    results = {}
    for name in ("cuda", "reference"):
        with lk.use_backend(name):
            out = layer.eval()(x)
            out = out[0] if isinstance(out, tuple) else out
            results[name] = [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()], allow_unused=True)]
    for found, wanted in zip(results["cuda"], results["reference"], strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_gpu_without_triton_gets_this_backend(monkeypatch):
    found = {name: (name in ("cuda", "reference"), "") for name in backends.BACKENDS}
    monkeypatch.setattr(backends, "availability", lambda: found)
    assert backends.default_backend(torch.device("cuda")) == "cuda"
    for op in implementations():
        assert backends.implementation(op, "cuda") is implementations()[op]
