"""What the plans of the ops have in them: launches and allocations, counted, so that nothing creeps back in.

On a card each launch costs two microseconds, and the host as much; each allocation half of one.
"""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from lyra_kernels.backends.triton import _recording

from ..ops import cases
from .stand_in import planned

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a stand-in for the driver, where there is none"),
    pytest.mark.skipif(not hasattr(torch.ops.lyra_plans, "replay"), reason="the native library was not built"),
]

COUNTS = {
    "rms_norm": ((1, 1), (2, 3)),
    "gated_conv": ((1, 1), (2, 3)),
    "pgc": ((1, 1), (14, 7)),
    "gelu_glu": ((1, 1), (3, 4)),
    "s4d_conv-scan": ((3, 4), (6, 8)),
    "s4d_block": ((3, 5), (8, 11)),
}
"""Of a case in bf16: launches and allocations of its forward, which keeps what the backward needs, and its backward."""


@pytest.mark.parametrize("name", COUNTS)
def test_no_more_than(name, driver):
    found = []
    steps = _recording.Recording.steps

    def counted(self, results):
        memory, made, returned = steps(self, results)
        kinds = [step[0] for step in made]
        found.append((kinds.count(_recording._LAUNCH), kinds.count(_recording._ALLOCATE) + (memory > 0)))
        return memory, made, returned

    case = cases.make(name, dtype=torch.bfloat16, batch=2, length=32, channels=16)
    with planned(driver), mock.patch.object(_recording.Recording, "steps", counted):
        with torch.no_grad():
            cotangents = cases.weights_like(case())
        for _ in range(2):
            cases.gradients(case, cotangents)
    assert len(found) == 2
    for forward_or_backward, (at_most, this) in enumerate(zip(COUNTS[name], found, strict=True)):
        assert this[0] <= at_most[0] and this[1] <= at_most[1], (forward_or_backward, this)
