"""What the measurements were made on, and the ceilings of the card: copy bandwidth and products."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch

from lyra_kernels import backends

from .cards import Card
from .cases import Pace, Row, Say, short

COPIED = 2**28  # float32 numbers: 1 GiB, beyond any cache
PRODUCT = 8192


def specs(tiny: bool) -> list[Row]:
    return [{"stage": "environment", "tiny": tiny}]


def run(spec: Row, card: Card, pace: Pace, say: Say) -> None:
    """Says a row for each fact."""
    for name, value in facts(card).items():
        say({"stage": "environment", "name": name, "value": value})
    copied, product = (2**12, 32) if spec["tiny"] else (COPIED, PRODUCT)
    for name, value in {**copy_bandwidth(card, copied), "bf16 products, TFLOP/s": products(card, product)}.items():
        say({"stage": "environment", "name": name, "value": short(value)})


def facts(card: Card) -> dict[str, str]:
    """Names and versions."""
    found = {"card": card.name, "python": platform.python_version(), "torch": torch.__version__}
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = "none"
    if card.kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["processors"] = str(properties.multi_processor_count)
        found["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        found["driver"] = driver()
    for name, (works, reason) in backends.availability().items():
        if name in card.candidates:
            found[f"backend {name}"] = f"{'yes' if works else 'no'}: {reason}"
    return found


def driver() -> str:
    """The driver's version, or that it cannot be asked."""
    if shutil.which("nvidia-smi") is None:
        return "unknown: no nvidia-smi"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "unknown"


def copy_bandwidth(card: Card, numbers: int) -> dict[str, float]:
    """Bytes read and written a second, in TB/s: by the driver's copy and by a kernel, and the better of the two."""
    source = torch.randn(numbers, device=card.device)
    target = torch.empty_like(source)
    ways = {
        "copy by the driver, TB/s": lambda: target.copy_(source),
        "copy by a kernel, TB/s": lambda: torch.mul(source, 1.5, out=target),
    }
    moved = 2 * source.numel() * source.element_size()
    found = {name: moved / best_seconds(card, step) / 1e12 for name, step in ways.items()}
    return {**found, "copy bandwidth, TB/s": max(found.values())}


def products(card: Card, size: int) -> float:
    """Operations of a square bf16 product of random matrices, in TFLOP/s."""
    a = torch.randn(size, size, device=card.device).bfloat16()
    return 2 * size**3 / best_seconds(card, lambda: a @ a) / 1e12


def best_seconds(card: Card, step) -> float:
    """The median of graph replays: each five calls."""
    replay, _ = card.capture(step, 5)
    replay()
    times = sorted(card.seconds(replay) / 5 for _ in range(11))
    return times[len(times) // 2]
