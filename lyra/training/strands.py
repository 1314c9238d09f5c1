"""Training on either strand: reverse complements of some sequences, drawn on the device where a batch lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..alphabets import UNKNOWN, Alphabet
from ..data.batches import Batch


def other_letters(alphabet: Alphabet) -> Tensor:
    """(letters + 1,) int64: the token of each letter on the other strand, last that of an unknown one."""
    assert alphabet.complement is not None, "a protein has no other strand"
    return torch.from_numpy(np.append(alphabet.complement, UNKNOWN).astype(np.int64))


def turn_at_random(batch: Batch, complement: Tensor) -> Batch:
    """The batch with each sequence its reverse complement with probability 1/2, labels of residues turned with it.

    Nothing is read from the device, so that the step may be a CUDA graph, which draws anew each time.

    Args:
        complement: `other_letters`, on the batch's device.
    """
    tokens, targets = batch.tokens, batch.targets
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    ends = tokens.shape[1] if batch.lengths is None else batch.lengths.unsqueeze(-1)
    turned = torch.rand(len(tokens), 1, device=tokens.device) < 0.5
    turned = turned & (positions < ends)  # padding stays where it is
    at = torch.where(turned, ends - 1 - positions, positions)
    tokens = tokens.gather(1, at)
    tokens = torch.where(turned, complement[tokens], tokens)  # UNKNOWN counts from the end
    if targets is not None and targets.dim() == 2:
        targets = targets.gather(1, at)
    return replace(batch, tokens=tokens, targets=targets)
