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
        lines = (line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        first = {key.strip(): value.strip() for key, value in reversed(list(lines))}
        info["processor"] = first.get("model name", platform.processor())
        if "cpu family" in first:  # a cloud's "AMD EPYC" may be any of them
            info["processor"] += f" family {first['cpu family']} model {first['model']}"
    if hasattr(os, "sysconf"):
        info["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    info["cores"] = str(os.cpu_count())
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info
