"""What a call launches on a card, without one: ops run on fake CUDA tensors, whose launches are written down.

Unlike :mod:`.record`, which runs the kernels in Triton's interpreter to count what they move, nothing is computed here:
tensors have shapes and a device but no memory. So calls of any size are recorded in milliseconds, with the grids,
segments and groups that the launchers choose for a card, in a process whose kernels can be compiled afterwards.

Autograd's engine wants a PyTorch that was built for CUDA. So a training step is recorded op by op instead: each op's
backward follows its forward.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lyra_kernels import backends
from lyra_kernels.backends.reference import as_tuple
from lyra_kernels.backends.triton import _launch
from lyra_kernels.ops import _autograd

from .guard import allow_cuda_tensors
from .record import Launch, describe

H200 = 132
"""Processors of an H100 or H200."""

_SILENT = (
    "alias", "as_strided", "detach", "empty", "expand", "new_empty", "permute", "reshape", "select", "slice", "split",
    "squeeze", "t.", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "lift_fresh",
)  # fmt: skip
"""Operations of PyTorch that launch nothing."""


@dataclass
class Aten:
    """One of PyTorch's own operations that runs a kernel."""

    name: str
    shapes: list[list[int]]
    strides: list[list[int]]
    bytes: int
    dtype: str

    @property
    def kernel(self) -> str:
        return f"aten.{self.name}"


@dataclass
class Calls:
    """What was launched, in order: our kernels, and PyTorch's own operations between them."""

    launches: list[Launch | Aten] = field(default_factory=list)

    def take(self) -> list[Launch | Aten]:
        """What was launched since the last time."""
        taken, self.launches = self.launches, []
        return taken

    def kernels(self) -> list[Launch]:
        """Ours alone."""
        return [x for x in self.launches if isinstance(x, Launch)]


class _Operations(TorchDispatchMode):
    """Writes down PyTorch's own operations."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::")
        if func.namespace == "aten" and not name.startswith(_SILENT):
            given = [a for a in args if isinstance(a, Tensor)]
            tensors = [*given, *(x for x in (out if isinstance(out, (tuple, list)) else (out,)) if _is(x))]
            moved = sum(t.numel() * t.element_size() for t in tensors)
            shapes, strides = [list(t.shape) for t in tensors], [list(t.stride()) for t in tensors]
            dtype = str(tensors[-1].dtype).removeprefix("torch.") if tensors else ""
            self.calls.launches.append(Aten(name, shapes, strides, moved, dtype))
        return out


def _is(x: Any) -> bool:
    return isinstance(x, Tensor)


def _no_gradients(outputs: Any, inputs: Sequence[Tensor], *rest: Any, **options: Any) -> list[Tensor]:
    """In place of ``torch.autograd.grad``, by which a fallback to the reference formula has its backward: that launches
    none of our kernels, and of PyTorch's own this shows none."""
    return [torch.empty_like(x) for x in inputs]


def _step(op: _autograd.Op, backend: str, args: tuple, backwards: int) -> Any:
    """An op, and its backward: with a gradient of its first output, then of the first two, ... as often as asked."""
    out = _autograd._call(op.name, backend, args)
    outputs = as_tuple(out)
    grads = [torch.empty_like(o) for o in outputs[: op.outputs]]
    for used in range(1, 1 + min(backwards, op.outputs)):
        if used == 1 or grads[used - 1].numel():
            given = (*grads[:used], *[None] * (op.outputs - used))
            op.backward(backend, (*args, *outputs[op.outputs :]), len(args), given)
    return out


def _implementation(name: str, backend: str, args: Sequence[Any]) -> Any:
    return backends.implementation(name, backend)(*args)


@contextlib.contextmanager
def fake_card(backwards: int = 0, processors: int = H200, backend: str = "triton") -> Iterator[Calls]:
    """A card that does nothing: inside, tensors made on ``device="cuda"`` are fake, and launches are written down.

    Args:
        backwards: how often to record each op's backward: not at all, with a gradient of its first output (as in
            training), or 2: once more with gradients of both outputs, where an op has two.
        processors: of the card, which decide how sequences are cut and rows grouped.
        backend: serves every call, as inside ``lyra_kernels.use_backend``.
    """
    allow_cuda_tensors()
    calls = Calls()
    # Ops that keep something for their backward; the package has functions of these names.
    keeping = [importlib.import_module(f"lyra_kernels.ops.{name}") for name in ("s4d_conv", "s4d_block")]

    def write_down(
        kernel: Any,
        grid: Callable[[Any], tuple[int, ...]],
        args: dict[str, Any],
        constants: dict[str, Any],
        configs: Sequence[_launch.Config],
    ) -> None:
        for place, config in enumerate(configs):
            cells = grid(config)
            if 0 not in cells:
                launch = describe(kernel, cells, args, {**constants, **config.blocks}, config)
                launch.alternative = place > 0
                calls.launches.append(launch)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_launch, "_processors", lambda device: processors))
        stack.enter_context(mock.patch.object(_launch, "_capability", lambda device: (9, 0)))
        stack.enter_context(backends.forcing(backend))
        for module in keeping:
            stack.enter_context(mock.patch.object(module, "saves", lambda args: backwards > 0))
        stack.enter_context(
            mock.patch.object(_autograd.Op, "__call__", lambda op, *args: _step(op, backend, args, backwards))
        )
        stack.enter_context(mock.patch.object(torch.autograd, "grad", _no_gradients))
        # The kernels' launchers, not the ops' fake kernels.
        stack.enter_context(mock.patch.object(_autograd, "_dispatch", _implementation))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_launch.in_place_of_launches(write_down))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_Operations(calls))
        yield calls
