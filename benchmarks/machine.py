"""What a result was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

import lyra_kernels


def describe() -> dict[str, str]:
    """Processor, cores, memory and versions."""
    report = lyra_kernels.env_report()
    info = {name: report[name] for name in ("lyra-bio", "python", "torch", "processor")}
    info["kernels"] = report["backend cpu"].removeprefix("yes: ")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        info["processor"] = models[0] if models else platform.processor()
    if hasattr(os, "sysconf"):
        info["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    info["cores"] = str(os.cpu_count())
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info
