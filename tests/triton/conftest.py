"""Runs the Triton kernels on the GPU if there is one, else in Triton's interpreter, on a pretended card.

A test that holds for the interpreter alone is marked ``interpreter``: it takes CPU tensors, and is left out on a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch

from ..card import card_of_the_interpreter
from . import matrix_unit, support

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]  # Linux on x86-64 has it


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    return "cpu" if request.node.get_closest_marker("interpreter") else "cuda"


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Buffers that a launcher allocates hold NaN, amid NaN that must still be there; products are a card's."""
    from lyra_kernels.backends.triton._launch import interpreting

    interpreter = request.node.get_closest_marker("interpreter")
    if interpreter and torch.cuda.is_available():
        pytest.skip("seen in Triton's interpreter alone")
    guards: list[torch.Tensor] = []
    support.poison_allocations(monkeypatch, guards)
    support.poison_masked_loads(monkeypatch)
    support.round_to_bf16(monkeypatch)
    matrix_unit.install(monkeypatch)
    if interpreting():
        from benchmarks.gpu_static.interpreter import quicken

        quicken()
    with ExitStack() as stack:
        if not interpreter and not torch.cuda.is_available():
            stack.enter_context(card_of_the_interpreter())
        yield
        assert all(bool(g.isnan().all()) for g in guards), "a kernel wrote outside a buffer"
