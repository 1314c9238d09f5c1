"""What the models of sequences of one length have in common: tokens or one-hot features in, the target's units out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROWS = 4096  # predicted for at once, so that memory does not follow the number of sequences


def parameter(*shape: int) -> nn.Parameter:
    """Zeros in float64, which a fit fills; they are found in closed form or by its own optimizer."""
    return nn.Parameter(torch.zeros(shape, dtype=torch.float64), requires_grad=False)


class PositionModel(nn.Module):
    """A model with a table of numbers for each letter at each position of sequences of one length.

    It is called with tokens (B, L) of any integer type, -1 for an unknown residue, or with one-hot features
    (B, L, letters), in which it can be differentiated; an unknown residue has zeros there. Positions at or behind
    `lengths` (B,) count as unknown. It returns predictions (B, 1) in the target's own units, in float64.

    Attributes:
        config: arguments that make the same module again, for its state_dict to be loaded into.
    """

    def __init__(self, length: int, letters: int, penalty: float | None = None) -> None:
        """
        Args:
            length: of every sequence; letters: how many tokens there are.
            penalty: that the fit chose, for people.
        """
        super().__init__()
        self.length, self.letters, self.penalty = length, letters, penalty
        self.weights = parameter(length, letters)
        self.intercept = parameter()

    @property
    def config(self) -> dict[str, Any]:
        return {"length": self.length, "letters": self.letters, "penalty": self.penalty}

    def entries(self, x: Tensor, table: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, L, R) the entries of a table (L, letters, R) at each position.

        Raises:
            ValueError: the sequences have another length than the table.
        """
        if x.shape[1] != self.length:
            raise ValueError(f"sequences have {x.shape[1]} positions, the model is of {self.length}")
        positions = torch.arange(self.length, device=x.device)
        inside = None if lengths is None else positions < lengths[:, None]
        if x.dim() == 3:
            found = torch.einsum("bla,lar->blr", x.to(table.dtype), table)
        else:
            known = x >= 0
            inside = known if inside is None else inside & known
            found = table[positions, x.long().clamp(min=0)]
        return found if inside is None else found * inside[..., None]

    def latent(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, 1) the intercept and the sum over positions of weight[position, letter]."""
        return self.entries(x, self.weights[..., None], lengths).sum(1) + self.intercept

    @torch.no_grad()
    def predict(self, tokens: np.ndarray) -> np.ndarray:
        """(N, L) tokens -> (N,) predictions."""
        device = self.weights.device
        batches = (torch.from_numpy(tokens[start : start + ROWS]) for start in range(0, len(tokens), ROWS))
        found = [self(batch.to(device))[:, 0].cpu().numpy() for batch in batches]
        return np.concatenate(found) if found else np.zeros(0)


class Saturating(PositionModel):
    """A `PositionModel` whose latent quantity is seen through low + (high - low) * sigmoid(latent)."""

    def __init__(self, length: int, letters: int, penalty: float | None = None) -> None:
        super().__init__(length, letters, penalty)
        self.low, self.high = parameter(), parameter()

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(self.latent(x, lengths))
