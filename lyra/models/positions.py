"""A model for sequences of one length, in which every position has weights of its own at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lyra_kernels.layers import checks
from lyra_kernels.layers.initialisation import reset_descendants

from .lyra import Lyra, _fill_padding, _layout
from .pooling import pool
from .streaming import LyraState


class LyraByPosition(Lyra):
    """One prediction per sequence of ``length`` tokens: :class:`Lyra`, and beside its pooling a readout by position.

    Pooling forgets where in the sequence a feature was found. Where all sequences are variants of one, as in a deep
    mutational scan, or are aligned, as splice sites are, that is what matters most: the readout is a linear map of all
    tokens' embeddings together, ``length * d_model`` weights for each output, which is added to the pooled prediction.

    Args:
        d_input, options: as for :class:`Lyra`, but that there is no state: the model is not causal.
        length: tokens of every sequence.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> LyraByPosition(d_input=4, length=9)(torch.randint(4, (32, 9))).shape
        torch.Size([32, 1])
    """

    def __init__(self, d_input: int, *args: Any, length: int, **options: Any) -> None:
        if options.get("causal"):
            raise ValueError("causal must be False: the readout needs the whole sequence")
        device, dtype = options.get("device"), options.get("dtype")
        super().__init__(d_input, *args, **options)
        self.length = checks.positive_int("length", length)
        self.config["length"] = self.length
        self.readout = nn.Linear(self.length * self.d_model, self.d_output, bias=False, device=device, dtype=dtype)
        self._start_at_nothing()

    def _start_at_nothing(self) -> None:
        nn.init.zeros_(self.readout.weight)  # at first the pooled prediction alone, as without it

    def reset_parameters(self) -> None:
        """Initial values for all parameters: those that the constructor gives with the same seed."""
        reset_descendants(self)
        self._start_at_nothing()

    def initial_state(self, batch_size: int) -> LyraState:
        """Raises ValueError: there is no prediction before the sequence is whole."""
        raise ValueError("a model with a readout by position has no state: it needs the whole sequence")

    def forward(
        self,
        x: Tensor,
        return_embeddings: bool = False,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        initial_state: LyraState | None = None,
        return_final_state: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Predict; arguments and errors are those of :meth:`Lyra.forward`.

        Raises:
            ValueError: the tokens are not ``length`` a sequence, or come packed.
        """
        lengths, cu_seqlens = _layout(x, lengths, cu_seqlens)
        if initial_state is not None or return_final_state:
            self.initial_state(x.shape[0])
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens: sequences of one length need no packing; give x as (B, L)")
        if x.shape[1] != self.length:
            raise ValueError(f"x must have {self.length} tokens a sequence, as the model was built for, got {x.shape[1]}")
        embeddings = self.embed(x, lengths, None)
        if lengths is not None:
            embeddings = _fill_padding(embeddings, lengths)
        out = self.head(pool(embeddings, self.pool, lengths)) + self.readout(embeddings.flatten(1))
        return (out, embeddings) if return_embeddings else out
