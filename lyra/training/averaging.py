"""Averages of the weights over the steps, which often generalise better than the last ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverages:
    """An exponential average of a module's trainable weights over the optimizer's steps (Polyak averaging).

    After n steps the decay is min(decay, n / (n + 9)), as TensorFlow's ExponentialMovingAverage has it, so that the
    initial weights do not linger.
    """

    # Not Lightning's WeightAveraging, which came with 2.6, keeps a second module, and knows no steps of CUDA graphs.

    def __init__(self, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.averages: list[Tensor] = []
        self._latest: list[Tensor] = []

    def update(self, module: nn.Module) -> None:
        """Takes the weights of one more step."""
        weights = [weight.detach() for weight in trained(module)]
        if not self.averages:
            self.averages = [weight.clone() for weight in weights]
        self.averages = [average.to(weight.device) for average, weight in zip(self.averages, weights, strict=True)]
        self.steps += 1
        get_ema_multi_avg_fn(min(self.decay, self.steps / (self.steps + 9)))(self.averages, weights, self.steps)

    def swap_in(self, module: nn.Module) -> None:
        """The module's weights become the averages, if there are any yet."""
        if self.averages:
            self._latest = [weight.detach().clone() for weight in trained(module)]
            put(module, self.averages)

    def swap_out(self, module: nn.Module) -> None:
        """And what they were before."""
        if self._latest:
            put(module, self._latest)
            self._latest = []

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averages, self.steps = list(state["averages"]), state["steps"]


def trained(module: nn.Module) -> list[Tensor]:
    """The trainable weights, in the module's order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@torch.no_grad()
def put(module: nn.Module, values: list[Tensor]) -> None:
    """Makes these the trainable weights, which stay the same tensors."""
    for weight, value in zip(trained(module), values, strict=True):
        weight.copy_(value)
