"""A sequence split over processes is the sequence in one: what split_sequences.py checks in three."""

from __future__ import annotations

import pytest

from ..processes import failures
from .split_sequences import CHECKS


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return failures(f"{__package__}.split_sequences", tmp_path_factory.mktemp("group"))


@pytest.mark.parametrize("check", CHECKS)
def test_split_sequences(failed, check):
    assert check not in failed, failed[check]
