"""The S4D layers of state-spaces/s4: its names, arguments, returned pairs and checkpoints, over our ops.

``S4D`` and ``S4DKernel`` are those of models/s4/s4d.py. ``S4Block``, ``FFTConv`` and ``SSMKernelDiag`` are those of
models/s4/s4.py, of a diagonal state space (``mode="diag"``); with a low-rank term they are another model and refused.
Layers give pairs, a kernel gives its taps alone. What is refused, and what differs, is on docs/migration/s4.md.

A state that goes in or comes out is of our recurrence, ``s_t = a s_{t-1} + u_t``: upstream's but for a constant factor
of each mode, and conjugated. Begin with ``default_state`` or zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _torch, ops
from ..layers import S4D as NativeS4D
from ..layers import S4DKernel
from ..layers._children import part, plain_tensors
from ..layers.checks import boolean, floating_dtype, layout, positive_int
from ..layers.dropout import ChannelDropout
from ..layers.initialisation import reset_descendants, resettable, taken_back_by
from ..layout import without_padding
from ..ops._checks import autocast
from ._s4_kernel import Recurrence, SSMKernelDiag
from ._s4_modules import activation_of, dropout_of, linear_of, refuse

__all__ = ["S4D", "FFTConv", "S4Block", "S4DKernel", "SSMKernelDiag"]

_LOW_RANK = ("dplr", "nplr", "s4")


class S4D(NativeS4D):
    """:class:`lyra_kernels.S4D` that returns ``(y, state)``, as upstream's layer of that name returns ``(y, None)``.

    Args:
        d_model, d_state, dropout, transposed: in upstream's order; N: another name of ``d_state``.
        kernel_args: dt_min, dt_max and lr as upstream, and all else that :class:`lyra_kernels.S4D` takes by name.
    """

    def __init__(
        self, d_model: int, d_state: int = 64, dropout: float = 0.0, transposed: bool = True, **kernel_args: Any
    ) -> None:
        super().__init__(d_model, d_state, dropout, transposed, **kernel_args)

    def forward(  # type: ignore[override]
        self, u: Tensor, state: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the layer.

        Args:
            u: ``(B, H, L)`` if ``transposed``, else ``(B, L, H)``.
            state: ``(B, H, d_state / 2, 2)``, real and imaginary part last, to continue from; None for zeros.
            kwargs: lengths, cu_seqlens, residual, group, rate of :meth:`lyra_kernels.S4D.forward`; others of None.

        Returns:
            ``y`` like ``u``, and the state after it if one was given, else None.

        Raises:
            TypeError: a keyword argument that upstream would have left unheeded.
        """
        initial = kwargs.pop("initial_state", state)
        wanted = kwargs.pop("return_final_state", initial is not None)
        known = {
            name: kwargs.pop(name) for name in ("lengths", "cu_seqlens", "residual", "group", "rate") if name in kwargs
        }
        refuse("S4D.forward", kwargs)
        result: Any = super().forward(u, initial_state=initial, return_final_state=wanted, **known)
        return result if wanted else (result, None)

    def default_state(self, batch_size: int) -> Tensor:
        """Zeros ``(batch_size, H, d_state / 2, 2)``."""
        return self.initial_state(batch_size)


_KERNEL = (part("kernel", SSMKernelDiag, "log_dt", "log_A_real", "A_imag", "C"),)


class FFTConv(nn.Module):
    """The convolution of a diagonal state space with its skip weights, dropout and activation: ``(y, state)``.

    Args:
        d_model: channels ``H``.
        l_max: where the kernel ends; None for no end.
        channels: outputs of each channel. ``y`` has ``channels * H`` channels, all H of an output in a row, or with
            ``swap_channels`` all outputs of a channel.
        bidirectional: whether tokens also see those to their right.
        activation: "gelu", "silu", "relu", "elu", "tanh", "sigmoid", "softplus", "glu", None.
        transposed: whether it takes and gives ``(B, H, L)`` rather than ``(B, L, H)``.
        dropout, tie_dropout: probability, and whether channels are zeroed over their whole length.
        mode: must be "diag" (or "s4d"); upstream's default is not. kernel: another name of it.
        kernel_args: see :class:`SSMKernelDiag`. device and dtype as in :mod:`torch.nn`.

    Parameters:
        ``D (channels, H)``, twice as many channels with "glu", and those of ``kernel``.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int | None = None,
        channels: int = 1,
        swap_channels: bool = False,
        bidirectional: bool = False,
        activation: str | None = "gelu",
        transposed: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        drop_kernel: float = 0.0,
        mode: str | None = "dplr",
        kernel: str | None = None,
        **kernel_args: Any,
    ) -> None:
        super().__init__()
        kind = mode if kernel is None else kernel
        if kind not in ("diag", "s4d"):
            low_rank = ", which has a low-rank term and is another model" if kind in _LOW_RANK else ""
            raise ValueError(f"mode must be 'diag', got {kind!r}{low_rank}: pass mode='diag' for S4D")
        if drop_kernel:
            raise ValueError(f"drop_kernel, dropout of single taps, is not there: leave it at 0, not {drop_kernel}")
        self.d_model, channels = positive_int("d_model", d_model), positive_int("channels", channels)
        self.channels, self.d_output = channels, channels * self.d_model
        self.outputs = 2 * channels if activation == "glu" else channels
        self.swap_channels = boolean("swap_channels", swap_channels)
        self.bidirectional, self.transposed = bidirectional, boolean("transposed", transposed)
        factory: dict[str, Any] = {
            "device": kernel_args.get("device"),
            "dtype": floating_dtype("dtype", kernel_args.get("dtype")),
        }
        self.D = nn.Parameter(torch.empty(self.outputs, self.d_model, **factory))
        self._reset_own()
        self.kernel = SSMKernelDiag(self.d_model, self.outputs, l_max, bidirectional=bidirectional, **kernel_args)
        self.activation = activation_of("activation", activation)
        self.drop = dropout_of(dropout, tie_dropout)
        self._prepared: Recurrence | None = None

    def _reset_own(self) -> None:
        if not self.D.is_meta:
            nn.init.normal_(self.D)

    def reset_parameters(self) -> None:
        """Initial values for all parameters: those that the constructor gives with the same seed."""
        resettable(self)
        self._reset_own()
        with taken_back_by(self.kernel, self.D.device):
            reset_descendants(self)

    def forward(
        self,
        x: Tensor,
        state: Tensor | None = None,
        rate: float = 1.0,
        lengths: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the layer.

        Args:
            x: ``(B, H, L)`` if ``transposed``, else ``(B, L, H)``.
            state: complex ``(B, H, d_state / 2)``, to continue from; None for zeros.
            rate: what the time step is multiplied by.
            lengths: ``(B,)``, each sequence's length in a padded batch.

        Returns:
            ``y`` with ``channels * H`` channels, and the state after it if one was given, else None.

        Raises:
            TypeError: an unknown keyword argument that is not None.
            ValueError: a shape does not fit, or there is a state with ``bidirectional`` or beyond ``l_max``.
        """
        refuse("FFTConv.forward", kwargs)
        y, state = self._convolve(x.transpose(1, 2) if self.transposed else x, state, rate, lengths)
        y = self.activation(self.drop(y.transpose(1, 2)).transpose(1, 2))
        return y.transpose(1, 2) if self.transposed else y, state

    def _convolve(
        self, u: Tensor, state: Tensor | None, rate: float = 1.0, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, L, H)`` to all outputs ``(B, L, outputs * H)``, and the state after the last token."""
        u = autocast(u)
        if u.dim() != 3 or u.shape[2] != self.d_model:
            axes = "(B, H, L)" if self.transposed else "(B, L, H)"
            raise ValueError(f"x must be {axes} of {self.d_model} channels, got {tuple(u.shape)} as (B, L, H)")
        length, directions = u.shape[1], 1 + self.bidirectional
        readable = plain_tensors(self, _KERNEL) is not None and self.kernel.taps(length, rate) == length
        after, found = None, []
        if readable:
            *spectrum, C = self.kernel.spectrum(rate)
            C = C.reshape(directions, self.outputs, *C.shape[-3:])
            initial = torch.view_as_real(state.resolve_conj()) if state is not None and state.is_complex() else state
            batch: dict[str, Any] = {"bidirectional": self.bidirectional, "lengths": lengths, "initial_state": initial}
            for i, D in enumerate(self.D):
                one = C[:, i] if self.bidirectional else C[0, i]
                y: Any = ops.s4d_conv(u, *spectrum, one, D, return_final_state=state is not None, **batch)  # type: ignore[misc]
                y, after = y if isinstance(y, tuple) else (y, None)
                found.append(y)
        elif state is not None:
            last = getattr(self.kernel, "l_max", None)
            why = "was replaced, wrapped or has hooks" if last is None else f"ends after l_max={last}"
            raise ValueError(f"no state can be carried through {length} tokens: the kernel {why}")
        else:
            taps = self.kernel(length, rate)
            taps = taps.view(directions, self.outputs, *taps.shape[-2:])
            for i, D in enumerate(self.D):
                back = taps[1, i] if self.bidirectional else None
                found.append(ops.fft_conv(u, taps[0, i], D=D, reverse_kernel=back, lengths=lengths))
        y = torch.stack(found, -1).flatten(-2) if self.swap_channels and len(found) > 1 else torch.cat(found, -1)
        return y, None if after is None else torch.view_as_complex(after)

    def setup_step(self, **kwargs: Any) -> None:
        """Nothing that must be done: the first step prepares the next, and so does one after parameters changed."""

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token ``(B, H)`` and the state before it to ``(B, channels * H)`` and the state after it.

        There is no dropout. Without gradients, on a CPU, discretized parameters are kept for as long as they do not
        change. A state knows of no ``l_max``: take no more steps than that.
        """
        if not isinstance(state, Tensor):
            raise TypeError(f"state must be a tensor, of default_state() or the step before, not {state!r}")
        recurrence = self._recurrence(x, state)
        if recurrence is not None:
            y, after = recurrence.step(x, state, self.D)
            y = y.transpose(1, 2) if self.swap_channels else y
            return self.activation(y.flatten(1)), after
        outputs, final = self._convolve(x.unsqueeze(1), state)
        assert final is not None  # as there was a state
        return self.activation(outputs).squeeze(1), final

    def _recurrence(self, x: Tensor, state: Tensor) -> Recurrence | None:
        """What steps have prepared, if a step of these is no more than the recurrence; the op checks all others."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return None
        # complex of x's own size; an op takes the others, with its checks
        if not isinstance(self.kernel, SSMKernelDiag):
            return None
        shape = (*x.shape, self.kernel.d_state // 2)
        fits = x.dim() == 2 and x.shape[1] == self.d_model and state.shape == shape and not self.bidirectional
        if not fits or x.device.type != "cpu" or state.device != x.device or x.dtype != self.D.dtype:
            return None
        if state.dtype != x.dtype.to_complex() or x.dtype not in (torch.float32, torch.float64):
            return None
        parameters = plain_tensors(self, _KERNEL)
        if (
            parameters is None
            or not _torch.plain((x, state, *parameters))
            or parameters[0].dtype != x.dtype
            or parameters[0].device != x.device
        ):
            return None
        if self._prepared is None or not self._prepared.is_of(self.kernel, parameters):
            self._prepared = Recurrence.of(self.kernel, parameters)
        return self._prepared

    def default_state(self, *batch_shape: int, device: torch.device | None = None) -> Tensor:
        """The state before the first token: complex zeros ``(*batch_shape, H, d_state / 2)``."""
        C = self.kernel.C
        shape = (*batch_shape, self.d_model, self.kernel.d_state // 2)
        return torch.zeros(shape, dtype=C.dtype.to_complex(), device=C.device if device is None else device)


class S4Block(nn.Module):
    """Upstream's block around :class:`FFTConv`, with gate, bottleneck and final projection: ``(y, state)``.

    Args:
        d_model: channels ``H`` of input and output.
        bottleneck: the convolution has ``H / bottleneck`` channels, projected to.
        gate: the outputs, projected to ``gate`` times the channels of the convolution, are multiplied by a projection
            of the input. gate_act, mult_act: activations of that and of the product.
        final_act: activation after the last projection; None for no projection.
        dropout, tie_dropout, transposed: as of :class:`FFTConv`; dropout also comes before the last projection.
        layer_args: see :class:`FFTConv` and :class:`SSMKernelDiag`; ``mode="diag"`` is needed.

    Raises:
        ValueError: an argument is out of its range, or an option of upstream's that there is not.
    """

    def __init__(
        self,
        d_model: int,
        bottleneck: int | None = None,
        gate: int | None = None,
        gate_act: str | None = None,
        mult_act: str | None = None,
        final_act: str | None = "glu",
        postact: str | None = None,
        initializer: str | None = None,
        weight_norm: bool = False,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        transposed: bool = True,
        **layer_args: Any,
    ) -> None:
        super().__init__()
        for name, value, instead in (
            ("postact", postact, "final_act"),
            ("initializer", initializer, "torch.nn.init on output_linear"),
            ("weight_norm", weight_norm or None, "torch.nn.utils.parametrizations.weight_norm on output_linear"),
        ):
            if value is not None:
                raise ValueError(f"{name} is not there: use {instead}")
        self.d_model = self.d_output = positive_int("d_model", d_model)
        self.transposed, self.gate, self.bottleneck = boolean("transposed", transposed), gate, bottleneck
        inner, rest = divmod(self.d_model, positive_int("bottleneck", 1 if bottleneck is None else bottleneck))
        if rest:
            raise ValueError(f"bottleneck must divide d_model, got {bottleneck} and {d_model}")
        width = inner * positive_int("gate", 1 if gate is None else gate)
        factory = {"device": layer_args.get("device"), "dtype": layer_args.get("dtype")}
        if bottleneck is not None:
            self.input_linear = linear_of(self.d_model, inner, "", None, factory)
        if gate is not None:
            self.input_gate = linear_of(self.d_model, width, "gate_act", gate_act, factory)
        self.layer = FFTConv(inner, transposed=False, dropout=dropout, tie_dropout=tie_dropout, **layer_args)
        if gate is not None:
            same = self.layer.d_output == width
            self.output_gate = nn.Identity() if same else linear_of(self.layer.d_output, width, "", None, factory)
        else:
            width = self.layer.d_output
        self.mult_activation = activation_of("mult_act", mult_act, glu=False)
        self.drop = dropout_of(dropout, tie_dropout)
        if final_act is None and width != self.d_model:
            raise ValueError(f"final_act=None leaves {width} channels, not d_model={d_model}: project them, with 'id'")
        self.output_linear = (
            nn.Identity() if final_act is None else linear_of(width, self.d_model, "final_act", final_act, factory)
        )

    def reset_parameters(self) -> None:
        """Initial values for all parameters."""
        reset_descendants(self)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | int | None = None,
        state: Tensor | None = None,
        rate: float = 1.0,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the block.

        Args:
            x: ``(B, H, L)`` if ``transposed``, else ``(B, L, H)``.
            lengths: ``(B,)``, or one for all. The output is zero beyond them, where upstream's is not.
            state, rate: as of :meth:`FFTConv.forward`.

        Returns:
            ``y`` like ``x``, and the state after it if one was given, else None.
        """
        refuse("S4Block.forward", kwargs)
        if x.dim() != 3:
            raise ValueError(f"x must be {'(B, H, L)' if self.transposed else '(B, L, H)'}, got {tuple(x.shape)}")
        x = x.transpose(1, 2) if self.transposed else x
        if lengths is not None:
            lengths = layout(x, [lengths] if isinstance(lengths, int) else lengths, None, "x")[0]
            x = without_padding(x, lengths)
        u = x if self.bottleneck is None else self.input_linear(x)
        y, state = self.layer(u, state, rate, lengths)
        y = without_padding(self._tail(x, y), lengths)
        return y.transpose(1, 2) if self.transposed else y, state

    def _tail(self, x: Tensor, y: Tensor) -> Tensor:
        if self.gate is not None:
            y = self.output_gate(y) * self.input_gate(x)
        y = self.mult_activation(y)
        y = self.drop(y.transpose(-1, -2)).transpose(-1, -2) if isinstance(self.drop, ChannelDropout) else self.drop(y)
        return self.output_linear(y)

    def setup_step(self, **kwargs: Any) -> None:
        """Nothing: steps need no preparation."""

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token ``(B, H)`` and the state before it to the output ``(B, H)`` and the state after it."""
        y, state = self.layer.step(x if self.bottleneck is None else self.input_linear(x), state)
        return self._tail(x.unsqueeze(1), y.unsqueeze(1)).squeeze(1), state

    def default_state(self, *batch_shape: int, device: torch.device | None = None) -> Tensor:
        """See :meth:`FFTConv.default_state`."""
        return self.layer.default_state(*batch_shape, device=device)
