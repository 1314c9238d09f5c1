"""What benchmarks.gpu_static records on a card that is not there is what the interpreter launches for the same call."""

from __future__ import annotations

import pytest
import torch

import lyra_kernels as lk

pytest.importorskip("benchmarks.gpu_static.launches")
from benchmarks.gpu_static.launches import Aten, fake_card
from benchmarks.gpu_static.record import Launch, recording

pytestmark = pytest.mark.interpreter


def spectrum(device, channels, modes):
    shapes = ((channels,), (channels, modes), (channels, modes), (channels, modes, 2))
    return [torch.rand(s, device=device) for s in shapes]


def scan(device):
    u = torch.rand(2, 70, 5, device=device, dtype=torch.bfloat16)
    lengths = torch.tensor([70, 3], device=device)
    return lk.s4d_conv(u, *spectrum(device, 5, 3), lengths=lengths, algorithm="scan", return_final_state=True)


def transforms(device):
    u, cu = torch.rand(1, 300, 1, device=device), torch.tensor([0, 30, 300], device=device)
    return lk.s4d_conv(u, *spectrum(device, 1, 16), cu_seqlens=cu, algorithm="fft")


def direct(device):
    """With rows enough for a second configuration, and activations that are not aligned."""
    u = torch.rand(18 * 40 * 3 + 1, device=device)[1:].view(18, 40, 3)
    return lk.causal_conv(u, torch.rand(3, 40, device=device), reverse_kernel=torch.rand(3, 9, device=device))


def gated(device):
    return lk.gated_conv(torch.rand(2, 20, 34, device=device), torch.rand(17, 1, 4, device=device), causal=True)


def tail(device):
    y = torch.rand(2, 70, 48, device=device).half()
    return lk.gelu_glu(y, torch.rand(96, 48, device=device), mask=torch.rand(2, 48, device=device), residual=y)


def told(launches):
    return sorted(repr((x.identity(), x.grid, sorted(x.integers.items()))) for x in launches)


@pytest.mark.parametrize("call", [scan, transforms, direct, gated, tail])
def test_a_forward(call):
    with recording() as wanted, lk.use_backend("triton"):
        call("cpu")
    with fake_card(processors=1) as calls:
        call("cuda")
    found = [x for x in calls.launches if isinstance(x, Launch)]
    assert told(found) == told(wanted.launches) and len(found) > 0
    assert [x.alternative for x in found].count(True) == (1 if call in (direct, tail) else 0)


def test_a_backward():
    def call(device):
        x = torch.rand(2, 20, 34, device=device, requires_grad=True)
        out = lk.gated_conv(x, torch.rand(17, 1, 3, device=device), torch.rand(17, device=device))
        if device == "cpu":
            out.sum().backward()

    with recording() as wanted, lk.use_backend("triton"):
        call("cpu")
    with fake_card(backwards=1) as calls:
        call("cuda")
    assert told(calls.kernels()) == told(wanted.launches)
    assert {x.kernel for x in calls.kernels()} == {"_gated_conv", "_gated_conv_backward", "_sum_rows"}


def test_torch_operations_stand_between_the_launches():
    with fake_card() as calls:
        y = torch.empty(4, 7, 8, device="cuda")
        calls.take()
        lk.rms_norm(y * 2)
    multiplication, norm = calls.take()
    assert isinstance(multiplication, Aten) and multiplication.kernel == "aten.mul.Tensor"
    assert multiplication.bytes == 2 * 4 * 7 * 8 * 4 and norm.kernel == "_rms_norm" and not calls.launches


@pytest.mark.parametrize("skip", [True, False])
def test_transforms_take_channels_first_as_they_come(skip):
    """The published layout, ``(B, H, L)``: nothing is copied, nor transposed, forward or backward."""
    with fake_card(backwards=1) as calls:
        D = torch.empty(16, device="cuda") if skip else None
        u = torch.empty(32, 16, 48, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        kernel, modes = torch.empty(16, 48, device="cuda"), spectrum("cuda", 16, 3)
        calls.take()
        for y in (lk.fft_conv(u, kernel, D=D), lk.s4d_conv(u, *modes, D, algorithm="fft")):
            assert y.stride() == u.stride() and not y._is_view()
    found = [x.kernel for x in calls.launches]
    assert found.count("_fft_conv") == 4 and found.count("_fft_correlate") == 2
    assert "_transpose" not in found
    assert all(x.bytes < u.numel() for x in calls.launches if isinstance(x, Aten))  # but gradients of parameters


def test_a_layer_of_transforms_takes_channels_first_as_they_come():
    with fake_card(backwards=1) as calls:
        with torch.device("cuda"):
            layer = lk.S4D(16, 6, algorithm="fft")
        u = torch.empty(32, 16, 48, device="cuda", dtype=torch.bfloat16)
        calls.take()
        assert layer(u).is_contiguous()
    found = [x.kernel for x in calls.kernels()]
    assert {"_fft_conv", "_fft_correlate", "_gelu_glu_backward"} < set(found) and "_transpose" not in found
    assert all(x.bytes < u.numel() for x in calls.launches if isinstance(x, Aten))


def test_several_rows_a_sequence_depend_on_the_card():
    def grids(processors):
        with fake_card(processors=processors) as calls:
            u = torch.empty(1, 16384, 4, device="cuda")
            lk.s4d_conv(u, *spectrum("cuda", 4, 32), algorithm="scan")
        return [x.grid for x in calls.kernels() if x.kernel == "_scan"]

    assert grids(1) == [(4, 1)] * 2 and grids(132) == [(4, 2)] * 2  # 16 and 32 rows, each walked twice


@pytest.mark.parametrize("algorithm", ["scan", "auto"])
def test_channels_first_goes_straight_in_and_out(algorithm):
    """The published layout, ``(B, H, L)``: nothing is copied, nor transposed, forward or backward."""
    with fake_card(backwards=1) as calls:
        with torch.device("cuda"):
            layer = lk.S4D(16, 6, algorithm=algorithm)
        u = torch.empty(2, 16, 48, device="cuda", dtype=torch.bfloat16)
        calls.take()
        assert layer(u).is_contiguous()
        assert layer(u, return_final_state=True)[0].shape == u.shape
        u = u.transpose(1, 2)
        y = lk.s4d_conv(u, *spectrum("cuda", 16, 3), algorithm=algorithm)
    assert y.stride() == u.stride()
    found = [x.kernel for x in calls.launches if x.kernel != "aten.rand"]
    assert "_scan_backward" in found and "_gelu_glu_backward" in found
    assert not [name for name in found if name.startswith("aten") or "transpose" in name]
