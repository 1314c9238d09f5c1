"""Layers and models sharded over two processes train as in one: what sharded.py checks."""

from __future__ import annotations

import pytest

from ..processes import failures
from .sharded import CHECKS


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return failures(f"{__package__}.sharded", tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("check", CHECKS)
def test_sharded(failed, check):
    assert check not in failed, failed[check]
