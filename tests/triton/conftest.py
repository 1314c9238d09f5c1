"""Runs the Triton kernels on the GPU if there is one, else in Triton's interpreter on CPU tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from . import support

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]  # Linux on x86-64 has it


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Buffers that a launcher allocates hold NaN, amid NaN that must still be there afterwards."""
    guards: list[torch.Tensor] = []
    support.poison_allocations(monkeypatch, guards)
    support.poison_masked_loads(monkeypatch)
    support.cut_products(monkeypatch)
    yield
    assert all(bool(g.isnan().all()) for g in guards), "a kernel wrote outside a buffer"
