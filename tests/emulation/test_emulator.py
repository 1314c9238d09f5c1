"""The emulation finds each planted bug, says in which kernel, and finds nothing in a kernel without one."""

from __future__ import annotations

import ctypes
import json
import math
from functools import cache
from pathlib import Path

import pytest

from emulation.build import build

HERE = Path(__file__).parent

# What each flavour must say of each kernel, beside the kernel's name; None: that flavour cannot see it.
BUGS = {
    "missing_barrier": ("race: ", None),
    "missing_warp_barrier": ("race: ", None),
    "missing_second_barrier": ("race: ", None),
    "race_on_shared": ("race: store to shared array 's'", None),
    "race_between_blocks": ("race: store to 'out'", None),
    "shuffle_without_oneself": ("the calling lane is not in its own mask",) * 2,
    "shuffle_from_outside_the_mask": ("which is not in the mask",) * 2,
    "shuffle_with_absent_lanes": ("names threads that never arrive",) * 2,
    "shuffles_of_two_kinds": ("__ballot_sync (planted.cu:", "__ballot_sync (planted.cu:"),
    "divergent_barrier": ("divergent barrier",) * 2,
    "barrier_after_exit": ("divergent barrier",) * 2,
    "shared_write_out_of_bounds": ("outside every shared array", "past the end of shared array 's'"),
    "dynamic_write_out_of_bounds": ("outside every shared array", "past the end of shared array 'dynamic"),
    "global_read_out_of_bounds": ("past the end of 'in'", None),
    "global_write_out_of_bounds": ("past the end of 'out'", None),
    "write_to_input": ("store to the input 'in'", None),
    "misaligned_access": ("misaligned access of 16 bytes to 'in'", None),
    "too_many_threads": ("block of 1025 threads",) * 2,
    "too_much_shared_memory": ("shared memory",) * 2,
}


def planted_library(flavour: str) -> Path:
    return build(flavour, [HERE / "planted.cu"], [], "planted")


@cache
def planted(flavour: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(planted_library(flavour)))
    library.run_planted.restype = ctypes.c_char_p
    return library


def run(flavour: str, kernel: str, order: int) -> tuple[str, list[float]]:
    """What the emulation said, and the kernel's 128 outputs."""
    library = planted(flavour)
    library.emu_set_order(order)
    out = (ctypes.c_float * 128)()
    return library.run_planted(kernel.encode(), out).decode(), list(out)


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize(
    ("flavour", "kernel", "expected"),
    [
        (flavour, kernel, expected)
        for kernel, both in BUGS.items()
        for flavour, expected in zip(("monitor", "fibers"), both, strict=True)
        if expected is not None  # what only the monitor sees
    ],
)
def test_planted_bug(flavour, kernel, expected, order):
    message, _ = run(flavour, kernel, order)
    assert message.startswith(f"emulated kernel {kernel}, block (")
    assert expected in message


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize("flavour", ["monitor", "fibers"])
def test_correct_kernel(flavour, order):
    message, out = run(flavour, "correct", order)
    assert message == ""
    assert out[:64] == [sum(range(32, 64))] * 32 + [sum(range(32))] * 32
    assert out[64:] == out[:64]


def test_order_exposes_a_missing_barrier_without_the_monitor():
    assert run("fibers", "missing_barrier", 0)[1] != run("fibers", "missing_barrier", 1)[1]


@pytest.mark.parametrize("flavour", ["monitor", "fibers"])
def test_shared_memory_is_poisoned(flavour):
    message, out = run(flavour, "reads_uninitialised_shared", 0)
    assert message == "" and all(math.isnan(x) for x in out[:64])


def test_counters_of_a_kernel_whose_cost_is_known():
    library = planted("monitor")
    library.emu_counters.restype = ctypes.c_char_p
    library.emu_count(1)
    assert run("monitor", "counted", 0)[0] == ""
    found = json.loads(library.emu_counters())["counted"]
    library.emu_count(0)
    warps = 2
    assert found["load_bytes"] == warps * (128 + 4) and found["load_sectors"] == warps * (4 + 1)
    assert found["store_bytes"] == warps * 128 and found["store_sectors"] == warps * 8
    sites = {(name, store): (least, moved) for shared, store, name, least, moved in found["sites"].values() if shared}
    assert sites["s", True] == (warps, 2 * warps)  # two wavefronts where one would do
    assert sites["s", False] == (warps, warps)
    least, moved = sites["pairs", False]
    assert moved == 2 * least  # 4 of every 8 bytes
    total = sum(moved for shared, _, _, _, moved in found["sites"].values() if shared)
    assert total == found["shared_wavefronts"] > found["shared_ideal"]
    assert {site[2]: site[3:] for site in found["sites"].values() if not site[0] and site[1]} == {"out": [256, 512]}


def test_the_emulation_works_after_an_error():
    run("monitor", "divergent_barrier", 0)
    assert run("monitor", "correct", 0)[0] == ""
