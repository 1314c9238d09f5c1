"""What of PyTorch is used that it does not promise to keep: all of it is here, and nothing of it elsewhere.

Each was there from torch 2.10 on; where a version does without one, this is the file to mend.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import Parameter
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

__all__ = [
    "FUNCTIONALIZE",
    "GLOBAL_HOOKS",
    "TRANSFORMS",
    "OpOverload",
    "TreeSpec",
    "any_autocast_enabled",
    "as_outside_a_kernel",
    "below_autocast",
    "below_autograd",
    "beside",
    "checkpoints",
    "constant_when_compiled",
    "current_cuda_device",
    "dispatches_seen_by",
    "distributed",
    "forward_mode_active",
    "forward_mode_enabled",
    "functionalized",
    "guard_on_result",
    "has_global_hooks",
    "has_hooks",
    "has_kernel",
    "never_compiled",
    "plain",
    "register_sharding",
    "scalar_type",
    "stands_for_an_ordinary_tensor",
    "tf32_allowed",
    "traced_as",
    "tracing",
    "transforms",
    "transforms_active",
    "tree_flatten",
    "tree_unflatten",
    "without_values",
]

F = TypeVar("F", bound=Callable[..., Any])


below_autograd: Callable[[], AbstractContextManager] = torch._C._AutoDispatchBelowAutograd
"""Inside, dispatcher ops go to the kernel of their device, past autograd."""

any_autocast_enabled: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any kind of device."""

TRANSFORMS = "FuncTorchDynamicLayerFrontMode"
"""The dispatcher's key where ops arrive while a transform of ``torch.func`` is under way, before anything else."""

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of ``torch.func`` is under way."""

FUNCTIONALIZE = "Functionalize"
"""How :func:`transforms` calls ``torch.func.functionalize``."""


def transforms() -> list[str]:
    """The names of the transforms of ``torch.func`` that are under way, the innermost last."""
    return [interpreter.key().name for interpreter in torch._C._functorch.get_interpreter_stack() or ()]


def functionalized(op: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Inside of ``functionalize``, the innermost transform: an op that neither changes nor returns its arguments."""
    from torch._functorch import eager_transforms, pyfunctorch

    interpreter: Any = pyfunctorch.retrieve_current_functorch_interpreter()
    views = interpreter.functionalize_add_back_views()
    args = eager_transforms._unwrap_all_tensors_from_functional(tuple(args), reapply_views=views)
    with interpreter.lower():
        out = op(*args)
    return eager_transforms._wrap_all_tensors_to_functional(out, interpreter.level())


current_cuda_device: Callable[[], int] | None = getattr(torch._C, "_cuda_getDevice", None)
"""The number of the current card, without torch.cuda.current_device's check that CUDA is in use; None without CUDA."""


def tf32_allowed() -> bool:
    """Whether torch may do its own fp32 products on a card in TF32, set by either of its two interfaces.

    By torch.backends.cuda.matmul it takes four times as long, and the older of its attributes refuses to be read where
    the newer one was set.
    """
    return torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32"


forward_mode_enabled: Callable[[], bool] = torch._C._is_fwd_grad_enabled
"""Whether forward-mode derivatives could be taken: not inside of an autograd Function's forward."""


def forward_mode_active() -> bool:
    """Whether forward-mode derivatives are taken."""
    return torch.autograd.forward_ad._current_level >= 0


def without_values(tree: Any) -> tuple[AbstractContextManager, Any]:
    """A place where PyTorch computes nothing, and the tree with tensors of it: of their shapes, on their devices.

    What is made there from them, or from other tensors, is such a tensor as well.
    """
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # slow to import

    leaves, form = tree_flatten(tree)
    known = [x.fake_mode for x in leaves if isinstance(x, FakeTensor)]
    mode = known[0] if known else FakeTensorMode(allow_non_fake_inputs=True)
    made = [mode.from_tensor(x) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) else x for x in leaves]
    return mode, tree_unflatten(made, form)


def has_kernel(op: str, key: str) -> bool:
    """Whether the dispatcher has a kernel of an op, such as "lyra::pgc", at a key, such as "CPU"."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(op, key)


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether the module itself, not its parts, has hooks of its forward or its backward."""
    return any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    )  # fmt: skip


_modules = torch.nn.modules.module
GLOBAL_HOOKS = (
    _modules._global_forward_hooks,
    _modules._global_forward_pre_hooks,
    _modules._global_backward_hooks,
    _modules._global_backward_pre_hooks,
)
"""Those of every module, by handle."""


def has_global_hooks() -> bool:
    """Whether there are hooks that look at every module."""
    forward, forward_pre, backward, backward_pre = GLOBAL_HOOKS
    return bool(forward or forward_pre or backward or backward_pre)


def stands_for_an_ordinary_tensor(x: Tensor) -> bool:
    """Whether a tensor of a subclass is how PyTorch traces an ordinary one, or a whole one of many ranks.

    Not one that stores something else, or a part.
    """
    if distributed(x):
        return all(placement.is_replicate() for placement in x.placements)  # type: ignore[attr-defined]
    from torch._subclasses.fake_tensor import FakeTensor  # slow to import
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(x, (FakeTensor, FunctionalTensor))


def _keys(*names: str) -> Any:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return keys


# What a program starts with. Inside a kernel autograd is switched off, and under torch.compile much else is, lazy
# conjugation among it: complex formulas would give wrong numbers there without a word.
_INCLUDED = _keys("BackendSelect", "ADInplaceOrView")
_EXCLUDED = _keys(*(name for name in dir(torch._C.DispatchKey) if name.startswith("Autocast")))


def below_autocast() -> AbstractContextManager:
    """Inside, dispatcher ops compute in the types of their arguments, autocast or not."""
    return torch._C._ExcludeDispatchKeyGuard(_EXCLUDED)


def as_outside_a_kernel() -> AbstractContextManager:
    """Inside a kernel, PyTorch as it is outside: autograd and lazy conjugation work, autocast does not interfere."""
    return torch._C._ForceDispatchKeyGuard(_INCLUDED, _EXCLUDED)


_included = torch._C._dispatch_tls_local_include_set
_USUAL = (_INCLUDED.raw_repr(), _keys("BackendSelect").raw_repr())  # the second in inference mode
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead


def plain(args: Sequence[Any]) -> bool:
    """Whether a dispatcher op would do nothing with these arguments but call the kernel of their device.

    So it is where no mode, transform, trace or profiler wants to see the op, and tensors are what they say: no
    subclasses, nothing that is still to be negated, nothing left over from a transform.
    """
    if (
        _included().raw_repr() not in _USUAL
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return False
    for x in args:
        kind = type(x)
        if kind is Tensor or kind is Parameter:
            if x.is_neg() or _unwrap_if_dead(x) is not x:
                return False
        elif isinstance(x, Tensor):
            return False
    return True


_SCALAR_TYPES = {
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5, torch.float32: 6,
    torch.float64: 7, torch.complex32: 8, torch.complex64: 9, torch.complex128: 10, torch.bool: 11, torch.bfloat16: 15,
}  # fmt: skip


def scalar_type(dtype: torch.dtype) -> int | None:
    """The number that C++ has for a dtype, torch/headeronly/core/ScalarType.h; None for a rare one."""
    return _SCALAR_TYPES.get(dtype)


def dispatches_seen_by(see: Callable[[OpOverload, Sequence[Any], dict[str, Any], Any], None]) -> AbstractContextManager:
    """Inside, every op of torch that this thread calls is told to ``see`` with its arguments and its result."""
    from torch.utils._python_dispatch import TorchDispatchMode  # not at every start

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            see(func, args, kwargs or {}, result)
            return result

    return Mode()


def register_sharding(
    strategies: dict[Any, Callable[[Sequence[Any]], tuple[list[list[Any]], list[list[Any]]]]],
) -> None:
    """Tell DTensor how ops are split over a mesh.

    Not ``torch.distributed.tensor.experimental.register_sharding``: its cache of decisions does not see which optional
    tensors are None, nor the length of an output, and among several ways it takes the cheapest by an estimate, which
    need not be the way that the forward went.

    Args:
        strategies: of an op, a function of its arguments, where tensors are DTensorSpec (``placements``, ``mesh``,
            ``shape``); it returns the placements that the op's tensors must have, in order, and those of its outputs.
    """
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._dtensor_spec import DTensorSpec
    from torch.distributed.tensor._op_schema import OpSpec, OpStrategy, RuntimeSchemaInfo

    def registered(strategy: Callable[..., Any]) -> Callable[[Any], Any]:
        def function(schema: Any) -> Any:
            args = [a.strategies[0].output_spec if isinstance(a, OpStrategy) else a for a in schema.args_schema]
            specs = [a for a in args if isinstance(a, DTensorSpec)]
            wanted, outputs = strategy(args)
            mesh = specs[0].mesh
            inputs = [DTensorSpec(mesh, tuple(w), s.tensor_meta) for w, s in zip(wanted, specs, strict=True)]
            found = tuple(DTensorSpec(mesh, tuple(placements)) for placements in outputs)
            costs = [[0.0] for _ in specs]  # of no interest where there is one way
            return OpStrategy([OpSpec(found[0] if len(found) == 1 else found, inputs, costs)])

        return function

    dispatcher: Any = DTensor._op_dispatcher

    def call(op: OpOverload, args: Any, kwargs: Any) -> Any:
        """As DTensor does it, but what was moved or cut may lie in strides that kernels do not take."""
        info = dispatcher.unwrap_to_op_info(op, args, kwargs)
        dispatcher.sharding_propagator.propagate(info)
        sharding = info.output_sharding
        if sharding.needs_redistribute:
            dispatcher.redistribute_local_args(info, sharding.redistribute_schema, False)
        result = op(*[a.contiguous() if isinstance(a, Tensor) else a for a in info.local_args])
        return dispatcher.wrap(result, sharding.output_spec)

    for op, strategy in strategies.items():
        info = RuntimeSchemaInfo(static_argnum=0)  # every argument counts
        dispatcher.sharding_propagator.register_op_strategy(op, registered(strategy), info)
        dispatcher._custom_op_handlers[op] = call


def distributed(x: Any) -> bool:
    """Whether x is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def beside(x: Tensor) -> AbstractContextManager:
    """Inside, tensors that are made count as whole on every rank where x is a DTensor."""
    if torch.compiler.is_dynamo_compiling() or not distributed(x):
        return nullcontext()
    from torch.distributed.tensor.experimental import implicit_replication

    return implicit_replication()


def constant_when_compiled(function: F) -> F:
    """torch.compile runs the function once and keeps its result, without looking into it.

    What torch.compiler.assume_constant_result does, which imports all of the compiler first: 3 seconds of every start.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def traced_as(replacement: Callable[..., Any]) -> Callable[[F], F]:
    """torch.compile traces the replacement where it meets the function that this decorates."""

    def decorate(function: F) -> F:
        function._torchdynamo_inline = replacement  # type: ignore[attr-defined]
        return function

    return decorate


def never_compiled(function: F) -> F:
    """torch.compile leaves the function alone where it is called from code that is not compiled.

    What torch.compiler.disable does, without the import; code that is compiled may not call it.
    """
    frames: Any = torch._C._dynamo.eval_frame
    skip = frames._FrameAction.SKIP  # the function, and what it calls
    frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))  # type: ignore[attr-defined]
    return function


def tracing() -> Any:
    """What torch.compile holds while it traces: another object at each attempt, of which a function may need some."""
    return torch._guards.TracingContext.get()


def guard_on_result(module: str, function: str) -> None:
    """While torch.compile traces: what it compiles is valid only while a function without arguments returns the same.

    Args:
        module: where the function is found by its name, whenever the guard is asked.
    """
    from torch._dynamo.guards import GuardBuilder, install_guard
    from torch._dynamo.source import AttrSource, CallFunctionNoArgsSource, ImportSource

    package, *parts = [*module.split("."), function]
    source: Any = ImportSource(package)
    for part in parts:
        source = AttrSource(source, part)
    install_guard(CallFunctionNoArgsSource(source).make_guard(GuardBuilder.EQUALS_MATCH))


_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks


@never_compiled
def checkpoints() -> list[tuple[Any, bool]]:
    """The forwards of torch.utils.checkpoint(use_reentrant=False) that this thread is in, the innermost first.

    Each as an object that its forward and its recomputation have in common, and whether this is the recomputation. They
    are known by the hooks for saved tensors that they are under: the closure of each has that object.
    """
    if _top_hooks(True) is None:
        return []
    hooks, found = torch._C._autograd, []
    under: list[tuple[Any, Any]] = []
    try:
        while (top := _top_hooks(True)) is not None:
            if (place := _checkpoint(top[0])) is not None:
                found.append(place)
            if hooks._saved_tensors_hooks_get_disabled_error_message() is not None:
                break  # what is taken off could not be put back
            hooks._pop_saved_tensors_default_hooks()
            under.append(top)
    finally:
        for pack, unpack in reversed(under):
            hooks._push_saved_tensors_default_hooks(pack, unpack)
    return found


@never_compiled
def _checkpoint(pack_hook: Any) -> tuple[Any, bool] | None:
    """Whose hook it is, or None where it is no checkpoint's."""
    function = inspect.unwrap(pack_hook)
    names, cells = getattr(getattr(function, "__code__", None), "co_freevars", ()), getattr(function, "__closure__", ())
    held = {name: cell.cell_contents for name, cell in zip(names, cells or (), strict=True)}
    kind = torch.utils.checkpoint._CheckpointFrame
    if isinstance(frame := held.get("frame"), kind):
        return frame, False
    if callable(reference := held.get("target_frame_ref")) and isinstance(frame := reference(), kind):
        return frame, True
    return None
