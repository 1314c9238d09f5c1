"""All cores against one, and the longest sequences against short ones; the sides take turns in one process."""

from __future__ import annotations

import pytest
import torch

from . import cases

LONG, SHORT = 1 << 20, 4096


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("batch, length", [(64, 128), (8, 2048), (2, 8192)])
@pytest.mark.parametrize("subject", ["PGC", "S4D", "Lyra"])
def test_threads(subject, batch, length, training, compare, device):
    every = torch.get_num_threads()
    if device.type != "cpu" or every == 1:
        pytest.skip("needs a CPU with several cores")
    case = cases.Case(subject, batch, length, training, ())
    step = cases.build(case, device)["lyra"]

    def on(threads: int) -> cases.Step:
        def run() -> object:
            torch.set_num_threads(threads)
            return step()

        return run

    try:
        compare("threads", case, {"lyra": on(every), "one thread": on(1)}, every)
    finally:
        torch.set_num_threads(every)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
def test_length(training, compare, device):
    """As many tokens, in one sequence and in many."""
    every = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        long, short = (cases.Case("S4D", LONG // length, length, training, ()) for length in (LONG, SHORT))
        steps = {"lyra": cases.build(long, device)["lyra"], f"L={SHORT}": cases.build(short, device)["lyra"]}
        compare("length", long, steps, 1)
    finally:
        torch.set_num_threads(every)
