"""What the layers are measured against, each in the strongest form of its kind.

The published layers compute what theirs do, with the same parameters and the same operations in the same order, in
plain PyTorch. `RealS4D` is what a careful user makes of that for torch.compile, which has no complex arithmetic: the
kernel in real numbers, so that the compiler fuses exponential, sine, cosine and sum and nothing of size H x M x L is
kept. Attention is torch's own scaled-dot-product kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lyra_kernels as lk


class PublishedRMSNorm(nn.Module):
    def __init__(self, layer: lk.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = layer.weight, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class PublishedS4D(nn.Module):
    """The S4D layer as published, (B, L, H), sharing the parameters of ours."""

    def __init__(self, layer: lk.S4D) -> None:
        super().__init__()
        self.state_space = layer.kernel
        self.D, self.output_linear = layer.D, layer.output_linear

    def kernel(self, length: int) -> Tensor:
        return complex_kernel(*_parameters(self.state_space), length)

    def forward(self, u: Tensor) -> Tensor:
        u = u.transpose(-1, -2)
        length = u.shape[-1]
        kernel = self.kernel(length)
        spectrum = torch.fft.rfft(kernel, n=2 * length) * torch.fft.rfft(u.to(kernel.dtype), n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length].to(u.dtype) + u * self.D.unsqueeze(-1)
        return F.glu(self.output_linear[0](F.gelu(y)), dim=-2).transpose(-1, -2)


class RealS4D(PublishedS4D):
    """The same without complex numbers outside the FFT."""

    def kernel(self, length: int) -> Tensor:
        return lk.reference.s4d_kernel_real(*_parameters(self.state_space), length)


class S4DStep:
    """One token of an S4D layer in plain PyTorch, with all that can be worked out before the first token."""

    @torch.no_grad()
    def __init__(self, layer: lk.S4D) -> None:
        log_dt, log_A_real, A_imag, C = _parameters(layer.kernel)
        A = torch.complex(-torch.exp(log_A_real), A_imag)
        self.a = torch.exp(A * torch.exp(log_dt).unsqueeze(-1))
        self.c = 2 * torch.view_as_complex(C) * (self.a - 1) / A
        self.D, self.bias = layer.D, layer.output_linear[0].bias
        self.weight = layer.output_linear[0].weight.squeeze(-1)

    def __call__(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``u (B, H)`` and ``state (B, H, M, 2)``."""
        after = self.a * torch.view_as_complex(state) + u.unsqueeze(-1)
        y = F.gelu((self.c * after).sum(-1).real + self.D * u)
        return F.glu(F.linear(y, self.weight, self.bias), dim=-1), torch.view_as_real(after)


class ChannelsFirst(nn.Module):
    """A layer of (B, L, H), for (B, H, L)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor) -> Tensor:
        return self.layer(u.transpose(1, 2)).transpose(1, 2)


class PublishedPGC(nn.Module):
    """The PGC layer as published, sharing the parameters of ours."""

    def __init__(self, layer: lk.PGC) -> None:
        super().__init__()
        self.in_proj, self.conv, self.out_proj = layer.in_proj, layer.conv, layer.out_proj
        self.in_norm, self.out_norm = PublishedRMSNorm(layer.in_norm), PublishedRMSNorm(layer.out_norm)

    def forward(self, u: Tensor) -> Tensor:
        x, v = self.in_norm(self.in_proj(u)).chunk(2, dim=-1)
        x = F.conv1d(
            x.transpose(-1, -2), self.conv.weight, self.conv.bias, padding="same", groups=x.shape[-1]
        ).transpose(-1, -2)
        return self.out_norm(self.out_proj(v * x))


class PublishedLyra(nn.Module):
    """The model as published, with the parameters of ours."""

    def __init__(self, model: nn.Module, s4d: type[nn.Module] = PublishedS4D) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.pgc_layers = nn.ModuleList(PublishedPGC(layer) for layer in model.pgc_layers)
        self.s4_layers = nn.ModuleList(s4d(layer) for layer in model.s4_layers)
        self.norms = nn.ModuleList(PublishedRMSNorm(norm) for norm in model.norms)
        self.final_norm = PublishedRMSNorm(model.final_norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for layer in self.pgc_layers:
            x = x + layer(x)
        for layer, norm in zip(self.s4_layers, self.norms, strict=True):
            x = x + layer(norm(x))
        return self.decoder(self.final_norm(x.mean(dim=1)))


class Attention(nn.Module):
    """Multi-head self-attention with its projections."""

    def __init__(self, d_model: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, length, channels))


class Transformer(nn.Module):
    """A pre-norm transformer encoder of `depth` blocks: attention and a fourfold MLP."""

    def __init__(self, d_input: int, d_model: int, depth: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d_input, d_model), nn.Linear(d_model, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                (
                    nn.LayerNorm(d_model),
                    Attention(d_model),
                    nn.LayerNorm(d_model),
                    nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)),
                )
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for norm, attention, mlp_norm, mlp in self.blocks:
            x = x + attention(norm(x))
            x = x + mlp(mlp_norm(x))
        return self.decoder(x.mean(dim=1))


def complex_kernel(log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, length: int) -> Tensor:
    """The published formula of the S4D kernel: (H, length)."""
    dt = torch.exp(log_dt)
    A = -torch.exp(log_A_real) + 1j * A_imag
    dtA = A * dt.unsqueeze(-1)
    powers = dtA.unsqueeze(-1) * torch.arange(length, device=A.device)
    c = torch.view_as_complex(C) * (torch.exp(dtA) - 1.0) / A
    return 2 * torch.einsum("hn,hnl->hl", c, torch.exp(powers)).real


def fft_conv(u: Tensor, kernel: Tensor, D: Tensor) -> Tensor:
    """The published convolution: (B, L, H) with (H, L)."""
    length = u.shape[1]
    spectrum = torch.fft.rfft(u, n=2 * length, dim=1) * torch.fft.rfft(kernel, n=2 * length).t()
    return torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length] + D * u


def fft_conv_channels_first(x: Tensor, kernel: Tensor, D: Tensor) -> Tensor:
    """The same in the published layout: (B, H, L) with (H, taps)."""
    length = x.shape[-1]
    spectrum = torch.fft.rfft(x, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
    return torch.fft.irfft(spectrum, n=2 * length)[..., :length] + D.unsqueeze(-1) * x


def gated_fft_conv(x: Tensor, kernel: Tensor, D: Tensor, pregate: Tensor, postgate: Tensor) -> Tensor:
    """The published convolution between two gates, all (B, H, L)."""
    return postgate * fft_conv_channels_first(pregate * x, kernel, D)


def s4d_conv(
    u: Tensor, log_dt: Tensor, log_A_real: Tensor, A_imag: Tensor, C: Tensor, D: Tensor, kernel=complex_kernel
) -> Tensor:
    """The published S4D convolution, (B, L, H); `kernel` is the formula of its kernel."""
    return fft_conv(u, kernel(log_dt, log_A_real, A_imag, C, u.shape[1]), D)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-8) -> Tensor:
    """RMSNorm over the last dimension."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def gated_conv(xv: Tensor, weight: Tensor, bias: Tensor, norm: Tensor) -> Tensor:
    """RMSNorm of (B, L, 2 H), then one half gates the depthwise convolution of the other: (B, L, H)."""
    x, v = rms_norm(xv, norm).chunk(2, dim=-1)
    x = F.conv1d(x.transpose(-1, -2), weight, bias, padding="same", groups=x.shape[-1])
    return v * x.transpose(-1, -2)


def short_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A short causal depthwise convolution and SiLU, (B, H, L), as it is written without a kernel for it."""
    width = weight.shape[1]
    y = F.conv1d(x, weight.unsqueeze(1), bias, padding=width - 1, groups=x.shape[1])
    return F.silu(y[..., : x.shape[2]])


def pgc(
    u: Tensor, in_weight: Tensor, in_bias: Tensor, in_norm: Tensor, weight: Tensor, bias: Tensor,
    out_weight: Tensor, out_bias: Tensor, out_norm: Tensor,
) -> Tensor:  # fmt: skip
    """The PGC block, (B, L, H)."""
    gated = gated_conv(F.linear(u, in_weight, in_bias), weight, bias, in_norm)
    return rms_norm(F.linear(gated, out_weight, out_bias), out_norm)


def gelu_glu(y: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """The tail of the S4D layer, (B, L, H)."""
    out = F.glu(F.linear(F.gelu(y), weight, bias), dim=-1)
    return out if residual is None else out + residual


def _parameters(layer: lk.S4DKernel) -> tuple[Tensor, ...]:
    return layer.log_dt, layer.log_A_real, layer.A_imag, layer.C
