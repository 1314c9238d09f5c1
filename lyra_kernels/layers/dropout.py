"""The dropout of whole channels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layout import compute_dtype


class ChannelDropout(nn.Dropout):
    """Zeroes channels of a sequence over its whole length, in training: ``(B, H, L)`` to the same.

    Each of the ``B * H`` channels is zeroed with probability ``p``, the others are multiplied by ``1 / (1 - p)``.
    """

    def forward(self, input: Tensor) -> Tensor:
        mask = self.mask(input.shape[0], input.shape[1], input)
        return input if mask is None else (input * mask.unsqueeze(-1)).to(input.dtype)

    def mask(self, sequences: int, channels: int, like: Tensor) -> Tensor | None:
        """What channels are multiplied by, ``(sequences, channels)``, beside activations; None for no dropout."""
        if not self.training or self.p == 0.0:
            return None
        return F.dropout(like.new_ones((sequences, channels), dtype=compute_dtype(like)), self.p)
