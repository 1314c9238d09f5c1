"""A model for sequences of one length, which knows where in the sequence a letter stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lyra_kernels.layers import checks
from lyra_kernels.layers.initialisation import reset_descendants

from .lyra import Lyra
from .streaming import LyraState

SPREAD = 0.02  # standard deviation of the embeddings of positions at first, as in GPT-2 and BERT


class LyraByPosition(Lyra):
    """One prediction per sequence of ``length`` tokens: :class:`Lyra` with a learned embedding of each position.

    Convolutions, state spaces and pooling treat all positions alike, but for what is at a sequence's ends. Where all
    sequences are variants of one, as in a deep mutational scan, or are aligned, as splice sites are, the same letter
    means something else at each position: ``length * d_model`` more parameters, added to the letters' embeddings, say
    where each one stands.

    Args:
        d_input, options: as for :class:`Lyra`; the model cannot be causal.
        length: tokens of every sequence.

    Raises:
        ValueError: an argument is out of its range; the message names it.

    Example:
        >>> LyraByPosition(d_input=4, length=9)(torch.randint(4, (32, 9))).shape
        torch.Size([32, 1])
    """

    def __init__(self, d_input: int, *args: Any, length: int, **options: Any) -> None:
        if options.get("causal"):
            raise ValueError("causal must be False: a model of sequences of one length has no use for a state")
        super().__init__(d_input, *args, **options)
        self.length = checks.positive_int("length", length)
        self.config["length"] = self.length
        self.positions = nn.Embedding(
            self.length, self.d_model, device=options.get("device"), dtype=options.get("dtype")
        )
        self._narrow()

    def _narrow(self) -> None:
        with torch.no_grad():
            self.positions.weight.mul_(SPREAD)

    def reset_parameters(self) -> None:
        """Initial values for all parameters: those that the constructor gives with the same seed."""
        reset_descendants(self)
        self._narrow()

    def initial_state(self, batch_size: int) -> LyraState:
        """Raises ValueError: the model has no state."""
        raise ValueError("a model of sequences of one length has no state; give it the whole sequence")

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
            ValueError: the tokens are not ``length`` a sequence, come packed, or a state is asked for.
        """
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens: sequences of one length need no packing; give x as (B, L)")
        if initial_state is not None or return_final_state:
            self.initial_state(x.shape[0])
        return super().forward(x, return_embeddings, lengths=lengths)

    def encode(self, x: Tensor) -> Tensor:
        """The letters' embeddings and those of their positions; see :meth:`Lyra.encode`."""
        letters = super().encode(x)
        if letters.shape[1] != self.length:
            raise ValueError(
                f"x must have {self.length} tokens a sequence, as the model was built for, not {letters.shape[1]}"
            )
        return letters + self.positions.weight
