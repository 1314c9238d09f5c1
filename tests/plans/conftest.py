"""The stand-in for the CUDA driver: loaded once in a process, since the native library finds it once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory):
    from .stand_in import compile_driver

    return compile_driver(tmp_path_factory.mktemp("driver"))
