"""Runs the Triton kernels on the GPU if there is one, else in Triton's interpreter on CPU tensors.

The interpreter is chosen by TRITON_INTERPRET=1 before triton is first imported, and then holds for the whole
process. So this folder is collected here only when it is run by itself; as part of a larger run it runs in a
process of its own (``test_own_process.py``), and the other tests keep a triton of the usual kind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WRAPPER = HERE / "test_own_process.py"


def _alone(config: pytest.Config) -> bool:
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return True
    paths = [Path(config.invocation_params.dir, a.split("::")[0]).resolve() for a in config.args]
    return "triton" not in sys.modules and all(p == HERE or HERE in p.parents for p in paths)


def pytest_configure(config: pytest.Config) -> None:
    config.triton_alone = _alone(config)
    if config.triton_alone and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent == HERE and collection_path.name.startswith("test_"):
        return (collection_path == WRAPPER) == config.triton_alone
    return None


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Buffers that a launcher allocates hold NaN, amid NaN that must still be there; products are a card's."""
    if request.path == WRAPPER:
        yield
        return
    from . import matrix_unit, support

    guards: list[torch.Tensor] = []
    support.poison_allocations(monkeypatch, guards)
    support.poison_masked_loads(monkeypatch)
    matrix_unit.install(monkeypatch)
    yield
    assert all(bool(g.isnan().all()) for g in guards), "a kernel wrote outside a buffer"
