"""Whether a layer's children are the plain modules that it made, so that one op may stand for all of them.

Adapters, sharding, offloading, pruning, quantization and hooks all work by what happens when a module is called, or by
putting another module in its place. So a layer calls its children, one by one, unless nobody can tell the difference:
every child is of the very class that the layer made it of, with its settings, nobody watches or wraps its forward, and
its tensors are ordinary ones of one dtype. Then a fused op takes these tensors.

Every call asks, past ``Module.__getattr__``, which takes as long as a small kernel runs; the native library looks
(``csrc/bind/children.cpp``), and where it does not find everything plain, or is not there, `_look` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _torch
from ..backends import native

_ORDINARY = (nn.Parameter, Tensor)
_FORWARDS: dict[type[nn.Module], Any] = {}
"""What a plain module of a class does; a class's ``forward`` may be patched later."""
_native_look = getattr(native.MODULE, "plain_tensors", None)


class Part(NamedTuple):
    """What a layer made one of its children.

    Attributes:
        path: names from the layer down; empty for the layer itself, whose class and hooks are its own affair.
        kind: the child's class; forward: that class's, as it was when the package was imported.
        children: how many of its own it has.
        tensors: names of the parameters or buffers that the fused op takes.
        settings: names and values of the attributes that its forward follows.
        apart: whether its tensors may have another dtype than those of the parts before it.
    """

    path: tuple[str, ...]
    kind: type[nn.Module]
    forward: Any
    children: int
    tensors: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    apart: bool = False


def part(path: str, kind: type[nn.Module], *tensors: str, children: int = 0, **settings: Any) -> Part:
    """One child of a layer, at a path such as "output_linear.0"."""
    names = tuple(path.split(".")) if path else ()
    return Part(names, kind, forward_of(kind), children, tensors, tuple(settings.items()))


def forward_of(kind: type[nn.Module]) -> Any:
    """A class's ``forward`` as it was when it was first asked for."""
    return _FORWARDS.setdefault(kind, kind.forward)


def plain_tensors(layer: nn.Module, parts: Sequence[Part]) -> list[Any] | None:
    """The tensors of the parts in their order; None where the children must be called."""
    if _native_look is not None and not torch.compiler.is_compiling():
        found = _native_look(layer, parts, _torch.GLOBAL_HOOKS, _ORDINARY)
        if found is not None:
            return found
    return _look(layer, parts)


def is_a_plain(module: Any, kind: type[nn.Module]) -> bool:
    """Whether calling a module is no more than its class's ``forward``, which is still what it was.

    A class that only makes its tensors in another way, and has them as attributes under the usual names, says so by
    ``stands_for = kind``.
    """
    own = type(module)
    return (
        (own is kind or getattr(own, "stands_for", None) is kind)
        and own.forward is forward_of(kind)
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
        and not _torch.has_hooks(module)
        and not _torch.has_global_hooks()
    )


def call_channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` of ``(B, C, L)``; of no tokens, which a convolution may refuse, no tokens."""
    return module(x) if x.shape[-1] else module(F.pad(x, (0, 1)))[..., :0]


def read_tensors(layer: nn.Module, part: Part) -> list[Any] | None:
    """The tensors of a child that calling it would use, also of a subclass or a parametrized one.

    None where reading them is not what calling it does: it has another forward, hooks, or tensors that are not here.
    Hooks of every module see those that are called.
    """
    module: Any = layer.get_submodule(".".join(part.path))
    if not isinstance(module, part.kind) or type(module).forward is not part.forward:
        return None
    if "forward" in module.__dict__ or _torch.has_hooks(module):
        return None
    found = [getattr(module, name) for name in part.tensors]
    return found if all(x is None or _is_ordinary(x) for x in found) else None


def _look(layer: nn.Module, parts: Sequence[Part]) -> list[Any] | None:
    found: list[Any] = []
    dtype = None
    for path, kind, _, children, tensors, settings, apart in parts:
        module: Any = layer
        for name in path:
            module = module._modules.get(name)
            if module is None:
                return None
        if path and not (is_a_plain(module, kind) and len(module._modules) == children):
            return None
        for name, value in settings:
            if getattr(module, name) != value:
                return None
        dtype = None if apart else dtype
        for name in tensors:
            # FSDP1 makes parameters plain attributes for the time of a call; parametrized ones are computed.
            x = getattr(module, name)
            if x is not None:
                if not _is_ordinary(x) or (dtype is not None and x.dtype != dtype):
                    return None
                dtype = x.dtype
            found.append(x)
    return found


def _is_ordinary(x: Any) -> bool:
    """Whether a fused op can take the memory of x: not of a sharded, quantized or otherwise special tensor."""
    return type(x) in _ORDINARY or (isinstance(x, Tensor) and _torch.stands_for_an_ordinary_tensor(x))


def is_idle(dropout: Any) -> bool:
    """Whether a dropout would hand on what it gets, with nobody looking on."""
    return is_a_plain(dropout, nn.Dropout) and not (dropout.training and dropout.p)
