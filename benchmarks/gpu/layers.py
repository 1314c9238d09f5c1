"""The layers and the model: ours by default and by CUDA C++, as published, under torch.compile, and attention."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lyra_kernels as lk
from lyra import Lyra
from lyra_kernels import backends

from .. import opponents
from .cards import Card
from .cases import REFERENCE_ELEMENTS, Case, Row, Side

D_STATE = 64
PRECISIONS = ("float32", "bf16 autocast")
MODEL_SHAPES = ((256, 64, 64), (16, 2048, 64), (8, 8192, 64), (1, 65536, 64))
LAYER_SHAPES = ((64, 128, 64), (8, 2048, 64), (64, 2048, 64), (8, 16384, 64), (16, 2048, 256))
COMPILED = {"Lyra": (16, 2048, 64), "S4D": (64, 2048, 64), "PGC": (64, 2048, 64)}  # compiling takes long: one shape
LONGEST_ATTENTION = 16384  # in float32, which has no flash attention
TRANSFORMER = "transformer"


def specs(tiny: bool) -> list[Row]:
    """The cases in the order of their weight; "only" names the sides where a case has not all of them."""
    if tiny:
        return [spec("PGC", (2, 8, 4), "float32"), spec("Lyra", (2, 8, 4), "bf16 autocast")]
    shapes = {"Lyra": MODEL_SHAPES, "S4D": LAYER_SHAPES, "PGC": LAYER_SHAPES}
    found = [
        spec(subject, shape, precision) for precision in PRECISIONS for subject in shapes for shape in shapes[subject]
    ]
    for precision in PRECISIONS:
        for subject, shape in COMPILED.items():
            found.append({**spec(subject, shape, precision), "only": ["compile", "ours, compiled"]})
    return found


def spec(subject: str, shape: tuple[int, int, int], precision: str) -> Row:
    return {"stage": "layers", "subject": subject, "shape": list(shape), "precision": precision}


def build(spec: Row, card: Card) -> Case:
    """The case of a spec."""
    identity = {name: spec[name] for name in ("stage", "subject", "shape", "precision")}
    torch.manual_seed(0)
    torch._dynamo.reset()  # once a case: at each side it would make the sides before compile again while they are timed
    maker = _model if spec["subject"] == "Lyra" else _layer
    sides, truth = maker(spec["subject"], tuple(spec["shape"]), card)
    only = spec.get("only", [name for name in sides if "compile" not in name])
    autocast = spec["precision"] != "float32"
    batch, length, channels = spec["shape"]
    if not autocast and length > LONGEST_ATTENTION and TRANSFORMER in only:
        only = [name for name in only if name != TRANSFORMER]
    small = batch * length * channels <= REFERENCE_ELEMENTS and "only" not in spec
    return Case(identity, {name: sides[name] for name in only}, autocast, truth if small else None)


Sides = dict[str, Callable[[], Side]]


def _sides(base: nn.Module, x: Tensor, card: Card, others: dict[str, Callable[[], nn.Module]]) -> Sides:
    """Sides that share the parameters of `base`, which is ours, or that compute something else."""
    shared = (x, *(p for p in base.parameters() if p.requires_grad))
    found: Sides = {"ours": lambda: Side(base, (x,), shared)}
    for name in card.backends():
        if name != backends.default_backend(card.device):
            found[name] = lambda name=name: Side(base, (x,), shared, backend=name)

    def other(name: str) -> Side:
        module = others[name]()
        if name in ("attention", TRANSFORMER):
            return Side(module, (x,), (x, *module.parameters()), comparable=False)
        if "compile" not in name:
            return Side(module, (x,), shared)
        return Side(torch.compile(module, fullgraph=True), (x,), shared, compiled=True)

    return found | {name: (lambda name=name: other(name)) for name in others}


def _truth(base: nn.Module, x: Tensor) -> Callable[[], Side]:
    def make() -> Side:
        exact, u = copy.deepcopy(base).double(), x.detach().double().requires_grad_()
        return Side(exact, (u,), (u, *(p for p in exact.parameters() if p.requires_grad)))

    return make


def _layer(subject: str, shape: tuple[int, int, int], card: Card) -> tuple[Sides, Callable[[], Side]]:
    channels = shape[2]
    x = torch.randn(*shape, device=card.device, requires_grad=True)
    base: nn.Module
    if subject == "S4D":
        base = lk.S4D(channels, D_STATE, transposed=False).to(card.device).eval()
        published, real = opponents.PublishedS4D, opponents.RealS4D
    else:
        base = lk.PGC(channels, 1.0, 3, 0.0).to(card.device).eval()
        published = real = opponents.PublishedPGC
    others = {
        "eager": lambda: published(base),
        "attention": lambda: opponents.Attention(channels).to(card.device),
        "compile": lambda: real(base),
        "ours, compiled": lambda: base,
    }
    return _sides(base, x, card, others), _truth(base, x)


def _model(subject: str, shape: tuple[int, int, int], card: Card) -> tuple[Sides, Callable[[], Side]]:
    batch, length, channels = shape
    base = Lyra(20, channels, 1, dropout=0.0).to(card.device)
    tokens = torch.randint(20, (batch, length), device=card.device)
    x = F.one_hot(tokens, 20).float().requires_grad_()
    others = {
        "eager": lambda: opponents.PublishedLyra(base),
        TRANSFORMER: lambda: opponents.Transformer(20, channels, depth=6).to(card.device),
        "compile": lambda: opponents.PublishedLyra(base, opponents.RealS4D),
        "ours, compiled": lambda: base,
    }
    return _sides(base, x, card, others), _truth(base, x)
