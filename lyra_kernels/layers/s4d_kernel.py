"""The state space of S4D as a module: its parameters and the convolution kernel that they make."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .checks import boolean, even_int, floating_dtype, learning_rate, positive_float, positive_int
from .initialisation import take_back
from .parameters import parameters_behind
from .precision import keeping_float32, widen_entries, widened


class S4DKernel(nn.Module):
    """The parameters of S4D's state space, and the convolution kernel they make.

    At first ``dt`` is spread evenly in log space between ``dt_min`` and ``dt_max``, the eigenvalues are
    ``A_n = -1/2 + i pi n`` (S4D-Lin) and ``C`` is complex normal.

    Its parameters stay in float32, with their values, where a model gets a dtype of 16 bits, by ``bfloat16()``,
    ``half()``, ``to``, ``dtype=``, the default dtype or a state_dict: in bfloat16 no step of an optimizer would move
    them. The ops take them beside 16-bit activations. FSDP's mixed precision casts copies of them, of which the ops
    warn: shard the kernel on its own, without it, ``fully_shard(layer.kernel)`` before
    ``fully_shard(layer, mp_policy=MixedPrecisionPolicy(torch.bfloat16))``.

    Args:
        d_model: channels ``H``.
        d_state: states per channel, even: ``d_state / 2`` complex conjugate pairs.
        dt_min, dt_max: range of the time step at first.
        lr: learning rate of ``log_dt``, ``log_A_real`` and ``A_imag``, left on each as the attribute
            ``_optim`` together with a weight decay of 0 (see :meth:`parameter_options`). 0 makes them
            buffers; None leaves the optimizer's learning rate.
        bidirectional: whether there is a second ``C``, for the tokens to the right.
        N: upstream's name of ``d_state``.
        device, dtype: of the parameters, as in :mod:`torch.nn`; float32 for a dtype of 16 bits.

    Parameters:
        ``log_dt (H,)``, ``log_A_real (H, d_state / 2)``, ``A_imag (H, d_state / 2)`` and
        ``C (H, d_state / 2, 2)``, real and imaginary part last, or ``(2, H, d_state / 2, 2)`` if
        bidirectional.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    log_dt: Tensor
    log_A_real: Tensor
    A_imag: Tensor
    C: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: float | None = None,
        bidirectional: bool = False,
        *,
        N: int | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = positive_int("d_model", d_model)
        self.d_state = even_int("d_state" if N is None else "N", d_state if N is None else N)
        self.bidirectional = boolean("bidirectional", bidirectional)
        self.lr = learning_rate("lr", lr)
        dt_min, dt_max = positive_float("dt_min", dt_min), positive_float("dt_max", dt_max)
        if dt_min > dt_max:
            raise ValueError(f"dt_min must not exceed dt_max, got {dt_min} and {dt_max}")
        self.dt_min, self.dt_max = dt_min, dt_max

        modes = self.d_state // 2
        factory: dict[str, Any] = {"device": device, "dtype": widened(floating_dtype("dtype", dtype))}
        directions = (2,) if bidirectional else ()
        self.C = nn.Parameter(torch.empty(*directions, self.d_model, modes, 2, **factory))
        self._register("log_dt", torch.empty(self.d_model, **factory))
        self._register("log_A_real", torch.empty(self.d_model, modes, **factory))
        self._register("A_imag", torch.empty(self.d_model, modes, **factory))
        self._mark_parameters()
        self.register_load_state_dict_post_hook(_mark)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values for the parameters: those that the constructor gives with the same seed.

        Raises:
            RuntimeError: a parameter is parametrized or pruned, so that it has no values of its own.
        """
        C, log_dt, log_A_real, A_imag = (self._own(name) for name in ("C", "log_dt", "log_A_real", "A_imag"))
        if C.is_meta:
            return  # nothing to be done, for which torch would import all its decompositions, for seconds
        take_back(self)
        C.normal_(std=math.sqrt(0.5))
        log_dt.uniform_(math.log(self.dt_min), math.log(self.dt_max))
        log_A_real.fill_(math.log(0.5))
        # Counted by what DTensors can do: an arange would be no DTensor.
        order = torch.ones_like(A_imag, dtype=torch.int64).cumsum(-1) - 1
        A_imag.copy_(order.to(A_imag.dtype) * math.pi)

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """What each parameter asks of an optimizer, by name: options of its parameter group, such as ``lr``.

        :func:`lyra.parameter_groups` asks every module that has such a method.
        """
        options = {"weight_decay": 0.0} if self.lr is None else {"weight_decay": 0.0, "lr": self.lr}
        return {name: dict(options) for name in ("log_dt", "log_A_real", "A_imag")}

    def _own(self, name: str) -> Tensor:
        value = {**self._buffers, **self._parameters}.get(name)
        if value is None:
            raise RuntimeError(
                f"cannot reset {name}: it is parametrized, pruned or flattened, and has no values of its own; reset it "
                "before that"
            )
        return value

    def _register(self, name: str, value: Tensor) -> None:
        if self.lr == 0.0:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    def _mark_parameters(self) -> None:
        """Leave ``_optim`` on the state space's parameters, where upstream's training loops look for it."""
        for name, options in self.parameter_options().items():
            for parameter in parameters_behind(self, name) or ():
                parameter._optim = dict(options)  # type: ignore[attr-defined]

    # Copying, unpickling, moving and loading may all make new Parameter objects without our attribute.
    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._mark_parameters()

    def _apply(self, fn, recurse: bool = True):
        module = super()._apply(keeping_float32(fn), recurse)  # children too: parametrizations hold the parameters
        self._mark_parameters()
        return module

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        widen_entries(state_dict, prefix)  # with assign=True they become the parameters
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, L: int) -> Tensor:
        """The kernel of the first ``L`` lags: ``(H, L)``, or ``(2, H, L)`` if bidirectional."""
        spectrum = (self.log_dt, self.log_A_real, self.A_imag)
        if not self.bidirectional:
            return ops.s4d_kernel(*spectrum, self.C, L)
        return torch.stack([ops.s4d_kernel(*spectrum, C, L) for C in self.C])

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}, lr={self.lr}, bidirectional={self.bidirectional}"


def _mark(kernel: S4DKernel, _: Any) -> None:
    """After a state_dict was loaded, the parts of parametrized parameters as well."""
    kernel._mark_parameters()
