"""Triton kernels for NVIDIA and AMD GPUs, behind the dispatcher ops' own signatures.

``IMPLEMENTATIONS`` maps an op's name to a function of exactly the schema's positional arguments. With
``TRITON_INTERPRET=1`` set before triton is first imported, the same functions run on CPU tensors.

Arithmetic is fp32 whatever the storage (fp16, bf16, fp32). Matrix products of fp32 values run as three TF32
products (``tf32x3``), which keeps fp32 accuracy, and where many follow each other as six of bf16 (``_fft``); a single
TF32 product only where ``torch.backends.cuda.matmul.allow_tf32`` says so. In fp16 and bf16 the scan's activations are
operands as they are, beside tables split into parts of their type; other operands are TF32, rounded to nearest. float64
has no kernel: it takes the reference formula.

A kernel is compiled once for all lengths and batch sizes. A few have two configurations, timed once on each card;
``LYRA_AUTOTUNE=0`` turns that off, ``LYRA_CACHE`` is the folder where choices are kept.

Importing this module imports neither triton nor any kernel.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MINIMUM = (3, 6)
_MODULES = {
    "causal_conv": "causal_conv",
    "causal_conv_backward": "causal_conv",
    "pgc": "pgc",
    "pgc_backward": "pgc",
    "rms_norm": "rms_norm",
    "rms_norm_backward": "rms_norm",
    "fft_conv": "fft_conv",
    "fft_conv_backward": "fft_conv",
    "gelu_glu": "gelu_glu",
    "gelu_glu_backward": "gelu_glu",
    "gated_conv": "gated_conv",
    "gated_conv_backward": "gated_conv",
    "s4d_fft": "s4d_fft",
    "s4d_fft_backward": "s4d_fft",
    "s4d_kernel": "s4d_kernel",
    "s4d_kernel_backward": "s4d_kernel",
    "s4d_scan": "s4d_scan",
    "s4d_scan_backward": "s4d_scan_backward",
}
_FAMILIES = (
    "rms_norm",
    "gated_conv",
    "pgc",
    "gelu_glu",
    "s4d_kernel",
    "causal_conv",
    "fft_conv",
    "s4d_fft",
    "s4d_scan",
)


def availability() -> tuple[bool, str]:
    """Whether the kernels can be used here, and if not, why. Triton is not imported where there is no card for it."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed (pip install triton)"
    interpreter = os.environ.get("TRITON_INTERPRET") == "1"
    works, reason = (True, "triton interpreter") if interpreter else _device_availability()
    if not works:
        return False, reason
    try:
        import triton
    except Exception as error:
        return False, f"triton does not import: {error}"
    version = tuple(int(n) for n in re.findall(r"\d+", triton.__version__)[:2])
    if version < MINIMUM:
        least = f"{MINIMUM[0]}.{MINIMUM[1]}"
        return False, f"triton {triton.__version__} is too old: pip install --upgrade 'triton>={least}'"
    if interpreter and version < (3, 7):
        import numpy

        if tuple(int(n) for n in re.findall(r"\d+", numpy.__version__)[:2]) >= (2, 4):
            return False, f"triton {triton.__version__} interprets only with numpy < 2.4; this is {numpy.__version__}"
    return True, reason


def _device_availability() -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return False, "torch sees no GPU (and TRITON_INTERPRET is not set)"
    if torch.version.hip is None:
        capability = torch.cuda.get_device_capability()
        if capability < (7, 0):
            version = f"{capability[0]}.{capability[1]}"
            return False, f"{torch.cuda.get_device_name()} has compute capability {version}, Triton needs 7.0 or newer"
    return True, f"triton on {torch.cuda.get_device_name()}"


class _Implementations(Mapping[str, Callable[..., Any]]):
    """Op name to launcher; a family's module is imported when one of its ops is first asked for."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name.removesuffix("_backward") not in _FAMILIES:
            raise KeyError(name)
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, '_plain')}")
        return getattr(module, name)

    def __iter__(self) -> Iterator[str]:
        for family in _FAMILIES:
            yield family
            yield f"{family}_backward"

    def __len__(self) -> int:
        return 2 * len(_FAMILIES)


IMPLEMENTATIONS: Mapping[str, Callable[..., Any]] = _Implementations()

__all__ = ["IMPLEMENTATIONS", "MINIMUM", "availability"]
