"""Ahead-of-time compilation of recorded launches, and what the compiled code needs. No GPU, no driver."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import triton
import triton.language as tl
from triton._C.libtriton import get_cache_invalidating_env_vars, ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
_READER = 2
"""Of results: to be raised where they are read from a compiled kernel in another way."""
_NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass
class Compiled:
    """What one kernel needs on one architecture; sizes in bytes, registers a thread.

    ``forced`` is what of ``spills`` and ``stack`` is left where NVIDIA's assembler may take all the registers that a
    thread of the launch can have. The rest it chose to spill, with registers left, for more programs on a processor.
    """

    arch: str
    registers: int
    spills: int
    stack: int
    shared: int
    matrix_instructions: int
    matrix_kinds: tuple[str, ...]
    forced: int = 0


def runs_on(kernel: str, constants: dict[str, Any], arch: str) -> bool:
    """Whether such a launch is ever made on an architecture, see ``_launch.reads_shared_operands``."""
    asks = kernel == "_pgc_pairs" or (kernel == "_linear" and constants["BLOCK_N"] > 64)
    return not asks or arch in ("sm_90", "sm_100")


def _constant(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("tl."):
        return getattr(tl, {"tl.fp32": "float32", "tl.fp16": "float16", "tl.bf16": "bfloat16"}[value])
    return value


def _source(launch: dict[str, Any], arch: str) -> tuple[ASTSource, GPUTarget, dict[str, int]]:
    """What Triton compiles, for what, and with which options."""
    kernel = getattr(importlib.import_module(launch["module"]), launch["kernel"])
    names = kernel.arg_names
    amd = arch.startswith("gfx")
    constants = {(names.index(k),): _constant(v) for k, v in launch["constants"].items()}
    if amd:
        constants = {k: "ieee" if v in ("tf32", "tf32x3", "bf16x6") else v for k, v in constants.items()}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in launch["divisible"]}
    source = ASTSource(fn=kernel, signature=launch["signature"], constexprs=constants, attrs=attributes)
    target = GPUTarget("hip", arch, 64) if amd else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    return source, target, {"num_warps": launch["num_warps"], "num_stages": launch["num_stages"]}


def build(launch: dict[str, Any], arch: str, **more: int) -> Any:
    """A recorded launch compiled for ``arch``, as Triton's compiler returns it; ``more`` are options of that.

    Raises:
        whatever Triton's compiler raises.
    """
    source, target, options = _source(launch, arch)
    return triton.compile(source, target=target, options={**options, **more})


def compile_launch(launch: dict[str, Any], arch: str) -> Compiled:
    """What a recorded launch needs on ``arch``. Raises as :func:`build`."""
    compiled = build(launch, arch)
    if arch.startswith("gfx"):
        return _amd(arch, compiled)
    found = _nvidia(arch, compiled)
    if found.spills or found.stack:
        # Told that there is a limit, ptxas no longer chooses one of its own.
        most = min(255, 65536 // (32 * launch["num_warps"]) // 8 * 8)
        _, spills, stack = resources(build(launch, arch, maxnreg=most).asm["cubin"])
        found.forced = spills + stack
    return found


def check_front_end(launch: dict[str, Any], arch: str) -> None:
    """Only what Triton makes of a kernel's Python: names, types and constants, a tenth of the whole compilation.

    Raises:
        whatever Triton's compiler raises.
    """
    source, target, options = _source(launch, arch)
    backend = make_backend(target)
    parsed = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source.make_ir(target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context)


@dataclass(frozen=True)
class Job:
    """A recorded launch to compile for one architecture; ``variant`` says what it is, where a limit is passed.

    Args:
        whole: to machine code, not only through Triton's front end.
        cache: folder of results, or None.
    """

    launch: dict[str, Any]
    variant: str
    arch: str
    whole: bool = True
    cache: Path | None = None

    def key(self) -> str:
        """Of all that a result depends on: the kernel's source and what it calls, constants, types, the compilers."""
        source, target, options = _source(self.launch, self.arch)
        backend = make_backend(target)
        key = get_cache_key(source, backend, backend.parse_options(options), get_cache_invalidating_env_vars())
        text = f"{key} {_READER} {'whole' if self.whole else 'front end'}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def known(self) -> dict[str, Any]:
        """What a result says of the job itself."""
        types = sorted({t for t in self.launch["signature"].values() if t.startswith("*")})
        what = {"kernel": self.launch["kernel"], "variant": self.variant, "arch": self.arch, "types": types}
        return {**what, "error": "", "whole": self.whole}


def compile_job(job: Job) -> dict[str, Any]:
    """What one launch needs on one architecture, or why it does not compile."""
    known = job.known
    try:
        key = known["key"] = job.key()
        kept = job.cache and job.cache / f"{key}.json"
        if kept and kept.exists():
            return {**known, **json.loads(kept.read_text())}
        # Triton's own cache keeps every intermediate form, a megabyte a kernel.
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TRITON_CACHE_DIR=folder):
            if job.whole:
                found = asdict(compile_launch(job.launch, job.arch))
            else:
                found = {}
                check_front_end(job.launch, job.arch)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            begun = kept.with_suffix(f".{os.getpid()}")
            begun.write_text(json.dumps(found))
            begun.replace(kept)  # nobody ever reads half a file
        return {**known, **found}
    except Exception as error:
        return {**known, "error": f"{type(error).__name__}: {str(error)[-300:]}"}


def _cuobjdump(option: str, cubin: str) -> str:
    command = [str(_NVIDIA / "cuobjdump"), option, cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers a thread, and bytes of spills and of stack, of the kernel in a compiled file."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        usage = _cuobjdump("--dump-resource-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
        assert found is not None, usage
        # Spilled registers are stores to and loads from local memory, which lies in the stack. Disassembly is slow.
        stores = re.findall(r"\bSTL(?:\.\d+)?\b", _cuobjdump("--dump-sass", file.name)) if int(found[2]) else []
    return int(found[1]), 4 * len(stores), int(found[2])


def _nvidia(arch: str, compiled: Any) -> Compiled:
    ptx = compiled.asm["ptx"]
    registers, spills, stack = resources(compiled.asm["cubin"])
    kinds = re.findall(r"\b((?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)[\w.:]*)", ptx)
    return Compiled(
        arch,
        registers,
        spills,
        stack,
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
