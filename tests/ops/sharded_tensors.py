"""What test_sharding.py starts in each of two processes: DTensors through the public functions and the layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import lyra_kernels as lk

from .. import processes
from ..processes import Group
from . import cases

RANKS = 2
ACTIVATIONS = ("u", "x", "xv", "y", "residual", "pregate", "postgate")
PER_SEQUENCE = (*ACTIVATIONS, "mask", "lengths", "initial_state")
WHOLE: list[Placement] = [Replicate()]


def _spread(x: Tensor, placement: Placement | None = None) -> DTensor:
    return distribute_tensor(x, init_device_mesh("cpu", (RANKS,)), [placement or Replicate()])


def _spread_all(values: dict[str, Any], placement: Callable[[str, Tensor], Placement | None]) -> dict[str, Any]:
    return {k: _spread(v, placement(k, v)) if isinstance(v, Tensor) else v for k, v in values.items()}


def _sequences(name: str, x: Tensor) -> Placement | None:
    return Shard(0) if name in PER_SEQUENCE else None


def _positions(name: str, x: Tensor) -> Placement | None:
    return Shard(1) if name in ACTIVATIONS else None


def _channels(name: str, x: Tensor) -> Placement | None:
    """Of arguments of the public functions."""
    if name in ACTIVATIONS:
        return Shard(2)
    if name == "lengths":
        return None
    return Shard(1 if x.dim() == 4 else 0)


def _check(
    group: Group,
    name: str,
    placement: Callable[[str, Tensor], Placement | None],
    layout: str = "dense",
    output: Placement | None = None,
    cotangent: Placement | None = None,
    **shape: int,
) -> None:
    """Values and gradients against those of one process; nothing but sums over ranks is sent."""
    torch.manual_seed(0)
    case = cases.make(name, layout, **{"batch": 3, "length": 9, "channels": 5, **shape})
    whole = case.leaves()
    wanted = whole()
    cotangents = cases.weights_like(wanted)
    torch.autograd.backward(wanted, cotangents)

    tensors = {k: v.requires_grad_() for k, v in _spread_all(case.tensors, placement).items()}
    options = _spread_all(case.options, placement)
    with CommDebugMode() as communication:
        found = case.function(**tensors, **options)
    found = found if isinstance(found, tuple) else (found,)
    assert not communication.get_total_counts()
    spread = [
        _like(w, f) if cotangent is None else _spread(w, cotangent) for w, f in zip(cotangents, found, strict=True)
    ]
    with CommDebugMode() as communication:  # backward() copies what it puts into .grad, for which torch 2.11 gathers
        gradients = torch.autograd.grad(found, list(tensors.values()), spread)
    if cotangent is None:
        sent = {str(op) for op in communication.get_comm_counts()}
        assert all("reduce" in op for op in sent), sent
    assert found[0].placements == ((output or Replicate()),), found[0].placements
    for f, w in zip(found, wanted, strict=True):
        cases.assert_close(f.detach().full_tensor(), w, 1e-6, "output")
    for k, gradient in zip(tensors, gradients, strict=True):
        assert isinstance(gradient, DTensor)
        cases.assert_close(gradient.full_tensor(), whole.tensors[k].grad, 2e-6, f"gradient of {k}")


def _like(x: Tensor, example: DTensor) -> DTensor:
    return distribute_tensor(x, example.device_mesh, example.placements)


WITH_BATCH = [name for name in cases.ESSENTIAL if name not in cases.WITHOUT_LAYOUT]
CHANNELS = (
    "causal_conv",
    "fft_conv",
    "s4d_conv-scan-state",
    "s4d_conv-scan-bidirectional",
    "s4d_conv-fft-bidirectional",
)
CHECKS: dict[str, Callable[[Group], None]] = {}
CHECKS |= {f"whole {name}": partial(_check, name=name, placement=lambda k, x: None) for name in ("pgc", "s4d_fft")}
CHECKS |= {
    f"sequences {name} {layout}": partial(_check, name=name, placement=_sequences, layout=layout, output=Shard(0))
    for name in WITH_BATCH
    for layout in (("dense", "padded") if name in ("pgc", "s4d_conv-scan-state") else ("padded",))
}
CHECKS |= {
    f"packed {name}": partial(_check, name=name, placement=lambda k, x: None, layout="packed")
    for name in ("pgc-causal", "s4d_conv-scan-state")
}
CHECKS |= {
    f"channels {name} {layout}": partial(_check, name=name, placement=_channels, layout=layout, output=Shard(2))
    for name in CHANNELS
    for layout in (("dense", "padded") if name == "s4d_conv-scan-state" else ("padded",))
}
CHECKS["channels s4d_kernel"] = partial(_check, name="s4d_kernel", placement=_channels, output=Shard(0))
CHECKS["fewer sequences than ranks"] = partial(
    _check, name="s4d_conv-scan-state", placement=_sequences, output=Shard(0), batch=1
)
CHECKS["fewer channels than ranks"] = partial(
    _check, name="s4d_conv-scan-state", placement=_channels, output=Shard(2), channels=1
)
CHECKS |= {
    f"positions {name}": partial(_check, name=name, placement=_positions, output=Shard(1))
    for name in ("rms_norm", "gelu_glu")
}
CHECKS["sequences rms_norm"] = partial(_check, name="rms_norm", placement=_sequences, output=Shard(0))
for _placement in (Replicate(), Shard(0), Shard(1), Shard(2)):
    CHECKS[f"cotangent {_placement}"] = partial(
        _check, name="s4d_conv-scan", placement=_sequences, output=Shard(0), cotangent=_placement, batch=3, length=70
    )
    CHECKS[f"cotangent {_placement} of whole tensors"] = partial(
        _check, name="s4d_conv-scan", placement=lambda k, x: None, cotangent=_placement, batch=3, length=70
    )


def lengths_alone_are_split(group: Group) -> None:
    """What is whole is cut as they are."""
    case = cases.make("pgc", "padded", batch=3)
    y = case.function(
        **_spread_all(case.tensors, lambda k, x: None), causal=False, lengths=_spread(case.options["lengths"], Shard(0))
    )
    assert y.placements == (Shard(0),)
    cases.assert_close(y.full_tensor(), case()[0], 1e-6)


def parameters_alone_are_split(group: Group) -> None:
    """Then each rank takes the channels of theirs."""
    case = cases.make("s4d_conv-scan", channels=5)
    y = case.function(**_spread_all(case.tensors, lambda k, x: None if k == "u" else _channels(k, x)), **case.options)
    assert y.placements == (Shard(2),)
    cases.assert_close(y.full_tensor(), case()[0], 1e-6)


def partial_sums(group: Group) -> None:
    """Are added before an op that is not linear."""
    x = torch.randn(4, 6)
    torch.distributed.broadcast(x, 0)
    shares = DTensor.from_local(x, init_device_mesh("cpu", (RANKS,)), [Partial()])
    cases.assert_close(lk.rms_norm(shares).full_tensor(), lk.rms_norm(RANKS * x), 1e-6)


def decisions_are_not_mixed_up(group: Group) -> None:
    """DTensor remembers what it decided for arguments alike."""
    case = cases.make("s4d_kernel", length=7)
    tensors = _spread_all(case.tensors, lambda k, x: None)
    for length in (7, 12, 7):
        assert lk.s4d_kernel(**tensors, length=length).shape == (5, length)
    scan = cases.make("s4d_conv-scan", length=7)
    plain = lk.s4d_conv(**_spread_all(scan.tensors, lambda k, x: None), algorithm="scan")
    tensors = {k: v.requires_grad_() for k, v in _spread_all(scan.tensors, lambda k, x: None).items()}
    y = lk.s4d_conv(**tensors, algorithm="scan")
    y.sum().backward()
    cases.assert_close(y.full_tensor(), plain.full_tensor(), 0.0)


def _model() -> nn.Module:
    torch.manual_seed(1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pgc, self.norm = lk.PGC(6), lk.RMSNorm(6)
            self.s4d = lk.S4D(6, d_state=8, transposed=False, dropout=0.5, bidirectional=True)

        def forward(self, u: Tensor, lengths: Tensor | None = None) -> Tensor:
            return self.s4d(self.norm(self.pgc(u, lengths=lengths, residual=u)), lengths=lengths)

    return Model().eval()


def _gradients(model: nn.Module, loss: Tensor) -> Iterable[Tensor]:
    loss.backward()
    return [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for p in model.parameters()]


def layers(group: Group) -> None:
    u, lengths = torch.linspace(-1, 1, 3 * 9 * 6).sin().reshape(3, 9, 6), torch.tensor([9, 0, 4])
    for given in ({}, {"lengths": lengths}):
        alone, spread = _model(), _model()
        distribute_module(spread, init_device_mesh("cpu", (RANKS,)))
        wanted = alone(u, **given)
        found = spread(_spread(u, Shard(0)), **{k: _spread(v, Shard(0)) for k, v in given.items()})
        assert found.placements == (Shard(0),)
        cases.assert_close(found.detach().full_tensor(), wanted, 1e-5, "output")
        pairs = zip(_gradients(spread, found.square().sum()), _gradients(alone, wanted.square().sum()), strict=True)
        for mine, exact in pairs:
            cases.assert_close(mine, exact, 2e-5, "gradient")


def dropout(group: Group) -> None:
    """Zeroes channels of a sequence, also of DTensors."""
    layer = lk.S4D(6, d_state=8, transposed=False, dropout=0.5)
    distribute_module(layer, init_device_mesh("cpu", (RANKS,)))
    assert layer(_spread(torch.randn(2, 5, 6), Shard(0))).shape == (2, 5, 6)


def compiled(group: Group) -> None:
    case = cases.make("pgc-causal", "padded", batch=3, length=9, channels=5)
    tensors = {k: v.requires_grad_() for k, v in _spread_all(case.tensors, _sequences).items()}
    options = _spread_all(case.options, _sequences)
    whole = case.leaves()
    y = torch.compile(lambda tensors, options: lk.pgc(**tensors, **options), backend="aot_eager", fullgraph=True)(
        tensors, options
    )
    assert y.placements == (Shard(0),)
    wanted = whole()[0]
    wanted.square().sum().backward()
    y.square().sum().backward()
    cases.assert_close(y.detach().full_tensor(), wanted, 1e-6)
    for k, x in tensors.items():
        cases.assert_close(x.grad.full_tensor(), whole.tensors[k].grad, 2e-6, k)


def refused(group: Group) -> None:
    """What an op cannot split, and a mixture."""
    scan, pgc = cases.make("s4d_conv-scan"), cases.make("pgc")

    def spread(case: cases.Case, **placements: Placement) -> dict[str, Any]:
        return _spread_all(case.tensors, lambda k, x: placements.get(k))

    attempts: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (
            ValueError,
            r"^lyra::s4d_scan: u is Shard\(dim=1\) over mesh dimension 0, but the op looks along the sequence.*group=",
            lambda: lk.s4d_conv(**spread(scan, u=Shard(1)), algorithm="scan"),
        ),
        (
            ValueError,
            r"^lyra::pgc: u is Shard\(dim=2\) .* mixes the channels",
            lambda: lk.pgc(**spread(pgc, u=Shard(2))),
        ),
        (
            ValueError,
            r"^lyra::pgc: out_weight is Shard\(dim=0\) .* redistribute it to Replicate\(\)",
            lambda: lk.pgc(**spread(pgc, out_weight=Shard(0))),
        ),
        (
            ValueError,
            r"u is Shard\(dim=0\) and D is Shard\(dim=0\), which do not go together",
            lambda: lk.s4d_conv(**spread(scan, u=Shard(0), D=Shard(0)), algorithm="scan"),
        ),
        (
            TypeError,
            r"^lyra::pgc: u is a DTensor but in_weight, .* are not",
            lambda: lk.pgc(**{**pgc.tensors, "u": _spread(pgc.tensors["u"], Shard(0))}),
        ),
        (
            TypeError,
            r"^lyra::pgc: in_weight, .* are DTensors but u is not",
            lambda: lk.pgc(**{**spread(pgc), "u": pgc.tensors["u"]}),
        ),
        (
            ValueError,
            r"^lyra::rms_norm: weight is on DeviceMesh.* but x on DeviceMesh.* over one mesh",
            lambda: lk.rms_norm(
                distribute_tensor(torch.ones(2, 3), init_device_mesh("cpu", (1, 2)), [Shard(0), Shard(0)]),
                _spread(torch.ones(3)),
            ),
        ),
    ]
    packed = cases.make("s4d_conv-scan", "packed")
    cu_seqlens = _spread(packed.options["cu_seqlens"])
    attempts.append(
        (
            ValueError,
            r"u is Shard\(dim=1\) .* a packed batch",
            lambda: lk.s4d_conv(**spread(packed, u=Shard(1)), cu_seqlens=cu_seqlens, algorithm="scan"),
        )
    )
    for kind, message, call in attempts:
        with pytest.raises(kind, match=message):
            call()


CHECKS |= {
    name: function
    for name, function in globals().items()
    if inspect.isfunction(function) and function.__module__ == __name__ and not name.startswith("_")
}

if __name__ == "__main__":
    processes.run(CHECKS, RANKS, "torch._dynamo")
