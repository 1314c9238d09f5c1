"""The layers are those published: names, shapes, recorded outputs and gradients, initial values."""

from __future__ import annotations

import math

import pytest
import torch

import lyra_kernels as lk

from .. import fixtures


def test_s4d_recorded(backend, device):
    recorded = fixtures.load("s4d_layer")
    meta = {k: v for k, v in recorded.meta.items() if k in ("d_model", "d_state", "transposed")}
    fixtures.check(lk.S4D(**meta).double().to(device), recorded.to(device))


@pytest.mark.parametrize("algorithm", ["scan", "direct", "fft"])
def test_s4d_recorded_by_each_algorithm(algorithm):
    fixtures.check(lk.S4D(10, 16, algorithm=algorithm).double(), fixtures.load("s4d_layer"))


def test_pgc_recorded(backend, device):
    fixtures.check(lk.PGC(12).double().to(device), fixtures.load("pgc_layer").to(device))


def test_state_dict_of_s4d():
    shapes = {k: tuple(v.shape) for k, v in lk.S4D(6, d_state=8).state_dict().items()}
    assert shapes == {
        "D": (6,),
        "kernel.C": (6, 4, 2),
        "kernel.log_dt": (6,),
        "kernel.log_A_real": (6, 4),
        "kernel.A_imag": (6, 4),
        "output_linear.0.weight": (12, 6, 1),
        "output_linear.0.bias": (12,),
    }
    assert lk.S4D(6, bidirectional=True).state_dict()["kernel.C"].shape == (2, 6, 32, 2)


@pytest.mark.parametrize("expansion, inner", [(1.0, 8), (0.25, 2), (2, 16), (1.3, 10)])
def test_state_dict_of_pgc(expansion, inner):
    layer = lk.PGC(8, expansion, kernel_size=5)
    assert {k: tuple(v.shape) for k, v in layer.state_dict().items()} == {
        "conv.weight": (inner, 1, 5),
        "conv.bias": (inner,),
        "in_proj.weight": (2 * inner, 8),
        "in_proj.bias": (2 * inner,),
        "in_norm.weight": (2 * inner,),
        "out_norm.weight": (8,),
        "out_proj.weight": (8, inner),
        "out_proj.bias": (8,),
    }
    assert layer(torch.randn(2, 7, 8)).shape == (2, 7, 8)


def test_the_names_of_upstream():
    """Upstream calls the states N; positional arguments come in upstream's order."""
    assert lk.S4D(4, N=6).d_state == lk.S4D(4, 6).d_state == lk.S4DKernel(4, N=6).d_state == 6
    layer = lk.S4D(4, 8, 0.1, False)
    assert layer.dropout.p == 0.1 and not layer.transposed and layer.d_output == 4


def test_initial_values():
    kernel = lk.S4DKernel(500, d_state=8, dt_min=0.01, dt_max=0.2)
    assert kernel.log_dt.min() >= math.log(0.01) and kernel.log_dt.max() <= math.log(0.2)
    assert kernel.log_dt.std() > 0.5
    assert torch.equal(kernel.log_A_real, torch.full((500, 4), math.log(0.5)))
    torch.testing.assert_close(kernel.A_imag[3], math.pi * torch.arange(4.0))
    assert abs(float(kernel.C.detach().square().sum(-1).mean()) - 1.0) < 0.1
    assert torch.equal(lk.RMSNorm(5).weight, torch.ones(5))


def test_kernel_module():
    kernel = lk.S4DKernel(3, d_state=8)
    torch.testing.assert_close(kernel(20), lk.s4d_kernel(kernel.log_dt, kernel.log_A_real, kernel.A_imag, kernel.C, 20))
    both = lk.S4DKernel(3, d_state=8, bidirectional=True)
    assert both(20).shape == (2, 3, 20)
    torch.testing.assert_close(both(20)[1], lk.s4d_kernel(both.log_dt, both.log_A_real, both.A_imag, both.C[1], 20))


def test_learning_rate_marks_parameters():
    spectrum = ("log_dt", "log_A_real", "A_imag")
    kernel = lk.S4DKernel(3, lr=0.01)
    assert all(getattr(kernel, n)._optim == {"weight_decay": 0.0, "lr": 0.01} for n in spectrum)
    assert not hasattr(kernel.C, "_optim")
    assert all(getattr(lk.S4DKernel(3), n)._optim == {"weight_decay": 0.0} for n in spectrum)
    frozen = lk.S4DKernel(3, lr=0.0)
    assert set(dict(frozen.named_buffers())) == set(spectrum) and set(dict(frozen.named_parameters())) == {"C"}
    assert set(frozen.state_dict()) == set(kernel.state_dict())
