"""Fake CUDA tensors under a PyTorch that was built without CUDA."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guard.cpp")


@functools.cache
def allow_cuda_tensors() -> None:
    """Make indexing and gradients of fake CUDA tensors work; nothing to do where PyTorch has CUDA itself.

    Raises:
        RuntimeError: no C++ compiler, or it fails; the message has what it printed.
    """
    if torch.backends.cuda.is_built():
        return
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "guard.so")
        command = [os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", str(SOURCE),
                   f"-L{root / 'lib'}", "-lc10", "-o", str(library)]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise RuntimeError(f"no C++ compiler: {error}") from error
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        ctypes.CDLL(str(library))
