"""The layers as the published ones compute: by calling their children. What no fast path may differ from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lyra_kernels as lk
from lyra import Lyra
from lyra_kernels._torch import has_hooks


def pgc(layer: lk.PGC, u: Tensor) -> Tensor:
    """(B, L, d_model) to the same."""
    x, v = layer.in_norm(layer.in_proj(u)).chunk(2, -1)
    z = v * layer.conv(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2)
    return layer.dropout(layer.out_norm(layer.out_proj(z)))


def s4d(layer: lk.S4D, u: Tensor) -> Tensor:
    """(B, L, H) to the same, or (B, H, L) where the layer is transposed; in one direction."""
    u = u if layer.transposed else u.transpose(1, 2)
    length = u.shape[-1]
    kernel, n = layer.kernel(length), 2 * length
    y = torch.fft.irfft(torch.fft.rfft(kernel.to(u.dtype), n=n) * torch.fft.rfft(u, n=n), n=n)[..., :length]
    y = layer.output_linear(layer.dropout(layer.activation(y + layer.D.unsqueeze(-1) * u)))
    return y if layer.transposed else y.transpose(1, 2)


def lyra(model: Lyra, x: Tensor) -> Tensor:
    """Features (B, L, d_input) to (B, d_output), of a model with the defaults."""
    x = model.encoder(x)
    for layer in model.pgc_layers:
        x = x + _called(layer, x)
    for layer, norm, dropout in zip(model.s4_layers, model.norms, model.dropouts, strict=True):
        x = x + dropout(_called(layer, norm(x)))
    return model.decoder(model.final_dropout(model.final_norm(x.mean(1))))


def _called(layer: nn.Module, x: Tensor) -> Tensor:
    """Written out where nobody looks at the layer itself."""
    return layer(x) if has_hooks(layer) or type(layer) not in (lk.PGC, lk.S4D) else written_out(layer, x)


def written_out(layer: nn.Module, u: Tensor) -> Tensor:
    """Whichever it is."""
    return {lk.PGC: pgc, lk.S4D: s4d, Lyra: lyra}[type(layer)](layer, u)
