"""The launchers as nvcc compiles them, on a CUDA runtime that is made up: errors, the stream, the device."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import build_cuda
from emulation.build import BUILD, ROOT, compiler

nvcc = build_cuda.find_nvcc()
pytestmark = pytest.mark.skipif(nvcc is None, reason="no nvcc")

NO_KERNEL_IMAGE, OUT_OF_RESOURCES, INVALID_VALUE, ILLEGAL_ADDRESS, OLD_DRIVER = 209, 701, 1, 700, 35
SOURCES = ("check", "rms_norm", "gated_conv", "gated_conv_backward", "s4d_scan", "s4d_scan_backward")
KERNELS = {
    "rms_norm": ["rms_norm_forward"],
    "rms_norm_backward": ["rms_norm_gradients", "column_sums"],
    "gated_conv": ["gated_conv_forward"],
    "gated_conv_backward": ["gated_conv_gradients", "column_sums", "gated_conv_parameter_gradients"],
    "s4d_scan": ["s4d_scan_tables", "s4d_scan_segments", "s4d_scan_connect", "s4d_scan_outputs"],
    "s4d_scan_backward": [
        *("s4d_scan_tables", "s4d_scan_segments", "s4d_scan_connect", "s4d_scan_gradients"),
        *("column_sums", "column_sums", "s4d_chain_rule"),
    ],
}


@cache
def library() -> ctypes.CDLL:
    folder = BUILD / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for name in SOURCES:
        target = folder / f"{name}.o"
        source = (ROOT / "csrc" / "cuda" / f"{name}.cu").relative_to(ROOT)
        chosen = [("80", False), ("90", True)] if name == "check" else [("80", False)]  # check.cu has their names
        build_cuda.compile_kernel(nvcc, source, target, chosen)
        objects.append(str(target))
    fake, together = folder / "fake_cudart.o", folder / "launch.so"
    # -cudart none: what the objects ask of the runtime is found in the fake.
    commands = [
        [nvcc, "-std=c++17", "-Xcompiler", "-fPIC", f"-I{ROOT / 'csrc'}", "-c"],
        [*compiler(), "-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs", str(fake), *objects, "-o", str(together)],
    ]
    commands[0] += [str(Path(__file__).with_name("fake_cudart.cpp")), "-o", str(fake)]
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    found = ctypes.CDLL(str(together))
    found.run.restype = found.fake_log.restype = ctypes.c_char_p
    found.run.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
    return found


def run(op, at=-1, error=0, shared=99 * 1024, device=0, stream=0):
    """What the launcher threw, and the launches: (kernel, blocks, threads, shared bytes, stream, device)."""
    library().fake_set(at, error, shared)
    message = library().run(op.encode(), device, stream).decode()
    launches = []
    for line in library().fake_log().decode().splitlines():
        name, *numbers = line.split()
        launches.append((name, *map(int, numbers)))
    return message, launches


@pytest.mark.parametrize("op", KERNELS)
def test_launches_go_to_the_callers_stream_and_device(op):
    message, launches = run(op, stream=0xABC0, device=2)
    assert message == ""
    for expected, launch in zip(KERNELS[op], launches, strict=True):
        assert expected in launch[0]
    assert all(launch[4:] == (0xABC0, 2) for launch in launches)


@pytest.mark.parametrize(("op", "at"), [(op, at) for op, kernels in KERNELS.items() for at in range(len(kernels))])
def test_every_launch_is_checked_and_named(op, at):
    message, launches = run(op, at, OUT_OF_RESOURCES)
    assert message == f"CUDA kernel {KERNELS[op][at]}: some other error"
    assert len(launches) == at + 1  # nothing is launched after the failure
    assert run(op)[0] == ""  # and the error is not told again at the next call


def test_a_card_that_the_build_does_not_know():
    message, _ = run("s4d_scan", 0, NO_KERNEL_IMAGE)
    assert message == (
        "CUDA kernel s4d_scan_tables: no kernel image is available for execution on the device. This build has code "
        "for sm_80, sm_90, compute_90, and this card is sm_75; rebuild with TORCH_CUDA_ARCH_LIST naming it, or use "
        "another backend."
    )


@pytest.mark.parametrize("error", [INVALID_VALUE, NO_KERNEL_IMAGE])
def test_shared_memory_that_is_refused(error):
    message, launches = run("s4d_scan", -2, error)
    assert message.startswith("CUDA kernel s4d_scan_outputs: ") and ("sm_80" in message) == (error == NO_KERNEL_IMAGE)
    assert all("s4d_scan_outputs" not in launch[0] for launch in launches)
    assert run("s4d_scan")[0] == ""


def test_errors_of_earlier_kernels_and_old_drivers_say_so():
    assert "an earlier kernel, of any library, caused it" in run("rms_norm", 0, ILLEGAL_ADDRESS)[0]
    assert re.search(r"needs a driver for CUDA \d+\.\d+ or newer", run("rms_norm", 0, OLD_DRIVER)[0])


def test_a_device_that_is_not_there():
    message, launches = run("rms_norm", device=9)
    assert "choosing the device" in message and not launches
    assert run("rms_norm")[0] == ""


@pytest.mark.parametrize("shared", [64 * 1024, 99 * 1024, 227 * 1024])
@pytest.mark.parametrize("op", ["s4d_scan", "s4d_scan_backward"])
def test_no_block_asks_for_more_shared_memory_than_the_card_has(op, shared):
    message, launches = run(op, shared=shared)
    assert message == "" and 32 * 1024 < max(launch[3] for launch in launches) <= min(shared, 99 * 1024)


def test_no_launch_goes_around_the_check():
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix in (".cu", ".cuh", ".h", ".cpp") and path.name != "platform.cuh":
            assert "<<<" not in path.read_text(), path


STREAM = """
#include "bind/stream.h"
extern "C" long find(int device) {
  const auto current = lyra::binding::find_current_stream();
  void* stream = nullptr;
  if (current == nullptr) return -1;
  return current(device, &stream) == 0 ? reinterpret_cast<long>(stream) : -2;
}
"""
TORCH = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = reinterpret_cast<void*>(64L + device);
  return device > 3;
}
"""


def test_the_stream_is_asked_of_a_library_that_only_pytorch_sees(tmp_path):
    """Python loads PyTorch's CUDA library without making its symbols known to others."""
    for name, text in (("stream", STREAM), ("torch_cuda", TORCH)):
        (tmp_path / f"{name}.cpp").write_text(text)
        command = [*compiler(), "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", str(tmp_path / f"{name}.cpp")]
        command += ["-o", str(tmp_path / f"lib{name}.so"), f"-Wl,-soname,lib{name}.so", "-ldl"]
        subprocess.run(command, check=True)
    code = (
        "import ctypes, sys\n"
        "ours = ctypes.CDLL(sys.argv[1] + '/libstream.so')\n"
        "print(ours.find(1))\n"
        "theirs = ctypes.CDLL(sys.argv[1] + '/libtorch_cuda.so', mode=0)\n"
        "print(ours.find(1), ours.find(5))\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["-1", "65", "-2"]
