"""CUDA graphs of models: what a call launches, recorded once and replayed without Python."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import _torch, backends
from ._torch import tree_flatten, tree_unflatten

__all__ = ["CaptureError", "Graphed", "graphed"]


class CaptureError(RuntimeError):
    """A call could not be recorded as a CUDA graph; the message says why, and the model is as it was."""


def graphed(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    max_graphs: int = 16,
) -> Any:
    """The model with its calls on a GPU replayed as CUDA graphs, forward and backward.

    A short model is bound by Python and by launches, not by the card; a replay is one launch forward and one backward.
    The example's call is recorded here, others of a new signature when they first come: shapes, dtypes and which
    tensors need gradients, the arguments that are no tensors (None, numbers, flags), training or evaluation, gradients
    on or off, autocast. Calls that no graph can serve run as usual and give the same numbers: a signature beyond the
    first ``max_graphs``, arguments that cannot be compared such as lists, and a call while the backward of another one
    may still come, which would overwrite what that one needs (so predict inside ``torch.no_grad()``). Built on
    :func:`torch.cuda.make_graphed_callables`.

    Args:
        model: any module of which a CUDA graph can be recorded, every layer and model of this package among them: it
            must not wait for the card, and Python in it runs only while it is recorded. No hooks on it or in it, no
            buffers with gradients.
        example: the positional arguments of a typical call, a tuple, or the tensor if it is one. Tensors such as
            ``lengths`` and ``cu_seqlens`` must be on the card; their values may differ from call to call.
        example_kwargs: its keyword arguments.
        max_graphs: how many signatures are recorded. They share their memory, but for inputs, outputs and gradients.

    Returns:
        What is called like the model and has the model's attributes (``parameters()``, ``train()``, ...). No later call
        overwrites an output, nor a parameter's ``grad`` that is added to; other gradients that are kept, such as those
        of ``torch.autograd.grad``, the next backward overwrites. Where the model is not on a CUDA device, the model
        itself.

    Raises:
        CaptureError: a call cannot be recorded. Also later, by a call of a new signature.
        TypeError, ValueError: an argument is not what is said above.

    Recording runs the model a few times; random numbers and buffers are put back after. Parameters may change in place,
    as optimizers and ``load_state_dict`` do; after they have moved, graphs are recorded anew. A second derivative is an
    error.

    Example:
        >>> fast = graphed(model, (x,), {"lengths": lengths})
        >>> loss = criterion(fast(x, lengths=lengths), y)
        >>> loss.backward()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(max_graphs, bool) or not isinstance(max_graphs, int) or max_graphs < 1:
        raise ValueError(f"max_graphs must be an integer of at least 1, got {max_graphs!r}")
    args = (example,) if isinstance(example, Tensor) else example
    if not isinstance(args, tuple):
        raise TypeError(f"example must be a tensor or a tuple of arguments, not {type(example).__name__}")
    if not _on_card(model):
        return model
    made = Graphed(model, max_graphs=max_graphs)
    made.record(*args, **dict(example_kwargs or {}))
    return made


class Graphed:
    """What :func:`graphed` returns: the model, called through its CUDA graphs.

    Args:
        model: on a CUDA device.
        max_graphs: how many signatures are recorded.
        after: a signature is recorded when it has come so many times before; those calls run as usual.
    """

    def __init__(self, model: nn.Module, *, max_graphs: int = 16, after: int = 0) -> None:
        self.model, self.max_graphs, self.after = model, max_graphs, after
        self._parameters, self._modules = list(model.parameters()), list(model.modules())
        self._buffers = list(model.buffers())
        self._graphs: dict[Hashable, _Recorded] = {}
        self._seen: dict[Hashable, int] = {}
        self._places: list[int] = []
        self._pool: Any = None
        self._gradients = _Gradients(self._parameters)

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet
            raise AttributeError(name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return f"Graphed({self.model!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        signature = None if self._gradients.awaited() or not _may_replay() else self._signature(args, kwargs)
        if signature is None:
            return self.model(*args, **kwargs)
        self._forget_if_moved()
        recorded = self._graphs.get(signature)
        if recorded is None:
            seen = self._seen.get(signature, 0)
            if seen < self.after or len(self._graphs) >= self.max_graphs:
                self._seen[signature] = seen + 1
                return self.model(*args, **kwargs)
            recorded = self._record(signature, args, kwargs)
        return recorded(args, kwargs, self._gradients)

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Records this call if it is not yet, whatever ``after`` says.

        Raises:
            CaptureError: it cannot be recorded.
        """
        signature = self._signature(args, kwargs)
        if signature is None:
            where = next(iter(self._parameters)).device
            raise CaptureError(
                f"a call with these arguments cannot be recorded: each must be a tensor on {where}, or a value that "
                "can be compared, such as a number, a flag or None"
            )
        self._forget_if_moved()
        if signature not in self._graphs:
            self._record(signature, args, kwargs)

    def _signature(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
        """What a graph is valid for; None if no graph can serve the call."""
        device = self._parameters[0].device
        kind = device.type
        parts: list[Hashable] = [
            tuple(module.training for module in self._modules),
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)),
            (backends.forced(), len(args), *kwargs),
        ]
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                if value.device != device:
                    return None
                parts.append((value.shape, value.dtype, value.requires_grad and torch.is_grad_enabled()))
            elif value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
                parts.append((type(value), value))
            else:
                return None
        return tuple(parts)

    def _forget_if_moved(self) -> None:
        """Drops all graphs once a parameter lies elsewhere, or needs gradients where it did not."""
        places = [2 * p.data_ptr() + p.requires_grad for p in self._parameters]
        if places != self._places:
            self._places, self._pool = places, None
            self._graphs.clear()

    def _record(self, signature: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Recorded:
        _refuse_hooks(self.model)
        device = self._parameters[0].device
        buffers = [b.detach().clone() for b in self._buffers]
        stream = torch.cuda.current_stream(device)
        try:
            with torch.cuda.device(device), torch.random.fork_rng([device]):
                if self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                recorded = _Recorded(self.model, args, kwargs, self._pool)
        except Exception as error:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own
            raise CaptureError(f"no CUDA graph of {type(self.model).__name__}: {_one_line(error)}") from error
        finally:
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.copy_(before)
        self._graphs[signature] = recorded
        self._gradients.forget_addresses()
        return recorded


_TENSOR = object()  # the place of a tensor among the arguments


class _Call(nn.Module):
    """A call of the model as a function of its tensors alone, which is what make_graphed_callables takes.

    It replaces the forward of the module that it is given: of this one, so that the model stays as it is.
    """

    def __init__(self, model: nn.Module, leaves: list[Any], spec: _torch.TreeSpec) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not train(), which would change the model's parts
        self.leaves, self.spec = [_TENSOR if isinstance(x, Tensor) else x for x in leaves], spec
        self.kind = next(model.parameters()).device.type
        self.autocast, self.dtype = torch.is_autocast_enabled(self.kind), torch.get_autocast_dtype(self.kind)

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if x is _TENSOR else x for x in self.leaves]
        args, kwargs = tree_unflatten(leaves, self.spec)
        # In here rather than around the recording: the backward is no part of it, as in a training loop.
        with torch.autocast(self.kind, dtype=self.dtype, enabled=self.autocast, cache_enabled=False):
            return self.model(*args, **kwargs)


class _Recorded:
    """The graphs of one signature, forward and backward."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], pool: Any) -> None:
        leaves, spec = tree_flatten((args, kwargs))
        call = _Call(model, leaves, spec)
        grad = torch.is_grad_enabled()
        static = tuple(
            x.detach().clone().requires_grad_(x.requires_grad and grad) for x in leaves if isinstance(x, Tensor)
        )
        with torch.autocast(call.kind, enabled=False):
            self.replay = torch.cuda.make_graphed_callables(call, static, allow_unused_input=True, pool=pool)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], gradients: _Gradients) -> Any:
        out = self.replay(*(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)))
        leaves, spec = tree_flatten(out)
        gradients.expect([x for x in leaves if isinstance(x, Tensor) and x.requires_grad])
        # The next replay overwrites them.
        return tree_unflatten([x.clone() if isinstance(x, Tensor) else x for x in leaves], spec)


class _Gradients:
    """Keeps replayed backwards from overwriting what is still needed.

    A replay writes the parameters' gradients to where the one before wrote them, and autograd may have made just that
    memory a parameter's ``grad``: what is to be added to would be lost (https://github.com/pytorch/pytorch/issues/181723).
    And a replayed forward overwrites what the backward of the one before has yet to read.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self._own: dict[int, int] = {}  # parameter to the address of a gradient that no graph writes to
        self._node: weakref.ref | None = None

    def awaited(self) -> bool:
        """Whether a backward may still come: it has not, and something needs the output."""
        if self._node is None:
            return False
        if self._node() is None:
            self._node = None
        return self._node is not None

    def expect(self, outputs: list[Tensor]) -> None:
        """Outputs of a replayed forward, before anything is computed from them."""
        if outputs:
            self._node = weakref.ref(outputs[0].grad_fn)
            for x in outputs:
                x.register_hook(self._before_backward)

    def _before_backward(self, grad: Tensor) -> None:
        self._node = None
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                self._own.pop(i, None)
            elif self._own.get(i) != parameter.grad.data_ptr():
                parameter.grad = parameter.grad.clone()
                self._own[i] = parameter.grad.data_ptr()

    def forget_addresses(self) -> None:
        """A new graph's buffers may lie where a gradient was before."""
        self._own.clear()


def _on_card(model: nn.Module) -> bool:
    first = next(model.parameters(), None)
    return first is not None and first.is_cuda


def _may_replay() -> bool:
    """Whether calls are plain ones: not traced or transformed, nor part of another capture."""
    if torch.compiler.is_compiling() or _torch.transforms_active() or _torch.forward_mode_active():
        return False
    return not torch.cuda.is_current_stream_capturing()


def _refuse_hooks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if _torch.has_hooks(module):
            raise CaptureError(
                f"{name or type(model).__name__} has hooks, which a CUDA graph would run once and never again: "
                "remove them, or leave this model without graphs"
            )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
