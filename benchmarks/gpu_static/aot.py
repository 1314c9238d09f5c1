"""Ahead-of-time compilation of recorded launches, and what the compiled code needs. No GPU, no driver."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
_NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass
class Compiled:
    """What one kernel needs on one architecture; sizes in bytes, registers a thread."""

    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    matrix_instructions: int
    matrix_kinds: tuple[str, ...]


def _constant(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("tl."):
        return getattr(tl, {"tl.fp32": "float32", "tl.fp16": "float16", "tl.bf16": "bfloat16"}[value])
    return value


def compile_launch(launch: dict[str, Any], arch: str) -> Compiled:
    """Compile a recorded launch for ``arch``.

    Raises:
        whatever Triton's compiler raises.
    """
    kernel = getattr(importlib.import_module(launch["module"]), launch["kernel"])
    names = kernel.arg_names
    amd = arch.startswith("gfx")
    constants = {(names.index(k),): _constant(v) for k, v in launch["constants"].items()}
    if amd:
        constants = {k: "ieee" if v in ("tf32", "tf32x3", "bf16x6") else v for k, v in constants.items()}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in launch["divisible"]}
    source = ASTSource(fn=kernel, signature=launch["signature"], constexprs=constants, attrs=attributes)
    target = GPUTarget("hip", arch, 64) if amd else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    options = {"num_warps": launch["num_warps"], "num_stages": launch["num_stages"]}
    compiled = triton.compile(source, target=target, options=options)
    return _amd(arch, compiled) if amd else _nvidia(arch, compiled)


def compile_job(job: tuple[dict[str, Any], str, str]) -> dict[str, Any]:
    """What one recorded launch needs on one architecture, or why it does not compile: (launch, variant, arch)."""
    launch, variant, arch = job
    known = {"kernel": launch["kernel"], "variant": variant, "error": ""}
    try:
        return {**known, **asdict(compile_launch(launch, arch))}
    except Exception as error:
        return {**known, "arch": arch, "error": f"{type(error).__name__}: {str(error)[-300:]}"}


def _nvidia(arch: str, compiled: Any) -> Compiled:
    ptx = compiled.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(compiled.asm["cubin"])
        command = [str(_NVIDIA / "cuobjdump"), "--dump-resource-usage", cubin]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        sass = subprocess.run([str(_NVIDIA / "cuobjdump"), "--dump-sass", cubin], capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    kinds = re.findall(r"\b((?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)[\w.:]*)", ptx)
    # Spilled registers are stores to and loads from local memory.
    spills = 4 * len(re.findall(r"\bSTL(?:\.\d+)?\b", sass.stdout))
    return Compiled(
        arch,
        int(found[1]),
        spills,
        int(found[2]),
        compiled.metadata.shared,
        len(kinds),
        tuple(sorted(set(kinds))),
    )


def _amd(arch: str, compiled: Any) -> Compiled:
    code = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        found = re.search(rf"{key}: *(\d+)", code)
        return int(found[1]) if found else 0

    kinds = re.findall(r"\b(v_mfma\w+)", code)
    return Compiled(
        arch,
        number(r"\.vgpr_count"),
        4 * number(r"\.vgpr_spill_count"),
        number(r"\.private_segment_fixed_size"),
        compiled.metadata.shared,
        len(kinds),
        tuple(sorted(set(kinds))),
    )
