"""Layers whose tensors are made of one strand's half.

Channels come in two halves, [a, b]. The reverse complement of a sequence is to reverse a hidden state's positions and
swap its halves, as in Caduceus (Schiff et al. 2024, arXiv 2403.03234), after every layer. So a layer's parameters for b
follow from those for a: a matrix is [[A, B], [B, A]], a depthwise convolution has its taps reversed, a state space the
two directions exchanged, and a norm has one weight for both.

Only what is for a is a parameter, `half_weight` and so on. The whole tensors are attributes under the usual names, made
at each access, a few operations on parameters and none on activations. So the layers of `lyra_kernels` that such
modules are put into are as fast as ever, and stay what they are: fused ops, hooks, adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lyra_kernels.layers import PGC, S4D, RMSNorm, S4DKernel
from lyra_kernels.layers._children import plain_tensors
from lyra_kernels.layers.s4d import _PARAMETERS, _TAIL


def twice(half: Tensor, blocks: int = 1) -> Tensor:
    """Each of the blocks of a vector two times: (G n,) to (2 G n,)."""
    rows = half.view(blocks, -1)
    return torch.cat((rows, rows), dim=1).view(-1)


def symmetric(half: Tensor, blocks: int = 1) -> Tensor:
    """[[A, B], [B, A]] of each block [A, B] of rows: (G n, D) to (2 G n, D)."""
    rows = half.view(blocks, -1, 2, half.shape[1] // 2)
    return torch.stack((rows, rows.flip(2)), dim=1).reshape(-1, half.shape[1])


class Tied(nn.Module):
    """What the classes below have in common.

    Attributes:
        halved: the tensors that are made of a parameter of half their size, and the dimension that is halved.
        stands_for: the class whose `forward` this one has; see `lyra_kernels.layers._children`.
        blocks: how many blocks of [a, b] there are one after another in what the module gives.
    """

    halved: ClassVar[dict[str, int]] = {"weight": 0, "bias": 0}
    stands_for: ClassVar[type[nn.Module]]
    blocks = 1
    half_weight: Tensor
    half_bias: Tensor

    def reset_parameters(self) -> None:
        """Initial values as `torch.nn` gives them to the module with parameters of its own."""
        weight: Any = self.weight
        bound = weight[0].numel() ** -0.5
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)


class TiedLinear(Tied, nn.Linear):
    stands_for = nn.Linear

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return symmetric(self.half_weight, self.blocks)

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return twice(self.half_bias, self.blocks)


class TiedEncoder(TiedLinear):
    """The first layer: b reads the letters' complements. `complement` has that of each letter."""

    stands_for = nn.Linear
    complement: tuple[int, ...]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        letters = self.half_weight.unbind(1)
        return torch.cat((self.half_weight, torch.stack([letters[i] for i in self.complement], dim=1)))


class TiedDecoder(Tied, nn.Linear):
    """The last layer, which gives the same for [a, b] and [b, a]."""

    stands_for = nn.Linear
    halved = {"weight": 1}

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.cat((self.half_weight, self.half_weight), dim=1)


class TiedPointwise(Tied, nn.Conv1d):
    """A linear layer that is written as a convolution over one token."""

    stands_for = nn.Conv1d

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return symmetric(self.half_weight.squeeze(-1), self.blocks).unsqueeze(-1)

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return twice(self.half_bias, self.blocks)


class TiedDepthwise(Tied, nn.Conv1d):
    stands_for = nn.Conv1d

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.cat((self.half_weight, self.half_weight.flip(-1)))

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return twice(self.half_bias)


class TiedRMSNorm(Tied, RMSNorm):
    stands_for = RMSNorm
    halved = {"weight": 0}

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return twice(self.half_weight, self.blocks)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.half_weight)


class TiedS4DKernel(S4DKernel):
    """The state spaces of a's channels, `d_model` of them, which make those of b's.

    With K the kernel of each of the two C, `y_t = sum_{s<=t} K0_{t-s} u_s + sum_{s>=t} K1_{s-t} u_s + D u_t` in a, and
    with K0 and K1 exchanged in b. The ops begin the sum over s > t with K1_0, so they get K1 one lag on, by way of
    a C1 with a = exp(dt A), and what is missing at s = t is part of D.
    """

    stands_for = S4DKernel

    def _has_options(self) -> bool:
        return True  # the parameters are not the ops' arguments

    def both(self) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What a token sees of itself, (2, channels of a), K1_0 for a and K0_0 for b; and :meth:`spectrum`."""
        A = torch.complex(-self.log_A_real.exp(), self.A_imag)
        step = torch.expm1(self.log_dt.exp().unsqueeze(-1) * A)  # exp(dt A) - 1
        C = torch.view_as_complex(self.C)
        later = torch.view_as_real(torch.addcmul(C, C, step))
        at_lag_0 = 2.0 * torch.view_as_real(C * (step / A))[..., 0].sum(-1)
        spaces = (torch.cat((x, x)) for x in (self.log_dt, self.log_A_real, self.A_imag))
        weights = torch.stack((self.C.flatten(0, 1), later.flip(0).flatten(0, 1)))
        return at_lag_0.flip(0), (*spaces, weights)  # type: ignore[return-value]

    def spectrum(self, rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of the ops for both halves of the channels."""
        if rate != 1.0:
            raise ValueError(f"a layer for both strands has a rate of 1 only, got {rate}")
        return self.both()[1]


class TiedS4D(Tied, S4D):
    stands_for = S4D
    halved = {"D": 0}
    half_D: Tensor
    kernel: TiedS4DKernel
    reset_parameters = S4D.reset_parameters

    @property
    def D(self) -> Tensor:  # type: ignore[override]
        return self._skip(self.kernel.both()[0])

    def _skip(self, at_lag_0: Tensor) -> Tensor:
        return (self.half_D + at_lag_0).flatten()

    def _reset_own(self) -> None:
        if not self.half_D.is_meta:
            nn.init.normal_(self.half_D)

    def _plain_whole(self) -> list[Any] | None:
        tail = plain_tensors(self, _TAIL[1:])  # D apart: it has float32's bits where weights have 16
        if tail is None or plain_tensors(self, _PARAMETERS) is None:
            return None
        at_lag_0, spectrum = self.kernel.both()
        return [self._skip(at_lag_0), *tail, *spectrum]


def tie(module: nn.Module, kind: type[Tied], **settings: Any) -> None:
    """Makes of a module of `torch.nn` or of a layer its tied kind, whose parameters have no values yet."""
    whole = {name: module._parameters.pop(name) for name in kind.halved}
    module.__class__ = kind
    for name, value in settings.items():
        setattr(module, name, value)
    for name, parameter in whole.items():
        assert parameter is not None
        shape = list(parameter.shape)
        shape[kind.halved[name]] //= 2
        module.register_parameter(f"half_{name}", nn.Parameter(parameter.new_empty(shape)))


def tie_pgc(layer: PGC) -> None:
    """The x and the v of a PGC layer have two halves each."""
    tie(layer.in_proj, TiedLinear, blocks=2)
    tie(layer.in_norm, TiedRMSNorm, blocks=2)
    tie(layer.conv, TiedDepthwise)
    tie(layer.out_proj, TiedLinear)
    tie(layer.out_norm, TiedRMSNorm)


def tie_s4d(layer: S4D, lr: float | None) -> None:
    """Of a layer of both directions. What GLU takes has two halves for its values and two for its gates."""
    like = layer.kernel.C
    layer.kernel = TiedS4DKernel(
        layer.d_model // 2, layer.d_state, lr=lr, bidirectional=True, device=like.device, dtype=like.dtype
    )
    tie(layer, TiedS4D)
    tie(layer.output_linear[0], TiedPointwise, blocks=2)


def tie_ends(encoder: nn.Module, decoder: nn.Module, complement: Sequence[int]) -> None:
    """The encoder and the decoder of a model; `complement` has that of each letter."""
    tie(encoder, TiedEncoder, complement=tuple(complement))
    tie(decoder, TiedDecoder)
