"""Which cards run a build of the CUDA C++ kernels, and what a user of another one is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lyra_kernels import backends
from lyra_kernels.backends import native
from lyra_kernels.backends.cuda.architectures import is_supported

USUAL = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), ("sm_90",), True),
        ((7, 5), ("sm_90",), False),
        ((8, 0), ("sm_80",), True),
        ((8, 9), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),  # code of a later minor version
        ((9, 0), ("sm_80",), False),  # code of another major version
        ((9, 0), ("compute_80",), True),  # PTX is compiled by the driver
        ((8, 0), ("compute_90",), False),
        ((10, 3), ("sm_100",), True),
        ((12, 0), ("sm_100",), False),
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((10, 0), ("compute_90a",), False),
        ((10, 3), ("sm_100f",), True),
        ((11, 0), ("compute_100f",), False),
        ((7, 5), USUAL, True),
        ((8, 6), USUAL, True),
        ((13, 0), USUAL, True),
        ((7, 0), USUAL, False),
        ((9, 0), ("",), False),
        ((9, 0), (), False),
    ],
)
def test_what_a_card_runs(capability, architectures, runs):
    assert is_supported(capability, architectures) == runs


@pytest.fixture
def card(monkeypatch):
    """Plays a card of some compute capability on which Triton does not work, under a build for sm_90 alone."""

    def play(capability: tuple[int, int]) -> tuple[bool, str]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        backends.refresh()
        return backends.availability()["cuda"]

    monkeypatch.setattr(
        native,
        "MODULE",
        SimpleNamespace(
            cuda_architectures=lambda: "sm_90", cpu_isa=lambda: "baseline", available_cpu_isas=lambda: ["baseline"]
        ),
    )
    monkeypatch.setattr(torch.ops, "lyra_cuda", SimpleNamespace(gated_conv=None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A Card")
    with backends.redescribed("triton", availability=lambda: (False, "not today")):
        yield play


def test_a_card_that_the_build_has_code_for(card):
    assert card((9, 0)) == (True, "A Card")
    assert backends.default_backend(torch.device("cuda")) == "cuda"


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((8, 6), "built for sm_90, but A Card has compute capability 8.6: "
                 "rebuild, TORCH_CUDA_ARCH_LIST=8.6 pip install --no-build-isolation ."),
        ((7, 0), "A Card has compute capability 7.0, the CUDA C++ kernels need 7.5 or newer"),
    ],
)  # fmt: skip
def test_a_card_that_it_has_none_for(card, capability, reason):
    """One line with the remedy, and the backend is not chosen."""
    assert card(capability) == (False, reason)
    assert backends.default_backend(torch.device("cuda")) == "reference"


@pytest.mark.skipif(native.MODULE is None, reason="the native kernels are not built")
def test_the_library_knows_what_it_was_built_for():
    built = native.MODULE.cuda_architectures()
    assert bool(built) == hasattr(torch.ops.lyra_cuda, "gated_conv")
    assert all(name.startswith(("sm_", "compute_")) for name in built.split(", ") if built)
