"""A model compiled by AOTInductor runs in a C++ program, without Python, with the kernels of the compiled library."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import torch
from torch.export import Dim

import lyra_kernels as lk
from emulation.build import ROOT
from lyra import Lyra
from lyra_kernels.backends import native
from lyra_kernels.schemas import CONTRACTS, SCHEMAS

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7] * 20, [], [3], list(range(20))]


def test_schemas_are_those_of_python():
    text = (ROOT / "csrc" / "bind" / "cpu" / "definitions.cpp").read_text()
    listed = text[text.index("kSchemas[] = {") : text.index("};")]
    joined = re.sub(r'"\s*"', "", listed)
    assert re.findall(r'"(.*?)"', joined) == [name + SCHEMAS[name] for name in CONTRACTS]


def compiled(folder, plain: bool, algorithm: str = "auto"):
    """The model, and its package."""
    options = {"d_model": 4, "d_state": 4, "num_pgc_layers": 1, "num_s4_layers": 1}
    model = Lyra(d_input=20, **options, algorithm=algorithm).eval()
    x, lengths = torch.randint(20, (2, 30)), torch.tensor([30, 5])
    shapes = {"x": {0: Dim.AUTO, 1: Dim.AUTO}, "lengths": {0: Dim.AUTO}}
    program = torch.export.export(model, (x,), {"lengths": lengths}, dynamic_shapes=shapes)
    if plain:
        program = program.run_decompositions(lk.decompositions())
    path = str(folder / "model.pt2")
    return model, torch._inductor.aoti_compile_and_package(program, package_path=path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs examples/aotinductor; the compiler's absence skips."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no compiler")
    if native.MODULE is None:
        pytest.skip("the C++ kernels are not built")
    folder = tmp_path_factory.mktemp("package")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    source = ["-S", str(ROOT / "examples" / "aotinductor"), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Debug"]
    configure = ["cmake", *generator, *source, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    for command in (configure, ["cmake", "--build", str(folder)]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    tokens = folder / "tokens.txt"
    tokens.write_text("".join(" ".join(map(str, sequence)) + "\n" for sequence in SEQUENCES))

    def run(package: str, *library: str) -> subprocess.CompletedProcess:
        command = [str(folder / "run_package"), package, str(tokens), *library]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def assert_same(model: Lyra, said: subprocess.CompletedProcess) -> None:
    assert said.returncode == 0, said.stderr
    found = torch.tensor([[float(x) for x in line.split()] for line in said.stdout.splitlines()])
    lengths = torch.tensor([len(sequence) for sequence in SEQUENCES])
    x = torch.zeros(len(SEQUENCES), int(lengths.max()), dtype=torch.int64)
    for row, sequence in zip(x, SEQUENCES, strict=True):
        row[: len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(found, model(x, lengths=lengths), atol=1e-6, rtol=1e-4)


def test_with_the_ops_left_in(tmp_path, run):
    model, package = compiled(tmp_path, plain=False)
    assert_same(model, run(package, native.MODULE.__file__))
    without = run(package)
    assert without.returncode == 1 and "lyra::pgc" in without.stderr and "LIBRARY" in without.stderr


@pytest.mark.full
def test_decomposed(tmp_path, run):
    model, package = compiled(tmp_path, plain=True)
    assert_same(model, run(package))


@pytest.mark.full
@pytest.mark.parametrize("algorithm", ["fft", "direct"])
def test_other_algorithms(tmp_path, run, algorithm):
    model, package = compiled(tmp_path, plain=False, algorithm=algorithm)
    assert_same(model, run(package, native.MODULE.__file__))
