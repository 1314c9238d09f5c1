"""Argument checks that every public function shares; an error names the argument, what it was, what it must be."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .. import _torch

Integers = Tensor | Sequence[int]
"""Lengths, or where packed sequences begin: a list is copied to the device at every call."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


MOST_SIGNATURES = 4096
"""That are remembered of one function."""


def once_a_signature(check: Callable[..., None]) -> Callable[..., None]:
    """For checks that do nothing but raise: what was found right once is not looked at again.

    Tensors count by shape, dtype and device, other arguments by type and value. What depends on the values of a tensor
    must be checked outside as well.
    """
    right: set[tuple] = set()

    @functools.wraps(check)
    def checked(*args: Any) -> None:
        if torch.compiler.is_compiling():
            return check(*args)
        parts: list[Any] = []
        try:
            for x in args:
                if x is None:
                    parts.append(None)
                elif isinstance(x, Tensor):
                    parts += (x.shape, x.dtype, x.device)
                else:
                    parts += (type(x), x)
            signature = tuple(parts)
            if signature in right:
                return None
        except (TypeError, RuntimeError):  # a size that is not known yet, or something that the check refuses
            return check(*args)
        check(*args)
        if all(type(n) is int for x in args if isinstance(x, Tensor) for n in x.shape):  # in a trace they are tensors
            if len(right) >= MOST_SIGNATURES:
                right.clear()
            right.add(signature)
        return None

    return checked


def shape_of(x: Tensor) -> str:
    return "(" + ", ".join(str(s) for s in x.shape) + ")"


def activations(name: str, x: Tensor, form: str = "(batch, length, channels)") -> Tensor:
    """Check activations: a floating tensor with as many dimensions as the form names."""
    tensor(name, x, form)
    return x


def tensor(name: str, x: Tensor, form: str) -> None:
    """Check that x is a floating tensor with as many dimensions as a form like "(H, M)" names."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {form}, not {type(x).__name__}")
    ordinary(name, x)
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, not {x.dtype}")
    rank = len([part for part in form.strip("()").split(",") if part.strip()])
    if x.dim() != rank:
        raise ValueError(f"{name} must have shape {form}, not {shape_of(x)}")


def channels_last(name: str, x: Tensor, parameter: str, channels: int) -> None:
    """Refuse activations (batch, channels, length) where (batch, length, channels) is meant, if the sizes tell."""
    if x.shape[-1] != channels and x.shape[1] == channels:
        raise ValueError(
            f"{name} must have shape (batch, length, channels) with {parameter}'s {channels} channels, not "
            f"{shape_of(x)}; if that is (batch, channels, length), give {name}.transpose(1, 2) and transpose the result"
        )


def ordinary(name: str, x: Tensor) -> None:
    """Check that x is neither nested nor sparse."""
    if x.is_nested:
        raise TypeError(
            f"{name} must be an ordinary tensor, not a nested one: pad it with torch.nested.to_padded_tensor(x, 0.0) "
            "and give lengths where an argument of that name is, or concatenate its rows and give cu_seqlens"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name} must be an ordinary tensor, not one of layout {x.layout}: call .to_dense()")


def size(name: str, x: Tensor, form: str, expected: tuple[int | None, ...], why: str) -> None:
    """Check the sizes of x; None stands for any."""
    tensor(name, x, form)
    if any(want is not None and have != want for have, want in zip(x.shape, expected, strict=True)):
        sizes = "(" + ", ".join("any" if e is None else str(e) for e in expected) + ")"
        raise ValueError(f"{name} must have shape {form} = {sizes} {why}, not {shape_of(x)}")


def same_device(name: str, x: Tensor | None, other_name: str, other: Tensor) -> None:
    if x is not None and x.device != other.device:
        raise ValueError(f"{name} is on {x.device} but {other_name} is on {other.device}: move one of them")


def parameters(dtype: torch.dtype, *given: Tensor | None) -> list[Any]:
    """Parameters as the kernels take them: contiguous, in the compute dtype."""
    found: list[Tensor | None] = []
    for x in given:
        if x is not None:
            # Tensor.to takes microseconds to find that there is nothing to do.
            x = (x if x.dtype == dtype else x.to(dtype)).contiguous()
        found.append(x)
    return found


def residual(x: Tensor | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """A residual as an op of outputs of a dtype adds it, and as it must be added to those: at most one is there.

    A wider one, such as float32 beside autocast's outputs, would lose what it is there to keep.
    """
    if x is None or x.dtype == dtype:
        return x, None
    return None, x


def epsilon(eps: float) -> float:
    """Check what a norm adds to the mean square."""
    if torch.compiler.is_compiling():
        return float(eps)
    if type(eps) is float and 0.0 <= eps < math.inf:
        return eps
    if isinstance(eps, bool) or not isinstance(eps, Real):
        raise TypeError(f"eps must be a number of at least 0, not {eps!r}")
    if not 0.0 <= float(eps) < math.inf:
        raise ValueError(f"eps must be a number of at least 0, not {eps!r}")
    return float(eps)


def flag(name: str, value: bool) -> bool:
    """Check that an option is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _values_can_be_read(x: Tensor) -> bool:
    """Reading values must not wait for a GPU, nor end a trace."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not _torch.transforms_active()
        and type(x) in (Tensor, torch.nn.Parameter)
    )


def layout(
    x: Tensor, lengths: Integers | None, cu_seqlens: Integers | None, name: str = "u"
) -> tuple[Tensor | None, Tensor | None]:
    """Check `lengths` and `cu_seqlens` against activations (batch, length, channels); returns both as int64.

    Values are checked on the CPU only: elsewhere that would make the program wait for the device.

    Args:
        lengths: of shape (batch,), or of shape (1,) for sequences of one length.
    """
    if lengths is None and cu_seqlens is None:
        return None, None
    if lengths is not None and cu_seqlens is not None:
        raise ValueError("give lengths (a padded batch) or cu_seqlens (a packed one), not both")
    if lengths is not None:
        lengths = _integers("lengths", lengths, x, name)
        if tuple(lengths.shape) == (1,) and x.shape[0] != 1:
            lengths = lengths.expand(x.shape[0]).contiguous()
        if lengths.dim() != 1 or lengths.shape[0] != x.shape[0]:
            raise ValueError(
                f"lengths must have shape (batch,) = ({x.shape[0]},) to match {name}, not {shape_of(lengths)}"
            )
        if _values_can_be_read(lengths) and lengths.numel():
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > x.shape[1]:
                bad = low if low < 0 else high
                raise ValueError(f"lengths must lie between 0 and the length of {name}, {x.shape[1]}; got {bad}")
    if cu_seqlens is not None:
        cu_seqlens = _integers("cu_seqlens", cu_seqlens, x, name)
        if x.shape[0] != 1:
            raise ValueError(f"with cu_seqlens {name} must have shape (1, tokens, channels), not {shape_of(x)}")
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
            raise ValueError(f"cu_seqlens must have shape (sequences + 1,), not {shape_of(cu_seqlens)}")
        if _values_can_be_read(cu_seqlens):
            if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != x.shape[1]:
                raise ValueError(
                    f"cu_seqlens must run from 0 to the number of tokens in {name}, {x.shape[1]}; "
                    f"it runs from {int(cu_seqlens[0])} to {int(cu_seqlens[-1])}"
                )
            if bool((cu_seqlens[1:] < cu_seqlens[:-1]).any()):
                where = int((cu_seqlens[1:] < cu_seqlens[:-1]).nonzero()[0]) + 1
                raise ValueError(f"cu_seqlens must ascend; entry {where} is smaller than the one before it")
    return lengths, cu_seqlens


def _integers(name: str, x: Integers, like: Tensor, like_name: str) -> Tensor:
    x = as_tensor(name, x, like)
    if x.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise TypeError(f"{name} must be an integer tensor, not {x.dtype}")
    same_device(name, x, like_name, like)
    return (x if x.dtype == torch.int64 else x.to(torch.int64)).contiguous()


def as_tensor(name: str, x: Integers, like: Tensor) -> Tensor:
    """A list of integers, or an array of numpy's, as a tensor where `like` is; a tensor as it is."""
    if isinstance(x, Tensor):
        return x
    try:
        values = [_integer(n) for n in x]
    except TypeError:
        raise TypeError(f"{name} must be an integer tensor or a list of integers, not {x!r}") from None
    if not isinstance(like, Tensor):  # which is refused next
        return torch.tensor(values, dtype=torch.int64)
    if like.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            f"{name} must be a tensor on {like.device} while a CUDA graph is captured: a {type(x).__name__} would be "
            "copied there, which a capture cannot do"
        )
    return torch.tensor(values, dtype=torch.int64, device=like.device)


def _integer(n: Any) -> Any:
    """An integer of whatever kind; a bool, as a row of a mask has them, is none."""
    if isinstance(n, (int, torch.SymInt)) and not isinstance(n, bool):
        return n
    if isinstance(n, bool) or str(getattr(n, "dtype", "")).endswith("bool"):
        raise TypeError
    return operator.index(n)


def as_tensors(x: Tensor, lengths: Integers | None, cu_seqlens: Integers | None) -> tuple[Tensor | None, Tensor | None]:
    """`lengths` and `cu_seqlens` as tensors, where they are given as lists."""
    return (
        None if lengths is None else as_tensor("lengths", lengths, x),
        None if cu_seqlens is None else as_tensor("cu_seqlens", cu_seqlens, x),
    )


def autocast_enabled(x: Tensor) -> bool:
    """Whether autocast is on where x is; never for devices that have none, such as "meta"."""
    kind = x.device.type
    # Not torch.amp.is_autocast_available, which torch 2.10 cannot trace.
    return kind != "meta" and torch.is_autocast_enabled(kind)


def autocast(x: Tensor) -> Tensor:
    """Activations in autocast's dtype where autocast is on: for ops that are mostly matrix products, like Linear."""
    if not torch.compiler.is_compiling() and not _torch.any_autocast_enabled():
        return x
    if x.dtype != torch.float64 and autocast_enabled(x):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
