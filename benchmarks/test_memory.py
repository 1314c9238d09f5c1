"""Peak memory of a training step of one S4D layer, of the published one and of attention."""

import sys

import pytest

from . import cases, memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("length", memory.LENGTHS)
def test_memory(length, benchmark):
    sides = [side for side in memory.SIDES if side != "attention" or length <= 16384]
    peaks = benchmark.pedantic(lambda: {side: memory.peak(side, length) for side in sides}, rounds=1)
    benchmark.extra_info.update(subject="memory", length=length, input_bytes=4 * length * cases.D_MODEL, peak=peaks)
