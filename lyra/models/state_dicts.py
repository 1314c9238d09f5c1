"""Plain state_dicts of the published models: under this package's names and under those of the authors' repository."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PREFIXES = {"pgc1.": "pgc_layers.0.", "pgc2.": "pgc_layers.1.", "s4d.": "s4_layers.0.", "norm.": "norms.0."}
"""What the authors' model, which has two PGC layers and one S4D layer, calls them."""

_COPIES = {"flash_conv", "flashfftconv"}
"""Modules of theirs that hold buffers, and the convolutions' weights a second time."""

_EPS = {"pgc_layers": "pgc_eps", "norms": "norm_eps", "final_norm": "final_norm_eps"}
"""Where norms are, and the constructor's argument for their eps."""

_OUTSIDE = 1e-16
"""The eps of norms that are stored as ``scale``: they divide by ``rms + 1e-8``, ours by ``sqrt(rms^2 + eps)``. With the
square of theirs both are the same for zeros, and to 1e-8 / rms for anything else."""


def read_state_dict(source: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A state_dict under this package's names, and the constructor arguments that its own names tell.

    It is given, or in a file written by ``torch.save`` (tensors only, nothing is executed). A checkpoint that keeps it
    under ``state_dict`` or ``model_state_dict`` is opened. Of the authors' repository, ``pgc1``, ``pgc2``, ``s4d`` and
    ``norm`` become ``pgc_layers.0``, ``pgc_layers.1``, ``s4_layers.0`` and ``norms.0``, a norm's ``scale`` its
    ``weight``, and what is below ``flash_conv`` and ``flashfftconv`` is left out. Norms of a state_dict with such a
    ``scale`` that have a ``weight`` are torch's, with its default eps.
    """
    content: Any = source
    if not isinstance(source, Mapping):
        content = torch.load(source, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError(f"expected a state_dict, the file holds a {type(content).__name__}")
    for key in ("state_dict", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    if not all(isinstance(key, str) for key in content):
        raise ValueError("expected a state_dict, whose keys are names")
    named = {_ours(key): key for key in content if not _COPIES & set(key.split("."))}
    scales = {name for name, key in named.items() if key.endswith(".scale")}
    arguments = {}
    for where, argument in _EPS.items() if scales else ():
        norms = [name for name in named if name.startswith(f"{where}.") and _is_norm(name)]
        if norms:
            torchs = torch.finfo(content[named[norms[0]]].dtype).eps
            arguments[argument] = _OUTSIDE if scales & set(norms) else torchs
    return {name: content[key] for name, key in named.items()}, arguments


def _ours(key: str) -> str:
    for prefix, name in _PREFIXES.items():
        if key.startswith(prefix):
            key = name + key.removeprefix(prefix)
    return re.sub(r"\bscale$", "weight", key)


def _is_norm(name: str) -> bool:
    return bool(re.search(r"norms?(\.\d+)?\.weight$", name))


def infer_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The constructor arguments that the shapes of a state_dict tell, under this package's names.

    A model without ``final_norm`` is taken for the paper's, whose PGC layers have no residual connections.

    Raises:
        ValueError: it is no state_dict of a Lyra model.
    """
    for name in ("encoder.weight", "decoder.weight"):
        if name not in state:
            found = ", ".join(list(state)[:5]) or "nothing"
            raise ValueError(f"not the state_dict of a Lyra model: {name} is missing, it has {found}, ...")
    d_model, d_input = state["encoder.weight"].shape
    needed = [f"pgc_layers.{i}.conv.weight" for i in range(_count(state, "pgc_layers"))]
    needed += ["s4_layers.0.kernel.C"] * bool(_count(state, "s4_layers"))
    missing = [name for name in needed if name not in state]
    if missing:
        raise ValueError(f"not the state_dict of a Lyra model: {missing[0]} is missing")
    convolutions = [state[f"pgc_layers.{i}.conv.weight"] for i in range(_count(state, "pgc_layers"))]
    arguments: dict[str, Any] = {
        "d_input": d_input,
        "d_model": d_model,
        "d_output": state["decoder.weight"].shape[0],
        "num_pgc_layers": len(convolutions),
        "num_s4_layers": _count(state, "s4_layers"),
        "final_norm": "final_norm.weight" in state,
        "pgc_residual": "final_norm.weight" in state,
    }
    if convolutions:
        arguments["pgc_expansion"] = [_expansion(weight.shape[0], d_model) for weight in convolutions]
        arguments["pgc_kernel_size"] = convolutions[0].shape[-1]
    if arguments["num_s4_layers"]:
        C = state["s4_layers.0.kernel.C"]
        arguments["d_state"] = 2 * C.shape[-2]
        arguments["bidirectional"] = C.dim() == 4
    return arguments


def _count(state: Mapping[str, Tensor], layers: str) -> int:
    return len({match[1] for key in state if (match := re.match(rf"{layers}\.(\d+)\.", key))})


def _expansion(inner: int, d_model: int) -> float:
    """A factor ``e`` next to ``inner / d_model`` for which ``int(e * d_model)`` is ``inner``."""
    factor = inner / d_model
    while int(factor * d_model) < inner:
        factor = math.nextafter(factor, math.inf)
    return factor
