"""What all tests share: the backends that an op must agree with the reference on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch

if not torch.cuda.is_available():
    # Read when triton is first imported, so before anything here imports it, and in every process of a parallel run:
    # without a GPU the kernels of tests/triton run in Triton's interpreter, on CPU tensors.
    os.environ["TRITON_INTERPRET"] = "1"

import lyra_kernels
from lyra_kernels import backends

from .card import pretended_card

CARD = "pretended-card"
"""The backend "cuda" as tests/card.py has it: shows that a test runs on a card, where there is none."""
BACKENDS = ("reference", "cpu-baseline", "cpu-avx2", "cpu-avx512", "cpu-neon", "triton", "cuda", CARD)


def why_not(backend: str) -> str | None:
    """The reason why a backend of `BACKENDS` cannot be tested in this process, or None."""
    if backend == CARD:
        return "there is a card" if torch.cuda.is_available() else None
    name, _, isa = backend.partition("-")
    works, reason = backends.availability()[name]
    if not works:
        return reason
    if isa and isa not in backends.available_cpu_isas():
        return f"instruction set {isa} is not built or not on this processor"
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return "without a GPU only tests/triton runs these kernels, in Triton's interpreter"
    return None


WORKING = [b for b in BACKENDS if why_not(b) is None]
FASTEST = [b for b in WORKING if not b.startswith("cpu") or b == f"cpu-{backends.cpu_isa()}"]


def _inside(backend: str) -> Iterator[str]:
    if backend == CARD:
        with pretended_card():
            yield "cuda"
        return
    name, _, isa = backend.partition("-")
    with ExitStack() as stack:
        stack.enter_context(lyra_kernels.use_backend(name))
        if isa:
            stack.enter_context(backends.use_cpu_isa(isa))
        yield name


@pytest.fixture(params=WORKING)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on every backend that works here, the C++ kernels once for every instruction set."""
    yield from _inside(request.param)


@pytest.fixture(params=FASTEST)
def backend_once(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like `backend`, with one instruction set: for what does not depend on it."""
    yield from _inside(request.param)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors of a test live: with `backend`, where that backend computes."""
    wanted = next((f for f in ("backend", "backend_once") if f in request.fixturenames), None)
    name = request.getfixturevalue(wanted) if wanted else ""
    return "cuda" if name in ("triton", "cuda") else "cpu"


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers in every run, whichever tests run."""
    torch.manual_seed(0)
