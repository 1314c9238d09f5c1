"""One way to differentiate every op.

An :class:`Op` is the contract of a dispatcher op and its reference formula. From these come

* ``Op.Function``, the autograd Function that the public functions call: its forward and backward are the dispatcher
  ops ``lyra::name`` and ``lyra::name_backward``; it has vmap (activations merge into the batch) and jvp rules;
* ``Op.record``, the same without these rules, which is faster: where no transform is under way;
* ``Op.Gradients``, the Function behind the backward, differentiable in turn through the reference formula, so that
  double backward and ``torch.func`` transforms work to any order;
* the same Functions registered on the dispatcher ops themselves, which is what torch.compile, torch.export and
  torch.jit.trace see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _torch, backends
from ..backends.reference import as_tuple
from ..layout import without_padding
from ..schemas import ASKED, LIBRARY, OPS, OPS_ON
from . import _watch
from ._formula import Arguments, Formula
from .sharding import refuse_mixed


def _call(name: str, backend: str | None, args: Sequence[Any], plain: bool = False) -> Any:
    """Run an op beneath autograd: on the backend that was asked for, else as the dispatcher would.

    Args:
        plain: whether the arguments are known to be so (`_torch.plain`), and nobody watches: then the dispatcher's way
            into Python and back is left out. The kernels of CPUs are its own.
    """
    if _torch.any_autocast_enabled():  # a backward inside of it would have products of halves
        with _torch.below_autocast():
            return _call(name, backend, args, plain)
    if (backend is None and args[0].is_cpu) or not (plain or _torch.plain(args)):
        try:
            with _torch.below_autograd():
                return _dispatch(name, backend, args)
        except RuntimeError:
            refuse_mixed(name, args)
            raise
    if backend is None:
        return backends.serving(name, args[0].device)(*args)
    return backends.implementation(name, backend)(*args)


def _dispatch(name: str, backend: str | None, args: Sequence[Any]) -> Any:
    """Run an op as a dispatcher op: on the backend that was asked for, which the op then names."""
    return OPS[name](*args) if backend is None else OPS_ON[name](backend, *args)


def laid_out(name: str, backend: str | None, x: Tensor, first: bool = True) -> Tensor:
    """Activations that are not contiguous as an op takes them: a copy, or as they are where it reads channels first.

    Args:
        name: of the dispatcher op.
        first: whether they are its first argument.
    """
    eager = not (torch.compiler.is_compiling() or _torch.transforms_active())
    if eager and x.dim() == 3 and x.transpose(1, 2).is_contiguous() and (backend is not None or _torch.plain((x,))):
        if backends.takes_channels_first(name, backend, x.device, not first):
            return x
    return x.contiguous()


def _save(ctx: Any, values: Sequence[Any]) -> Sequence[Tensor | None]:
    """Keep tensors and constants for `_saved`; returns the tensors."""
    tensors = [v if isinstance(v, Tensor) else None for v in values]
    ctx.constants = [None if isinstance(v, Tensor) else v for v in values]
    ctx.save_for_backward(*tensors)
    return tensors


def _saved(ctx: Any) -> Arguments:
    tensors = ctx.saved_tensors
    return tuple([c if t is None else t for t, c in zip(tensors, ctx.constants, strict=True)])


def _select(x: Any, dim: int | None, i: int) -> Any:
    return x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x


def needs_graph(args: Sequence[Any]) -> bool:
    """Whether a call must be recorded: by autograd, forward-mode AD or a torch.func transform."""
    if _torch.transforms_active() or _torch.forward_mode_active():
        return True
    if torch.is_grad_enabled():
        for a in args:
            if isinstance(a, Tensor) and a.requires_grad:
                return True
    return False


def saves(args: Sequence[Any]) -> bool:
    """Whether an op with an argument for it is told to leave what its backward needs.

    Never in a trace, which runs with gradients and without: `torch.jit.trace` itself compares the two graphs.
    """
    return needs_graph(args) and not torch.jit.is_tracing()


class Op(Formula):
    """How one op is differentiated.

    Args:
        name: dispatcher op ``lyra::name``, which has a contract; its backward is ``lyra::name_backward``.
        formula: the reference.
    """

    def __init__(self, name: str, formula: Callable) -> None:
        super().__init__(name, formula)
        self.Function, self.Gradients = _functions(self)
        self.record = _record(self)
        _register(self)

    def prepared(self, grads: Arguments, args: Arguments) -> Arguments:
        """The outputs' gradients as the backward op takes them; for an op that has more to say than its contract."""
        return grads

    # ---- calling ---------------------------------------------------------------------------------------------
    def __call__(self, *args: Any) -> Any:
        """Run the op on the backend in force, recorded where anyone asks for gradients."""
        if _watch.watcher is not None and _watch.watcher.here():
            return _watch.watcher.call(self.name, args)
        backend, device = backends.forced(), args[0].device
        if backends.runs_reference(backend, device):
            return self.reference(*args)
        if backend is not None:
            backends.check_device(self.name, backend, device)
        if torch.compiler.is_compiling():
            return _dispatch(self.name, backend, args)
        if not needs_graph(args):
            return _call(self.name, backend, args)
        if _torch.plain(args):
            return self.record(backend, *args)
        if torch.jit.is_tracing() or _torch.FUNCTIONALIZE in _torch.transforms():
            return _dispatch(self.name, backend, args)  # these two know no Functions
        return self.Function.apply(backend, *args)

    def backward(self, backend: str | None, values: Arguments, count: int, grads: Arguments) -> Arguments:
        """Gradients of all `count` arguments, from the saved values and the gradients of the outputs."""
        args, kept = values[:count], values[count:]
        # Lists, not generators: these are most of what Python does in a backward.
        name = self.name + "_backward"
        given = grads[: self.outputs]
        grads = tuple([g if g is None or g.is_contiguous() else laid_out(name, backend, g) for g in given])
        if not [g for g in grads if g is not None]:
            return (None,) * count
        save = self.contract.save
        if save is not None and not args[save]:  # traced, or made where nothing needed gradients
            again = [backend, *args[:save], True, *args[save + 1 :]]
            kept = (OPS[self.name](*again[1:]) if backend is None else self.Function.apply(*again))[self.outputs :]
        compiling = torch.compiler.is_compiling()
        backward_args = self.contract.backward_arguments(self.prepared(grads, args), args, kept)
        if torch.is_grad_enabled() and not compiling:
            gradients = self.Gradients.apply(backend, *backward_args)
        elif compiling:
            gradients = _dispatch(name, backend, backward_args)
        else:
            gradients = _call(name, backend, backward_args)
        out: list[Tensor | None] = [None] * count
        for i, gradient in zip(self.contract.returned, as_tuple(gradients), strict=True):
            if args[i] is not None:
                out[i] = gradient
        lengths = None if self.contract.lengths is None else args[self.contract.lengths]
        for i in self.contract.residuals:
            if args[i] is not None:
                out[i] = without_padding(grads[0], lengths)
        return tuple(out)

    # ---- vmap ------------------------------------------------------------------------------------------------
    def vmap(self, size: int, in_dims: Arguments, backend: str | None, args: Arguments) -> tuple[Any, Any]:
        """Merge the mapped dimension into the batch where only activations have one, else one call an entry."""
        mapped = {i for i, dim in enumerate(in_dims) if isinstance(args[i], Tensor) and dim is not None}
        contract = self.contract
        packed = contract.cu_seqlens is not None and args[contract.cu_seqlens] is not None
        if packed or not contract.per_sequence or not mapped <= {*contract.per_sequence, contract.lengths}:
            return _loop(lambda *a: self.Function.apply(backend, *a), size, in_dims, args)
        merged = list(args)
        for i in (*contract.per_sequence, contract.lengths):
            if i is None or args[i] is None:
                continue
            if i in mapped:
                merged[i] = args[i].movedim(in_dims[i], 0).flatten(0, 1)
            else:
                merged[i] = args[i].repeat(size, *[1] * (args[i].dim() - 1))
        out = self.Function.apply(backend, *merged)
        if isinstance(out, Tensor):
            return out.unflatten(0, (size, -1)) if out.numel() else _loop_empty(out, size), 0
        split = tuple(_split_batch(o, size) for o in out)
        return split, tuple(0 for _ in split)


def _loop_empty(x: Tensor, size: int) -> Tensor:
    return x.reshape(size, x.shape[0] // size, *x.shape[1:])


def _split_batch(x: Tensor, size: int) -> Tensor:
    """(size * B, ...) -> (size, B, ...); what stands for an absent output, shape (0,), is repeated."""
    if x.dim() == 1 and x.shape[0] == 0:
        return x.expand(size, 0)
    return x.reshape(size, x.shape[0] // size, *x.shape[1:])


def _loop(function: Callable, size: int, in_dims: Arguments, args: Arguments) -> tuple[Any, Any]:
    if size == 0:
        raise ValueError("vmap over a dimension of size 0 is not supported where parameters are mapped")
    results = [function(*(_select(a, d, i) for a, d in zip(args, in_dims, strict=True))) for i in range(size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(column) for column in zip(*results, strict=True)), tuple(0 for _ in results[0])


def _functions(op: Op) -> tuple[type[torch.autograd.Function], type[torch.autograd.Function]]:
    """The two autograd Functions of an op."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(backend: str | None, *args: Any) -> Any:
            return _call(op.name, backend, args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
            ctx.backend, *args = inputs
            extra = as_tuple(output)[op.outputs :]
            ctx.count = len(args)
            ctx.mark_non_differentiable(*extra)
            ctx.set_materialize_grads(False)
            tensors = _save(ctx, (*args, *extra))
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return None, *op.backward(ctx.backend, _saved(ctx), ctx.count, grads)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            args = _saved(ctx)[: ctx.count]
            out = op.jvp(args, tangents[1:])
            extra = len(ctx.constants) - ctx.count
            return out[0] if op.outputs == 1 and not extra else (*out, *[None] * extra)

        @staticmethod
        def vmap(info: Any, in_dims: Arguments, backend: str | None, *args: Any) -> Any:
            return op.vmap(info.batch_size, in_dims[1:], backend, args)

    class Gradients(torch.autograd.Function):
        @staticmethod
        def forward(backend: str | None, *args: Any) -> Any:
            return _call(op.name + "_backward", backend, args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
            ctx.backend, *args = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_forward(*_save(ctx, args))

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return None, *op.double_backward(_saved(ctx), cotangents)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return op.jvp_of_backward(_saved(ctx), tangents[1:])

        @staticmethod
        def vmap(info: Any, in_dims: Arguments, backend: str | None, *args: Any) -> Any:
            return _loop(lambda *a: Gradients.apply(backend, *a), info.batch_size, in_dims[1:], args)

    Function.__name__ = Function.__qualname__ = f"{op.name}_function"
    Gradients.__name__ = Gradients.__qualname__ = f"{op.name}_gradients"
    for function in (Function.forward, Gradients.forward):
        # torch asks for it at every call, and working it out takes longer than a small op does.
        function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return Function, Gradients


def _record(op: Op) -> Callable[..., Any]:
    """Applies the Function of an op to a backend and `_torch.plain` arguments."""

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, backend: str | None, *args: Any) -> Any:
            output = _call(op.name, backend, args, True)
            ctx.backend, ctx.count = backend, len(args)
            extra: Arguments = ()
            if op.contract.kept:
                extra = output[op.outputs :]
                ctx.mark_non_differentiable(*extra)
            ctx.set_materialize_grads(False)
            _save(ctx, (*args, *extra))
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return None, *op.backward(ctx.backend, _saved(ctx), ctx.count, grads)

    Recorded.__name__ = Recorded.__qualname__ = f"{op.name}_function"
    # Function's own apply looks for transforms, and for what they have left over, before it does this.
    return super(torch.autograd.Function, Recorded).apply


def _recorded(name: str, function: type[torch.autograd.Function], asked: bool) -> Callable[..., Any]:
    """Applies one of `_functions` to the arguments of its dispatcher op, where no transform of torch.func is under way.

    Also where nothing needs recording: no cheap question tells dual numbers, since compiled and exported programs enter
    their level without `forward_ad` knowing. Only inside of another Function's forward, as compiled programs run theirs
    in training, there are none.

    Args:
        asked: whether a backend's name is the first of the op's arguments.
    """
    nobody: Arguments = () if asked else (None,)

    def below(*inputs: Any) -> Any:
        if not asked:
            return _call(name, None, inputs)
        with _torch.below_autograd():  # the op itself looks whether its backend is here
            return OPS_ON[name](*inputs)

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = below(*inputs)
            function.setup_context(ctx, (*nobody, *inputs), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return function.backward(ctx, *grads)[len(nobody) :]

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            return function.jvp(ctx, *nobody, *tangents)

    def call(*inputs: Any) -> Any:
        return record(*inputs) if torch.is_grad_enabled() or _torch.forward_mode_enabled() else below(*inputs)

    Recorded.__name__ = Recorded.__qualname__ = function.__name__
    record = super(torch.autograd.Function, Recorded).apply
    return call


def _transformed(name: str, function: type[torch.autograd.Function], formula: Callable[..., Any], asked: bool) -> Any:
    """Applies one of `_functions` to the arguments of its dispatcher op, where a transform of torch.func is under way.

    Args:
        formula: the same in plain PyTorch.
        asked: whether a backend's name is the first of the op's arguments.
    """

    def transformed(*args: Any) -> Any:
        backend, args = (args[0], args[1:]) if asked else (None, args)
        transforms = _torch.transforms()
        if backend is not None:
            backends.check_available(backend)
        if _torch.FUNCTIONALIZE not in transforms:
            return function.apply(backend, *args)
        if transforms[-1] == _torch.FUNCTIONALIZE:
            return _torch.functionalized(lambda *values: _dispatch(name, backend, values), args)
        return formula(*args)  # Function.apply would come upon functionalize, which has no rule for it

    return transformed


def _register(op: Op) -> None:
    """The same derivatives on the dispatcher ops themselves, which compiled, exported and traced programs call."""
    for name, function, formula in (
        (op.name, op.Function, op.with_nothing_kept),
        (f"{op.name}_backward", op.Gradients, op.backward_by_reference),
    ):
        for library, asked in ((LIBRARY, False), (ASKED, True)):
            library.impl(name, _recorded(name, function, asked), "Autograd")
            library.impl(name, _transformed(name, function, formula, asked), _torch.TRANSFORMS)
