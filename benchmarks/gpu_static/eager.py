"""The same ops in eager PyTorch, and attention, counted on meta tensors: bytes and operations, call by call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import lyra_kernels.reference as reference

from .model import Card, seconds

_VIEWS = set(
    "view transpose permute expand slice select unsqueeze squeeze detach alias t as_strided split chunk unbind "
    "_unsafe_view reshape real imag lift_fresh conj _conj view_as_real view_as_complex split_with_sizes".split()
)


class Counter(TorchDispatchMode):
    """Every call that moves data: its bytes, the operations of its products, its elementwise operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[float, float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name not in _VIEWS:
            tensors = {id(t): t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
            # An expanded tensor is read once.
            moved = sum(min(t.numel(), t.untyped_storage().nbytes() // t.element_size()) * t.element_size()
                        for t in tensors.values())  # fmt: skip
            packet = flop_registry.get(func._overloadpacket)
            products = packet(*args, **(kwargs or {}), out_val=out) if packet is not None else 0
            vector = 0 if products else max((t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)), default=0)
            self.calls.append((moved, products, vector))
        return out


def count(function: Callable[..., Any], *args: Any) -> tuple[list, list]:
    """Calls of a forward, and of its backward by all floating-point arguments."""
    args = tuple(a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    with Counter() as forward:
        out = function(*args)
    out = out[0] if isinstance(out, tuple) else out
    inputs = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    with Counter() as backward:
        torch.autograd.grad(out, inputs, torch.empty_like(out), allow_unused=True)
    return forward.calls, backward.calls


def attention(x: Tensor, projection: Tensor, out: Tensor) -> Tensor:
    """Four heads, SDPA, with its projections."""
    batch, length, width = x.shape
    q, k, v = F.linear(x, projection).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v)
    return F.linear(y.transpose(1, 2).reshape(batch, length, width), out)


def convolution(u: Tensor, log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """S4D as published: the kernel, then the FFT."""
    kernel = reference.s4d_kernel(log_dt, log_A_real, A_imag, C, u.shape[1])
    return reference.fft_conv(u, kernel, None, D, None, None)


def opponents(op: str, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[list, list]:
    """The eager form of an op at a shape (batch, length, channels), d_state 64."""
    batch, length, channels = shape

    def new(*size: int, like: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=like, device="meta")

    x = new(batch, length, channels, like=dtype)
    modes = (new(channels), new(channels, 32), new(channels, 32), new(channels, 32, 2))
    if op == "gated_conv":
        xv = new(batch, length, 2 * channels, like=dtype)
        parameters = (new(channels, 1, 3), new(channels), new(2 * channels))
        return count(lambda *a: reference.gated_conv(*a, None, None, 1e-8, False), xv, *parameters)
    if op == "s4d_kernel":
        return count(lambda *a: reference.s4d_kernel(*a, length), *modes)
    if op in ("s4d_scan", "s4d_fft"):
        return count(convolution, x, *modes, new(channels))
    if op == "fft_conv":
        return count(lambda u, k, d: reference.fft_conv(u, k, None, d, None, None), x, new(channels, length),
                     new(channels))  # fmt: skip
    if op == "causal_conv":
        return count(lambda u, k, d: reference.causal_conv(u, k, None, d, None, None), x, new(channels, length),
                     new(channels))  # fmt: skip
    if op == "pgc":
        weights = [new(*n) for n in ((2 * channels, channels), (2 * channels,), (2 * channels,), (channels, 1, 3))]
        weights += [new(*n) for n in ((channels,), (channels, channels), (channels,), (channels,))]
        return count(lambda *a: reference.pgc(*a, None, None, 1e-8, False), x, *weights)
    if op == "rms_norm":
        return count(lambda *a: reference.rms_norm(*a, 1e-8), x, new(channels))
    if op == "gelu_glu":
        weights = (new(2 * channels, channels), new(2 * channels))
        return count(lambda y, w, b, r: reference.gelu_glu(y, w, b, None, r, None, None), x, *weights, x.clone())
    raise ValueError(op)


def attention_calls(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[list, list]:
    """A layer of attention at the same shape: 4 heads, the probabilities never in memory."""
    batch, length, width = shape
    per_token = 4 * batch * length * width * torch.empty((), dtype=dtype).element_size()
    linear = 2.0 * batch * length * width * width
    products = 4.0 * batch * length * length * width
    softmax = 5.0 * batch * 4 * length * length
    forward = [(per_token, 3 * linear, 0), (per_token, products, softmax), (per_token / 2, linear, 0)]
    backward = [(2 * b, 2 * p if i != 1 else 2.5 * p, v) for i, (b, p, v) in enumerate(forward)]
    return forward, backward


def total_seconds(card: Card, calls: list, dtype: str) -> float:
    """Predicted: a kernel for every call."""
    precision = "tf32" if dtype == "fp32" else dtype
    return sum(seconds(card, moved, products, vector, precision) for moved, products, vector in calls)
