"""How DTensor splits each dispatcher op over a mesh: what is read off its contract.

Along a dimension of the mesh an op runs on whole tensors, or each rank computes

* some of the sequences: every op with activations, on dense and padded batches;
* some positions of them: ``rms_norm``, and ``gelu_glu`` without ``lengths``;
* some channels: the state spaces and the depthwise convolutions.

Nothing is gathered in silence: what is split otherwise is refused, with the dimension. Whole tensors are cut where
other arguments are split, which sends nothing, and partial sums are added up. In a backward the gradients of the
outputs come as they may and are moved to where the arguments are, as PyTorch does it.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import _torch
from .._imports import when_imported
from ..schemas import CONTRACTS, OPS, OPS_ON, Contract, Role


class Kind(enum.Enum):
    """What a tensor is in a call."""

    GIVEN = "an argument"
    COTANGENT = "the gradient of an output"
    KEPT = "what the forward left for its backward, in a form that only the op knows: never moved"
    FOUND = "an output"
    SUM = "the gradient of a parameter, to which every sequence and position adds"
    ABSENT = "an output that stands for None"


@dataclass(frozen=True)
class Part:
    """One tensor of a call, an argument or an output."""

    name: str
    role: Role
    kind: Kind
    rank: int


Split = tuple[str, int]
"""What the ranks share out, and of positions which dimension."""

WHOLE: Split = ("whole", 0)
_LIKE_ACTIVATIONS = (Role.ACTIVATION, Role.VECTORS, Role.RESIDUAL)


def _dimension(part: Part, split: Split) -> int | None:
    """Which dimension of a tensor is cut, None for none."""
    what, dimension = split
    if what == "whole" or part.kind is Kind.ABSENT:
        return None
    if what == "sequences":
        return None if part.role is Role.PARAMETER else 0
    if what == "positions":
        return dimension if part.role in _LIKE_ACTIVATIONS else None
    if part.role in (Role.LENGTHS, Role.MASK):
        return None
    if part.kind is Kind.KEPT or part.rank == 4:  # C of (directions, H, M, 2), states of (S, H, M, 2)
        return 1
    tokens = part.role is Role.STATE  # (S, W - 1, H), those before the first
    return part.rank - 1 if tokens or part.role in _LIKE_ACTIVATIONS else 0


def _placement(part: Part, split: Split) -> Any:
    from torch.distributed.tensor import Partial, Replicate, Shard

    dimension = _dimension(part, split)
    if dimension is not None:
        return Shard(dimension)
    return Partial() if part.kind is Kind.SUM and split != WHOLE else Replicate()


def _splits(contract: Contract, args: Sequence[Any]) -> list[Split]:
    """The ways to share out a call with these arguments of the forward."""
    given = {argument.role for argument, value in zip(contract.arguments, args, strict=True) if value is not None}
    found = [WHOLE]
    if Role.CU_SEQLENS in given:
        return found
    if Role.ACTIVATION in given:
        found.append(("sequences", 0))
    if contract.apart == "positions" and Role.LENGTHS not in given:
        # Vectors of any rank may be shared out along any dimension but their own.
        vectors = contract.positions(Role.VECTORS)
        found += [("positions", d) for d in (range(len(args[vectors[0]].shape) - 1) if vectors else (1,))]
    if contract.apart == "channels":
        found.append(("channels", 0))
    return found


def _rank(x: Any) -> int:
    """Of a tensor; 0 for what is none."""
    return len(x.shape) if hasattr(x, "shape") else 0


def _results(contract: Contract, kind: Kind, args: Sequence[Any]) -> list[Part]:
    """The outputs that have gradients, as outputs or as these gradients; args: of the forward."""
    first = contract.arguments[0].role
    found = [Part(contract.outputs[0], first, kind, 2 if first is Role.PARAMETER else 3)]
    if len(contract.outputs) == 2:  # a scan's final state, which both directions have not
        both = args[contract.position("C")].shape[0] == 2
        found.append(Part(contract.outputs[1], Role.STATE, Kind.ABSENT if both else kind, 4))
    return found


def _parts(contract: Contract, backward: bool, args: Sequence[Any]) -> tuple[list[Part], list[Part]]:
    """What the arguments of a call are, tensors or not, and its outputs."""
    forward = contract.split(args)[1] if backward else args
    given = [Part(a.name, a.role, Kind.GIVEN, _rank(x)) for a, x in zip(contract.arguments, forward, strict=True)]
    saved = backward or contract.save is None or forward[contract.save]
    kept = [Part(name, Role.STATE, Kind.KEPT if saved else Kind.ABSENT, 2) for name in contract.kept]
    if not backward:
        return given, _results(contract, Kind.FOUND, forward) + kept
    gradients = []
    for i in contract.returned:
        kind = Kind.SUM if given[i].role is Role.PARAMETER else Kind.FOUND
        gradients.append(replace(given[i], kind=Kind.ABSENT if forward[i] is None else kind))
    return _results(contract, Kind.COTANGENT, forward) + [given[i] for i in contract.passed] + kept, gradients


def _fits(part: Part, have: Any, want: Any, strictly: bool) -> bool:
    """Whether a tensor may be taken so: nothing is gathered, but gradients of outputs where not ``strictly``."""
    if have == want:
        return True
    if part.kind is Kind.KEPT:
        return False
    return have.is_replicate() or have.is_partial() or (part.kind is Kind.COTANGENT and not strictly)


def placements(contract: Contract, backward: bool, args: Sequence[Any]) -> tuple[list[list[Any]], list[list[Any]]]:
    """The placements that an op's tensors must have, and those of its outputs.

    Args:
        args: of the op, DTensorSpecs in place of tensors.

    Raises:
        ValueError: a tensor is split along a dimension that the op needs whole, or is on another mesh.
    """
    parts, outputs = _parts(contract, backward, args)
    splits = _splits(contract, contract.split(args)[1] if backward else args)
    tensors = [(part, spec) for part, spec in zip(parts, args, strict=True) if _rank(spec)]
    mesh = tensors[0][1].mesh
    for part, spec in tensors:
        if spec.mesh != mesh:
            raise ValueError(
                f"lyra::{contract.name}: {part.name} is on {spec.mesh} but {tensors[0][0].name} on {mesh}: distribute "
                "them over one mesh"
            )
    chosen = []
    for m in range(mesh.ndim):
        have = [(part, spec.placements[m]) for part, spec in tensors]
        for split, strictly in ((split, strictly) for strictly in (True, False) for split in splits):
            if all(_fits(part, placement, _placement(part, split), strictly) for part, placement in have):
                chosen.append(split)
                break
        else:
            names = mesh.mesh_dim_names
            where = f"over mesh dimension {m if names is None else repr(names[m])}"
            raise ValueError(f"lyra::{contract.name}: {_refusal(contract, splits, have, where)}")
    wanted = [[_placement(part, split) for split in chosen] for part, _ in tensors]
    return wanted, [[_placement(part, split) for split in chosen] for part in outputs]


def _refusal(contract: Contract, splits: Sequence[Split], have: Sequence[tuple[Part, Any]], where: str) -> str:
    """Which argument is split how, and what would be right."""
    cut = [(part, placement) for part, placement in have if not (placement.is_replicate() or placement.is_partial())]
    for part, placement in cut:
        allowed = [_placement(part, split) for split in splits]
        if part.kind is not Kind.GIVEN or placement in allowed:
            continue
        right = " or ".join(repr(p) for p in dict.fromkeys(allowed))
        text = (
            f"{part.name} is {placement!r} {where}, but {_reason(part, placement, splits)}; redistribute it to {right}"
        )
        if part.role is Role.ACTIVATION and placement.dim == 1 and contract.name.startswith("s4d"):
            text += ", or give sequences that are split over ranks as local tensors to lyra_kernels.s4d_conv(group=)"
        return text
    ways = " and ".join(f"{part.name} is {placement!r}" for part, placement in cut)
    return f"{where} {ways}, which do not go together: redistribute them so that all are split alike"


def _reason(part: Part, placement: Any, splits: Sequence[Split]) -> str:
    if part.role is Role.PARAMETER:
        return f"every rank needs its dimension {placement.dim} whole"
    if splits == [WHOLE]:
        return "a packed batch (cu_seqlens) is one row of all sequences, which no rank can have a part of"
    if part.role in _LIKE_ACTIVATIONS and placement.dim == part.rank - 1:
        return f"the op mixes the channels, dimension {placement.dim}"
    if part.role in _LIKE_ACTIVATIONS and placement.dim == 1:
        return "the op looks along the sequence, dimension 1"
    return f"the op needs its dimension {placement.dim} whole"


def refuse_mixed(name: str, args: Sequence[Any]) -> None:
    """Refuse DTensors beside tensors of one process.

    Args:
        name: of the op; args: its arguments.

    Raises:
        TypeError: there are both; the message says which is which.
    """
    contract = CONTRACTS[name.removesuffix("_backward")]
    backward = name not in CONTRACTS
    names = [a.name for a in contract.arguments]
    if backward:
        grads = [f"the gradient of {output}" for output in contract.outputs]
        names = [*grads, *(names[i] for i in contract.passed), *contract.kept]
    tensors = [(n, _torch.distributed(x)) for n, x in zip(names, args, strict=True) if isinstance(x, Tensor)]
    whole = [n for n, distributed in tensors if not distributed]
    split = [n for n, distributed in tensors if distributed]
    if whole and split:
        raise TypeError(
            f"lyra::{name}: {', '.join(split)} {'are DTensors' if len(split) > 1 else 'is a DTensor'} but "
            f"{', '.join(whole)} {'are' if len(whole) > 1 else 'is'} not: make them DTensors on the same mesh with "
            "torch.distributed.tensor.distribute_tensor(tensor, mesh), or pass .to_local() of the others"
        )


def _on_any(strategy: Any, args: Sequence[Any]) -> Any:
    """Of an op that takes a backend's name first."""
    return strategy(args[1:])


def _register() -> None:
    strategies: dict[Any, Any] = {}
    for name, contract in CONTRACTS.items():
        for op, backward in ((name, False), (name + "_backward", True)):
            strategies[OPS[op]] = partial(placements, contract, backward)
            strategies[OPS_ON[op]] = partial(_on_any, strategies[OPS[op]])
    try:
        _torch.register_sharding(strategies)
    except (ImportError, AttributeError, TypeError) as error:  # DTensor keeps this from promising anything
        message = f"the ops of lyra_kernels do not take DTensors with torch {torch.__version__}: {error}"
        warnings.warn(message, stacklevel=2)


when_imported("torch.distributed.tensor", _register)
