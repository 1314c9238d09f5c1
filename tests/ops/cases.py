"""Every public op with arguments to call it with, and the comparison with the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import lyra_kernels as lk
from lyra_kernels.ops.conv import convolve, fft_conv_op
from lyra_kernels.ops.s4d_conv import s4d_fft_op

LAYOUTS = ("dense", "padded", "packed")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Relative RMS error allowed to activations stored in a dtype, and to sums over them."""
FEW = 4  # channels, in all of which a sum may cancel


@dataclass(frozen=True)
class Case:
    """A public op and its arguments.

    Attributes:
        name: as in `NAMES`.
        function: the op.
        tensors: the arguments that have gradients; the first are activations.
        options: the other keyword arguments.
    """

    name: str
    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def roundings(self) -> int:
        """How often activations are stored, and rounded, up to the output."""
        return 3 if self.name == "s4d_block" else 1

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Outputs, with other values of the first tensors where given."""
        tensors = {**self.tensors, **dict(zip(self.tensors, values, strict=False))}
        out = self.function(**tensors, **self.options)
        return out if isinstance(out, tuple) else (out,)

    @property
    def values(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Case:
        return replace(self, tensors={k: function(v) for k, v in self.tensors.items()})

    def leaves(self) -> Case:
        """The same with fresh tensors that require gradients."""
        return self.map(lambda x: x.detach().clone().requires_grad_())

    def double(self) -> Case:
        """The same in float64, every floating option included."""
        options = {k: v.double() if _is_float(v) else v for k, v in self.options.items()}
        return replace(self.map(Tensor.double), options=options)

    def to(self, device: str) -> Case:
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return replace(self.map(lambda x: x.to(device)), options=options)


def _is_float(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def spectrum(channels: int, modes: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """log_dt, log_A_real and A_imag such as training meets."""
    values = {
        "log_dt": torch.empty(channels, dtype=torch.float64).uniform_(-5.0, -1.5),
        "log_A_real": torch.randn(channels, modes, dtype=torch.float64) * 0.3 - 0.7,
        "A_imag": 3.14 * torch.arange(modes) + torch.randn(channels, modes, dtype=torch.float64) * 0.1,
    }
    return {k: v.to(dtype) for k, v in values.items()}


def layout_options(layout: str, batch: int, length: int) -> tuple[dict[str, Tensor], int, int]:
    """`lengths` or `cu_seqlens`, and the batch and the length of the activations; with an empty and a full sequence."""
    if layout == "dense":
        return {}, batch, length
    lengths = torch.randint(0, length + 1, (batch,))
    lengths[:1] = length
    lengths[1:2] = 0
    if layout == "padded":
        return {"lengths": lengths}, batch, length
    cu_seqlens = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return {"cu_seqlens": cu_seqlens}, 1, int(lengths.sum())


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _rms_norm(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    return {"x": _randn(batch, length, channels), "weight": _randn(channels)}, {}


def _gated_conv(batch: int, length: int, channels: int, layout: dict, causal: bool = False) -> tuple[dict, dict]:
    width = 4 if causal else 5
    tensors = {
        "xv": _randn(batch, length, 2 * channels),
        "conv_weight": _randn(channels, 1, width),
        "conv_bias": _randn(channels),
        "norm_weight": _randn(2 * channels),
    }
    return tensors, {"causal": causal, **layout}


def _pgc(batch: int, length: int, channels: int, layout: dict, causal: bool = False) -> tuple[dict, dict]:
    inner = channels + 3
    tensors = {
        "u": _randn(batch, length, channels),
        "in_weight": _randn(2 * inner, channels),
        "in_bias": _randn(2 * inner),
        "in_norm_weight": _randn(2 * inner),
        "conv_weight": _randn(inner, 1, 3),
        "conv_bias": _randn(inner),
        "out_weight": _randn(channels, inner),
        "out_bias": _randn(channels),
        "out_norm_weight": _randn(channels),
    }
    if causal:
        tensors["residual"] = _randn(batch, length, channels)
    return tensors, {"causal": causal, **layout}


def _gelu_glu(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    sequences = layout["cu_seqlens"].shape[0] - 1 if "cu_seqlens" in layout else batch
    tensors = {
        "y": _randn(batch, length, channels),
        "weight": _randn(2 * channels, channels),
        "bias": _randn(2 * channels),
        "residual": _randn(batch, length, channels),
    }
    mask = torch.randint(0, 2, (sequences, channels)).double() * 2
    return tensors, {"mask": mask, **layout}


def _s4d_kernel(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    return {**spectrum(channels, 4), "C": _randn(channels, 4, 2)}, {"length": length}


def _s4d_conv(
    batch: int, length: int, channels: int, layout: dict, algorithm: str, directions: int = 1, state: bool = False
) -> tuple[dict, dict]:
    modes = 4
    sequences = layout["cu_seqlens"].shape[0] - 1 if "cu_seqlens" in layout else batch
    C = _randn(2, channels, modes, 2) if directions == 2 else _randn(channels, modes, 2)
    tensors = {"u": _randn(batch, length, channels), **spectrum(channels, modes), "C": C, "D": _randn(channels)}
    if state:
        tensors["initial_state"] = _randn(sequences, channels, modes, 2)
    options = {"algorithm": algorithm, "bidirectional": directions == 2, "return_final_state": state, **layout}
    return tensors, options


def _s4d_block(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    tensors, _ = _s4d_conv(batch, length, channels, layout, "scan")
    tail, options = _gelu_glu(batch, length, channels, layout)
    tensors |= {"weight": tail["weight"], "bias": tail["bias"]}
    if channels > 1:  # the norm of one channel is its sign, whose gradient is what rounding leaves
        tensors["norm_weight"] = _randn(channels)
    return tensors, {**options, "add_input": channels % 2 == 1}


def _convolution(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    tensors = {
        "u": _randn(batch, length, channels),
        "kernel": _randn(channels, length),
        "D": _randn(channels),
        "reverse_kernel": _randn(channels, max(length - 3, 0)),
    }
    return tensors, dict(layout)


def _gated_convolution(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    tensors, options = _convolution(batch, length, channels, layout)
    gates = {name: _randn(batch, length, channels) for name in ("pregate", "postgate")}
    return {**tensors, **gates}, options


def _fft_conv(u: Tensor, kernel: Tensor, *, reverse_kernel=None, D=None, lengths=None, cu_seqlens=None) -> Tensor:
    """lk.fft_conv, by FFT although so few taps are cheaper otherwise."""
    return convolve(fft_conv_op, u, kernel, reverse_kernel, D, lengths, cu_seqlens)


def _short_conv(batch: int, length: int, channels: int, layout: dict) -> tuple[dict, dict]:
    sequences = layout["cu_seqlens"].shape[0] - 1 if "cu_seqlens" in layout else batch
    tensors = {
        "u": _randn(batch, length, channels),
        "weight": _randn(channels, 4),
        "bias": _randn(channels),
        "initial_state": _randn(sequences, 3, channels),
    }
    return tensors, {"activation": "silu", **layout}


def _s4d_fft(batch: int, length: int, channels: int, layout: dict, directions: int = 1) -> tuple[dict, dict]:
    tensors = {
        "u": _randn(batch, length, channels),
        **spectrum(channels, 4),
        "C": _randn(directions, channels, 4, 2),
        "D": _randn(channels),
    }
    return tensors, dict(layout)


def _s4d_fft_op(u: Tensor, *parameters: Tensor, lengths=None, cu_seqlens=None, **named: Tensor) -> Tensor:
    """What s4d_conv calls for "fft" on GPUs, on any device."""
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    given = (p.to(dtype).contiguous() for p in (*parameters, *named.values()))
    return s4d_fft_op(u.contiguous(), *given, lengths, cu_seqlens)


_BUILDERS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[dict, dict]], dict[str, Any]]] = {
    "rms_norm": (lk.rms_norm, _rms_norm, {}),
    "gated_conv": (lk.gated_conv, _gated_conv, {}),
    "gated_conv-causal": (lk.gated_conv, _gated_conv, {"causal": True}),
    "pgc": (lk.pgc, _pgc, {}),
    "pgc-causal": (lk.pgc, _pgc, {"causal": True}),
    "gelu_glu": (lk.gelu_glu, _gelu_glu, {}),
    "s4d_kernel": (lk.s4d_kernel, _s4d_kernel, {}),
    "causal_conv": (lk.causal_conv, _convolution, {}),
    "fft_conv": (_fft_conv, _convolution, {}),
    "gated_fft_conv": (lk.fft_conv, _gated_convolution, {}),
    "short_conv": (lk.short_conv, _short_conv, {}),
    "s4d_conv-scan": (lk.s4d_conv, _s4d_conv, {"algorithm": "scan"}),
    "s4d_conv-scan-state": (lk.s4d_conv, _s4d_conv, {"algorithm": "scan", "state": True}),
    "s4d_conv-scan-bidirectional": (lk.s4d_conv, _s4d_conv, {"algorithm": "scan", "directions": 2}),
    "s4d_conv-direct": (lk.s4d_conv, _s4d_conv, {"algorithm": "direct"}),
    "s4d_conv-direct-bidirectional": (lk.s4d_conv, _s4d_conv, {"algorithm": "direct", "directions": 2}),
    "s4d_conv-fft": (lk.s4d_conv, _s4d_conv, {"algorithm": "fft"}),
    "s4d_conv-fft-bidirectional": (lk.s4d_conv, _s4d_conv, {"algorithm": "fft", "directions": 2}),
    "s4d_block": (lk.s4d_block, _s4d_block, {}),
    "s4d_fft": (_s4d_fft_op, _s4d_fft, {}),
    "s4d_fft-bidirectional": (_s4d_fft_op, _s4d_fft, {"directions": 2}),
    "s4d_conv-auto": (lk.s4d_conv, _s4d_conv, {"algorithm": "auto"}),
}
NAMES = tuple(_BUILDERS)
WITHOUT_LAYOUT = ("rms_norm", "s4d_kernel")
WITH_LAYOUT = tuple(name for name in NAMES if name not in WITHOUT_LAYOUT)
ESSENTIAL = ("rms_norm", "gated_conv", "pgc", "gelu_glu", "s4d_kernel", "causal_conv", "fft_conv",
             "gated_fft_conv", "short_conv", "s4d_fft", "s4d_block", "s4d_conv-scan-state",
             "s4d_conv-scan-bidirectional",
             "s4d_conv-auto")  # fmt: skip
"""One case for each dispatcher op and each of its forms."""


def make(
    name: str,
    layout: str = "dense",
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 3,
    length: int = 37,
    channels: int = 5,
    parameter_dtype: torch.dtype | None = None,
) -> Case:
    """A case: activations in `dtype`, parameters in the dtype that goes with it unless told."""
    function, builder, arguments = _BUILDERS[name]
    given, batch, length = layout_options(layout, batch, length)
    tensors, options = builder(batch, length, channels, given, **arguments)
    if parameter_dtype is None:
        parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    activations = ("x", "xv", "u", "y", "residual", "pregate", "postgate")
    tensors = {k: v.to(dtype if k in activations else parameter_dtype) for k, v in tensors.items()}
    options = {k: v.to(parameter_dtype) if _is_float(v) else v for k, v in options.items()}
    return Case(name, function, tensors, options)


def combos(names: tuple[str, ...] = NAMES) -> list[tuple[str, str]]:
    """Every op in every layout that it has."""
    return [(n, kind) for n in names for kind in (LAYOUTS if n in WITH_LAYOUT else ("dense",))]


def weights_like(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Random cotangents, which make the gradient of every element of every output visible."""
    return tuple(torch.randn(o.shape, dtype=torch.float64).to(o) for o in outputs)


def gradients(case: Case, cotangents: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Outputs, and the gradient of each of the case's tensors."""
    case = case.leaves()
    outputs = case()
    torch.autograd.backward(outputs, cotangents)
    found = {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in case.tensors.items()}
    return tuple(o.detach() for o in outputs), found


def reference(case: Case, cotangents: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """What `gradients` must find: the reference in float64."""
    with lk.use_backend("reference"):
        return gradients(case.double(), tuple(c.double() for c in cotangents))


def error(found: Tensor, wanted: Tensor, terms: Tensor | None = None) -> float:
    """RMS of the difference over RMS of what is wanted, or of ``terms``, in float64; NaN if a NaN is anywhere."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    if wanted.numel() == 0:
        return 0.0
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    scale = (wanted if terms is None else terms).norm()
    return float((found - wanted).norm() / (scale if scale > 0 else 1.0))


def terms_of_log_dt(A_imag: Tensor, by_log_dt: Tensor, by_log_A_real: Tensor, by_A_imag: Tensor) -> Tensor:
    """The sizes of what a channel's gradient of log_dt is the sum of, from the other gradients, ``(H,)``.

    Every ``z = dt A`` grows with log_dt as Re z does with log A_real and Im z with A_imag. Over the modes these terms
    cancel, in some draws to a hundredth, and then what is left of them shows the rounding of each: in the plain formula
    in fp32 (1.6e-5 of the gradient at 512 tokens) as in a kernel. So the error is taken relative to the terms.
    """
    return by_log_dt.abs() + (by_log_A_real.abs() + (A_imag.detach() * by_A_imag).abs()).sum(-1)


def assert_close(found: Tensor, wanted: Tensor, limit: float, what: str = "", terms: Tensor | None = None) -> None:
    measured = error(found, wanted, terms)
    assert measured <= limit, f"{what}: relative RMS error {measured:.2e} exceeds {limit:.0e}"


def assert_matches_reference(case: Case, limit: float | None = None) -> None:
    """Values and gradients of all inputs against the reference in float64."""
    with lk.use_backend("reference"), torch.no_grad():
        cotangents = weights_like(case())
    outputs, found = gradients(case, cotangents)
    exact_outputs, exact = reference(case, cotangents)
    limit = limit or TOLERANCE[next(iter(case.tensors.values())).dtype] * case.roundings
    for i, (output, wanted) in enumerate(zip(outputs, exact_outputs, strict=True)):
        assert_close(output, wanted, limit, f"output {i}")
    for name, wanted in exact.items():
        assert found[name].dtype == case.tensors[name].dtype
        terms = None
        few = name == "log_dt" and {"log_A_real", "A_imag"} <= exact.keys() and wanted.numel() < FEW
        if few or (name == "log_dt" and case.name == "s4d_block"):
            A_imag = case.tensors["A_imag"].double()
            terms = terms_of_log_dt(A_imag, *(exact[n] for n in ("log_dt", "log_A_real", "A_imag"))).cpu()
        assert_close(found[name], wanted, limit, f"gradient of {name}", terms)


def assert_all_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], limit: float) -> None:
    for name in wanted:
        assert_close(found[name], wanted[name], limit, name)
