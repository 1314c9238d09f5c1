"""The C++ example builds with CMake and computes what the reference does."""

from __future__ import annotations

import math
import shutil
import subprocess

import numpy as np
import pytest
import torch

from emulation.build import ROOT
from lyra_kernels import reference

from .support import relative_error

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")


# To compile its kernels for all instruction sets takes a minute of a core.
ISAS = {"all": pytest.param([], marks=pytest.mark.full), "baseline": ["-DLYRA_ISAS="]}


@pytest.fixture(scope="module", params=ISAS.values(), ids=ISAS)
def program(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = ["cmake", "-S", str(ROOT / "examples" / "cpp"), "-B", str(folder), *generator, *request.param]
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", "2"]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "scan_file"


@pytest.mark.parametrize("threads", [1, 3])
def test_scan_file(program, tmp_path, threads):
    channels, modes, length = 5, 8, 150
    u = torch.randn(length, channels, generator=torch.Generator().manual_seed(3))
    np.savetxt(tmp_path / "numbers.txt", u.numpy())
    command = [str(program), str(tmp_path / "numbers.txt"), str(modes), str(threads)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = torch.tensor([[float(x) for x in line.split()] for line in said.splitlines()])
    log_dt = torch.linspace(math.log(0.001), math.log(0.1), channels, dtype=torch.float64)
    log_A_real = torch.full((channels, modes), math.log(0.5), dtype=torch.float64)
    A_imag = math.pi * torch.arange(modes, dtype=torch.float64).repeat(channels, 1)
    C = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(1, channels, modes, 1)
    D = torch.ones(channels, dtype=torch.float64)
    wanted = reference.s4d_scan(u.double()[None], log_dt, log_A_real, A_imag, C, D, None, None, None)[0][0]
    assert relative_error(found, wanted) < 1e-6


@pytest.mark.parametrize(
    ("text", "message"), [("1 2\n3\n", "line 2: 1 columns"), ("1 x\n", "line 1: 'x' is not a number")]
)
def test_bad_files(program, tmp_path, text, message):
    (tmp_path / "bad.txt").write_text(text)
    result = subprocess.run([str(program), str(tmp_path / "bad.txt")], capture_output=True, text=True)
    assert result.returncode == 1 and message in result.stderr


def test_missing_file(program):
    result = subprocess.run([str(program), "/nowhere"], capture_output=True, text=True)
    assert result.returncode == 1 and "cannot open /nowhere" in result.stderr
