"""Each op against its formula in plain PyTorch, eager and compiled; one thread."""

import pytest
import torch

from . import cases


@pytest.mark.parametrize("case", cases.op_cases(), ids=str)
def test_op(case, measure):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measure(case, 1)
    finally:
        torch.set_num_threads(before)
