"""The projected gated convolution as a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..layout import count_sequences, pack, unpack, without_padding
from ..ops import _checks
from ..ops._checks import Integers
from ._children import Part, call_channels_first, part, plain_tensors
from .checks import boolean, floating_dtype, layout, positive_float, positive_int, probability, width
from .initialisation import reset_descendants
from .residual import plus_residual
from .rms_norm import RMSNorm

_GATE = (
    part("in_norm", RMSNorm, "weight"),
    part("conv", nn.Conv1d, "weight", "bias", stride=(1,), dilation=(1,), padding_mode="zeros"),
)
_BLOCK = (
    part("in_proj", nn.Linear, "weight", "bias"),
    *_GATE,
    part("out_proj", nn.Linear, "weight", "bias"),
    part("out_norm", RMSNorm, "weight"),
)
_WHOLE = (*_BLOCK, part("dropout", nn.Dropout))


class PGC(nn.Module):
    """Projected gated convolution: local features, multiplied by a gate.

    ``out = dropout(rms_norm(W_out (v * conv(x)) + b_out))`` with ``x, v = split(rms_norm(W_in u + b_in))``
    and a depthwise convolution over ``kernel_size`` neighbouring tokens. A residual connection is there where
    ``forward`` is given one. All of it is one op as long as the children are the plain modules that the layer made;
    otherwise they are called, one by one.

    Args:
        d_model: channels of input and output.
        expansion_factor: the inner width is ``int(expansion_factor * d_model)``.
        kernel_size: tokens under the convolution; odd unless ``causal``.
        dropout: probability of zeroing an element of the output in training.
        causal: whether a token sees only itself and the ``kernel_size - 1`` before it, instead of
            ``kernel_size // 2`` on either side.
        eps: both norms'.
        device, dtype: of the parameters, as in :mod:`torch.nn`.

    Shape:
        ``(B, L, d_model)`` to the same.

    Parameters, with ``E`` the inner width:
        ``in_proj.weight (2E, d_model)``, ``in_proj.bias (2E,)``, ``in_norm.weight (2E,)``,
        ``conv.weight (E, 1, kernel_size)``, ``conv.bias (E,)``, ``out_proj.weight (d_model, E)``,
        ``out_proj.bias (d_model,)``, ``out_norm.weight (d_model,)``.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    def __init__(
        self,
        d_model: int,
        expansion_factor: float = 1.0,
        kernel_size: int = 3,
        dropout: float = 0.0,
        causal: bool = False,
        eps: float = 1e-8,
        *,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = positive_int("d_model", d_model)
        self.expansion_factor = positive_float("expansion_factor", expansion_factor)
        self.causal = boolean("causal", causal)
        self.kernel_size = width("kernel_size", kernel_size, self.causal)
        self.eps = positive_float("eps", eps)
        inner = int(self.expansion_factor * self.d_model)
        if inner < 1:
            raise ValueError(f"expansion_factor * d_model must be at least 1, got {expansion_factor} * {d_model}")
        self.d_inner = inner

        padding = self.kernel_size - 1 if self.causal else self.kernel_size // 2
        self._padding = (padding,)
        factory: dict[str, Any] = {"device": device, "dtype": floating_dtype("dtype", dtype)}
        # Causal: as many zeros after the sequence as before it, and what comes of those is cut off.
        self.conv = nn.Conv1d(inner, inner, self.kernel_size, padding=padding, groups=inner, **factory)
        self.in_proj = nn.Linear(self.d_model, 2 * inner, **factory)
        self.in_norm = RMSNorm(2 * inner, self.eps, **factory)
        self.out_norm = RMSNorm(self.d_model, self.eps, **factory)
        self.out_proj = nn.Linear(inner, self.d_model, **factory)
        self.dropout = nn.Dropout(probability("dropout", dropout))

    def reset_parameters(self) -> None:
        """Initial values for all parameters: those that the constructor gives with the same seed."""
        reset_descendants(self)

    def forward(
        self,
        u: Tensor,
        *,
        lengths: Integers | None = None,
        cu_seqlens: Integers | None = None,
        residual: Tensor | None = None,
        initial_state: Tensor | None = None,
        return_final_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            u: ``(B, L, d_model)``, or ``(1, T, d_model)`` with ``cu_seqlens``.
            lengths: ``(B,)``, a tensor or a list, each sequence's length in a padded batch; one is for all.
            cu_seqlens: ``(S + 1,)``, where each sequence begins in a packed batch, and the end of the last.
            residual: like ``u``, added to the output, in the same pass over memory unless dropout comes between. The
                sum has the wider of both dtypes, as ``residual + layer(u)`` would.
            initial_state: ``(S, kernel_size - 1, E)``, what the convolution saw of each sequence's earlier tokens; of a
                ``causal`` layer.
            return_final_state: whether to return the state after each sequence's last token, too.

        Returns:
            like ``u``, zero at padded positions, or that and the final state.

        Raises:
            ValueError: a state is asked of a layer that is not causal, or has the wrong shape or device.
            TypeError, ValueError: what :func:`lyra_kernels.pgc` refuses.
        """
        if lengths is not None or cu_seqlens is not None:
            lengths, cu_seqlens = _checks.as_tensors(u, lengths, cu_seqlens)
        if initial_state is not None or return_final_state:
            out, state = self._continue(u, initial_state, lengths, cu_seqlens)
            out = self._drop_and_add(out, residual, lengths)
            return (out, state) if return_final_state else out
        children: Any = self._modules
        dropout = children["dropout"]
        weights = self._plain_weights(_WHOLE)
        # Whether dropout would hand on what it gets, with nobody looking on.
        idle = weights is not None and not (dropout.training and dropout.p)
        if weights is None:
            weights = self._plain_weights(_BLOCK)
        if weights is None:
            return self._drop_and_add(self._composed(u, lengths, cu_seqlens), residual, lengths)
        out = ops.pgc(
            u,
            *weights,
            eps=children["in_norm"].eps,
            lengths=lengths,
            cu_seqlens=cu_seqlens,
            causal=self.causal,
            residual=residual if idle else None,
        )
        return out if idle else self._drop_and_add(out, residual, lengths)

    def _plain_weights(self, parts: Sequence[Part]) -> list[Any] | None:
        """Those of the fused op; None where the children must be called."""
        weights = plain_tensors(self, parts)
        if weights is None:
            return None
        children: Any = self._modules
        conv = children["conv"]
        same = conv.padding == self._padding and conv.groups == self.d_inner
        return weights if same and children["in_norm"].eps == children["out_norm"].eps else None

    def _composed(self, u: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        """The layer up to its dropout, of its children."""
        self._check(u)
        lengths, cu_seqlens = layout(u, lengths, cu_seqlens)
        xv = self.in_proj(without_padding(u, lengths))
        gate = plain_tensors(self, _GATE)
        if gate is not None and self.conv.padding == self._padding and self.conv.groups == self.d_inner:
            norm_weight, weight, bias = gate
            z = ops.gated_conv(
                xv,
                weight,
                bias,
                norm_weight,
                eps=self.in_norm.eps,
                lengths=lengths,
                cu_seqlens=cu_seqlens,
                causal=self.causal,
            )
        else:
            x, v = self.in_norm(xv).chunk(2, dim=-1)
            z = v * self._convolve(x, lengths, cu_seqlens)
        return without_padding(self.out_norm(self.out_proj(z)), lengths)

    def _convolve(self, x: Tensor, lengths: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
        if cu_seqlens is not None:
            rows, each = unpack(x, cu_seqlens)
            return pack(self._convolve(rows, each, None), cu_seqlens, x.shape[1])
        y = call_channels_first(self.conv, without_padding(x, lengths).transpose(1, 2))
        return y[..., : x.shape[1]].transpose(1, 2)  # a causal one gives more

    def _continue(
        self, u: Tensor, state: Tensor | None, lengths: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The layer up to its dropout, of sequences that go on from a state, and the state after them."""
        self._check_causal()
        self._check(u)
        lengths, cu_seqlens = layout(u, lengths, cu_seqlens)
        expected = (count_sequences(u, cu_seqlens), self.kernel_size - 1, self.d_inner)
        if state is None:
            state = u.new_zeros(expected)
        _checks.size("initial_state", state, "(S, kernel_size - 1, E)", expected, "to match u")
        _checks.same_device("initial_state", state, "u", u)
        if cu_seqlens is not None:
            rows, each = unpack(u, cu_seqlens)
            out, state = self._continue(rows, state, each, None)
            return pack(out, cu_seqlens, u.shape[1]), state
        x, v = self.in_norm(self.in_proj(without_padding(u, lengths))).chunk(2, dim=-1)
        state = state.to(x.dtype)
        y, after = self._convolve_on(x, state, lengths)
        return without_padding(self.out_norm(self.out_proj(v * y)), lengths), after

    def _convolve_on(self, x: Tensor, state: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """The convolution of sequences that go on from a state, and the state after them."""
        gate = plain_tensors(self, _GATE)
        if gate is not None and self.conv.padding == self._padding and self.conv.groups == self.d_inner:
            _, weight, bias = gate
            both: Any = ops.short_conv(
                x, weight.flatten(1), bias, initial_state=state, return_final_state=True, lengths=lengths
            )
            return both
        seen = torch.cat((state, x), dim=1)
        # The convolution puts zeros before the state.
        y = call_channels_first(self.conv, seen.transpose(1, 2))
        y = y[..., self.kernel_size - 1 : seen.shape[1]].transpose(1, 2)
        if lengths is None:
            return y, seen[:, x.shape[1] :].clone()  # a view would keep all tokens in memory
        last = lengths.unsqueeze(-1) + torch.arange(self.kernel_size - 1, device=x.device)
        return y, seen.gather(1, last.unsqueeze(-1).expand(-1, -1, seen.shape[2]))

    def _drop_and_add(self, out: Tensor, residual: Tensor | None, lengths: Tensor | None) -> Tensor:
        return plus_residual(self.dropout(out), residual, lengths)

    def _check(self, u: Tensor) -> None:
        _checks.activations("u", u)
        if u.shape[2] != self.d_model:
            raise ValueError(f"u must be (B, L, {self.d_model}), got {tuple(u.shape)}")

    def _check_causal(self) -> None:
        if not self.causal:
            raise ValueError("a PGC that is not causal has no state: its output depends on tokens yet to come")

    def initial_state(self, batch_size: int) -> Tensor:
        """The state before the first token: zeros ``(batch_size, kernel_size - 1, E)``.

        Raises:
            ValueError: the layer is not causal.
        """
        self._check_causal()
        weight = next(self.parameters())
        return torch.zeros(batch_size, self.kernel_size - 1, self.d_inner, dtype=weight.dtype, device=weight.device)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token: ``u (B, d_model)`` and the state before it, to the output ``(B, d_model)`` and the state after it.

        Feeding a sequence token by token gives what :meth:`forward` gives for the whole, of a ``causal`` layer.
        """
        if u.dim() != 2 or u.shape[1] != self.d_model:
            raise ValueError(f"u must be (B, {self.d_model}), got {tuple(u.shape)}")
        y, state = self(u.unsqueeze(1), initial_state=state, return_final_state=True)
        return y.squeeze(1), state

    def extra_repr(self) -> str:
        return f"{self.d_model}, expansion_factor={self.expansion_factor}, causal={self.causal}"
