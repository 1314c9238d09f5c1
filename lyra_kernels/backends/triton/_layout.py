"""Where sequences lie: what the kernels read instead of asking the host."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_of_token(cu_seqlens: Tensor | None, tokens: int) -> Tensor | None:
    """``(tokens,)`` int32, the number of the packed sequence that each token belongs to; None if not packed."""
    if cu_seqlens is None:
        return None
    token = torch.arange(tokens, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True).to(torch.int32)
