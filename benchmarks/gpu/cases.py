"""What is timed: several sides of one thing, in turn within one process, each forward and with gradients."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import lyra_kernels as lk

from .cards import Card, Step, poisoned, tensors

Row = dict[str, Any]
Say = Callable[[Row], None]
DIRECTIONS = ("forward", "training")
GRAPH_AGREEMENT = 1e-2  # relative RMS between a call and its graph; a graph that misses a kernel is off by 1 or NaN
REFERENCE_ELEMENTS = 2**20  # activations up to which float64 on the plain formulas takes a moment


@dataclass(frozen=True)
class Side:
    """One way to do it.

    Attributes:
        function: takes `inputs`, returns a tensor or a tuple that starts with one.
        leaves: what gradients are taken of; those of all comparable sides correspond.
        backend: of ours, forced; None leaves the choice.
        compiled: by torch.compile, which would compile again for a run on poisoned memory.
        comparable: computes the same as the other sides.
        single_thread: runs the backward in the caller's thread.
    """

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]
    backend: str | None = None
    compiled: bool = False
    comparable: bool = True
    single_thread: bool = False


@dataclass
class Case:
    """Sides that are compared.

    Attributes:
        identity: "stage", "subject", "shape" (B, L, H), "precision", and whatever else every row is to hold.
        sides: made when their turn comes, so that one that cannot be made loses its own row.
        truth: the same in float64 on the plain formulas, or None where that would take too long.
        bytes: by direction, what has to be moved when each input is read and each output written once.
    """

    identity: Row
    sides: dict[str, Callable[[], Side]]
    autocast: bool = False
    truth: Callable[[], Side] | None = None
    bytes: dict[str, int] = field(default_factory=dict)
    directions: tuple[str, ...] = DIRECTIONS


@dataclass(frozen=True)
class Pace:
    """How long is measured: rounds of calls that take about `call_seconds` each, and replays of a graph."""

    rounds: int = 5
    call_seconds: float = 0.04
    replays: int = 11
    graph_us: float = 2000.0  # a graph repeats a short step until a replay takes about so long as called


TINY = Pace(rounds=2, call_seconds=1e-3, replays=3, graph_us=0.0)


class Prepared:
    """A side that has run once: its step, its row so far, and what the rounds found.

    Raises whatever the side raises.
    """

    def __init__(self, case: Case, name: str, direction: str, card: Card, pace: Pace, answers: Answers) -> None:
        side = case.sides[name]()
        self.row: Row = {**case.identity, "direction": direction, "side": name}
        self.context = Context(side, case.autocast, card)
        self.step, self.protected = answers.step(side, direction, self.context)
        with self.context:
            self.step()
            if case.bytes:
                self.row["bytes"] = case.bytes[direction]
            self.row["peak_mb"] = card.peak_mb(self.step)
            if side.comparable:
                with contextlib.nullcontext() if side.compiled else poisoned(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = self.step()
                card.synchronize()
                self.row |= answers.errors(found, direction)
            card.synchronize()
            start = time.perf_counter()
            self.step()
            card.synchronize()
            self.once = time.perf_counter() - start
        self.card, self.calls = card, max(1, min(40, int(pace.call_seconds / max(self.once, 1e-6))))
        self.call_us: list[float] = []
        self.graph_us: list[float] = []
        self.replay: Step | None = None

    def round(self) -> None:
        """Some calls one after another, as a user's loop makes them."""
        with self.context:
            start = time.perf_counter()
            for _ in range(self.calls):
                self.step()
            self.card.synchronize()
        self.call_us.append((time.perf_counter() - start) / self.calls * 1e6)

    def capture(self, pace: Pace) -> None:
        """Makes the graph, and sees that it writes what a call writes.

        Raises:
            ArithmeticError: it writes something else.
        """
        with self.context:
            called = tensors(self.step())[0].clone()
            self.inner = max(1, min(10, int(pace.graph_us / (self.once * 1e6))))
            self.replay, output = self.card.capture(self.step, self.inner)
            first = tensors(output)[0]
            if all(first.untyped_storage().data_ptr() != t.untyped_storage().data_ptr() for t in self.protected):
                first.detach().fill_(float("nan"))
            self.replay()  # a dry run's is a call, which the block chooses a backend for
            self.card.synchronize()
        difference = relative(first.detach(), called.double())
        if not difference < GRAPH_AGREEMENT:
            raise ArithmeticError(f"the graph writes something else than the call: relative RMS {difference:.1e}")

    def replayed(self) -> None:
        assert self.replay is not None
        self.graph_us.append(self.card.seconds(self.replay) / self.inner * 1e6)

    def finished(self) -> Row:
        """The row, with the median, the lowest and the highest of each time."""
        for name in ("call_us", "graph_us"):
            times = sorted(getattr(self, name))
            if times:
                self.row[name] = [short(t) for t in (times[len(times) // 2], times[0], times[-1])]
        self.row["peak_mb"] = short(self.row["peak_mb"])
        return self.row


class Context(contextlib.ExitStack):
    """Backend, autocast and autograd's threads of a side; can be entered again."""

    def __init__(self, side: Side, autocast: bool, card: Card) -> None:
        super().__init__()
        self.side, self.autocast, self.card = side, autocast, card

    def __enter__(self) -> Context:
        super().__enter__()
        if self.side.backend:
            self.enter_context(lk.use_backend(self.side.backend))
        if self.side.single_thread:
            self.enter_context(torch.autograd.set_multithreading_enabled(False))
        return self

    def casting(self) -> torch.autocast:
        return torch.autocast(self.card.kind, torch.bfloat16, enabled=self.autocast)


class Answers:
    """The steps of a case's sides with one cotangent for all, and the float64 truth to compare with."""

    def __init__(self, case: Case, card: Card) -> None:
        self.case, self.card = case, card
        self.cotangent: Tensor | None = None
        self.truth: dict[str, list[Tensor | None]] = {}

    def find_truth(self) -> None:
        """Computes in float64 what the sides are compared with, if the case says how."""
        if self.case.truth is None:
            return
        side = self.case.truth()
        with lk.use_backend("reference"):
            out = tensors(side.function(*side.inputs))[0]
            grads = torch.autograd.grad(out, side.leaves, self._like(out), allow_unused=True)
        self.truth = {"forward": [out.detach()], "training": list(grads)}

    def _like(self, out: Tensor) -> Tensor:
        """The cotangent, with values that bfloat16 can hold unless everything is float32."""
        if self.cotangent is None or self.cotangent.shape != out.shape:
            generator = torch.Generator(out.device).manual_seed(1)
            values = torch.randn(out.shape, generator=generator, device=out.device)
            exact = self.case.identity["precision"] == "float32"
            self.cotangent = values if exact else values.bfloat16()
        return self.cotangent.to(out.dtype)

    def step(self, side: Side, direction: str, context: Context) -> tuple[Step, list[Tensor]]:
        """What is timed, and the tensors it reads, which nobody else may write."""

        def forward() -> Any:
            with torch.no_grad(), context.casting():
                return side.function(*side.inputs)

        if direction == "forward":
            return forward, [*side.inputs, *side.leaves]
        with context:
            cotangent = self._like(tensors(forward())[0])

        def training() -> Any:
            with context.casting():
                out = tensors(side.function(*side.inputs))[0]
            return torch.autograd.grad(out, side.leaves, cotangent, allow_unused=True)

        return training, [*side.inputs, *side.leaves, cotangent]

    def errors(self, found: Any, direction: str) -> Row:
        """Relative RMS errors of what a step returned: of the output, or of each gradient.

        Raises:
            ArithmeticError: something is not finite.
        """
        if direction not in self.truth:
            return {}
        made = found if direction == "training" else tensors(found)[:1]
        pairs = zip(made, self.truth[direction], strict=True)
        errors = [float(f"{relative(a, b):.1e}") for a, b in pairs if a is not None and b is not None]
        wrong = [place for place, error in enumerate(errors) if not math.isfinite(error)]
        if wrong:
            what = "the output" if direction == "forward" else f"gradient {wrong[0]}"
            raise ArithmeticError(f"{what} is not finite where memory that nobody wrote is NaN")
        return {"error": errors[0]} if direction == "forward" else {"grad_errors": errors}


def relative(found: Tensor, truth: Tensor) -> float:
    """Relative RMS difference; of NaN it is NaN."""
    return float((found.double() - truth).norm() / (truth.norm() + 1e-300))


def short(value: float) -> float:
    """Four digits: more are noise."""
    return float(f"{value:.4g}")
