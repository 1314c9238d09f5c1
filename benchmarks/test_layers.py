"""S4D and PGC against the published layers, torch.compile and attention."""

import pytest

from . import cases


@pytest.mark.parametrize("case", cases.layer_cases(), ids=str)
def test_layer(case, threads, measure):
    measure(case, threads)
