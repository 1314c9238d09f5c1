"""The diagonal kernel of state-spaces/s4 by its arguments and checkpoints: :class:`lyra_kernels.S4DKernel` beneath."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..layers import S4DKernel
from ..layers.s4d_kernel import PerParameter

_INITS = {"linear": "lin", "inverse": "inv", "inverse2": "inv2", "quadratic": "quad", "random": "rand", "hippo": "legs"}


class SSMKernelDiag(S4DKernel):
    """:class:`lyra_kernels.S4DKernel` with upstream's arguments and defaults, which loads upstream's checkpoints.

    Upstream's ``B`` is part of ``C`` here: only their product is in the kernel. ``C`` has a learning rate of its own if
    ``lr`` is a number, as there.

    Args:
        d_state: states per channel, even. channels: outputs of each channel.
        init: "diag-lin" and the like, "diag" (one half "inv", one "lin"), "legs", or what S4DKernel takes.
        lr, wd: a number or None for all, or a mapping by "dt", "A" and "C".
        verbose, backend: change no number, and are not looked at.
        Others: as of :class:`lyra_kernels.S4DKernel`.

    Raises:
        ValueError: an argument is out of its range, or an option of upstream's that there is not.
    """

    def __init__(
        self,
        d_model: int,
        channels: int = 1,
        l_max: int | None = None,
        lr: PerParameter = None,
        wd: PerParameter = 0.0,
        verbose: bool = True,
        d_state: int = 64,
        deterministic: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        init: str = "legs",
        backend: str = "cuda",
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        for name, usual in {"rank": 1, "measure": None, "is_real": False}.items():
            if options.pop(name, usual) != usual:
                raise ValueError(f"{name} of state-spaces/s4 is not there: leave it at {usual}")
        known = ("disc", "dt_tie", "dt_fast", "n_ssm", "dt_transform", "real_transform", "imag_transform", "bandlimit")
        unknown = [name for name in options if name not in (*known, "device", "dtype")]
        if unknown:
            raise ValueError(f"{unknown[0]} is no option of this SSMKernelDiag: see docs/migration/s4.md")
        for values in (lr, wd):
            if isinstance(values, Mapping) and "B" in values:
                raise ValueError(
                    "B is part of C here and has no learning rate or weight decay of its own: leave it out"
                )
        rates = lr if lr is None or isinstance(lr, Mapping) else dict.fromkeys(("dt", "A", "C"), lr)
        super().__init__(
            d_model,
            d_state,
            dt_min,
            dt_max,
            rates,
            bidirectional,
            init=_native_init(init),
            channels=channels,
            l_max=l_max,
            wd=wd,
            deterministic=deterministic,
            **options,
        )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        if f"{prefix}inv_dt" in state_dict:
            if f"{prefix}P" in state_dict:
                errors.append(f"{prefix}P is of S4 with a low-rank term, which no diagonal state space is equal to")
            self._translate(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _translate(self, state: dict[str, Any], prefix: str) -> None:
        """Upstream's entries to ours: eigenvalues are conjugated there, and ``B`` is a factor of ``C``."""
        inv_dt = state.pop(f"{prefix}inv_dt")
        state[f"{prefix}log_dt"] = inv_dt[:, 0] if self.dt_tie and inv_dt.shape[1:] == (1,) else inv_dt
        if f"{prefix}A_real" in state:
            state[f"{prefix}log_A_real"] = state.pop(f"{prefix}A_real")
        B, C = state.pop(f"{prefix}B", None), state.get(f"{prefix}C")
        if B is None or C is None:
            return
        B, C = (torch.view_as_complex(x.float() if x.itemsize < 4 else x) for x in (B, C))
        product = torch.view_as_real((B.repeat(1, C.shape[1] // B.shape[1], 1) * C).conj().resolve_conj())
        state[f"{prefix}C"] = product.reshape(self.C.shape) if product.numel() == self.C.numel() else product


class Recurrence(NamedTuple):
    """A kernel ready for single steps ``s' = a s + x``, ``y = Re c s'``.

    Attributes:
        a: ``(H, M)`` complex. weight: ``(H, 2 M, outputs)``, real and imaginary part of the conjugate of ``c`` in turn.
        parameters: copies of what they were made of. Versions of tensors would not tell of changes by ``.data``.
        options: those of the kernel at that time.
    """

    a: Tensor
    weight: Tensor
    parameters: list[Tensor]
    options: tuple[Any, ...]

    @classmethod
    def of(cls, kernel: SSMKernelDiag, parameters: list[Tensor]) -> Recurrence:
        spectrum = [x.double() for x in kernel.spectrum()]
        exponent, c = reference.s4d.discretize(*spectrum)
        dtype = parameters[0].dtype
        weight = torch.view_as_real(c.conj().resolve_conj()).reshape(-1, c.shape[-2], 2 * c.shape[-1])
        weight = weight.permute(1, 2, 0).to(dtype).contiguous()
        copies = [x.detach().clone() for x in parameters]
        return cls(exponent.exp().to(dtype.to_complex()), weight, copies, kernel.options())

    def is_of(self, kernel: SSMKernelDiag, parameters: list[Tensor]) -> bool:
        return self.options == kernel.options() and all(
            x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(self.parameters, parameters, strict=True)
        )

    def step(self, x: Tensor, state: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        """``x (B, H)`` and ``state (B, H, M)`` to ``(B, outputs, H)`` and the state after it."""
        state = self.a * state + x.unsqueeze(-1)
        y = torch.bmm(torch.view_as_real(state).flatten(-2).transpose(0, 1), self.weight).permute(1, 2, 0)
        return y + D * x.unsqueeze(1), state


def _native_init(init: Any) -> Any:
    if init == "diag":
        return "inv", "lin"
    if init == "hippo":
        raise ValueError("init='hippo' is half 'legs' and half Fourier, which is not there: take 'legs' or 'diag'")
    name = init.removeprefix("diag-") if isinstance(init, str) else init
    return _INITS.get(name, name) if isinstance(name, str) else name
