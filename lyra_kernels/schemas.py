"""The contract: every dispatcher op of ``torch.ops.lyra``, its arguments and their roles, and its fake kernel.

Whoever needs to know which argument is what reads it here, by name: how an op is differentiated, mapped, exported,
computed by formula. The schemas are defined here rather than in C++ so that an installation without a compiler has the
same ops: exported programs load and run there too, on the reference formulas. Backends only register implementations.

Shapes: B batch, L length, H or C channels, E inner channels of a PGC, M = d_state / 2 modes, S sequences. Activations
are (B, L, C), contiguous, float32/64/16 or bfloat16 (they may lie as (B, C, L) where a backend takes that,
see ``backends.takes_channels_first``); parameters are contiguous, in the compute dtype (float64 beside
float64 activations, else float32). ``lengths`` (B,) marks a padded batch, ``cu_seqlens`` (S + 1,) a packed one with
B = 1; both are int64. Gradients of parameters come in the compute dtype, those of absent ones with shape (0,).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import compute_dtype, count_sequences

LIBRARY = torch.library.Library("lyra", "DEF")

ASKED = torch.library.Library("lyra_on", "DEF")
"""The same ops with the name of a backend before their arguments, ``torch.ops.lyra_on.<name>(backend, ...)``: what
compiled and exported programs hold where :func:`.use_backend` was in force."""

SCAN_CHUNK = 64  # tokens between two checkpoints that s4d_scan leaves for its backward


class Role(enum.Enum):
    """What an argument is to whoever does not know the op."""

    ACTIVATION = "(B, L, C); its gradient has its dtype"
    VECTORS = "an activation of any rank, (..., C): not every one has a batch"
    RESIDUAL = "an activation that is added to the output: its gradient is the output's, and no backward sees it"
    PARAMETER = "of a layer; its gradient has the compute dtype"
    STATE = "as a parameter, but one for each sequence"
    MASK = "one row for each sequence, without a gradient"
    LENGTHS = "of a padded batch"
    CU_SEQLENS = "of a packed batch"
    OPTION = "a number that the formula and its backward take"
    EXTENT = "the length of the output, which the backward reads off its gradient"
    SAVE = "whether to leave what the backward needs; the formula does not know it"


_DIFFERENTIABLE = (Role.ACTIVATION, Role.VECTORS, Role.PARAMETER, Role.STATE, Role.RESIDUAL)
_PER_SEQUENCE = (Role.ACTIVATION, Role.RESIDUAL, Role.STATE, Role.MASK)
_NOT_IN_BACKWARD = (Role.RESIDUAL, Role.EXTENT, Role.SAVE)


@dataclass(frozen=True)
class Argument:
    """One argument: ``kind`` is its type in the schema, such as "Tensor?"."""

    kind: str
    name: str
    role: Role


class Contract:
    """What is known of an op without computing it.

    Args:
        name: ``torch.ops.lyra.<name>``; its backward is ``<name>_backward``.
        arguments: in order.
        fake: takes the arguments by position, returns empty outputs.
        outputs: names of those with a gradient; kept: of those that are there for the backward, after them.
        apart: what the op computes each by itself, so that a part of it may be given alone: "positions" of a sequence,
            "channels". Sequences are so in every op.

    Attributes:
        differentiable: positions of the arguments with a gradient.
        passed: of those that the backward takes; returned: of those whose gradients it returns, in its order.
        per_sequence: of those whose first dimension is the batch, or the sequences.
        residuals: of those that are only added to the output.
        lengths, cu_seqlens: of those arguments, None if the op has them not.
        save: of the argument that says whether outputs are kept, or None.

    The backward takes the gradients of ``outputs`` (all but the first may be None), the arguments that are ``passed``
    and the outputs that were ``kept``; it returns one gradient for each of ``returned``.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[Argument],
        fake: Callable[..., Any],
        outputs: tuple[str, ...] = ("output",),
        kept: tuple[str, ...] = (),
        apart: str | None = None,
    ) -> None:
        self.name, self.arguments, self.fake = name, tuple(arguments), fake
        self.outputs, self.kept, self.apart = outputs, kept, apart
        self.differentiable = self.positions(*_DIFFERENTIABLE)
        self.per_sequence = self.positions(*_PER_SEQUENCE)
        self.residuals = self.positions(Role.RESIDUAL)
        omitted = self.positions(*_NOT_IN_BACKWARD)
        self.passed = tuple(i for i in range(len(self.arguments)) if i not in omitted)
        self.returned = tuple(i for i in self.differentiable if i in self.passed)
        self.lengths, self.cu_seqlens = self._only(Role.LENGTHS), self._only(Role.CU_SEQLENS)
        self.save, self._extent = self._only(Role.SAVE), self._only(Role.EXTENT)

    def positions(self, *roles: Role) -> tuple[int, ...]:
        """Where the arguments of some roles stand."""
        return tuple(i for i, argument in enumerate(self.arguments) if argument.role in roles)

    def _only(self, role: Role) -> int | None:
        return next(iter(self.positions(role)), None)

    def position(self, name: str) -> int:
        """Where an argument stands."""
        return [argument.name for argument in self.arguments].index(name)

    @property
    def schemas(self) -> dict[str, str]:
        """The op's schema and its backward's."""
        forward = [f"{argument.kind} {argument.name}" for argument in self.arguments]
        names = ["grad"] if len(self.outputs) == 1 else [f"grad_{output}" for output in self.outputs]
        gradients = [f"Tensor{'?' if i else ''} {name}" for i, name in enumerate(names)]
        backward = [*gradients, *(forward[i] for i in self.passed), *(f"Tensor {name}" for name in self.kept)]
        return {
            self.name: _schema(forward, len(self.outputs) + len(self.kept)),
            self.name + "_backward": _schema(backward, len(self.returned)),
        }

    def formula_arguments(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Those that the reference formula takes."""
        return tuple(a for i, a in enumerate(args) if i != self.save)

    def backward_arguments(self, grads: Sequence[Any], args: Sequence[Any], kept: Sequence[Any]) -> tuple[Any, ...]:
        """The backward's arguments, from the outputs' gradients, the op's arguments and the outputs kept for it."""
        return (*grads, *[args[i] for i in self.passed], *kept)

    def split(self, backward_args: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The gradients and the op's arguments again, from the backward's; what that does not take is None."""
        count = len(self.outputs)
        args: list[Any] = [None] * len(self.arguments)
        for i, value in zip(self.passed, backward_args[count:], strict=False):
            args[i] = value
        if self._extent is not None:
            args[self._extent] = backward_args[0].shape[-1]
        if self.save is not None:
            args[self.save] = False
        return tuple(backward_args[:count]), tuple(args)

    def gradients(self, args: Sequence[Any], found: dict[int, Tensor]) -> tuple[Tensor, ...]:
        """What the backward returns, from gradients by position; those of absent arguments have shape (0,)."""
        return tuple(found[i].contiguous() if i in found else absent(args[0]) for i in self.returned)

    def fake_backward(self, *backward_args: Any) -> tuple[Tensor, ...]:
        """Empty gradients."""
        _, args = self.split(backward_args)
        activations = self.positions(Role.ACTIVATION, Role.VECTORS)
        return tuple(
            torch.empty_like(args[i]) if i in activations and args[i] is not None else _gradient(args[i], args[0])
            for i in self.returned
        )


def _schema(arguments: Sequence[str], outputs: int) -> str:
    returns = "Tensor" if outputs == 1 else "(" + ", ".join(["Tensor"] * outputs) + ")"
    return f"({', '.join(arguments)}) -> {returns}"


def absent(like: Tensor) -> Tensor:
    """The gradient of an argument that was None, beside activations such as ``like``."""
    return like.new_empty((0,), dtype=compute_dtype(like))


def _gradient(parameter: Tensor | None, like: Tensor) -> Tensor:
    return absent(like) if parameter is None else like.new_empty(parameter.shape, dtype=compute_dtype(like))


def _of(role: Role) -> Callable[..., list[Argument]]:
    """Tensors of a role; "name?" may be None."""

    def make(*names: str) -> list[Argument]:
        return [Argument("Tensor" + "?" * name.endswith("?"), name.rstrip("?"), role) for name in names]

    return make


_activation, _parameters, _state = _of(Role.ACTIVATION), _of(Role.PARAMETER), _of(Role.STATE)
_ROWS = [*_of(Role.LENGTHS)("lengths?"), *_of(Role.CU_SEQLENS)("cu_seqlens?")]
_EPS = [Argument("float", "eps", Role.OPTION)]
_CAUSAL = [Argument("bool", "causal", Role.OPTION)]
_MODES = _parameters("log_dt", "log_A_real", "A_imag", "C")
_RESIDUAL = _of(Role.RESIDUAL)("residual?")
_CONVOLUTION = [*_activation("u"), *_parameters("kernel", "reverse_kernel?", "D?"), *_ROWS]
_GATES = _activation("pregate?", "postgate?")
_PGC = _parameters(
    "in_weight", "in_bias?", "in_norm_weight?", "conv_weight", "conv_bias?", "out_weight", "out_bias?",
    "out_norm_weight?",
)  # fmt: skip


def _fake_like(activation, *rest):
    return torch.empty_like(activation)


def _fake_gated_conv(xv, conv_weight, *rest):
    return xv.new_empty((xv.shape[0], xv.shape[1], conv_weight.shape[0]))


def _fake_pgc(u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, *rest):
    return u.new_empty((u.shape[0], u.shape[1], out_weight.shape[0]))


def _fake_s4d_kernel(log_dt, log_A_real, A_imag, C, length):
    return log_dt.new_empty((log_dt.shape[0], length))


def _checkpoints(u: Tensor, cu_seqlens: Tensor | None) -> int:
    """How many a scan over u leaves."""
    if cu_seqlens is not None:
        return u.shape[1] // SCAN_CHUNK + count_sequences(u, cu_seqlens)
    return u.shape[0] * ((u.shape[1] + SCAN_CHUNK - 1) // SCAN_CHUNK)


def _fake_s4d_scan(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state, save):
    directions, (channels, modes) = C.shape[0], log_A_real.shape
    dtype = compute_dtype(u)
    state = (count_sequences(u, cu_seqlens), channels, modes, 2) if directions == 1 else (0,)
    kept = (_checkpoints(u, cu_seqlens), directions * channels * modes * 2) if save else (0,)
    return torch.empty_like(u), u.new_empty(state, dtype=dtype), u.new_empty(kept, dtype=dtype)


def _fake_s4d_block(u, log_dt, log_A_real, A_imag, C, D, weight, bias, norm_weight, mask, lengths, cu_seqlens, *rest):
    save = rest[-1]
    states = C.shape[0] * log_A_real.numel() * 2
    kept = (_checkpoints(u, cu_seqlens), states) if save else (0,)
    flat = u.new_empty((u.numel() if save else 0,))
    normalized = flat if norm_weight is not None else u.new_empty((0,))
    return torch.empty_like(u), normalized, torch.empty_like(flat), u.new_empty(kept, dtype=compute_dtype(u))


CONTRACTS = {
    contract.name: contract
    for contract in (
        Contract(
            "rms_norm", [*_of(Role.VECTORS)("x"), *_parameters("weight?"), *_EPS], _fake_like, apart="positions"
        ),
        Contract(
            "gated_conv",
            [*_activation("xv"), *_parameters("conv_weight", "conv_bias?", "norm_weight?"), *_ROWS, *_EPS, *_CAUSAL],
            _fake_gated_conv,
        ),
        Contract("pgc", [*_activation("u"), *_PGC, *_RESIDUAL, *_ROWS, *_EPS, *_CAUSAL], _fake_pgc),
        Contract(
            "gelu_glu",
            [*_activation("y"), *_parameters("weight", "bias?"), *_of(Role.MASK)("mask?"),
             *_RESIDUAL, *_ROWS],
            _fake_like,
            apart="positions",
        ),
        Contract(
            "s4d_kernel", [*_MODES, Argument("SymInt", "length", Role.EXTENT)], _fake_s4d_kernel, apart="channels"
        ),
        Contract("causal_conv", _CONVOLUTION, _fake_like, apart="channels"),
        Contract("fft_conv", _CONVOLUTION, _fake_like, apart="channels"),
        Contract(
            "gated_fft_conv", [*_CONVOLUTION[:-2], *_GATES, *_ROWS], _fake_like, apart="channels"
        ),
        Contract(
            "short_conv",
            [*_activation("u"), *_parameters("weight", "bias?"), *_state("initial_state?"), *_ROWS,
             Argument("bool", "silu", Role.OPTION)],
            _fake_like,
            apart="channels",
        ),
        Contract("s4d_fft", [*_activation("u"), *_MODES, *_parameters("D?"), *_ROWS], _fake_like, apart="channels"),
        Contract(
            "s4d_scan",
            [*_activation("u"), *_MODES, *_parameters("D?"), *_ROWS, *_state("initial_state?"),
             Argument("bool", "save", Role.SAVE)],
            _fake_s4d_scan,
            outputs=("y", "final_state"),
            kept=("checkpoints",),
            apart="channels",
        ),
        Contract(
            "s4d_block",
            [*_activation("u"), *_MODES, *_parameters("D?", "weight", "bias?", "norm_weight?"),
             *_of(Role.MASK)("mask?"), *_ROWS, *_EPS, Argument("bool", "add_input", Role.OPTION),
             Argument("bool", "save", Role.SAVE)],
            _fake_s4d_block,
            kept=("normalized", "convolved", "checkpoints"),  # the first two flat, in an order of the backend's own
        ),
    )
}  # fmt: skip
"""Op name to contract."""

SCHEMAS = {name: schema for contract in CONTRACTS.values() for name, schema in contract.schemas.items()}
"""Name to schema of every op, backward ones included."""

_TAGS = [torch.Tag.pt2_compliant_tag]
if hasattr(torch.Tag, "needs_exact_strides"):  # the kernels want the contiguous tensors that the callers made
    _TAGS.append(torch.Tag.needs_exact_strides)

for _name, _text in SCHEMAS.items():
    LIBRARY.define(_name + _text, tags=_TAGS)
    ASKED.define(f"{_name}(str backend, {_text[1:]}", tags=_TAGS)


def _on_any(fake: Callable[..., Any]) -> Callable[..., Any]:
    return lambda backend, *args: fake(*args)


for _contract in CONTRACTS.values():
    for _name, _fake in ((_contract.name, _contract.fake), (f"{_contract.name}_backward", _contract.fake_backward)):
        torch.library.register_fake(f"lyra::{_name}", _fake, lib=LIBRARY)
        torch.library.register_fake(f"lyra_on::{_name}", _on_any(_fake), lib=ASKED)

OPS = {name: getattr(torch.ops.lyra, name).default for name in SCHEMAS}
"""Every op's overload, by name."""

OPS_ON = {name: getattr(torch.ops.lyra_on, name).default for name in SCHEMAS}
"""The same of those that take a backend's name."""
