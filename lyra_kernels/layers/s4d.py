"""The diagonal state space layer S4D as a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .. import ops
from ..layout import compute_dtype, count_sequences, without_padding
from ..ops import _watch
from ..ops._checks import Integers, as_tensors, autocast
from ..ops._step import s4d_step
from ..ops.s4d_conv import ALGORITHMS, scans_in_one_op, scans_on_gpu
from ..ops.sequence_parallel import from_first_rank, refuse
from ._children import call_channels_first, is_a_plain, part, plain_tensors, read_tensors
from .activations import activation_module
from .checks import boolean, choice, floating_dtype, layout, positive_int, probability
from .dropout import ChannelDropout
from .initialisation import reset_descendants, resettable, taken_back_by
from .residual import plus_residual
from .rms_norm import RMSNorm
from .s4d_kernel import KernelOptions, PerParameter, S4DKernel

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


_PARAMETERS = (part("kernel", S4DKernel, "log_dt", "log_A_real", "A_imag", "C"),)
_SPECTRUM = (part("kernel", S4DKernel, "log_dt", "log_A_real", "A_imag", "C", transformed=False),)
_TAIL = (
    part("", nn.Module, "D"),
    part("activation", nn.GELU, approximate="none"),
    part("dropout", ChannelDropout),
    part("output_linear", nn.Sequential, children=2),
    part("output_linear.0", nn.Conv1d, "weight", "bias", kernel_size=(1,), stride=(1,), padding=(0,), groups=1),
    part("output_linear.1", nn.GLU, dim=-2),
)
_WHOLE = (*_TAIL, _SPECTRUM[0]._replace(apart=True))


class S4D(nn.Module):
    """Diagonal state space layer: a long convolution per channel, then a gated mix of the channels.

    ``y = K * u + D u``, then GELU, dropout and ``GLU(W y + b)``. There is no residual connection. Under autocast
    ``u`` is cast like a Conv1d's input; states and sums stay in float32. As long as the children are the plain modules
    that the layer made, ops stand for them; otherwise ``kernel``, ``activation``, ``dropout`` and ``output_linear`` are
    called, one by one.

    ``forward`` returns ``y``, as the Lyra repository's layer does. That of state-spaces/s4 returns ``(y, None)``: what
    was written for it, ``y, _ = layer(u)``, splits a batch of two here without an error. Write ``y = layer(u)``.

    Args:
        d_model: channels ``H``.
        d_state: states per channel, even.
        dropout: probability of zeroing a channel of a sequence, over its whole length, in training.
        transposed: whether the layer takes and gives ``(B, H, L)`` rather than ``(B, L, H)``.
        dt_min, dt_max, lr: see :class:`S4DKernel`.
        bidirectional: whether a token also sees those to its right:
            ``y_t = sum_{s<=t} K0_{t-s} u_s + sum_{s>t} K1_{s-t-1} u_s + D u_t``.
        algorithm: "auto", "fft", "direct" or "scan"; see :func:`lyra_kernels.s4d_conv`.
        activation: "gelu", or another of :data:`lyra_kernels.layers.activations.ACTIVATIONS`.
        kernel_options: other keyword-only options of :class:`S4DKernel`, but ``channels``: N, upstream's name of
            ``d_state``, init, disc, dt_tie, n_ssm, bandlimit, l_max ... With ``l_max`` there are no states.
        device, dtype: of the parameters, as in :mod:`torch.nn`; the kernel's stay in float32 for a dtype of 16 bits.

    Parameters:
        ``D (H,)``, ``output_linear.0.weight (2H, H, 1)``, ``output_linear.0.bias (2H,)`` and
        :class:`S4DKernel`'s under ``kernel``.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dropout: float = 0.0,
        transposed: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: PerParameter = None,
        bidirectional: bool = False,
        algorithm: str = "auto",
        *,
        activation: str = "gelu",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **kernel_options: Unpack[KernelOptions],
    ) -> None:
        super().__init__()
        self.d_model = self.d_output = positive_int("d_model", d_model)
        factory: dict[str, Any] = {"device": device, "dtype": floating_dtype("dtype", dtype)}
        # Random numbers are drawn in the order of modules(), here and in reset_parameters(): D before the children's.
        self.D = nn.Parameter(torch.empty(self.d_model, **factory))
        self._reset_own()
        self.kernel = S4DKernel(self.d_model, d_state, dt_min, dt_max, lr, bidirectional, **kernel_options, **factory)
        if self.kernel.channels != 1:
            raise ValueError("S4D has one output a channel: channels is an option of S4DKernel and compat.s4.FFTConv")
        self.d_state = self.kernel.d_state
        self.bidirectional = self.kernel.bidirectional
        self.transposed = boolean("transposed", transposed)
        self.activation = activation_module("activation", activation)
        self.dropout = ChannelDropout(probability("dropout", dropout))
        self.algorithm = choice("algorithm", algorithm, ALGORITHMS)
        self.output_linear = nn.Sequential(nn.Conv1d(self.d_model, 2 * self.d_model, 1, **factory), nn.GLU(dim=-2))

    def _reset_own(self) -> None:
        if not self.D.is_meta:
            nn.init.normal_(self.D)

    def reset_parameters(self) -> None:
        """Initial values for all parameters, the children's too: those that the constructor gives with the same seed.

        Where each module is asked in turn, as FSDP does for modules from the meta device, the children get the same
        numbers again.
        """
        resettable(self)  # all of it, or nothing
        self._reset_own()
        with taken_back_by(self.kernel, self.D.device):
            reset_descendants(self)

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first token: zeros ``(batch_size, H, d_state / 2, 2)``."""
        if self.bidirectional:
            raise ValueError("a bidirectional S4D has no state: its output depends on tokens yet to come")
        dtype = compute_dtype(self.D)
        return torch.zeros(batch_size, self.d_model, self.d_state // 2, 2, dtype=dtype, device=self.D.device)

    def forward(
        self,
        u: Tensor,
        *,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
        initial_state: Tensor | None = None,
        return_final_state: bool = False,
        residual: Tensor | None = None,
        group: ProcessGroup | None = None,
        rate: float = 1.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            u: ``(B, H, L)`` if ``transposed``, else ``(B, L, H)``. With ``cu_seqlens`` B is 1.
            lengths: ``(B,)``, a tensor or a list, each sequence's length in a padded batch; one is for all.
            cu_seqlens: ``(S + 1,)``, where each sequence begins in a packed batch, and the end of the last.
            initial_state: ``(S, H, d_state / 2, 2)``, the state that each sequence continues from.
            return_final_state: whether to return the state after each sequence's last token, too.
            residual: like ``u``, added to the output in the same pass over memory. The sum has the wider of both
                dtypes, as ``residual + layer(u)`` would.
            group: a ``torch.distributed`` process group over whose ranks the sequences are split, ``u`` this rank's
                tokens; see :func:`lyra_kernels.s4d_conv`. A channel that dropout zeroes is zero on every rank.
            rate: what the time step is multiplied by: 2 for sequences sampled half as often as in training.

        Returns:
            ``y`` like ``u``, zero at padded positions, or ``(y, final_state)``.

        Raises:
            ValueError: ``u`` has not three dimensions or not ``d_model`` channels, and what
                :func:`lyra_kernels.s4d_conv` refuses.
            RuntimeError: a state or a group needs the state space's own parameters, and ``kernel`` was replaced, has
                hooks, or its parameters are elsewhere.
        """
        channels = u.shape[1 if self.transposed else 2] if u.dim() == 3 else None
        if channels != self.d_model:
            if group is not None:
                refuse(group)
            shape = f"(B, {self.d_model}, L)" if self.transposed else f"(B, L, {self.d_model})"
            raise ValueError(f"u must be {shape} with transposed={self.transposed}, got {tuple(u.shape)}")
        if lengths is not None or cu_seqlens is not None:
            lengths, cu_seqlens = as_tensors(u, lengths, cu_seqlens)
        given = residual is u
        if self.transposed:
            u = u.transpose(1, 2)
            residual = u if given else None if residual is None else residual.transpose(1, 2)
        dtype, u = u.dtype, autocast(u)
        states = initial_state is not None or return_final_state
        plain = self._plain_whole() if rate == 1.0 else None
        tail, spectrum = (
            self._plain_parts(u, rate, states or group is not None) if plain is None else (plain[:3], plain[3:])
        )
        if plain is not None and not states and group is None and self._is_one_op(u, cu_seqlens):
            if residual is None or (given and u.dtype == dtype):
                return self._block(u, spectrum, tail, None, residual is not None, lengths, cu_seqlens)
        D = self.D if tail is None else tail[0]
        if spectrum is None and (states or group is not None):
            spectrum = self._spectrum_alone(rate, group)
        if spectrum is None:
            result: Any = self._convolve(u, D, lengths, cu_seqlens, rate)
        else:
            log_dt, log_A_real, A_imag, C = spectrum
            result = ops.s4d_conv(
                u,
                log_dt,
                log_A_real,
                A_imag,
                C,
                D,
                lengths=lengths,
                cu_seqlens=cu_seqlens,
                bidirectional=self.bidirectional,
                initial_state=initial_state,
                return_final_state=return_final_state,
                algorithm=self.algorithm,
                group=group,
            )
        y, state = result if isinstance(result, tuple) else (result, None)
        if tail is None:
            y = self._composed_tail(y, residual, lengths, cu_seqlens, group)
        else:
            _, weight, bias = tail
            y = ops.gelu_glu(
                y,
                weight.squeeze(-1),
                bias,
                mask=self._mask(count_sequences(u, cu_seqlens), u, group),
                residual=residual,
                lengths=lengths,
                cu_seqlens=cu_seqlens,
            )
        if self.transposed:
            y = y.transpose(1, 2)
        return y if state is None else (y, state)

    def _plain_whole(self) -> list[Any] | None:
        """The tensors of the layer as one op; None where not all of it is plain."""
        found = plain_tensors(self, _WHOLE)
        # Another Conv1d may give more channels than the ops do, or fewer.
        return found if found is None or found[1].shape[0] == 2 * self.d_model else None

    def _plain_parts(self, u: Tensor, rate: float, endless: bool) -> tuple[list[Any] | None, Any]:
        """The tensors of what comes after the convolution, with D, and of its kernel; None where not plain."""
        tail = plain_tensors(self, _TAIL)
        if tail is not None and tail[1].shape[0] != 2 * self.d_model:
            tail = None
        kernel: Any = self._modules["kernel"]
        if rate == 1.0 and not getattr(kernel, "transformed", False):
            return tail, plain_tensors(self, _SPECTRUM)
        if plain_tensors(self, _PARAMETERS) is None:
            return tail, None
        whole = kernel.l_max is None or (not endless and kernel.taps(u.shape[1], rate) == u.shape[1])
        return tail, kernel.spectrum(rate) if whole else None

    def _mask(self, sequences: int, u: Tensor, group: ProcessGroup | None = None) -> Tensor | None:
        """What each sequence's channels are multiplied by, ``(S, H)``; None for no dropout."""
        dropout: Any = self._modules["dropout"]
        if not (dropout.training and dropout.p):
            return None
        mask = dropout.mask(sequences, self.d_model, u)
        return mask if mask is None or group is None else from_first_rank(mask, group)

    def _spectrum_alone(self, rate: float, group: ProcessGroup | None) -> Any:
        """The op's arguments, from a kernel that is not as it was made but would do nothing else."""
        readable = read_tensors(self, _PARAMETERS[0]) is not None
        if readable and self.kernel.l_max is None:
            return self.kernel.spectrum(rate)
        if group is not None:
            refuse(group)
        if readable:
            raise ValueError(f"a kernel that ends, at l_max={self.kernel.l_max}, has no state to carry: leave states "
                             "and group out, or l_max")  # fmt: skip
        raise RuntimeError(
            "initial_state, return_final_state and group need the state space's own parameters, and the layer's "
            "kernel is not the S4DKernel that it made: it was replaced or wrapped, it has hooks, or its parameters "
            "are sharded or elsewhere. Call the layer without states or group, or undo that"
        )

    def _convolve(self, u: Tensor, D: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None, rate: float) -> Tensor:
        """The convolution with whatever kernel ``self.kernel`` gives."""
        taps = self.kernel(u.shape[1]) if rate == 1.0 else self.kernel(u.shape[1], rate=rate)
        kernel, reverse = taps.unbind() if self.bidirectional else (taps, None)
        convolve = ops.causal_conv if self.algorithm == "direct" else ops.fft_conv
        return convolve(u, kernel, D=D, reverse_kernel=reverse, lengths=lengths, cu_seqlens=cu_seqlens)

    def _composed_tail(
        self,
        y: Tensor,
        residual: Tensor | None,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        group: ProcessGroup | None,
    ) -> Tensor:
        """Activation, dropout, projection and residual, of the children."""
        lengths, cu_seqlens = layout(y, lengths, cu_seqlens)
        z = self.activation(y.transpose(1, 2))
        dropout = self.dropout
        if isinstance(dropout, ChannelDropout) and dropout.training and (cu_seqlens is not None or group is not None):
            ones = y.new_ones((count_sequences(y, cu_seqlens), self.d_model, 1), dtype=compute_dtype(y))
            mask = dropout(ones)  # of whole sequences, which z is not
            if group is not None:
                mask = from_first_rank(mask, group)
            if cu_seqlens is not None:
                token = torch.arange(y.shape[1], device=y.device)
                sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
                mask = mask[sequence].permute(2, 1, 0)
            z = (z * mask).to(z.dtype)
        else:
            z = dropout(z)
        # FSDP2 warns of views that a module returns.
        out = without_padding(call_channels_first(self.output_linear, z).transpose(1, 2).contiguous(), lengths)
        return plus_residual(out, residual, lengths)

    def _is_one_op(self, u: Tensor, cu_seqlens: Tensor | None = None) -> bool:
        """Whether the layer is a block by scan, and faster as one op: on GPUs, and on CPUs where it is transposed."""
        kind, modes = u.device.type, self.d_state // 2
        if kind not in ("cuda", "cpu") or torch.compiler.is_compiling():
            return False
        if kind == "cpu":
            return self.transposed and scans_in_one_op(self.algorithm, u, modes, 1 + self.bidirectional, cu_seqlens)
        return self.algorithm == "scan" or (self.algorithm == "auto" and scans_on_gpu(u, modes))

    def _block(
        self,
        u: Tensor,
        spectrum: Any,
        tail: Any,
        norm: RMSNorm | None,
        add_input: bool,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> Tensor:
        log_dt, log_A_real, A_imag, C = spectrum
        D, weight, bias = tail
        if _watch.watcher is not None:
            question = (u, self.d_state // 2, 1 + self.bidirectional, cu_seqlens, False)
            _watch.watcher.algorithm(self.algorithm, "scan", question)
        y = ops.s4d_block(
            u,
            log_dt,
            log_A_real,
            A_imag,
            C,
            D,
            weight.squeeze(-1),
            bias,
            norm_weight=None if norm is None else norm.weight,
            eps=1e-8 if norm is None else norm.eps,
            mask=self._mask(count_sequences(u, cu_seqlens), u),
            add_input=add_input,
            lengths=lengths,
            cu_seqlens=cu_seqlens,
            bidirectional=self.bidirectional,
        )
        return y.transpose(1, 2) if self.transposed else y

    def prenorm(
        self,
        norm: nn.Module,
        x: Tensor,
        *,
        add_input: bool,
        lengths: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor | None:
        """``self(norm(x))``, plus ``x`` where ``add_input``, as one op; None where that is not possible or no gain.

        Args:
            x: ``(B, L, H)``; lengths, cu_seqlens: as of :meth:`forward`.
        """
        if self.transposed or x.dim() != 3 or x.shape[2] != self.d_model or not self._is_one_op(x):
            return None
        u = autocast(x)
        if (add_input and u.dtype != x.dtype) or not is_a_plain(norm, RMSNorm):
            return None
        plain = self._plain_whole()
        if plain is None:
            return None
        return self._block(u, plain[3:], plain[:3], cast(RMSNorm, norm), add_input, lengths, cu_seqlens)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``u (B, H)`` and the state before it, to the output ``(B, H)`` and the state after it.

        Feeding a sequence token by token gives what :meth:`forward` gives for the whole.
        """
        if u.dim() != 2 or u.shape[1] != self.d_model:
            raise ValueError(f"u must be (B, {self.d_model}), got {tuple(u.shape)}")
        if is_a_plain(self, S4D) and not self.bidirectional and self.algorithm in ("auto", "scan"):
            plain, dropout = self._plain_whole(), self.dropout
            if plain is not None and not (dropout.training and dropout.p):
                stepped = s4d_step(u, state, *plain)
                if stepped is not None:
                    return stepped
        token = u.unsqueeze(-1 if self.transposed else 1)
        y, state = self(token, initial_state=state, return_final_state=True)
        return y.squeeze(-1 if self.transposed else 1), state

    def extra_repr(self) -> str:
        return f"{self.d_model}, transposed={self.transposed}, algorithm={self.algorithm!r}"
