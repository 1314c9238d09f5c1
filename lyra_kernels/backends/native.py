"""The compiled library, ``lyra_kernels._C``: the C++ kernels, and where it was built with nvcc the CUDA C++ ones."""

from __future__ import annotations

import importlib
from types import ModuleType


def _import() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("lyra_kernels._C"), ""
    except ImportError as error:
        return None, str(error)


MODULE, ERROR = _import()
"""The library, or None and why it was not loaded."""
