"""Which of a kernel's few configurations is the fastest on this card: timed where ``LYRA_AUTOTUNE=1`` asks for it.

Otherwise nothing is timed: a kernel's first configuration is taken, which its module chooses from shapes alone. Timing
is for cards that these choices were not made on. It takes 256 MB and up to a second for each kind of launch.

What is remembered is keyed on the kernel, its constants, its tensors' types and its sizes rounded up to powers of 2, so
that a new length is rarely timed, and never more than some dozens are. It is kept in memory and in a file of the user's
cache folder (``LYRA_CACHE``, else ``XDG_CACHE_HOME``/lyra, else ~/.cache/lyra), one a card and Triton version.

The first configuration is taken, too, where torch is asked for deterministic algorithms and in the interpreter; while a
CUDA graph is captured nothing is timed. A launch like one before it asks nothing of this (``_direct``): the variable is
read once for each kind. Only kernels that may run twice have several: they read nothing that they write. The
configurations of one kernel add in the same order, with the same matrix instructions, so that results do not depend on
the choice.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

ROUNDS, CALLS = 5, 5
BUSY = 1 << 28  # bytes: clearing them takes longer than launching a call, a tenth of a millisecond or so
_known: dict[Path, dict[str, str]] = {}


def enabled(device: torch.device) -> bool:
    """Whether configurations are timed on a device.

    Raises:
        ValueError: ``LYRA_AUTOTUNE`` is neither 0 nor 1.
    """
    asked = os.environ.get("LYRA_AUTOTUNE", "0")
    if asked not in ("0", "1"):
        raise ValueError(f"the environment variable LYRA_AUTOTUNE must be 0 or 1, not {asked!r}")
    return asked == "1" and device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()


def _rounded(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def key(name: str, args: dict[str, Any], constants: dict[str, Any]) -> str:
    """What the choice between the configurations of the kernel ``name`` depends on."""
    parts = []
    for value in args.values():
        if isinstance(value, Tensor):
            parts.append(str(value.dtype).removeprefix("torch."))
        elif isinstance(value, int) and not isinstance(value, bool):
            parts.append(str(_rounded(value)))
        else:
            parts.append("" if value is None or isinstance(value, float) else str(value))
    return " ".join([name, *parts, *(f"{k}={v}" for k, v in sorted(constants.items()))])


def file(device: torch.device) -> Path:
    """Where choices for a device are kept."""
    base = os.environ.get("LYRA_CACHE")
    folder = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lyra"
    card = re.sub(r"\W+", "_", torch.cuda.get_device_name(device)).lower()
    return folder / f"autotune-{card}-triton-{triton.__version__}.json"


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in content.items() if isinstance(v, str)} if isinstance(content, dict) else {}


def _write(path: Path, choices: dict[str, str]) -> None:
    """Other processes may write too: theirs are kept, and nobody ever reads half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
            json.dump({**_read(path), **choices}, temporary, indent=0, sort_keys=True)
        os.replace(temporary.name, path)
    except OSError:  # a home that cannot be written to: this process remembers
        pass


def seconds(run: Callable[[], None]) -> float:
    """Of a call, by CUDA events: the shortest of a few rounds.

    The card is kept busy while Python launches a round's calls; else what is timed of short ones is Python.
    """
    busy = torch.empty(BUSY, dtype=torch.int8, device="cuda")
    times = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(CALLS):
            busy.zero_()
        begin.record()
        for _ in range(CALLS):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / CALLS)
    return min(times)


def fastest(what: str, device: torch.device, configs: Sequence[Any], run: Callable[[Any], None]) -> Any:
    """The configuration that ``run`` is fastest with; timed where neither memory nor file know.

    Args:
        what: a :func:`key`.
        configs: in order of preference; their ``repr`` is what is kept.
        run: launches the kernel with a configuration; may raise OutOfResources.
    """
    path = file(device)
    if path not in _known:
        _known[path] = _read(path)
    choices = _known[path]
    by_name = {repr(c): c for c in configs}
    if choices.get(what) in by_name:
        return by_name[choices[what]]
    if torch.cuda.is_current_stream_capturing():
        return configs[0]
    times: dict[str, float] = {}
    for name, config in by_name.items():
        try:
            run(config)  # compiles
            times[name] = seconds(lambda: run(config))  # noqa: B023 (called at once)
        except OutOfResources:
            continue
    if not times:
        return configs[0]
    choices[what] = min(times, key=lambda name: times[name])
    _write(path, {what: choices[what]})
    return by_name[choices[what]]
