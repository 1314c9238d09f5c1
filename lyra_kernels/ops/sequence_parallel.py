"""One S4D convolution of sequences that are split over the processes of a group: sequence parallelism.

The convolution is linear and its state diagonal. So each rank scans its own tokens once, as if nothing came before
them, and the states that it ends with are all that others need to know. With the exponent ``E = dt A``, ``f_q`` the
state that rank q ends with and ``N_qr`` the tokens between ranks q and r, the state that enters rank r is

    S_r = sum_{q<r} exp(N_qr E) f_q

and what it adds to the outputs there, ``Re sum_n c_n a_n^(t+1) S_n``, is the convolution kernel of S4D with ``C a S``
in the place of ``C``: :func:`lyra_kernels.s4d_kernel`'s op makes it, one kernel a sequence. That is half of a scan's
arithmetic, where a second scan from the right state would be all of it; for the backward the same holds.

The second direction of a bidirectional convolution is the same from the other end, and its states go in the same
message.

All ranks do the same operations, the first as well, which nothing enters: so autograd meets the exchanges of the
backward on every rank, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import _torch
from ..layout import compute_dtype
from ..reference import discretize
from ._checks import FLOATS
from .s4d_kernel import s4d_kernel_op

_REFUSED, _TOKENS = 0, 1
_AGREED: tuple[tuple[str, Callable[[int], object]], ...] = (
    ("the batch size of u", int),
    ("the number of channels", int),
    ("the number of modes", int),
    ("the dtype of u", FLOATS.__getitem__),
    ("bidirectional", bool),
    ("whether gradients are recorded", bool),
)
"""What a rank tells of its call after these two, and how an error shows it."""


def check_group(group: Any) -> None:
    """Refuse what is no group of processes with this one among them, and calls that cannot wait for others."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        raise RuntimeError("a sequence split over a group cannot be compiled or exported: call it outside")
    if _torch.transforms_active() or _torch.forward_mode_active():
        raise RuntimeError("a sequence split over a group has reverse-mode derivatives alone: "
                           "no torch.func transform and no forward-mode AD")  # fmt: skip
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group must be a torch.distributed.ProcessGroup that this process is in, not {group!r}")


@dataclass(frozen=True)
class Split:
    """How a batch of sequences is split: which rank of the group this is, and how many tokens each rank has."""

    group: dist.ProcessGroup
    rank: int
    tokens: tuple[int, ...]

    def others(self, after: bool) -> tuple[list[int], list[int]]:
        """The ranks before this one, or after it, and how many tokens lie between each of them and this one."""
        if after:
            ranks = list(range(self.rank + 1, len(self.tokens)))
            return ranks, [sum(self.tokens[self.rank + 1 : q]) for q in ranks]
        ranks = list(range(self.rank))
        return ranks, [sum(self.tokens[q + 1 : self.rank]) for q in ranks]


def _gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every rank's x, along a new first dimension."""
    x = x.contiguous()
    found = x.new_empty((dist.get_world_size(group), *x.shape))
    dist.all_gather(list(found.unbind()), x, group=group)
    return found


def _tell(group: dist.ProcessGroup, told: list[int]) -> list[list[int]]:
    """What every rank has to say."""
    # Where the group has a way between CPUs, that one: it does not wait for what the cards have still to do.
    on_cpu = "cpu:" in dist.get_backend_config(group)
    device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
    return _gather(torch.tensor(told, device=device), group).tolist()


def refuse(group: dist.ProcessGroup) -> None:
    """Tell the others, who wait for :func:`agree`, that this rank raises an error."""
    _tell(group, [1, 0, *(0 for _ in _AGREED)])


def agree(group: dist.ProcessGroup, u: Tensor, modes: int, bidirectional: bool, recorded: bool) -> Split:
    """How many tokens each rank has.

    Raises:
        ValueError: on every rank, if one of them has refused its arguments or they are not of one call.
    """
    mine = [u.shape[0], u.shape[2], modes, FLOATS.index(u.dtype), bidirectional, recorded]
    told = _tell(group, [0, u.shape[1], *map(int, mine)])
    refused = [rank for rank, row in enumerate(told) if row[_REFUSED]]
    if refused:
        raise ValueError(f"rank {refused[0]} of the group refused its arguments; its own error says why")
    for column, (what, shown) in enumerate(_AGREED, start=2):
        for rank, row in enumerate(told):
            if row[column] != told[0][column]:
                first, other = shown(told[0][column]), shown(row[column])
                raise ValueError("the ranks of a group must agree on all but the number of their tokens: "
                                 f"{what} is {first} on rank 0 but {other} on rank {rank}")  # fmt: skip
    return Split(group, dist.get_rank(group), tuple(row[_TOKENS] for row in told))


def from_first_rank(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The first rank's x, on every rank; without gradients."""
    x = x.contiguous()
    dist.broadcast(x, group=group, group_src=0)
    return x


def _complex(pair: Tensor) -> Tensor:
    return torch.view_as_complex(pair.double().contiguous())


def _combine(gathered: Tensor, exponent: Tensor, split: Split, backwards: bool, order: int) -> Tensor:
    """:class:`_Carry` of states that are there, ``(ranks, directions, B, H, M, 2)``; complex128."""
    found = []
    for direction in range(gathered.shape[1]):
        ranks, between = split.others(after=backwards != (direction == 1))
        # In float64: a phase of a million tokens is more than float32 has digits for.
        tokens = torch.tensor(between, dtype=torch.float64, device=exponent.device).view(-1, 1, 1)
        powers = torch.exp(exponent * tokens) * tokens**order
        found.append(torch.einsum("qhm,qbhm->bhm", powers, _complex(gathered[ranks, direction])))
    return torch.stack(found)


class _Carry(torch.autograd.Function):
    """The states that enter each rank: ``sum_q N_qr^order exp(N_qr E) f_q`` over the ranks q before r.

    A linear map of states, and its adjoint is one like it, of the conjugate exponent and with before and after
    exchanged. So every derivative is made of such maps, each of which sends one message.

    Args:
        states: ``(directions, B, H, M, 2)``, those that leave this rank; the second direction goes the other way.
        exponent: ``(H, M)``, complex128.
        backwards: exchange before and after.

    Returns:
        Like ``states``.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, exponent: Tensor, split: Split, backwards: bool = False, order: int = 0
    ) -> Tensor:
        gathered = _gather(states, split.group)
        ctx.save_for_backward(states, exponent, gathered)
        ctx.options = split, backwards, order
        return torch.view_as_real(_combine(gathered, exponent, split, backwards, order)).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        states, exponent, gathered = ctx.saved_tensors
        split, backwards, order = ctx.options
        # Also where no gradient of the states is asked for: others may wait for this rank's message.
        grad_states = _Carry.apply(grad, exponent.conj(), split, not backwards, order)
        grad_exponent = None
        if ctx.needs_input_grad[1]:
            if torch.is_grad_enabled():  # the gradient will be differentiated: as a function of this rank's states
                slope = _complex(_Carry.apply(states, exponent, split, backwards, order + 1))
            else:
                slope = _combine(gathered, exponent, split, backwards, order + 1)
            grad_exponent = (slope.conj() * _complex(grad)).sum((0, 1))
        return grad_states, grad_exponent, None, None, None


def _response(spectrum: tuple[Tensor, ...], weights: Tensor, length: int) -> Tensor:
    """``Re sum_n c_n a_n^l`` with ``weights (B, H, M)`` for ``C``, complex128: ``(B, length, H)`` in float32/64."""
    batch, channels, _ = weights.shape
    repeated = [x.expand(batch, *x.shape).flatten(0, 1) for x in spectrum]
    C = torch.view_as_real(weights).to(repeated[0].dtype).flatten(0, 1)
    # Two dimensions are transposed in blocks, three are not: on CPUs much slower, here and in the backward.
    kernel = s4d_kernel_op(*repeated, C, length).t().contiguous()
    return kernel.view(length, batch, channels).transpose(0, 1)


def convolve(
    scan: Callable[..., tuple[Tensor, Tensor]],
    split: Split,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The convolution at this rank's tokens and the state after them.

    Args:
        scan: of ``(u, log_dt, log_A_real, A_imag, C, D, initial_state)``, the causal convolution and its last state.
        u: ``(B, L, H)``, this rank's tokens.
        C: ``(1, H, M, 2)``, or ``(2, H, M, 2)`` for both directions.
        initial_state: ``(B, H, M, 2)`` on the first rank, or None.
    """
    batch, length, channels = u.shape
    spectrum = (log_dt, log_A_real, A_imag)
    directions = C.shape[0]
    y, last = scan(u, *spectrum, C[:1], D, initial_state)
    leaving = [last]
    if directions == 2:
        to_the_left, first = scan(u.flip(1), *spectrum, C[1:], None, None)
        leaving.append(first)

    exponent, _ = discretize(log_dt.double(), log_A_real.double(), A_imag.double(), C[0].double())
    entering = _Carry.apply(torch.stack(leaving), exponent, split)

    states = _complex(entering).unbind()
    # The state decays before the first token sees it; the other way the last token sees what is right of it as it is.
    y = y.to(compute_dtype(u)) + _response(spectrum, _complex(C[0]) * torch.exp(exponent) * states[0], length)
    if directions == 2:
        # A token does not see itself: shift.
        others = torch.cat((u.new_zeros(batch, min(length, 1), channels), to_the_left[:, :-1]), 1)
        y = y + (others + _response(spectrum, _complex(C[1]) * states[1], length)).flip(1)
    final = last + torch.view_as_real(torch.exp(exponent * length) * states[0]).to(last.dtype)
    return y.to(u.dtype), final
