"""The convolution of Hyena, H3 and their relatives, as their ``fftconv`` modules have it, for any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import fft_conv
from ._lags import add, check, sides


def fftconv(
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    dropout_mask: Tensor | None = None,
    gelu: bool = True,
    force_fp16_output: bool = False,
    k_rev: Tensor | None = None,
) -> Tensor:
    """``gelu(irfft(rfft(u, n=2L) (rfft(k, n=2L) + conj(rfft(k_rev, n=2L))))[..., :L] + D u) * dropout_mask``.

    Args:
        u: ``(B, H, L)``, computed in float32 at least, whatever it is stored in.
        k: ``(H, taps)``, tap j of which is lag j; k_rev: ``(H, taps)``, lag -j: both have one that multiplies the token
            itself. Taps beyond L come around from the other end, as in transforms of 2 L points.
        D: ``(H,)`` skip weights, or None.
        dropout_mask: ``(B, H)``, what a sequence's channels are multiplied by.
        gelu: whether there is one, the exact one, before the mask.
        force_fp16_output: return float16, whatever u is.

    Returns:
        ``(B, H, L)`` in ``u``'s dtype.

    Raises:
        ValueError: a shape is wrong; the message says which and what would be right.
    """
    check(u, k)
    if dropout_mask is not None and dropout_mask.shape != u.shape[:2]:
        raise ValueError(f"dropout_mask must have shape (B, H) = {tuple(u.shape[:2])}, not {tuple(dropout_mask.shape)}")
    length = u.shape[2]
    kernel: Tensor | None
    kernel, reverse = sides(k, length, 2 * length)
    if k_rev is not None:
        check(u, k_rev)
        back, around = sides(k_rev, length, 2 * length)
        reverse = add(reverse, back[:, 1:])
        kernel = add(kernel, back[:, :1] if around is None else torch.cat((back[:, :1], around), 1))
    assert kernel is not None
    wide = u.to(torch.promote_types(u.dtype, torch.float32)).transpose(1, 2)
    out = fft_conv(wide, kernel, reverse_kernel=reverse, D=D).transpose(1, 2)
    out = F.gelu(out) if gelu else out
    if dropout_mask is not None:
        out = out * dropout_mask.unsqueeze(-1)
    return out.to(torch.float16 if force_fp16_output else u.dtype)


def fftconv_ref(
    u: Tensor,
    k: Tensor,
    D: Tensor | None,
    dropout_mask: Tensor | None = None,
    gelu: bool = True,
    k_rev: Tensor | None = None,
) -> Tensor:
    """:func:`fftconv` with the arguments of their formula in plain PyTorch."""
    return fftconv(u, k, D, dropout_mask, gelu, k_rev=k_rev)
