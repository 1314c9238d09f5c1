"""Which cards a build of the CUDA C++ kernels has code for."""

from __future__ import annotations

import re
from collections.abc import Sequence

Capability = tuple[int, int]

OLDEST: Capability = (7, 5)
"""As in build_cuda.py, which refuses to build for older cards."""


def _runs(capability: Capability, architecture: str) -> bool:
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if found is None:
        return False
    kind, major, minor, suffix = found.groups()
    made_for = (int(major), int(minor))
    if suffix == "a":  # uses what that one architecture has
        return capability == made_for
    if kind == "compute" and not suffix:  # PTX, which the driver compiles for what came later
        return capability >= made_for
    return capability[0] == made_for[0] and capability[1] >= made_for[1]


def is_supported(capability: Capability, architectures: Sequence[str]) -> bool:
    """Whether a card runs one of the codes of a build.

    Args:
        capability: of the card: (9, 0) for an H100.
        architectures: of the build, such as ``("sm_80", "sm_90", "compute_90")``. Machine code (``sm_80``) runs on
            cards of the same major version from that minor version on, PTX (``compute_90``) on every later card; with
            the suffix ``a`` on that version alone, with ``f`` on later ones of its major version.
    """
    return any(_runs(capability, architecture) for architecture in architectures)


def why_not(name: str, capability: Capability, architectures: Sequence[str]) -> str | None:
    """One line on why a card cannot run a build, with the remedy; None if it can."""
    if is_supported(capability, architectures):
        return None
    version = f"{capability[0]}.{capability[1]}"
    if capability < OLDEST:
        return f"{name} has compute capability {version}, the CUDA C++ kernels need {OLDEST[0]}.{OLDEST[1]} or newer"
    return (
        f"built for {', '.join(architectures)}, but {name} has compute capability {version}: "
        f"rebuild, TORCH_CUDA_ARCH_LIST={version} pip install --no-build-isolation ."
    )
