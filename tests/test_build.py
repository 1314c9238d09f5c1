"""setup.py's switches: what a missing compiler or a wrong setting does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build into an empty folder, with no compiler to be found."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LYRA_")}
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}/lib", f"--build-temp={tmp_path}/temp"]
    settings = {"CXX": "no-such-compiler", "LYRA_BUILD_CUDA": "0", **environment}
    return subprocess.run(command, cwd=ROOT, env=clean | settings, capture_output=True, text=True)


def test_without_a_compiler_the_install_goes_on_and_says_so_once(tmp_path):
    result = build(tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the native kernels were not built") == 1
    assert "LYRA_BUILD_CPP=1" in result.stderr


def test_a_required_build_that_fails_is_an_error(tmp_path):
    assert build(tmp_path, LYRA_BUILD_CPP="1").returncode != 0


def test_switched_off_nothing_is_built(tmp_path):
    result = build(tmp_path, LYRA_BUILD_CPP="0")
    assert result.returncode == 0 and not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(
    ("name", "value"), [("LYRA_BUILD_CPP", "yes"), ("LYRA_BUILD_CUDA", "2"), ("LYRA_ISAS", "sse9")]
)
def test_a_wrong_setting_is_named(tmp_path, name, value):
    result = build(tmp_path, **{"LYRA_BUILD_CPP": "1", name: value})
    assert result.returncode != 0
    assert name in result.stderr and value in result.stderr


def test_cuda_asked_for_without_nvcc_is_an_error(tmp_path):
    result = build(
        tmp_path, LYRA_BUILD_CPP="1", LYRA_BUILD_CUDA="1", CUDA_HOME=str(tmp_path), PATH=str(tmp_path), CXX="/bin/true"
    )
    assert result.returncode != 0


def test_the_package_works_without_native_code():
    """In a process where the extension cannot be imported: same numbers' shape, reference backend, and it is told."""
    code = (
        "import sys; sys.modules['lyra_kernels._C'] = None\n"
        "import torch, lyra_kernels as lk\n"
        "assert 'cpu' not in lk.available_backends()\n"
        "assert lk.env_report()['backend cpu'].startswith('no: '), lk.env_report()\n"
        "y = lk.S4D(4, 4, transposed=False)(torch.randn(2, 9, 4, requires_grad=True)); y.sum().backward()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
