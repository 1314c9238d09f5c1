"""The state space of S4D as a module: its parameters and the convolution kernel that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from .. import ops
from . import s4d_initial, s4d_transforms
from .checks import (
    boolean,
    by_parameter,
    choice,
    even_int,
    floating_dtype,
    learning_rate,
    positive_float,
    positive_int,
)
from .initialisation import take_back
from .parameters import parameters_behind
from .precision import keeping_float32, widen_entries, widened
from .s4d_transforms import DISCRETIZATIONS, TRANSFORMS

_KEYS = {"log_dt": "dt", "log_A_real": "A", "A_imag": "A", "C": "C"}
"""The parameters, and by what key a mapping of learning rates or weight decays has theirs."""
_DEFAULTS = {"disc": "zoh", "dt_tie": True, "dt_fast": False, "channels": 1, "dt_transform": "exp",
             "real_transform": "exp", "imag_transform": "none", "bandlimit": None, "l_max": None}  # fmt: skip
"""The options, but for n_ssm, with which the op takes the parameters as they are."""
PerParameter = float | Mapping[str, float | None] | None


class KernelOptions(TypedDict, total=False):
    """The keyword-only options of :class:`S4DKernel`, which layers hand on to it."""

    N: int | None
    init: str | Sequence[str]
    deterministic: bool
    wd: PerParameter
    disc: str
    dt_tie: bool
    dt_fast: bool
    n_ssm: int | None
    channels: int
    dt_transform: str
    real_transform: str
    imag_transform: str
    bandlimit: float | None
    l_max: int | None


class S4DKernel(nn.Module):
    """The parameters of S4D's state space, and the convolution kernel they make.

    At first ``dt`` is spread evenly in log space between ``dt_min`` and ``dt_max``, the eigenvalues are those that
    ``init`` names and ``C`` is complex normal.

    With the options from ``disc`` to ``l_max`` at their defaults the parameters are the op's own arguments; otherwise
    :meth:`spectrum` makes these of them, O(H N) of arithmetic, and all else is as fast. The names of the parameters
    stay: a state_dict fits wherever shapes do.

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
            buffers; None leaves the optimizer's learning rate. A mapping may have a rate for each of "dt", "A" and "C".
        bidirectional: whether there is a second ``C``, for the tokens to the right.
        N: upstream's name of ``d_state``.
        init: where eigenvalues ``-real + i imag`` of modes ``n`` start: "lin" at ``-1/2 + i pi n``, "inv" at
            ``-1/2 + i N/pi (N/(2n + 1) - 1)``, "inv2" at ``-1/2 + i N/pi (N/(n + 1) - 1)``, "quad" at
            ``-1/2 + i (2n + 1)^2 / pi``, "real" at ``-(n + 1)``, "rand" at ``-1/2 + i exp(normal)``, "legs" at those of
            HiPPO-LegS, with its input weights in ``C``. Several names have an equal share of the channels each.
        deterministic: ``dt`` in equal steps in log space, and the same ``C`` for all channels.
        wd: weight decay, like ``lr``, of the same parameters. None leaves the optimizer's.
        disc: "zoh", a hold of order zero, or "bilinear".
        dt_tie: whether a channel's modes have one ``dt``.
        dt_fast: whether ``dt`` is the transform of ``sinh(log_dt)``.
        n_ssm: how many sets of eigenvalues there are, which channels take in turn: channel h has set ``h mod n_ssm``.
            It divides ``d_model``, which it is if None.
        channels: outputs of each channel, each with its own ``C``.
        dt_transform, real_transform, imag_transform: what makes ``dt`` of ``log_dt``, the real parts, with the sign
            changed, of ``log_A_real``, and the imaginary parts of ``A_imag``: "exp", "softplus", "relu" (plus 1e-4),
            "sigmoid" or "none". With "none" a ``dt`` or real part that training takes to 0 or below gives NaN.
        bandlimit: leave out modes of ``bandlimit / 2`` periods a token and more: 1 leaves out all that would alias.
        l_max: number of taps after which the kernel ends, at a ``rate`` of 1; None for no end.
        device, dtype: of the parameters, as in :mod:`torch.nn`; float32 for a dtype of 16 bits.

    Parameters:
        ``log_dt (H,)``, ``(H, d_state / 2)`` without ``dt_tie``; ``log_A_real`` and ``A_imag (n_ssm, d_state / 2)``;
        ``C (H, d_state / 2, 2)``, real and imaginary part last, with ``channels`` in front if there are several, and
        with 2 in front of all if bidirectional.

    Raises:
        ValueError: an argument is out of its range; the message names it.
    """

    log_dt: Tensor
    log_A_real: Tensor
    A_imag: Tensor
    C: Tensor
    transformed: bool

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr: PerParameter = None,
        bidirectional: bool = False,
        *,
        N: int | None = None,
        init: str | Sequence[str] = "lin",
        deterministic: bool = False,
        wd: PerParameter = 0.0,
        disc: str = "zoh",
        dt_tie: bool = True,
        dt_fast: bool = False,
        n_ssm: int | None = None,
        channels: int = 1,
        dt_transform: str = "exp",
        real_transform: str = "exp",
        imag_transform: str = "none",
        bandlimit: float | None = None,
        l_max: int | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = positive_int("d_model", d_model)
        self.d_state = even_int("d_state" if N is None else "N", d_state if N is None else N)
        self.bidirectional = boolean("bidirectional", bidirectional)
        self.lr, self.wd = lr, wd
        _by_key("lr", lr), _by_key("wd", wd)
        dt_min, dt_max = positive_float("dt_min", dt_min), positive_float("dt_max", dt_max)
        if dt_min > dt_max:
            raise ValueError(f"dt_min must not exceed dt_max, got {dt_min} and {dt_max}")
        self.dt_min, self.dt_max = dt_min, dt_max
        self.deterministic = boolean("deterministic", deterministic)
        self.disc = choice("disc", disc, DISCRETIZATIONS)
        self.dt_tie, self.dt_fast = boolean("dt_tie", dt_tie), boolean("dt_fast", dt_fast)
        self.n_ssm = self.d_model if n_ssm is None else positive_int("n_ssm", n_ssm)
        if self.d_model % self.n_ssm:
            raise ValueError(f"n_ssm must divide d_model, got {n_ssm} and {d_model}")
        self.init = s4d_initial.checked_init(init, self.n_ssm)
        self.channels = positive_int("channels", channels)
        self.dt_transform = choice("dt_transform", dt_transform, TRANSFORMS)
        self.real_transform = choice("real_transform", real_transform, TRANSFORMS)
        self.imag_transform = choice("imag_transform", imag_transform, TRANSFORMS)
        self.bandlimit = None if bandlimit is None else positive_float("bandlimit", bandlimit)
        self.l_max = None if l_max is None else positive_int("l_max", l_max)
        self.transformed = self._has_options()

        modes = self.d_state // 2
        factory: dict[str, Any] = {"device": device, "dtype": widened(floating_dtype("dtype", dtype))}
        several = (2,) * bidirectional + (self.channels,) * (self.channels > 1)
        self._register("C", torch.empty(*several, self.d_model, modes, 2, **factory))
        self._register("log_dt", torch.empty(self.d_model, *(() if dt_tie else (modes,)), **factory))
        self._register("log_A_real", torch.empty(self.n_ssm, modes, **factory))
        self._register("A_imag", torch.empty(self.n_ssm, modes, **factory))
        self._mark_parameters()
        self.register_load_state_dict_post_hook(_mark)
        self.reset_parameters()

    def options(self) -> tuple[Any, ...]:
        """What stands between the parameters and the arguments of the ops."""
        return tuple(getattr(self, name) for name in _DEFAULTS)

    def _has_options(self) -> bool:
        """Whether the op must not be given the parameters as they are; layers ask before they read them."""
        return self.n_ssm != self.d_model or self.options() != tuple(_DEFAULTS.values())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _DEFAULTS and "transformed" in self.__dict__:  # an option that is changed later
            self.transformed = self._has_options()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values for the parameters: those that the constructor gives with the same seed.

        Raises:
            RuntimeError: a parameter is parametrized or pruned, so that it has no values of its own.
            ValueError: a transform cannot give the initial values.
        """
        C, log_dt, log_A_real, A_imag = (self._own(name) for name in ("C", "log_dt", "log_A_real", "A_imag"))
        if C.is_meta:
            return  # nothing to be done, for which torch would import all its decompositions, for seconds
        take_back(self)
        s4d_initial.fill_output_weights(C, self.init, self.d_state, self.n_ssm, self.deterministic)
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        if self.deterministic:
            steps = s4d_initial.evenly(low, high, log_dt)
            log_dt.copy_(steps)
        else:
            log_dt.uniform_(low, high)
        if self.dt_transform != "exp":
            log_dt.copy_(s4d_transforms.parameter_of(log_dt.exp(), self.dt_transform, "dt"))
        if self.dt_fast:
            log_dt.asinh_()
        real, imag = s4d_initial.eigenvalues(self.init, self.d_state, A_imag)
        log_A_real.copy_(s4d_transforms.parameter_of(real, self.real_transform, "the real part"))
        if self.imag_transform != "none":  # where 0 may stay
            imag = s4d_transforms.parameter_of(imag, self.imag_transform, "the imaginary part")
        A_imag.copy_(imag)

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """What each parameter asks of an optimizer, by name: options of its parameter group, such as ``lr``.

        :func:`lyra.parameter_groups` asks every module that has such a method.
        """
        decays, rates = _by_key("wd", self.wd), _by_key("lr", self.lr)
        asked = {name: {"weight_decay": decays[key], "lr": rates[key]} for name, key in _KEYS.items()}
        given = {name: {k: v for k, v in options.items() if v is not None} for name, options in asked.items()}
        return {name: options for name, options in given.items() if options}

    def _own(self, name: str) -> Tensor:
        value = {**self._buffers, **self._parameters}.get(name)
        if value is None:
            raise RuntimeError(
                f"cannot reset {name}: it is parametrized, pruned or flattened, and has no values of its own; reset it "
                "before that"
            )
        return value

    def _register(self, name: str, value: Tensor) -> None:
        if _by_key("lr", self.lr)[_KEYS[name]] == 0.0:
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
        options = {**_DEFAULTS, "wd": 0.0, "init": ("lin",), "deterministic": False, "n_ssm": self.d_model}
        for name, usual in options.items():
            self.__dict__.setdefault(name, usual)  # of a kernel that was pickled before it had options
        self.transformed = self._has_options()
        self._mark_parameters()

    def _apply(self, fn, recurse: bool = True):
        module = super()._apply(keeping_float32(fn), recurse)  # children too: parametrizations hold the parameters
        self._mark_parameters()
        return module

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        widen_entries(state_dict, prefix)  # with assign=True they become the parameters
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def spectrum(self, rate: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments ``log_dt (H,)``, ``log_A_real``, ``A_imag (H, M)`` and ``C (..., H, M, 2)`` of the ops.

        The parameters themselves, where no option and no rate is set.

        Args:
            rate: what the time step is multiplied by: 2 for sequences of half as many tokens for the same time.
        """
        if not self.transformed and rate == 1.0:
            return self.log_dt, self.log_A_real, self.A_imag, self.C
        wide = s4d_transforms.widest(self.C.device)
        log_dt, real, imag, C = (x.to(wide) for x in (self.log_dt, self.log_A_real, self.A_imag, self.C))
        log_dt = log_dt.unsqueeze(-1) if self.dt_tie else log_dt
        dt = s4d_transforms.positive(log_dt.sinh() if self.dt_fast else log_dt, self.dt_transform)
        sets = self.d_model // self.n_ssm
        real = s4d_transforms.positive(real, self.real_transform).repeat(sets, 1)
        imag = s4d_transforms.positive(imag, self.imag_transform).repeat(sets, 1)
        if self.bandlimit is not None:
            C = s4d_transforms.band(C, dt, imag, self.bandlimit)
        rate = positive_float("rate", rate)
        # The op itself can take the step times A, more exactly than its arguments could hold the product.
        apart = self.disc == "zoh" and self.dt_tie and self.dt_transform == "exp" and not self.dt_fast
        step = torch.full_like(dt, rate) if apart else dt * rate
        spectrum = s4d_transforms.as_exponents(step, real, imag, C, self.disc)
        log_A_real, A_imag, C = (x.to(self.C.dtype) for x in spectrum)
        return self.log_dt if apart else torch.zeros_like(log_A_real[:, 0]), log_A_real, A_imag, C

    def taps(self, L: int, rate: float = 1.0) -> int:
        """How many of the first ``L`` taps of the kernel there are, of which ``l_max`` may leave out some."""
        return L if self.l_max is None else min(L, round(self.l_max / positive_float("rate", rate)))

    def forward(self, L: int, rate: float = 1.0) -> Tensor:
        """The kernel of the first ``L`` lags, or ``l_max``: ``(H, L)``, or ``(2, H, L)`` if bidirectional.

        With several ``channels`` ``(channels, H, L)``, or ``(2, channels, H, L)``. ``rate`` as of :meth:`spectrum`.
        """
        log_dt, log_A_real, A_imag, C = self.spectrum(rate)
        L = self.taps(L, rate)
        if C.dim() == 3:
            return ops.s4d_kernel(log_dt, log_A_real, A_imag, C, L)
        kernels = torch.stack([ops.s4d_kernel(log_dt, log_A_real, A_imag, one, L) for one in C.flatten(0, -4)])
        return kernels.view(*C.shape[:-3], *kernels.shape[1:])

    def extra_repr(self) -> str:
        usual = {name: (value, getattr(self, name)) for name, value in _DEFAULTS.items()}
        options = "".join(f", {name}={value!r}" for name, (default, value) in usual.items() if value != default)
        n_ssm = "" if self.n_ssm == self.d_model else f", n_ssm={self.n_ssm}"
        return (
            f"{self.d_model}, d_state={self.d_state}, lr={self.lr}, bidirectional={self.bidirectional}{n_ssm}{options}"
        )


def _mark(kernel: S4DKernel, _: Any) -> None:
    """After a state_dict was loaded, the parts of parametrized parameters as well."""
    kernel._mark_parameters()


def _by_key(name: str, value: PerParameter) -> dict[str, float | None]:
    """By key, what a parameter asks of the optimizer; a number is for the state space, not for ``C``."""
    if isinstance(value, Mapping):
        return by_parameter(name, value, ("dt", "A", "C"))
    number = learning_rate(name, value)
    return {"dt": number, "A": number, "C": None}
