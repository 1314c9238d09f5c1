"""What test_group.py starts in each of three processes: every check, and which of them failed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import lyra_kernels as lk

from .. import processes
from . import cases

RANKS = 3
README = Path(__file__).resolve().parents[2] / "README.md"
Group = dist.ProcessGroup


def _case(name: str, tokens: Sequence[int], dtype: torch.dtype = torch.float32) -> cases.Case:
    """As in `cases`, but what a rank passes on matters to all after it, and phases outgrow float32's digits."""
    torch.manual_seed(sum(tokens))
    case = cases.make(name, dtype=dtype, batch=2, length=sum(tokens), channels=3)
    case.tensors["log_A_real"] -= 3.0
    case.tensors["A_imag"] *= 20.0
    return case


def _mine(x: Tensor, tokens: Sequence[int], rank: int) -> Tensor:
    return x.split(list(tokens), 1)[rank]


def _whole(leaves: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """The sums over the ranks of the gradients of all tensors, u among them, which has zeros where others have tokens.

    Of all before any is looked at: a rank that finds an error must not leave the others waiting.
    """
    found = {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in leaves.items()}
    for share in found.values():
        dist.all_reduce(share, group=group)
    return found


def _check(group: Group, name: str, tokens: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """Values and gradients of every input against the float64 reference of a process that holds all."""
    rank, last = dist.get_rank(group), len(tokens) - 1
    case = _case(name, tokens, dtype)
    with torch.no_grad():
        cotangents = cases.weights_like(case())
    exact_outputs, exact = cases.reference(case, cotangents)

    leaves = case.leaves()
    tensors = {**leaves.tensors, "u": _mine(leaves.tensors["u"], tokens, rank)}
    if rank:
        tensors.pop("initial_state", None)
    outputs = case.function(**tensors, **case.options, group=group)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [_mine(cotangents[0], tokens, rank), *(w * (rank == last) for w in cotangents[1:])]
    torch.autograd.backward(outputs, weights)

    found = _whole(leaves.tensors, group)
    limit = cases.TOLERANCE[dtype]
    assert outputs[0].dtype == dtype
    cases.assert_close(outputs[0], _mine(exact_outputs[0], tokens, rank), limit, "y")
    if len(outputs) == 2 and rank == last:
        cases.assert_close(outputs[1], exact_outputs[1], limit, "final state")
    cases.assert_all_close(found, exact, limit)


SPLITS: list[tuple[str, list[int], torch.dtype]] = [
    ("s4d_conv-auto", [33, 70, 150], torch.float32),
    ("s4d_conv-scan-bidirectional", [129, 1, 64], torch.float32),
    ("s4d_conv-scan-bidirectional", [50, 64, 3], torch.float64),
    ("s4d_conv-scan-bidirectional", [31, 40, 9], torch.float16),
    ("s4d_conv-scan-state", [31, 40, 9], torch.bfloat16),
    ("s4d_conv-scan-state", [5, 67, 20], torch.float32),
]
SPLITS += [
    (f"s4d_conv-scan-{form}", tokens, torch.float32)
    for tokens in ([0, 40, 30], [40, 0, 30], [0, 7, 0], [0, 0, 0])
    for form in ("state", "bidirectional")
]


def no_sequences(group: Group) -> None:
    tensors = _case("s4d_conv-auto", [4]).tensors
    u = tensors["u"][:0]
    assert lk.s4d_conv(**{**tensors, "u": u}, group=group).shape == u.shape


def part_of_the_processes(group: Group) -> None:
    """The first and the last alone; and one alone, which is a call without a group."""
    ranks = [0, RANKS - 1]
    pair = dist.new_group(ranks)
    alone = [dist.new_group([rank]) for rank in range(RANKS)][dist.get_rank()]
    if dist.get_rank() in ranks:
        _check(pair, "s4d_conv-scan-bidirectional", [20, 45])
    else:
        with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup that this process is in"):
            _check(pair, "s4d_conv-auto", [0, 0])
    _check(alone, "s4d_conv-scan-state", [41])


def second_derivatives(group: Group) -> None:
    """Of all first ones, in everything that they depend on."""
    tokens, rank = [20, 33, 10], dist.get_rank(group)
    case = _case("s4d_conv-scan-bidirectional", tokens, torch.float64)
    weight, *probes = (torch.randn_like(x) for x in (case.tensors["u"], *case.values))

    def gradients(part: Callable[[Tensor], Tensor], **options: Group) -> dict[str, Tensor]:
        leaves = {**case.leaves().tensors, "weight": weight.clone().requires_grad_()}
        tensors = {**leaves, "u": part(leaves["u"])}
        y = case.function(**{k: v for k, v in tensors.items() if k != "weight"}, **case.options, **options)
        inputs = [tensors[k] for k in case.tensors]
        first = torch.autograd.grad((y * part(tensors["weight"])).sum(), inputs, create_graph=True)
        sum((f * p).sum() for f, p in zip(first, [part(probes[0]), *probes[1:]], strict=True)).backward()
        return leaves

    exact = gradients(lambda x: x)
    found = _whole(gradients(lambda x: _mine(x, tokens, rank), group=group), group)
    cases.assert_all_close(found, {k: v.grad for k, v in exact.items() if v.grad is not None}, 1e-12)


def layer(group: Group) -> None:
    """S4D in training: dropout zeroes the same channels on every rank."""
    tokens, rank = [17, 40, 12], dist.get_rank(group)
    torch.manual_seed(1)
    model = lk.S4D(6, d_state=8, dropout=0.5, bidirectional=True)
    x = torch.randn(2, 6, sum(tokens))
    part = x.split(tokens, 2)[rank]
    torch.manual_seed(2)
    whole = model(x, residual=x)
    torch.manual_seed(2 + rank)
    y = model(part, residual=part, group=group)
    cases.assert_close(y, whole.split(tokens, 2)[rank], 1e-5, "y")


def layer_refused(group: Group) -> None:
    rank = dist.get_rank(group)
    u = torch.zeros(2, 5 if rank == 1 else 6, 4)
    with pytest.raises(ValueError, match="^u must be" if rank == 1 else "^rank 1 of the group refused its arguments"):
        lk.S4D(6)(u, group=group)


def readme(group: Group) -> None:
    """Its example, on every rank."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if "group=" in block)
    model = lk.S4D(d_model=64, d_state=64, transposed=False, bidirectional=True)
    names = {"torch": torch, "lk": lk, "layer": model}
    exec(compile(example, "README.md", "exec"), names)
    assert names["group"] is dist.group.WORLD
    assert names["y_part"].shape == names["part"].shape


def refused(group: Group) -> None:
    """One rank errs: it says what, the others say that it did, and nobody waits."""
    rank = dist.get_rank(group)
    case = cases.make("s4d_conv-scan", batch=2)
    case.options.pop("algorithm")
    u, state = case.tensors["u"], torch.zeros(2, 5, 4, 2)
    errors: list[tuple[dict, str]] = [
        (
            {"lengths": torch.tensor([3, 4])},
            "sequences split over a group have one length: leave lengths and cu_seqlens",
        ),
        ({"u": u[:1], "cu_seqlens": torch.tensor([0, 37])}, "sequences split over a group have one length"),
        ({"algorithm": "fft"}, "algorithm 'fft' carries no state from rank to rank: use 'scan' or 'auto'"),
        ({"algorithm": "direct"}, "algorithm 'direct' carries no state from rank to rank"),
        ({"initial_state": state}, "initial_state is .*: leave it out on rank 1"),
        ({"u": u[0]}, r"u must have shape \(batch, length, H\)"),
    ]
    for changes, message in errors:
        other = r"rank 1 of the group refused its arguments; its own error says why"
        with pytest.raises(ValueError, match=f"^{message if rank == 1 else other}"):
            case.function(**{**case.tensors, **case.options, **(changes if rank == 1 else {})}, group=group)


def disagreeing(group: Group) -> None:
    """All ranks say what about, and nobody waits."""
    rank = dist.get_rank(group)
    case = cases.make("s4d_conv-scan")
    both = cases.make("s4d_conv-scan-bidirectional")
    wide = cases.make("s4d_conv-scan", channels=6)
    u, few = case.tensors["u"], {k: v[:, :3] for k, v in case.tensors.items() if k in ("log_A_real", "A_imag", "C")}
    changes: list[tuple[dict, str]] = [
        ({"u": u[:1]}, "the batch size of u is 3 on rank 0 but 1 on rank 2"),
        (wide.tensors, "the number of channels is 5 on rank 0 but 6 on rank 2"),
        (few, "the number of modes is 4 on rank 0 but 3 on rank 2"),
        ({"u": u.half()}, "the dtype of u is torch.float32 on rank 0 but torch.float16 on rank 2"),
        ({**both.tensors, "bidirectional": True}, "bidirectional is False on rank 0 but True on rank 2"),
        (case.leaves().tensors, "whether gradients are recorded is False on rank 0 but True on rank 2"),
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            case.function(**{**case.tensors, **case.options, **(change if rank == 2 else {})}, group=group)


def impossible(group: Group) -> None:
    """What cannot wait for other processes."""
    case = cases.make("s4d_conv-auto")

    def call(u: Tensor) -> Tensor:
        return case.function(**{**case.tensors, "u": u}, group=group).sum()

    for transform in (torch.func.grad, torch.func.vmap, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))):
        with pytest.raises(RuntimeError, match="has reverse-mode derivatives alone"):
            transform(call)(case.tensors["u"])
    with pytest.raises(TypeError, match=r"^group must be a torch.distributed.ProcessGroup .*, not 'all'$"):
        case.function(**case.tensors, group="all")


CHECKS: dict[str, Callable[[Group], None]] = {
    f"{name} {tokens} {dtype}": partial(_check, name=name, tokens=tokens, dtype=dtype) for name, tokens, dtype in SPLITS
}
CHECKS |= {
    name: function
    for name, function in globals().items()
    if inspect.isfunction(function) and function.__module__ == __name__ and not name.startswith("_")
}


if __name__ == "__main__":
    # What derivatives will need.
    processes.run(CHECKS, RANKS, "torch.export", "torch.fx.experimental.symbolic_shapes")
