"""What a user is told where the kernels cannot run, and which configuration a small card gets."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import subprocess
import sys

import numpy
import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources

import lyra_kernels.backends.triton as kernels
from lyra_kernels.backends.triton import _launch


def test_triton_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    works, reason = kernels.availability()
    assert not works and "not installed" in reason


def test_triton_too_old(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.1.0")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    works, reason = kernels.availability()
    assert not works and reason == "triton 3.1.0 is too old: pip install --upgrade 'triton>=3.6'"


@pytest.mark.parametrize(
    ("ours", "numpys", "interpreted", "works"),
    [("3.6.0", "2.4.0", "1", False), ("3.6.0", "2.3.9", "1", True), ("3.7.1", "2.4.0", "1", True),
     ("3.6.0", "2.4.0", "0", True)],
)  # fmt: skip
def test_an_interpreter_older_than_numpy(monkeypatch, ours, numpys, interpreted, works):
    monkeypatch.setattr(triton, "__version__", ours)
    monkeypatch.setattr(numpy, "__version__", numpys)
    monkeypatch.setattr(kernels, "_device_availability", lambda: (True, "a card"))
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    found, reason = kernels.availability()
    assert found == works
    assert works or reason == "triton 3.6.0 interprets only with numpy < 2.4; this is 2.4.0"


def test_triton_does_not_import(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    usual = builtins.__import__

    def broken(name, *rest):
        if name == "triton":
            raise OSError("a library is missing")
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    works, reason = kernels.availability()
    assert not works and "does not import: a library is missing" in reason


@pytest.mark.parametrize(("capability", "works"), [((6, 1), False), ((7, 0), True), ((9, 0), True)])
def test_cards(monkeypatch, capability, works):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    found, reason = kernels.availability()
    assert found == works
    assert reason == ("triton on a card" if works else "a card has compute capability 6.1, Triton needs 7.0 or newer")


def test_no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    works, reason = kernels.availability()
    assert not works and "no GPU" in reason


class _Kernel:
    """Stands for a kernel that needs `needs[num_warps]` bytes of shared memory on a card that has 100."""

    __name__, arg_names = "a_kernel", ("x",)

    def __init__(self, needs):
        self.needs, self.tried = needs, []

    def __getitem__(self, grid):
        def run(x, *, num_warps, num_stages):
            self.tried.append(num_warps)
            if self.needs[num_warps] > 100:
                raise OutOfResources(self.needs[num_warps], 100, "shared memory")

        return run


def test_the_next_configuration_where_shared_memory_is_too_small():
    kernel = _Kernel({8: 200, 4: 90})
    configs = [_launch.Config({}, 8), _launch.Config({}, 4)]
    for _ in range(2):  # what did not fit is not tried again
        _launch.launch(kernel, lambda c: (1,), {"x": torch.zeros(1)}, {}, configs)
    assert kernel.tried == [8, 4, 4]
    with pytest.raises(OutOfResources):
        _launch.launch(_Kernel({8: 200}), lambda c: (1,), {"x": torch.zeros(1)}, {}, configs[:1])


@pytest.mark.parametrize(
    ("args", "constants", "told"),
    [
        ({}, {}, "missing: x"),
        ({"x": None, "gone": 1}, {}, "not its own: gone"),
        ({"y": None}, {}, "missing: x; not its own: y"),
        ({"x": None}, {"x": 1}, "given twice: x"),
    ],
)
def test_a_wrong_name_is_an_error_that_says_which(args, constants, told):
    """Whether a launch is run or recorded; the interpreter would pass over a surplus name."""
    kernel, configs = _Kernel({4: 90}), [_launch.Config({}, 4)]
    with pytest.raises(TypeError, match=f"^arguments of a_kernel: {told}$"):
        _launch.launch(kernel, lambda c: (1,), args, constants, configs)
    with _launch.in_place_of_launches(lambda *launched: None), pytest.raises(TypeError, match=told):
        _launch.launch(kernel, lambda c: (1,), args, constants, configs)
    assert not kernel.tried


def test_every_op_is_there():
    for name in kernels.IMPLEMENTATIONS:
        assert callable(kernels.IMPLEMENTATIONS[name])
    assert "softmax" not in kernels.IMPLEMENTATIONS


@pytest.mark.parametrize("attribute, on, off", [("allow_tf32", True, False), ("fp32_precision", "tf32", "ieee")])
def test_tf32_by_either_interface(attribute, on, off):
    """Each in a process of its own: once the newer one was used, the older one refuses."""
    code = f"""
import torch
from lyra_kernels import _torch
for value, allowed in (({on!r}, True), ({off!r}, False), ({on!r}, True)):
    torch.backends.cuda.matmul.{attribute} = value
    assert _torch.tf32_allowed() == allowed, value
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_grid_beyond_the_card_is_refused():
    """The interpreter would run it."""
    with pytest.raises(ValueError, match="65535 in y and z"):
        _launch.launch(_Kernel({}), lambda config: (1, 65536), {"x": torch.zeros(1)}, {}, [_launch.Config()])


@pytest.mark.parametrize("op", ["pgc", "s4d_scan", "causal_conv"])
def test_many_short_sequences(op, monkeypatch):
    """More than a grid's second axis has room for."""
    grids, batch = [], 70_000 if op == "pgc" else 1_100_000
    module = importlib.import_module(f"lyra_kernels.backends.triton.{op}")

    def launch(kernel, grid, args, constants, configs):
        grids.append(grid(configs[0]))

    monkeypatch.setattr(module, "launch", launch)
    u, p = torch.zeros(batch, 1, 2), torch.zeros(2)
    weights = {
        "pgc": (torch.zeros(4, 2), None, None, torch.zeros(2, 1, 3), None, torch.zeros(2, 2), None, None, None),
        "s4d_scan": (p, torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(1, 2, 1, 2), None),
        "causal_conv": (torch.zeros(2, 1), None, None),
    }
    last = {"pgc": (1e-8, False), "s4d_scan": (None, False), "causal_conv": ()}
    kernels.IMPLEMENTATIONS[op](u, *weights[op], None, None, *last[op])
    assert all(max(cells[1:], default=0) <= _launch.MOST_PROGRAMS for cells in grids)
