"""build_cuda.py: the choice of architectures, the reading of ptxas, and a compiled file where there is an nvcc."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_cuda
from lyra_kernels.backends.cuda import architectures as cuda_architectures

LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4goodv' for 'sm_80'
ptxas info    : Function properties for _Z4goodv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 2048 bytes smem, 384 bytes cmem[0]
ptxas info    : Compiling entry function '_Z3badv' for 'sm_90'
ptxas info    : Function properties for _Z3badv
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 500 bytes cmem[0]
"""


@pytest.fixture
def nvcc(monkeypatch):
    """A path that stands for an nvcc that knows a few architectures."""
    known = {"sm_75", "sm_80", "sm_86", "sm_90", "sm_90a"}
    monkeypatch.setattr(build_cuda, "known_architectures", lambda nvcc: known)
    return "nvcc"


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("", [("75", False), ("80", False), ("90", True)]),
        ("8.0", [("80", False)]),
        ("8.0;9.0+PTX", [("80", False), ("90", True)]),
        ("8.6 9.0a", [("86", False), ("90a", False)]),
        ("Ampere", [("80", False), ("86", False)]),
    ],
)
def test_architectures(asked, chosen, nvcc, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    assert build_cuda.architectures(nvcc) == chosen


def test_names_of_what_is_compiled():
    assert build_cuda.code_names([("80", False), ("90", True)]) == "sm_80, sm_90, compute_90"


def test_the_oldest_card_is_the_same_at_run_time():
    assert build_cuda.OLDEST == cuda_architectures.OLDEST


@pytest.mark.parametrize(
    ("asked", "message"),
    [("7.0", "too old"), ("8,0", "not an architecture"), ("Volta", "not an architecture"), ("12.0", "cannot compile")],
)
def test_bad_architectures(asked, message, nvcc, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    with pytest.raises(build_cuda.BuildError, match=message):
        build_cuda.architectures(nvcc)


def test_usage_and_spills(capsys):
    good, bad = build_cuda.parse_usage(LOG)
    assert good == build_cuda.Usage("_Z4goodv", "sm_80", 32, 0, 0, 0, 2048)
    assert (bad.architecture, bad.registers, bad.spill_stores, bad.spill_loads) == ("sm_90", 64, 16, 24)
    build_cuda.report_spills([good], strict=True)
    with pytest.raises(build_cuda.BuildError, match="bad"):
        build_cuda.report_spills([good, bad], strict=True)
    build_cuda.report_spills([good, bad], strict=False)
    assert "16 bytes stored" in capsys.readouterr().err


def test_cuda_home_comes_first(monkeypatch, tmp_path):
    fake = tmp_path / "bin" / "nvcc"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build_cuda.find_nvcc() == str(fake)


@pytest.mark.skipif(build_cuda.find_nvcc() is None, reason="no nvcc")
def test_a_warning_is_an_error(tmp_path, monkeypatch):
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void kernel(float* x) { int unused; x[0] = 1; }\n")
    with pytest.raises(build_cuda.BuildError, match="unused"):
        build_cuda.compile_kernel(build_cuda.find_nvcc(), source, tmp_path / "unused.o", [("80", False)])


@pytest.mark.skipif(build_cuda.find_nvcc() is None, reason="no nvcc")
def test_compiles_a_kernel_once(tmp_path):
    target = tmp_path / "rms_norm.o"
    arguments = (build_cuda.find_nvcc(), Path("csrc/cuda/rms_norm.cu"), target, [("80", False)])
    usages = build_cuda.compile_kernel(*arguments)
    assert len(usages) > 8 and all(u.registers > 0 and u.spill_stores == 0 for u in usages)
    made = target.stat().st_mtime_ns
    assert build_cuda.compile_kernel(*arguments) == usages and target.stat().st_mtime_ns == made
