"""Triton kernels for NVIDIA and AMD GPUs, behind the dispatcher ops' own signatures.

``IMPLEMENTATIONS`` maps an op's name to a function of exactly the schema's positional arguments. With
``TRITON_INTERPRET=1`` set before triton is first imported, the same functions run on CPU tensors.

Arithmetic is fp32 whatever the storage (fp16, bf16, fp32). Matrix products of fp32 values run as three TF32
products (``tf32x3``), which keeps fp32 accuracy, and where many follow each other as six of bf16 (``_fft``); a single
TF32 product only where ``torch.backends.cuda.matmul.allow_tf32`` says so. In fp16 and bf16 the scan's activations are
operands as they are, beside tables split into parts of their type; other operands are TF32, rounded to nearest. float64
has no kernel: it takes the reference formula.

A kernel is compiled once for all lengths and batch sizes. Block sizes follow from shapes; nothing is timed. Two
kernels have a second configuration, which ``LYRA_AUTOTUNE=1`` tries on a card that is unlike the one that the choices
were made on (``_autotune``).

Importing this module imports neither triton nor any kernel.

Names in kernels, whose arguments come in this order:

=================  ====================================================================================================
``u_ptr``          the pointer to tensor u (contiguous; the docstring says when it may be None); ``u_ptrs``: a block of
                   pointers made from it
``H``, ``L``       a size, by the letter that the formulas have: B or S sequences, L tokens of each, H (E, C) channels,
                   M modes, K taps (KR of the second direction); ``num_rows``, ``segment_len``: others, in words
``HAS_BIAS``       constexpr: whether ``bias_ptr`` is given. Other switches: ``PACKED``, ``SHIFT``, ...
``PREC``           constexpr: how products are done, ``input_precision`` of ``tl.dot`` or "bf16x6" (``_dot.split``)
``BLOCK_T``        constexpr: how many of the index t a program takes at once; a letter alone (``T``, ``I``, ``A``)
                   where it is one of the formulas at the top of the file
``u``, ``s_re``    values: what was loaded from ``u_ptr``, or has a letter in the formulas; real and imaginary part
``h``, ``t``       indices, one or a block: channel h, mode n, token t or s, lag l, sequence b, ``row`` of the row table
``u_offsets``      whole elements, counted from a pointer
``t_mask``         where to load or store
=================  ====================================================================================================
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...schemas import CONTRACTS
from ..backend import Backend, Limits

MINIMUM = (3, 6)


def _modules() -> dict[str, str]:
    """Op to the module that has its launcher: that of its name if there is one; a backward may be in its op's."""
    files = {module.name for module in pkgutil.iter_modules(__path__)}
    found: dict[str, str] = {}
    for op in CONTRACTS:
        if op in files:
            backward = f"{op}_backward"
            found |= {op: op, backward: backward if backward in files else op}
    return found


_MODULES = _modules()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def availability() -> tuple[bool, str]:
    """Whether the kernels can be used here, and if not, why. Triton is not imported where there is no card for it."""
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed (pip install triton)"
    interpreter = _interpreted()
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
    """Op name to launcher; an op's module is imported when it is first asked for."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


IMPLEMENTATIONS: Mapping[str, Callable[..., Any]] = _Implementations()


class _Planned(Mapping[str, Callable[..., Any]]):
    """The ops as they are called from outside: on a card their launches are planned and replayed."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[..., Any]] = {}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._known:
            from . import _plans

            function = IMPLEMENTATIONS[name]
            self._known[name] = _plans.Planned(name, function) if _plans.available() else function
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(IMPLEMENTATIONS)

    def __len__(self) -> int:
        return len(IMPLEMENTATIONS)


_PLANNED = _Planned()

LIMITS = Limits(scan_modes=64, transform=4096, direct=128)

BACKEND = Backend(
    name="triton",
    devices=("cuda",),
    availability=availability,
    operations=lambda: IMPLEMENTATIONS if _interpreted() else _PLANNED,
    also_takes=lambda: ("cpu",) if _interpreted() else (),
    limits=LIMITS,
)

__all__ = ["BACKEND", "IMPLEMENTATIONS", "LIMITS", "MINIMUM", "availability"]
