"""The S4D convolution, however it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _torch, backends, reference
from ..layout import compute_dtype, count_sequences
from . import _checks, _watch, cost_model, sequence_parallel
from ._autograd import Arguments, Op, laid_out, needs_graph, saves
from .conv import causal_conv_op, fft_conv_op
from .cost_model import Why
from .s4d_kernel import check_parameters, s4d_kernel_op
from .sequence_parallel import check_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

ALGORITHMS = ("auto", "fft", "direct", "scan")
MOST = 2**31  # tokens, more than any sequence has


class _S4DScan(Op):
    """Two outputs with gradients, of which either may come without."""

    def prepared(self, grads: Arguments, args: Arguments) -> Arguments:
        grad_y, grad_state = grads
        bidirectional = args[self.contract.position("C")].shape[0] == 2  # whose final state is empty
        return torch.zeros_like(args[0]) if grad_y is None else grad_y, None if bidirectional else grad_state


s4d_scan_op = _S4DScan("s4d_scan", reference.s4d_scan)
s4d_fft_op = Op("s4d_fft", reference.s4d_fft)


def _fuses_kernel_and_fft(u: Tensor) -> bool:
    """Whether the S4D convolution by FFT is one op: on GPUs, where its kernel need not be in memory."""
    backend = backends.forced()
    return backend == "triton" or (backend is None and u.device.type == "cuda")


def _limits(u: Tensor) -> backends.Limits:
    """Those of the backend that will compute on u."""
    return backends.limits(backends.forced() or backends.default_backend(u.device))


def scans_on_gpu(u: Tensor, modes: int) -> bool:
    """Whether "auto" scans on the GPU that u is on, however long it is."""
    return cost_model.choose_on_gpu(MOST, modes, _limits(u))[0] == "scan"


def scans_in_one_op(algorithm: str, u: Tensor, modes: int, directions: int, cu_seqlens: Tensor | None) -> bool:
    """Whether a layer of (B, H, L) on the CPU scans, outside of traces and transforms, which take it apart."""
    if algorithm not in ("auto", "scan") or torch.jit.is_tracing() or _torch.transforms_active():
        return False
    return algorithm == "scan" or decide(u, modes, directions, cu_seqlens, False)[0] == "scan"


def decide(
    u: Tensor, modes: int, directions: int, cu_seqlens: Tensor | None, states: bool
) -> tuple[str, cost_model.Why, tuple[int, int] | None]:
    """The algorithm for "auto", why, and the batch and length whose costs decided, where they did."""
    batch, length = u.shape[0], u.shape[1]
    if states:
        return "scan", Why.STATE, None
    if torch.jit.is_tracing():
        return "scan", Why.TRACE, None
    on_cpu = u.device.type in ("cpu", "meta")
    unknown = torch.compiler.is_compiling() or not isinstance(length, int)
    if not on_cpu:
        # Of what is not known yet, or packed, a direct convolution could go through as many lags as there are tokens.
        known = MOST if unknown or cu_seqlens is not None else length
        return *cost_model.choose_on_gpu(known, modes, _limits(u)), None
    if unknown:
        from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import, known by then

        # A length not known yet must stay unknown: no guard.
        if cu_seqlens is None and statically_known_true(length <= 4 * modes):
            return "direct", Why.SHORT_WHATEVER, None
        return "scan", Why.UNKNOWN, None
    if cu_seqlens is not None:
        batch = max(cu_seqlens.shape[0] - 1, 1)
        length = -(-length // batch)  # the longest is not known without reading values; take the mean
        if length > 256:
            return "scan", Why.LONG_PACKED, None
        length = u.shape[1] if batch == 1 else length
    chosen = cost_model.choose(int(batch), length, modes, directions, packed=cu_seqlens is not None and batch > 1)
    return chosen, Why.COSTS, (int(batch), length)


def s4d_conv(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    lengths: _checks.Integers | None = None,
    cu_seqlens: _checks.Integers | None = None,
    bidirectional: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    algorithm: str = "auto",
    group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``y_t = sum_{s<=t} K_{t-s} u_s + D u_t`` with the kernel of :func:`s4d_kernel`, in float32 or float64.

    The same numbers come from a recurrence over states ``s_t = a s_{t-1} + u_t``, ``y_t = Re sum_n c_n s_{n,t} +
    D u_t`` ("scan", linear in the length), from the kernel by FFT ("fft") or directly ("direct", best when short).

    Args:
        u: ``(batch, length, H)``, float32, float64, float16 or bfloat16.
        log_dt: ``(H,)``. log_A_real, A_imag: ``(H, M)``.
        C: ``(H, M, 2)``, real and imaginary part; ``(2, H, M, 2)`` where ``bidirectional``.
        D: ``(H,)`` skip weights, or None.
        lengths: ``(batch,)`` integers, a tensor or a list: sequence b is ``u[b, :lengths[b]]``. One is for all.
        cu_seqlens: ``(sequences + 1,)`` likewise, with batch 1: sequence s is ``u[0, cu[s]:cu[s + 1]]``.
        bidirectional: add ``sum_{s>t} K1_{s-t-1} u_s``, K1 the kernel of ``C[1]``; both directions share dt and A.
        initial_state: ``(sequences, H, M, 2)``, the state before the first token; zeros if None.
        return_final_state: also return the state after the last token.
        algorithm: "scan", "fft", "direct", or "auto" for the cheapest by ``cost_model``. By "fft" a token's rounding
            error, or NaN, is in all tokens of its sequence and channel; by the others only in those behind it.
        group: a ``torch.distributed`` process group over whose ranks the sequences are split: ``u`` holds this
            rank's tokens, which follow those of the rank before. Ranks may hold different numbers of tokens, also
            none. See below.

    Returns:
        Like ``u``, zero at padded positions; with ``return_final_state`` also ``(sequences, H, M, 2)``.

    Raises:
        TypeError, ValueError: an argument has the wrong dtype, shape, device or value; the message says which.
        RuntimeError: with ``group``: in torch.compile(fullgraph=True), export, torch.func transforms, forward-mode AD.

    With ``group`` every rank makes the call with equal parameters, and every rank the backward, all in the same
    order; a rank without a loss of its own calls it on ``0 * y.sum()``. Outputs are those of one process that holds
    all tokens. The loss is the sum of the ranks' losses: ``u`` gets its whole gradient, parameters each rank's own
    share of theirs. Nothing sums the shares: ``all_reduce`` them, or let DistributedDataParallel, which also divides
    by the number of its processes. ``initial_state`` is the one before the first rank's tokens and given there alone;
    the final state is the one after this rank's own tokens, on the last rank that of the whole sequence.

    Each rank scans its tokens once and adds what the states of the others do there, half a scan's arithmetic more;
    bidirectional convolutions scan each direction on its own. A call and a backward send one message each to all
    ranks, the states ``(directions, batch, H, M, 2)``, and a call some integers before, by which ranks that disagree
    are all refused. ``lengths`` and ``cu_seqlens`` are refused: no causal output depends on what is after a
    sequence's end, so pad there, with zeros if ``bidirectional``.

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models".
    """
    states = initial_state is not None or return_final_state
    if group is not None:
        check_group(group)
        if group.size() > 1:
            y, final_state = _over_group(
                group, algorithm, states, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, bidirectional,
                initial_state,
            )  # fmt: skip
            return (y, final_state) if return_final_state else y
    check_convolution(
        u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, bidirectional, initial_state, states, algorithm
    )
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    log_dt, log_A_real, A_imag, C, D, initial_state = _checks.parameters(
        compute_dtype(u), log_dt, log_A_real, A_imag, C, D, initial_state
    )
    asked = algorithm
    if asked == "auto":
        algorithm = decide(u, log_A_real.shape[1], 1 + bidirectional, cu_seqlens, states)[0]
    if _watch.watcher is not None:
        _watch.watcher.algorithm(asked, algorithm, (u, log_A_real.shape[1], 1 + bidirectional, cu_seqlens, states))
    directions = C if bidirectional else C.unsqueeze(0)
    if algorithm == "scan":
        u = u if u.is_contiguous() else laid_out("s4d_scan", backends.forced(), u)
        args = (u, log_dt, log_A_real, A_imag, directions, D, lengths, cu_seqlens, initial_state)
        y, final_state = s4d_scan_op(*args, saves(args))[:2]
        return (y, final_state) if return_final_state else y
    spectrum = (log_dt, log_A_real, A_imag)
    if algorithm == "fft" and _fuses_kernel_and_fft(u):
        u = u if u.is_contiguous() else laid_out("s4d_fft", backends.forced(), u)
        return s4d_fft_op(u, *spectrum, directions, D, lengths, cu_seqlens)
    taps = u.shape[1]
    op = causal_conv_op if algorithm == "direct" else fft_conv_op
    u = u if u.is_contiguous() else laid_out(op.name, backends.forced(), u)
    kernel = s4d_kernel_op(*spectrum, C[0].contiguous() if bidirectional else C, taps)
    reverse = s4d_kernel_op(*spectrum, C[1].contiguous(), taps) if bidirectional else None
    return op(u, kernel, reverse, D, lengths, cu_seqlens)


def _over_group(
    group: ProcessGroup,
    algorithm: str,
    states: bool,
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: _checks.Integers | None,
    cu_seqlens: _checks.Integers | None,
    bidirectional: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output at this rank's tokens and the state after them."""
    try:
        check_convolution(
            u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, bidirectional, initial_state, states, algorithm
        )
        if algorithm in ("fft", "direct"):
            raise ValueError(f"algorithm {algorithm!r} carries no state from rank to rank: use 'scan' or 'auto'")
        if lengths is not None or cu_seqlens is not None:
            raise ValueError("sequences split over a group have one length: leave lengths and cu_seqlens out, and pad; "
                             "tokens after a sequence's end change no causal output before it")  # fmt: skip
        if initial_state is not None and group.rank() > 0:
            raise ValueError("initial_state is the state before the whole sequence and enters the first rank of the "
                             f"group: leave it out on rank {group.rank()}")  # fmt: skip
    except (TypeError, ValueError):
        sequence_parallel.refuse(group)
        raise
    log_dt, log_A_real, A_imag, C, D, initial_state = _checks.parameters(
        compute_dtype(u), log_dt, log_A_real, A_imag, C, D, initial_state
    )
    recorded = needs_graph((u, log_dt, log_A_real, A_imag, C, D, initial_state))
    split = sequence_parallel.agree(group, u, log_A_real.shape[1], bidirectional, recorded)

    def scan(u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        *parameters, state = args
        return s4d_scan_op(u.contiguous(), *parameters, None, None, state, recorded)[:2]

    directions = C if bidirectional else C.unsqueeze(0)
    return sequence_parallel.convolve(scan, split, u, log_dt, log_A_real, A_imag, directions, D, initial_state)


@_checks.once_a_signature
def check_convolution(
    u: Tensor,
    log_dt: Tensor,
    log_A_real: Tensor,
    A_imag: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: _checks.Integers | None,
    cu_seqlens: _checks.Integers | None,
    bidirectional: bool,
    initial_state: Tensor | None,
    states: bool,
    algorithm: str,
) -> None:
    """Refuse arguments of :func:`s4d_conv`; ``states``: whether one is given or asked for."""
    _checks.activations("u", u, "(batch, length, H)")
    if isinstance(log_dt, Tensor) and log_dt.dim() == 1:
        _checks.channels_last("u", u, "log_dt", log_dt.shape[0])
    check_parameters(log_dt, log_A_real, A_imag, C, u.shape[-1])
    _checks.flag("bidirectional", bidirectional)
    form, shape = (
        ("(2, H, M, 2)", (2, *log_A_real.shape, 2)) if bidirectional else ("(H, M, 2)", (*log_A_real.shape, 2))
    )
    _checks.size("C", C, form, shape, "to match log_A_real" + (" and bidirectional=True" if bidirectional else ""))
    if D is not None:
        _checks.size("D", D, "(H,)", (u.shape[-1],), "to match u")
    lengths, cu_seqlens = _checks.layout(u, lengths, cu_seqlens)
    if bidirectional and states:
        raise ValueError("a bidirectional convolution has no state to carry: leave initial_state and "
                         "return_final_state out")  # fmt: skip
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
    if states and algorithm in ("fft", "direct"):
        raise ValueError(f"algorithm {algorithm!r} carries no state: use 'scan' or 'auto'")
    sequences = count_sequences(u, cu_seqlens)
    if initial_state is not None:
        expected = (sequences, *log_A_real.shape, 2)
        _checks.size("initial_state", initial_state, "(sequences, H, M, 2)", expected, "to match u")
    others = {"log_dt": log_dt, "log_A_real": log_A_real, "A_imag": A_imag, "C": C, "D": D,
              "initial_state": initial_state}  # fmt: skip
    for name, value in others.items():
        _checks.same_device(name, value, "u", u)
