"""A card for plans, where there is none: Triton's interpreter runs what a plan launches.

A launch is remembered as Triton's compiled kernels are on a card, with the signature that Triton would give it. The
native library then launches it through a driver of the test's own, which unpacks the parameters again, so that all of a
replay is seen but the real cuLaunchKernel: what is allocated, every pointer and number, and their order.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.gpu_static.interpreter import quicken
from lyra_kernels import backends
from lyra_kernels.backends.triton import IMPLEMENTATIONS, _direct, _launch, _plans

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_uint64, *[ctypes.c_uint] * 5, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
)
_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64",
             torch.int32: "*i32"}  # fmt: skip
_DTYPES = {kind: dtype for dtype, kind in _POINTERS.items()}
_INTEGERS = {"i32": ctypes.c_int32, "i64": ctypes.c_int64}


def compile_driver(folder: Path) -> ctypes.CDLL:
    """Loads it under the driver's name, by which the native library asks for it."""
    target = folder / "libcuda.so.1"
    source = Path(__file__).with_name("driver.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(target)], check=True
    )
    return ctypes.CDLL(str(target))


class StandIn:
    """Remembers launches as ``_direct`` does on a card, and carries out those of the driver.

    Attributes:
        direct: launches through Python so far; replayed: by plans.
        fails: what the driver answers, 0 if launches work.
    """

    def __init__(self, driver: ctypes.CDLL) -> None:
        self.direct = self.replayed = self.fails = 0
        self._kernels: list[tuple[Any, dict[str, str], dict[str, Any]]] = []
        self._asked = threading.local()
        self._one_by_one = threading.Lock()
        self._callback = _CALLBACK(self._launched)
        driver.stand_in_set(self._callback)

    # ---- in place of _direct ---------------------------------------------------------------------------------
    def key(self, kernel: Any, args: dict[str, Any], constants: dict[str, Any], configs: Any) -> tuple:
        self._asked.values = args, constants, configs[0]
        return ()

    def find(self, kernel: Any, key: tuple) -> _direct.Launch:
        args, constants, config = self._asked.values
        given = {**args, **constants, **config.blocks}
        values = {name: given[name] for name in kernel.arg_names}
        known = _launch.unspecialized(kernel)
        signature = {name: self._kind(name in known, args, name) for name in values}
        function = (1 << 63) + 16 * len(self._kernels)  # as high as an address can be
        self._kernels.append((kernel, signature, {n: v for n, v in values.items() if signature[n] == "constexpr"}))
        compiled = types.SimpleNamespace(
            function=function,
            src=types.SimpleNamespace(signature=signature),
            metadata=types.SimpleNamespace(name=kernel.__name__, num_warps=config.num_warps, shared=1024, num_ctas=1),
        )

        def run(x: int, y: int, z: int, *rest: Any) -> None:
            with self._one_by_one:
                self.direct += 1
                with _disable_current_modes():  # what the interpreter does with tensors is no part of the op
                    kernel[(x, y, z)](*values.values())

        return _direct.Launch(0, -1, lambda device: 0, run, function, None, None, compiled)

    @staticmethod
    def _kind(unspecialized: bool, args: dict[str, Any], name: str) -> str:
        value = args.get(name)
        if isinstance(value, Tensor):
            return _POINTERS[value.dtype]
        if type(value) is float:
            return "fp32"
        if type(value) is int and (value != 1 or unspecialized):
            return "i32" if -(2**31) <= value < 2**31 else "i64"
        return "constexpr"

    # ---- in place of the card --------------------------------------------------------------------------------
    def _launched(
        self, function: int, x: int, y: int, z: int, threads: int, shared: int, stream: Any, parameters: Any
    ) -> int:
        if self.fails:
            return self.fails
        kernel, signature, constants = self._kernels[(function - (1 << 63)) // 16]
        assert threads % 32 == 0 and shared == 1024 and not stream
        values, place = [], 0
        for name in kernel.arg_names:
            kind = signature[name]
            if kind == "constexpr":
                values.append(constants[name])
                continue
            values.append(_parameter(parameters[place], kind))
            place += 1
        assert [_parameter(parameters[place + i], "i64") for i in range(2)] == [0, 0], "Triton's scratch memory"
        with self._one_by_one:
            self.replayed += 1
            kernel[(x, y, z)](*values)
        return 0


def _parameter(place: int, kind: str) -> Any:
    if kind == "fp32":
        return ctypes.c_float.from_address(place).value
    if not kind.startswith("*"):
        return _INTEGERS[kind].from_address(place).value
    address = ctypes.c_uint64.from_address(place).value
    if not address:
        return torch.empty(0, dtype=_DTYPES[kind])
    return torch.frombuffer((ctypes.c_char * 8).from_address(address), dtype=_DTYPES[kind])


@contextlib.contextmanager
def planned(driver: ctypes.CDLL) -> Iterator[StandIn]:
    """Inside, the Triton backend serves calls on the CPU, by plans that the stand-in carries out."""
    quicken()
    card = StandIn(driver)
    ops = {name: _plans.Planned(name, IMPLEMENTATIONS[name]) for name in IMPLEMENTATIONS}
    with (
        mock.patch.object(_direct, "key", card.key),
        mock.patch.object(_direct, "find", card.find),
        backends.redescribed("triton", operations=lambda: ops),
        backends.use_backend("triton"),
    ):
        yield card
