"""Runs launchers in Triton's interpreter and writes down every launch: its signature, bytes and products.

To be imported in a process with TRITON_INTERPRET=1 (``count.py`` starts one).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from lyra_kernels.backends.triton import _launch

_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
}


@dataclass
class Launch:
    """One kernel launch; enough to compile the same kernel for a card."""

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: list[str]
    num_warps: int
    num_stages: int
    grid: tuple[int, ...]
    integers: dict[str, int] = field(default_factory=dict)  # arguments that are whole numbers
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of the arguments that are tensors
    alternative: bool = False  # a configuration that tuning may take in place of the first
    loaded: int = 0  # bytes
    stored: int = 0  # bytes
    product_flops: int = 0  # of tl.dot on fp32 operands, two for a multiply-add
    half_flops: int = 0  # of tl.dot on 16-bit operands

    def identity(self) -> tuple:
        """What decides the compiled code."""
        return (
            self.module,
            self.kernel,
            tuple(self.signature.items()),
            tuple(self.divisible),
            tuple((k, str(v)) for k, v in self.constants.items()),
            self.num_warps,
            self.num_stages,
        )


@dataclass
class Recording:
    launches: list[Launch] = field(default_factory=list)

    def dump(self) -> list[dict[str, Any]]:
        return [asdict(launch) for launch in self.launches]


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Everything launched inside, with the bytes that its loads and stores move."""
    result = Recording()

    def note(kernel, grid, args, constants, configs) -> None:
        if 0 not in grid(configs[0]):
            for config in (*configs[1:], configs[0]):  # the one that is launched last: what it moves is added to it
                values = {**constants, **config.blocks}
                result.launches.append(describe(kernel, grid(config), args, values, config))
        _launch.launch(kernel, grid, args, constants, configs)

    load, store, dot = (
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_masked_store,
        InterpreterBuilder.create_dot,
    )

    def counted_load(self, ptrs, mask, *rest):
        size = ptrs.get_element_ty().primitive_bitwidth // 8
        result.launches[-1].loaded += int(mask.data.sum()) * size
        return load(self, ptrs, mask, *rest)

    def counted_store(self, ptrs, value, mask, *rest):
        size = ptrs.get_element_ty().primitive_bitwidth // 8
        result.launches[-1].stored += int(mask.data.sum()) * size
        return store(self, ptrs, value, mask, *rest)

    def counted_dot(self, a, b, d, precision, *rest):
        flops = 2 * d.data.size * a.data.shape[-1]
        # 16-bit operands are made fp32 for the interpreter, and then the only ones whose products are exact.
        if a.data.dtype == np.float32 and getattr(precision, "name", "") != "IEEE":
            result.launches[-1].product_flops += flops
        else:
            result.launches[-1].half_flops += flops
        return dot(self, a, b, d, precision, *rest)

    InterpreterBuilder.create_masked_load = counted_load
    InterpreterBuilder.create_masked_store = counted_store
    InterpreterBuilder.create_dot = counted_dot
    try:
        with _launch.in_place_of_launches(note):
            yield result
    finally:
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store
        InterpreterBuilder.create_dot = dot


def describe(kernel: Any, grid: tuple[int, ...], args: dict[str, Any], values: dict[str, Any], config: Any) -> Launch:
    """What Triton's own launcher specialises this launch to."""
    signature, constants, divisible, integers, sizes = {}, {}, [], {}, {}
    for name, value in args.items():
        if isinstance(value, Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
            sizes[name] = value.numel() * value.element_size()
            if value.storage_offset() * value.element_size() % 16 == 0:
                divisible.append(name)
        elif value is None or isinstance(value, bool):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, int):
            integers[name] = value
            varies = name in _launch.unspecialized(kernel)
            if value == 1 and not varies:
                signature[name] = "constexpr"
                constants[name] = 1
                continue
            signature[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0 and not varies:
                divisible.append(name)
        else:
            signature[name] = "fp32"
    for name, value in values.items():
        signature[name] = "constexpr"
        constants[name] = f"tl.{value.name}" if isinstance(value, tl.dtype) else value
    return Launch(
        kernel.fn.__module__,
        kernel.fn.__name__,
        {n: signature[n] for n in kernel.arg_names},
        constants,
        divisible,
        config.num_warps,
        config.num_stages,
        tuple(grid),
        integers,
        sizes,
    )
