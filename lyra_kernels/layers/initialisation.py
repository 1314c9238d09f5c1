"""Initial values from ``reset_parameters()``: those that the constructor gives with the same seed, on every road.

Constructors draw in the order of ``modules()``, a module's own parameters before its children's. Two conventions must
give the same: ``root.reset_parameters()`` once, and PyTorch's own for modules from the meta device, by which each
module that owns parameters or buffers is asked in turn. They meet in a module that owns parameters and has children:
it resets all below it, and its first child takes the random numbers back if it is asked next. Who asks in another
order, as FSDP1 does, by depth, or ``Module.apply``, children first, or also asks modules that own nothing, such as PGC,
gets other numbers of the same seed, as good ones.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def resettable(root: nn.Module) -> list[nn.Module]:
    """The modules below ``root`` that own parameters or buffers, in order.

    Raises:
        TypeError: one of them has no ``reset_parameters()``.
    """
    owners = []
    for path, module in root.named_modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        if module is root or all(tensor is None for tensor in tensors):
            continue
        if not callable(getattr(module, "reset_parameters", None)):
            raise TypeError(f"{path}, a {type(module).__name__}, has no reset_parameters(): initialise it by hand")
        owners.append(module)
    return owners


def reset_descendants(root: nn.Module) -> None:
    """Calls ``reset_parameters()`` of each of those, once.

    Raises:
        TypeError: one of them has no such method. None of them was reset.
    """
    for module in resettable(root):
        module.reset_parameters()  # type: ignore[operator]


_latest = threading.local()


@contextmanager
def taken_back_by(child: nn.Module, device: torch.device) -> Iterator[None]:
    """What is drawn inside is drawn again, with the same numbers, if ``child`` is the next to draw.

    Restoring the random state here instead would hand these numbers to whatever is initialised next: a stack of
    layers would have copies of the same random numbers in all of them.
    """
    before = _random_state(device)
    yield
    _latest.draw = (weakref.ref(child), device, before, _random_state(device))


def take_back(child: nn.Module) -> None:
    """Before ``child`` draws: see :func:`taken_back_by`."""
    draw = getattr(_latest, "draw", None)
    if draw is None or draw[0]() is not child:
        return
    _latest.draw = None
    _, device, before, after = draw
    # Compared as lists: inside of FakeTensorMode the states are ordinary tensors, for which no op runs.
    if [state.tolist() for state in _random_state(device)] == [state.tolist() for state in after]:
        _set_random_state(device, before)


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU and of ``device``."""
    states = [torch.get_rng_state()]
    if device.type not in ("cpu", "meta"):
        states.append(torch.get_device_module(device).get_rng_state(*_which(device)))
    return states


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module(device).set_rng_state(state, *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of which there is one
