"""What is measured: for each layer, model and op the sides that do the same thing, ready to call.

All sides of a case share parameters and input, and `build` checks that they agree before anybody times them; only
attention and the transformer, which compute something else, are not compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lyra_kernels as lk
from lyra import Lyra
from lyra_kernels.compat import hyena, s4
from lyra_kernels.compat.causal_conv1d import causal_conv1d_fn
from lyra_kernels.compat.flashfftconv import FlashFFTConv

from . import opponents

D_MODEL = D_STATE = 64
OTHERS = ("attention", "transformer")
AGREEMENT = 1e-3  # relative RMS between sides; the published float32 kernel itself is good to some 1e-4 at long lengths

IN_HALVES = 2e-2  # the same of layers in bfloat16

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """`subject` at (batch, length), forward only or a training step, on some of `opponents`."""

    subject: str
    batch: int
    length: int
    training: bool
    opponents: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.subject}-B{self.batch}-L{self.length}-{'training' if self.training else 'forward'}"


def build(case: Case, device: torch.device) -> dict[str, Step]:
    """The steps of a case by side, "lyra" first; compiled sides are compiled already."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    inputs, sides = SUBJECTS[case.subject](case, device)
    chosen = {"lyra": sides["lyra"], **{name: sides[name] for name in case.opponents if name in sides}}
    if "compile" in case.opponents and "compile" not in chosen:
        chosen["compile"] = sides["eager"]
    steps, outputs = {}, {}
    for name, side in chosen.items():
        given = side.inputs if isinstance(side, _InFloat32) else inputs
        own = list(side.parameters()) if isinstance(side, nn.Module) else []
        leaves = [x for x in [*given, *own] if x.requires_grad]
        run = torch.compile(side, dynamic=False, fullgraph=True) if name == "compile" else side
        steps[name] = _training(run, given, leaves) if case.training else _forward(run, given)
        outputs[name] = _forward(run, given)()
    _check(str(case), outputs)
    return steps


def _forward(function: Callable, inputs: list[Tensor]) -> Step:
    def step() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return step


def _training(function: Callable, inputs: list[Tensor], leaves: list[Tensor]) -> Step:
    grad = torch.randn_like(function(*inputs))

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), leaves, grad)

    step()  # a compiled function compiles its backward now

    return step


def _check(subject: str, outputs: dict[str, Tensor]) -> None:
    """All sides that compute the same thing give the same numbers."""
    mine = outputs["lyra"]
    for name, other in outputs.items():
        error = float((mine.float() - other.float()).norm() / mine.float().norm())
        agreement = IN_HALVES if mine.dtype.itemsize < 4 else AGREEMENT
        if name not in OTHERS and not error < agreement:
            raise AssertionError(f"{subject}: {name} and lyra differ by {error:.1e}")


def _s4d_layer(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    layer = lk.S4D(D_MODEL, D_STATE, transposed=False).to(device)
    u = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    return [u], {
        "lyra": layer,
        "eager": opponents.PublishedS4D(layer),
        "compile": opponents.RealS4D(layer),
        "attention": opponents.Attention(D_MODEL).to(device),
    }


def _s4d_channels_first(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    """The layer of (B, H, L), as it is published."""
    layer = lk.S4D(D_MODEL, D_STATE).to(device)
    u = torch.randn(case.batch, D_MODEL, case.length, device=device, requires_grad=True)
    return [u], {
        "lyra": layer,
        "eager": opponents.ChannelsFirst(opponents.PublishedS4D(layer)),
        "compile": opponents.ChannelsFirst(opponents.RealS4D(layer)),
    }


def _s4d_step(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    """One token of each sequence of the batch, after a state."""
    layer = lk.S4D(D_MODEL, D_STATE).to(device)
    u, state = torch.randn(case.batch, D_MODEL, device=device), torch.randn(case.batch, D_MODEL, D_STATE // 2, 2)
    formula = opponents.S4DStep(layer)
    return [u, state.to(device)], {"lyra": lambda *x: layer.step(*x)[0], "eager": lambda *x: formula(*x)[0]}


class _Alone(nn.Module):
    """What a layer that gives a pair gives first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor) -> Tensor:
        return self.layer(u)[0]


def _compat_s4d(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    layer = s4.S4D(D_MODEL, D_STATE).to(device)
    u = torch.randn(case.batch, D_MODEL, case.length, device=device, requires_grad=True)
    sides = {"eager": opponents.PublishedS4D(layer), "compile": opponents.RealS4D(layer)}
    return [u], {"lyra": _Alone(layer), **{name: opponents.ChannelsFirst(side) for name, side in sides.items()}}


def _pgc_layer(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    layer = lk.PGC(D_MODEL, 1.0, 3, 0.0).to(device)
    u = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    attention = opponents.Attention(D_MODEL).to(device)
    return [u], {"lyra": layer, "eager": opponents.PublishedPGC(layer), "attention": attention}


class _InFloat32(nn.Module):
    """A layer on inputs of its own, those of the bfloat16 sides: no conversion is timed."""

    def __init__(self, layer: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = [x.detach().float().requires_grad_() for x in inputs]

    def forward(self, u: Tensor) -> Tensor:
        return self.layer(u)


def _in_bfloat16(
    layer: Callable[[Case, torch.device], tuple[list[Tensor], dict[str, Callable]]], case: Case, device: torch.device
) -> tuple[list[Tensor], dict[str, Callable]]:
    """A layer in bfloat16, beside the published one in bfloat16 and itself in float32."""
    inputs, sides = layer(case, device)
    inputs = [x.detach().bfloat16().requires_grad_() for x in inputs]
    lyra, eager = (sides[name].bfloat16() for name in ("lyra", "eager"))
    return inputs, {"lyra": lyra, "eager": eager, "float32": _InFloat32(copy.deepcopy(lyra).float(), inputs)}


def _model(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    model = Lyra(20, D_MODEL, 1, dropout=0.0).to(device)
    tokens = torch.randint(20, (case.batch, case.length), device=device)
    x = F.one_hot(tokens, 20).float()
    return [x], {
        "lyra": model,
        "eager": opponents.PublishedLyra(model),
        "compile": opponents.PublishedLyra(model, opponents.RealS4D),
        "transformer": opponents.Transformer(20, D_MODEL, depth=6).to(device),
    }


def _space(device: torch.device) -> list[Tensor]:
    kernel = lk.S4DKernel(D_MODEL, D_STATE).to(device)
    return [x.detach().requires_grad_() for x in (kernel.log_dt, kernel.log_A_real, kernel.A_imag, kernel.C)]


def _s4d_kernel(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    length = case.length
    return _space(device), {
        "lyra": lambda *p: lk.s4d_kernel(*p, length),
        "eager": lambda *p: opponents.complex_kernel(*p, length),
        "compile": lambda *p: lk.reference.s4d_kernel_real(*p, length),
    }


def _s4d_conv(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    u = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    D = torch.randn(D_MODEL, device=device, requires_grad=True)

    def real(*tensors: Tensor) -> Tensor:
        return opponents.s4d_conv(*tensors, kernel=lk.reference.s4d_kernel_real)

    return [u, *_space(device), D], {"lyra": lk.s4d_conv, "eager": opponents.s4d_conv, "compile": real}


def _fft_conv(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    u = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    kernel = torch.randn(D_MODEL, case.length, device=device, requires_grad=True)
    D = torch.randn(D_MODEL, device=device, requires_grad=True)
    return [u, kernel, D], {"lyra": lambda u, k, D: lk.fft_conv(u, k, D=D), "eager": opponents.fft_conv}


def _channels_first(
    case: Case, device: torch.device, taps: int | None = None, gates: bool = False
) -> tuple[list[Tensor], dict[str, Callable]]:
    """Convolutions of (B, H, L), as published."""
    size = (case.batch, D_MODEL, case.length)
    kernel = torch.randn(D_MODEL, taps or case.length, device=device, requires_grad=True)
    D = torch.randn(D_MODEL, device=device, requires_grad=True)
    x, *both = (torch.randn(*size, device=device, requires_grad=True) for _ in range(3 if gates else 1))

    def lyra(x: Tensor, kernel: Tensor, D: Tensor, *gates: Tensor) -> Tensor:
        named = {name: gate.transpose(1, 2) for name, gate in zip(("pregate", "postgate"), gates, strict=False)}
        return lk.fft_conv(x.transpose(1, 2), kernel, D=D, **named).transpose(1, 2)

    formula = opponents.gated_fft_conv if gates else opponents.fft_conv_channels_first
    return [x, kernel, D, *both], {"lyra": lyra, "eager": formula}


def _flashfftconv(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    (x, kernel, _, *gates), _ = _channels_first(case, device, gates=True)
    nothing = torch.zeros(D_MODEL, device=device)
    return [x, kernel, *gates], {
        "lyra": FlashFFTConv(2 * case.length),
        "eager": lambda x, kernel, *gates: opponents.gated_fft_conv(x, kernel, nothing, *gates),
    }


def _hyena(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    inputs, sides = _channels_first(case, device)
    formula = sides["eager"]
    return inputs, {"lyra": hyena.fftconv, "eager": lambda *inputs: F.gelu(formula(*inputs))}


def _rms_norm(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    layer = lk.RMSNorm(D_MODEL).to(device)
    x = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    return [x], {"lyra": layer, "eager": opponents.PublishedRMSNorm(layer)}


def _gated_conv(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    xv = torch.randn(case.batch, case.length, 2 * D_MODEL, device=device, requires_grad=True)
    weight = torch.randn(D_MODEL, 1, 3, device=device, requires_grad=True)
    bias = torch.randn(D_MODEL, device=device, requires_grad=True)
    norm = torch.randn(2 * D_MODEL, device=device, requires_grad=True)

    return [xv, weight, bias, norm], {"lyra": lk.gated_conv, "eager": opponents.gated_conv}


def _short_conv(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    inputs = _taps(case, device, (case.batch, case.length, D_MODEL))

    def published(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return opponents.short_conv(x.transpose(1, 2), weight, bias).transpose(1, 2)

    return inputs, {"lyra": partial(lk.short_conv, activation="silu"), "eager": published}


def _causal_conv1d(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    inputs = _taps(case, device, (case.batch, D_MODEL, case.length))
    return inputs, {"lyra": partial(causal_conv1d_fn, activation="silu"), "eager": opponents.short_conv}


def _taps(case: Case, device: torch.device, shape: tuple[int, ...]) -> list[Tensor]:
    """Activations, and 4 taps and a bias of each channel."""
    return [torch.randn(size, device=device, requires_grad=True) for size in (shape, (D_MODEL, 4), (D_MODEL,))]


def _gelu_glu(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Callable]]:
    y = torch.randn(case.batch, case.length, D_MODEL, device=device, requires_grad=True)
    weight = torch.randn(2 * D_MODEL, D_MODEL, device=device, requires_grad=True)
    bias = torch.randn(2 * D_MODEL, device=device, requires_grad=True)
    return [y, weight, bias], {"lyra": lk.gelu_glu, "eager": opponents.gelu_glu}


SUBJECTS: dict[str, Callable[[Case, torch.device], tuple[list[Tensor], dict[str, Callable]]]] = {
    "S4D": _s4d_layer,
    "S4D (B, H, L)": _s4d_channels_first,
    "S4D.step": _s4d_step,
    "compat.s4.S4D": _compat_s4d,
    "PGC": _pgc_layer,
    "S4D, bfloat16": partial(_in_bfloat16, _s4d_layer),
    "PGC, bfloat16": partial(_in_bfloat16, _pgc_layer),
    "Lyra": _model,
    "s4d_kernel": _s4d_kernel,
    "s4d_conv": _s4d_conv,
    "fft_conv": _fft_conv,
    "fft_conv (B, H, L)": _channels_first,
    "fft_conv, 4 taps": partial(_channels_first, taps=4),
    "gated fft_conv": partial(_channels_first, gates=True),
    "FlashFFTConv": _flashfftconv,
    "hyena.fftconv": _hyena,
    "rms_norm": _rms_norm,
    "gated_conv": _gated_conv,
    "gelu_glu": _gelu_glu,
    "short_conv": _short_conv,
    "causal_conv1d_fn": _causal_conv1d,
}

SIZES = ((64, 64), (64, 128), (16, 512), (8, 2048), (2, 8192), (1, 65536))
IN_BFLOAT16 = ("S4D, bfloat16", "PGC, bfloat16")
LONG = 8192  # tokens beyond which the others take minutes on a CPU


def layer_cases() -> list[Case]:
    """The layers over all lengths: against the published one, torch.compile and attention."""
    found = []
    for subject in ("S4D", "S4D (B, H, L)", "PGC"):
        for batch, length in SIZES:
            names = ("eager", "compile", "attention") if length <= LONG else ("eager",)
            found += [Case(subject, batch, length, training, names) for training in (False, True)]
    found += [Case("S4D.step", batch, 1, False, ("eager",)) for batch in (1, 8, 64)]
    for subject in IN_BFLOAT16:
        for batch, length in ((64, 128), (8, 2048)):
            found += [Case(subject, batch, length, training, ("eager", "float32")) for training in (False, True)]
    return found


def model_cases() -> list[Case]:
    """The whole model: against the published one and a transformer of the same depth and width."""
    found = []
    for batch, length in SIZES:
        names = ("eager", "compile", "transformer") if length == 2048 else ("eager", "transformer")
        names = names if length <= LONG else ()
        found += [Case("Lyra", batch, length, training, names) for training in (False, True)]
    return found


def op_cases() -> list[Case]:
    """Each op at a short and at a long length: against its formula, plain and compiled."""
    layers = ("S4D", "S4D (B, H, L)", "S4D.step", "PGC", *IN_BFLOAT16, "Lyra")
    return [
        Case(subject, batch, length, training, ("eager", "compile"))
        for subject in SUBJECTS
        if subject not in layers
        for batch, length in ((64, 128), (2, 8192))
        for training in (False, True)
    ]
