"""A pretended card: tensors that say that they are on a GPU, with their values in main memory.

Where there is no GPU, nothing else shows that a test keeps all its tensors on one device. Inside :func:`pretended_card`
``device="cuda"`` and ``.to("cuda")`` give tensors of `OnCard`: what they compute is right, and whatever a card refuses
is an error: an operation of PyTorch or an op of a backend on tensors of which one is in main memory.

C++ is told that these tensors are on the CPU, since autograd's engine wants a PyTorch with CUDA for any other; Python
sees "cuda".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lyra_kernels import backends
from lyra_kernels.layers import _children
from lyra_kernels.ops import _autograd
from lyra_kernels.schemas import CONTRACTS, OPS, SCHEMAS

CARD = torch.device("cuda", 0)
_INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::index_put")
"""Where a card takes indices that are in main memory."""
_AT_ONCE = {
    torch.ops.aten._conj.default: torch.ops.aten._conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}
"""What PyTorch marks to be done later: the mark would be on values that it cannot see."""


class OnCard(Tensor):
    """A tensor on the card; its values are those of `held`, in main memory."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> OnCard:
        assert not isinstance(values, OnCard), "on the card already"
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype
        )
        made.held = values
        return made

    @property
    def device(self) -> torch.device:
        return CARD

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def new_empty(self, *args: Any, **kwargs: Any) -> OnCard:
        return OnCard(self.held.new_empty(*args, **kwargs))  # a test may have replaced Tensor.new_empty

    def __repr__(self) -> str:
        return f"OnCard({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "lyra_on":  # whose kernels take tensors of the card
            return backends.implementation(func._opname, args[0])(*args[1:])
        _refuse_mixed(func.name(), args, kwargs)
        given: dict[int, OnCard] = {}

        def held(x: Any) -> Any:
            if not isinstance(x, OnCard):
                return x
            given[id(x.held)] = x
            return x.held

        return _wrap(_AT_ONCE.get(func, func)(*_map(held, args), **_map(held, kwargs)), given)


def _refuse_mixed(name: str, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """What a card says of tensors on two devices; numbers, copies and indices may come from main memory."""
    if name.startswith("aten::copy_"):
        return
    given = args[:1] if name.startswith(_INDEXING) else (args, kwargs)
    for x in _leaves(given):
        if isinstance(x, Tensor) and not isinstance(x, OnCard) and x.dim() > 0:
            raise RuntimeError(f"{name}: tensors on {CARD} and on {x.device}")


def _leaves(tree: Any) -> Iterator[Any]:
    """All that lies in tuples, lists and dicts, as operations take and give: pytree knows more kinds, and is slow."""
    if isinstance(tree, (tuple, list)):
        for x in tree:
            yield from _leaves(x)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    else:
        yield tree


def _map(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree with its leaves changed."""
    if isinstance(tree, (tuple, list)):
        return type(tree)([_map(change, x) for x in tree])
    if isinstance(tree, dict):
        return {key: _map(change, x) for key, x in tree.items()}
    return change(tree)


def _unwrap(tree: Any) -> Any:
    return _map(lambda x: x.held if isinstance(x, OnCard) else x, tree)


def _wrap(tree: Any, known: Mapping[int, OnCard]) -> Any:
    """Results on the card; a tensor that was changed in place is the one that was given."""

    def wrap(x: Any) -> Any:
        return known[id(x)] if id(x) in known else OnCard(x) if isinstance(x, Tensor) else x

    return _map(wrap, tree)


class _To(torch.autograd.Function):
    """A copy to the card or back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.held.clone() if isinstance(x, OnCard) else OnCard(x.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _To.apply(grad)


def _on_card(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


def _move(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, with the card as one of the places."""
    if args and isinstance(args[0], Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        device, dtype = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})[:2]
    if device is not None and _on_card(device) != isinstance(x, OnCard):
        x = _To.apply(x)
    return x if dtype is None else x.to(dtype)


class _Card(TorchFunctionMode):
    """Sends tensors to the card, or makes them there, where a call of Python says so.

    Attributes:
        calls: how many calls of Python are under way; without one it is C++ that makes tensors.
    """

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        try:
            return self._call(func, args, dict(kwargs or {}))
        finally:
            self.calls -= 1

    @staticmethod
    def _call(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if func is Tensor.to:
            return _move(*args, **kwargs)
        if func is Tensor.cpu:
            return _move(args[0], "cpu")
        makes = func is F.one_hot and isinstance(args[0], OnCard)  # C++ makes a tensor where it thinks that x is
        if not makes and not _on_card(kwargs.get("device")):
            return func(*args, **kwargs)
        made = func(*_unwrap(args), **_unwrap(kwargs if makes else {**kwargs, "device": "cpu"}))
        return made if isinstance(made, OnCard) else OnCard(made.detach()).requires_grad_(made.requires_grad)


class _Backward(TorchDispatchMode):
    """Puts on the card what C++ makes during a backward: zeros for gradients that did not come."""

    def __init__(self, card: _Card) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        placed = self.card.calls or any(isinstance(x, Tensor) for x in _leaves((args, kwargs)))
        return out if placed else _wrap(out, {})


def _interpret(kernel: Any, grid: Any, args: dict[str, Any], constants: dict[str, Any], configs: Any) -> None:
    """A launch of a Triton kernel on the card, in the interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    from lyra_kernels.backends.triton import _launch

    for name, x in args.items():
        if isinstance(kernel, InterpretedFunction) and isinstance(x, Tensor) and not isinstance(x, OnCard):
            raise RuntimeError(f"{kernel.__name__}: {name} is on {x.device}, the launch is on {CARD}")
    _launch.launch(kernel, grid, _unwrap(args), constants, configs)


@contextlib.contextmanager
def card_of_the_interpreter() -> Iterator[None]:
    """Inside, there is a card of one processor, whose Triton kernels run in the interpreter."""
    from lyra_kernels.backends.triton import _launch

    with _launch.in_place_of_launches(_interpret), contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_launch, "_processors", lambda device: 1))
        stack.enter_context(mock.patch.object(_launch, "_capability", lambda device: (9, 0)))
        stack.enter_context(card_tensors())
        yield


def _served(name: str) -> Callable[..., Any]:
    """An op of the pretended card's backend."""

    @functools.wraps(OPS[name])
    def op(*args: Any) -> Any:
        for i, x in enumerate(args):
            if isinstance(x, Tensor) and not isinstance(x, OnCard):
                raise RuntimeError(f"lyra::{name}: argument {i} is on {x.device}, the backend computes on {CARD}")
        with torch._C._AutoDispatchBelowAutograd():
            return OPS[name](*args)

    return op


@contextlib.contextmanager
def card_tensors() -> Iterator[None]:
    """Inside, tensors and modules can be sent to the card and made there."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    run_backward, run_op = torch.autograd._engine_run_backward, _autograd._dispatch

    def dispatch(name: str, backend: str | None, args: Any) -> Any:
        """An op of a backend that was asked for, past the dispatcher, where no mode would see what its kernel makes."""
        if backend is not None and all(isinstance(x, OnCard) for x in args if isinstance(x, Tensor)):
            return backends.implementation(name, backend)(*args)
        return run_op(name, backend, args)

    def backward(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        on_card = any(isinstance(x, OnCard) for x in outputs)
        # The mode is switched off inside torch.autograd.grad, as inside any function of PyTorch.
        with _Card() as card, _Backward(card) if on_card else contextlib.nullcontext():
            return run_backward(outputs, *args, **kwargs)

    try:
        with (
            mock.patch.object(torch.autograd, "_engine_run_backward", backward),
            mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False),
            mock.patch.object(_children, "_ORDINARY", (*_children._ORDINARY, OnCard)),
            mock.patch.object(_autograd, "_dispatch", dispatch),
            _Card(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def kernels_for_cuda(operations: backends.Operations) -> AbstractContextManager[None]:
    """Inside, the backend "cuda" works here, with these kernels, on tensors of any device."""
    return backends.redescribed(
        "cuda",
        availability=lambda: (True, "in a test"),
        operations=lambda: operations,
        also_takes=lambda: ("cpu", "meta"),
    )


@contextlib.contextmanager
def pretended_card() -> Iterator[None]:
    """Inside, there is a card, and the backend "cuda" serves every call: with the kernels of the CPU."""
    with kernels_for_cuda({name: _served(name) for name in SCHEMAS}), backends.use_backend("cuda"), card_tensors():
        yield


def _stand_ins(calls: list[str]) -> backends.Operations:
    """All ops, which say that they were called; PyTorch makes tensors without memory in Python, so they make few."""

    def made(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[tuple, Any] = {}

        def op(*args: Any) -> Any:
            calls.append(name)
            key = tuple([x.shape if isinstance(x, Tensor) else x for x in args])
            if key not in known:
                known[key] = fake(*args)
            out = known[key]
            return out.detach() if isinstance(out, Tensor) else tuple([x.detach() for x in out])

        return op

    return {
        **{name: made(name, contract.fake) for name, contract in CONTRACTS.items()},
        **{f"{name}_backward": made(f"{name}_backward", c.fake_backward) for name, c in CONTRACTS.items()},
    }


@contextlib.contextmanager
def card_without_memory(calls: list[str]) -> Iterator[None]:
    """Inside, the backend "cuda" serves meta tensors; its ops write down that they were called, and compute nothing."""
    with backends.redescribed(
        "cuda", devices=("meta",), availability=lambda: (True, "in a test"), operations=lambda: _stand_ins(calls)
    ):
        yield
