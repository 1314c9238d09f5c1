"""A causal model token by token: what it keeps of the tokens so far, and what it makes of the next one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lyra_kernels.layers import PGC, S4D


class LyraState(NamedTuple):
    """What a causal model keeps of the tokens so far.

    Attributes:
        pgc: each PGC layer's state; s4: each S4D layer's.
        pooled: ``(B, d_model)``, the sum of the embeddings (pool "mean"), their maximum ("max") or the first.
        tokens: how many there were, a 0-dimensional int64 tensor.
    """

    pgc: tuple[Tensor, ...]
    s4: tuple[Tensor, ...]
    pooled: Tensor
    tokens: Tensor


class StreamingMixin:
    """``initial_state`` and ``step`` of a Lyra model."""

    config: dict
    pool: str
    prenorm: bool
    pgc_residual: bool
    d_model: int
    d_input: int
    pgc_layers: nn.ModuleList
    s4_layers: nn.ModuleList
    norms: nn.ModuleList
    dropouts: nn.ModuleList
    decoder: nn.Module

    def initial_state(self, batch_size: int) -> LyraState:
        """The state before the first token.

        Raises:
            ValueError: the model is not causal.
        """
        if self.config["bidirectional"] or (len(self.pgc_layers) and not self.config["causal"]):
            raise ValueError(
                "a model that is not causal has no state: its output depends on tokens yet to come; build it with "
                "causal=True"
            )
        like = next(self.decoder.parameters())
        pooled = like.new_zeros(batch_size, self.d_model)
        if self.pool == "mean":
            pooled = pooled.to(torch.promote_types(like.dtype, torch.float32))
        elif self.pool == "max":
            pooled = pooled - torch.inf
        return LyraState(
            tuple(_as(layer, PGC).initial_state(batch_size) for layer in self.pgc_layers),
            tuple(_as(layer, S4D).initial_state(batch_size) for layer in self.s4_layers),
            pooled.detach(),
            torch.zeros((), dtype=torch.int64, device=like.device),
        )

    def step(self, x: Tensor, state: LyraState) -> tuple[Tensor, LyraState]:
        """One token and the state before it, to the prediction for the sequence so far and the state after the token.

        Args:
            x: token ids ``(B,)``, or features ``(B, d_input)``; see ``forward``.
            state: from :meth:`initial_state` or the step before.

        Returns:
            ``(B, d_output)``: what ``forward`` gives for the tokens up to this one, of a token classifier at this one;
            and the new state.

        Raises:
            ValueError, TypeError: a shape or a dtype does not fit.
        """
        if x.dim() not in (1, 2):
            raise ValueError(f"x must be token ids (B,) or features (B, {self.d_input}), got {tuple(x.shape)}")
        h = self.encode(x.unsqueeze(1))  # type: ignore[attr-defined]
        self._check_state(state, x.shape[0])
        pgc, s4 = [], []
        for layer, before in zip(self.pgc_layers, state.pgc, strict=True):
            y, after = layer(h, initial_state=before, return_final_state=True)
            h = h + y if self.pgc_residual else y
            pgc.append(after)
        for layer, norm, dropout, before in zip(self.s4_layers, self.norms, self.dropouts, state.s4, strict=True):
            y, after = layer(norm(h) if self.prenorm else h, initial_state=before, return_final_state=True)
            h = h + dropout(y)
            if not self.prenorm:
                h = norm(h)
            s4.append(after)
        pooled = self._pool_on(h.squeeze(1), state)
        after = LyraState(tuple(pgc), tuple(s4), pooled, state.tokens + 1)
        return self.head(self._of_prefix(h.squeeze(1), after)), after  # type: ignore[attr-defined]

    def _check_state(self, state: LyraState, batch_size: int) -> None:
        """What the layers do not check themselves."""
        if not isinstance(state, LyraState):
            raise TypeError(
                f"state must be a LyraState, of initial_state() or the step before, not {type(state).__name__}"
            )
        layers = len(self.pgc_layers), len(self.s4_layers)
        if (len(state.pgc), len(state.s4)) != layers:
            raise ValueError(
                f"the state is another model's: it has {len(state.pgc)} PGC layers and {len(state.s4)} S4D layers, "
                f"this model has {layers[0]} and {layers[1]}"
            )
        if tuple(state.pooled.shape) != (batch_size, self.d_model):
            raise ValueError(
                f"the state is one of {tuple(state.pooled.shape)} (B, d_model), x and the model need "
                f"{(batch_size, self.d_model)}: call initial_state({batch_size}) before the first token"
            )

    def _pool_on(self, h: Tensor, state: LyraState) -> Tensor:
        if self.pool == "mean":
            return state.pooled + h
        if self.pool == "max":
            return torch.maximum(state.pooled, h)
        return torch.where(state.tokens == 0, h, state.pooled)

    def _of_prefix(self, h: Tensor, state: LyraState) -> Tensor:
        """What the head sees: the pooled embeddings."""
        return (state.pooled / state.tokens if self.pool == "mean" else state.pooled).to(h.dtype)


def _as(layer: Any, kind: type) -> Any:
    if not hasattr(layer, "initial_state"):
        raise TypeError(f"{type(layer).__name__}, which stands in the place of a {kind.__name__}, has no initial_state")
    return layer
