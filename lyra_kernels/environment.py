"""What a bug report should say of an installation."""

from __future__ import annotations

import os
import platform

import torch

from . import backends
from .version import __version__


def env_report() -> dict[str, str]:
    """What a bug report should say of this installation: versions, processor, threads, backends and reasons."""
    report = {
        "lyra-bio": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    for name, (works, reason) in backends.availability().items():
        report[f"backend {name}"] = f"{'yes' if works else 'no'}: {reason}"
    return report


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
