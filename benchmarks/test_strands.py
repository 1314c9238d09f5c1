"""A model of both strands against one of one strand as wide, and against that one called for either strand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lyra import Lyra, LyraBothStrands

from . import cases

COMPLEMENT = (3, 2, 1, 0, 4)  # of "ACGT-"


class EitherStrand(nn.Module):
    """The mean of a model's predictions for the sequences and for their reverse complements."""

    def __init__(self, model: Lyra) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("complement", torch.tensor(COMPLEMENT))

    def forward(self, ids: Tensor) -> Tensor:
        return (self.model(ids) + self.model(self.complement[ids].flip(1))) / 2


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("batch, length", [(1, 128), (8, 128), *cases.SIZES[1:5]])
def test_strands(batch, length, training, compare, device):
    torch.manual_seed(0)
    ids = torch.randint(len(COMPLEMENT), (batch, length), device=device)
    plain = Lyra(len(COMPLEMENT), cases.D_MODEL, dropout=0.0, bidirectional=True).to(device)
    both = LyraBothStrands(len(COMPLEMENT), cases.D_MODEL, dropout=0.0, complement=COMPLEMENT).to(device)
    sides = {"lyra": both, "one strand": plain, "either strand": EitherStrand(plain)}

    def step(model: nn.Module) -> cases.Step:
        leaves = list(model.parameters())

        def train() -> object:
            return torch.autograd.grad(model(ids).sum(), leaves)

        def predict() -> object:
            with torch.no_grad():
                return model(ids)

        return train if training else predict

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        case = cases.Case("both strands", batch, length, training, ())
        compare("strands", case, {name: step(model) for name, model in sides.items()}, 1)
    finally:
        torch.set_num_threads(before)
