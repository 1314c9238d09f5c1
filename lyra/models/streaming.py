"""A causal model piece by piece: what it keeps of the tokens so far, and what it makes of the next ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lyra_kernels.layers import PGC, S4D, checks

PIECE = 8_192  # tokens at a time of a sequence in one tensor


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
    """``initial_state``, ``step`` and ``stream`` of a Lyra model."""

    config: dict
    pool: str
    per_token = False  # whether there is a prediction for each token
    prenorm: bool
    pgc_residual: bool
    d_model: int
    d_input: int
    pgc_layers: nn.ModuleList
    s4_layers: nn.ModuleList
    norms: nn.ModuleList
    dropouts: nn.ModuleList
    decoder: nn.Module

    @property
    def looks_ahead(self) -> bool:
        """Whether outputs depend on tokens yet to come, so that there is no state to go on from."""
        return self.config["bidirectional"] or (len(self.pgc_layers) > 0 and not self.config["causal"])

    def initial_state(self, batch_size: int) -> LyraState:
        """The state before the first token.

        Raises:
            ValueError: the model is not causal.
        """
        if self.looks_ahead:
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
            state: from :meth:`initial_state` or the step or piece before.

        Returns:
            ``(B, d_output)``: what ``forward`` gives for the tokens up to this one, of a token classifier at this one;
            and the new state.

        Raises:
            ValueError, TypeError: a shape or a dtype does not fit.
        """
        if x.dim() not in (1, 2):
            raise ValueError(f"x must be token ids (B,) or features (B, {self.d_input}), got {tuple(x.shape)}")
        y, _, after = self._piece(x.unsqueeze(1), state)
        return (y if y.dim() == 2 else y.squeeze(1)), after

    def stream(
        self, pieces: Tensor | Iterable[Tensor], piece_length: int | None = None, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Predictions for sequences of any length, piece by piece, in memory for one piece; without gradients.

        Args:
            pieces: consecutive pieces of B sequences, each as ``forward`` takes it, of any lengths, 0 included; each is
                read when its predictions are asked for. Or one tensor with all tokens, which is cut.
            piece_length: tokens in each piece of one tensor but the last; None is 8,192.
            last_only: of one prediction per sequence, whether to give only that for all tokens, at the end.

        Returns:
            an iterator, with an item for each piece: ``(B, d_output)``, the prediction for the tokens so far, or of a
            token classifier ``(B, L, d_output)``, those for the tokens of the piece. End to end, or with ``last_only``,
            they are what ``forward`` gives for all tokens at once.

        Raises:
            ValueError, TypeError: the model is not causal, or an argument does not fit; while iterating, a piece does
                not.

        Example:
            >>> model = LyraForTokenClassification(d_input=5, d_output=2, causal=True).eval()
            >>> genome = torch.randint(5, (1, 100_000))
            >>> torch.cat(list(model.stream(genome)), 1).shape
            torch.Size([1, 100000, 2])
        """
        self.initial_state(0)  # says what keeps this model from it, before the first piece
        if checks.boolean("last_only", last_only) and self.per_token:
            raise ValueError("last_only must be False: a token classifier has a prediction for each token")
        if isinstance(pieces, Tensor):
            if pieces.dim() not in (2, 3):
                raise ValueError(
                    f"pieces must be token ids (B, L) or features (B, L, {self.d_input}), got {tuple(pieces.shape)}"
                )
            length = PIECE if piece_length is None else checks.positive_int("piece_length", piece_length)
            pieces = pieces.split(length, dim=1)
        elif piece_length is not None:
            raise ValueError("piece_length must be None where pieces are given: these are taken as they are")
        return self._stream(pieces, last_only)

    @torch.no_grad()
    def _stream(self, pieces: Iterable[Tensor], last_only: bool) -> Iterator[Tensor]:
        model: Any = self
        state, y = None, None
        for piece in pieces:
            y, state = model(piece, initial_state=state, return_final_state=True)
            if not last_only:
                yield y
        if last_only and y is not None:
            yield y

    def _forward_piece(
        self,
        x: Tensor,
        state: LyraState | None,
        lengths: Tensor | None,
        cu_seqlens: Tensor | None,
        return_embeddings: bool,
        return_final_state: bool,
    ) -> Tensor | tuple[Tensor, ...]:
        """``forward`` where a state is given or asked for."""
        if lengths is not None or cu_seqlens is not None:
            raise ValueError(
                "a state is one of sequences that are equally long: leave lengths and cu_seqlens out, and give "
                "sequences of other lengths in calls of their own"
            )
        y, embeddings, after = self._piece(x, state)
        out: list[Any] = [y]
        if return_embeddings:
            out.append(embeddings)
        if return_final_state:
            out.append(after)
        return tuple(out) if len(out) > 1 else y

    def _piece(self, x: Tensor, state: LyraState | None) -> tuple[Tensor, Tensor, LyraState]:
        """Prediction, embeddings and state after some tokens, ``x`` as ``forward`` takes it."""
        state = self.initial_state(x.shape[0]) if state is None else state
        h = self.encode(x)  # type: ignore[attr-defined]
        self._check_state(state, x.shape[0])
        pgc, s4 = [], []
        for layer, before in zip(self.pgc_layers, state.pgc, strict=True):
            y, kept = layer(h, initial_state=before, return_final_state=True)
            h = h + y if self.pgc_residual else y
            pgc.append(kept)
        for layer, norm, dropout, before in zip(self.s4_layers, self.norms, self.dropouts, state.s4, strict=True):
            y, kept = layer(norm(h) if self.prenorm else h, initial_state=before, return_final_state=True)
            h = h + dropout(y)
            if not self.prenorm:
                h = norm(h)
            s4.append(kept)
        after = LyraState(tuple(pgc), tuple(s4), self._pool_on(h, state), state.tokens + x.shape[1])
        return self._predict(h, after), h, after

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
        """What was pooled of the tokens before, and of these ``(B, L, d_model)``."""
        if h.shape[1] == 0:
            return state.pooled
        if self.pool == "mean":
            return state.pooled + h.sum(1, dtype=state.pooled.dtype)
        if self.pool == "max":
            return torch.maximum(state.pooled, h.amax(1))
        return torch.where(state.tokens == 0, h[:, 0], state.pooled)

    def _predict(self, h: Tensor, state: LyraState) -> Tensor:
        """From the embeddings of a piece and the state after it: the prediction for the sequence so far."""
        pooled = state.pooled / state.tokens.clamp(min=1) if self.pool == "mean" else state.pooled
        if self.pool == "max":  # of no tokens, as in pool()
            pooled = torch.where(state.tokens == 0, torch.zeros_like(pooled), pooled)
        return self.head(pooled.to(h.dtype))  # type: ignore[attr-defined]


def _as(layer: Any, kind: type) -> Any:
    if not hasattr(layer, "initial_state"):
        raise TypeError(f"{type(layer).__name__}, which stands in the place of a {kind.__name__}, has no initial_state")
    return layer
